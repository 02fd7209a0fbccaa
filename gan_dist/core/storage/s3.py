"""What is asked of an S3 store itself, where the backends do not: its own words, a folder's marker."""

from __future__ import annotations

from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from gan_dist.core.errors import StorageError
from gan_dist.core.storage.filesystems import configured
from gan_dist.core.storage.redaction import reason, redact

_PATIENCE_S = 5.0


def store_says(uri: str) -> str:
    """Return the code with which the store refuses to list a bucket, or an empty text.

    The answer to a HEAD request, which reading begins with, has no body: an unknown key, a wrong secret and a
    missing right look alike in it, and so do a missing bucket and a missing object.

    Args:
        uri: Something in the bucket.
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


def forget_folder(uri: str) -> None:
    """Delete the empty object that pyarrow leaves where a folder's last file was deleted, if there is one."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client, bucket, key = _client(uri)
        if key:
            client.delete_object(Bucket=bucket, Key=f"{key}/")
    except (ClientError, BotoCoreError) as error:
        raise StorageError(f"{redact(uri)}: an empty folder stays behind: {reason(error)}") from None


def begin_upload(uri: str) -> None:
    """Begin to write an object and give it up: whether it may be written is known then, and nobody sees it.

    Both backends write large objects in the same way, and pyarrow all of them.

    Raises:
        ClientError: botocore's, with what the store says.
        BotoCoreError: it could not be asked.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    client, bucket, key = _client(uri)
    upload = client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
    with suppress(ClientError, BotoCoreError):  # an upload without parts is no object, and costs nothing
        client.abort_multipart_upload(Bucket=bucket, Key=key, UploadId=upload)


def _client(uri: str) -> tuple[Any, str, str]:
    """Return a client for the store of a URI, the bucket, and what stands behind it."""
    import botocore.session
    from botocore.config import Config

    path, _, query = uri.removeprefix("s3://").partition("?")
    endpoint, region = configured(dict(parse_qsl(query)))
    config = Config(
        connect_timeout=_PATIENCE_S,
        read_timeout=_PATIENCE_S,
        retries={"max_attempts": 0},
        s3={"addressing_style": "path"} if endpoint else None,
    )
    client = botocore.session.Session().create_client(
        "s3", endpoint_url=endpoint, region_name=region or "us-east-1", config=config
    )
    bucket, _, key = path.rstrip("/").partition("/")
    return client, bucket, key
