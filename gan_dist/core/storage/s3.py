"""Requests to S3 stores that the backends do not make: error codes, trial uploads, plain deletions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from gan_dist.core.errors import StorageError
from gan_dist.core.storage.aws_settings import addressing, endpoint_and_region
from gan_dist.core.storage.filesystems import options
from gan_dist.core.storage.redaction import redact


def refusal_code(uri: str) -> str:
    """Return the error code with which a store refuses to list the bucket of a URI, or an empty text.

    The answer to a HEAD request, with which reading begins, has no body: an unknown key, a wrong secret and a
    missing right look alike in it, and so do a missing bucket and a missing object.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client, bucket, _ = _client(uri)
        client.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as error:
        return str(error.response.get("Error", {}).get("Code", ""))
    except BotoCoreError as error:
        return type(error).__name__
    return ""


def check_upload(uri: str) -> None:
    """Begin and abort an upload, which the store refuses by botocore's errors if it may not be written."""
    from botocore.exceptions import BotoCoreError, ClientError

    client, bucket, key = _client(uri)
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    with suppress(ClientError, BotoCoreError):  # an upload without parts is no object, and costs nothing
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)


def delete_object(uri: str) -> None:
    """Delete an object; an absent one is no error."""
    client, bucket, key = _client(uri)
    client.delete_object(Bucket=bucket, Key=key)


def keys_below(uri: str) -> list[str]:
    """Return the keys of all objects in a folder, the empty ones that stand for folders included."""
    client, bucket, key = _client(uri)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{key}/" if key else "")
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def deleter(uri: str) -> Callable[[str], None]:
    """Return a function that deletes the object of a key in the bucket of a URI, in any thread."""
    client, bucket, _ = _client(uri)
    return lambda key: client.delete_object(Bucket=bucket, Key=key)


def _client(uri: str) -> tuple[Any, str, str]:
    """Return a client for the store of a URI, the bucket, and the key in it."""
    import botocore.session
    from botocore.config import Config

    path, _, query = uri.removeprefix("s3://").partition("?")
    try:
        endpoint, region = endpoint_and_region(query)
        style = addressing(endpoint, options().backend)
        config = Config(connect_timeout=5.0, read_timeout=5.0, retries={"max_attempts": 0}, s3=style)
        client = botocore.session.Session().create_client(
            "s3", endpoint_url=endpoint, region_name=region or "us-east-1", config=config
        )
    except (AttributeError, TypeError, ValueError) as error:  # botocore's, of settings that it cannot use
        raise StorageError(f"{redact(uri)}: the AWS settings cannot be used ({error})") from None
    bucket, _, key = path.rstrip("/").partition("/")
    return client, bucket, key
