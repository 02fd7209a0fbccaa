"""What a store itself says about a bucket, where a backend's error has lost the words."""

from __future__ import annotations

from urllib.parse import parse_qsl

from gan_dist.storage.filesystems import configured

_PATIENCE_S = 5.0


def store_says(uri: str) -> str:
    """Return the code with which the store refuses to list a bucket, or an empty text.

    The answer to a HEAD request, which reading begins with, has no body: an unknown key, a wrong secret and a
    missing right look alike in it, and so do a missing bucket and a missing object.

    Args:
        uri: Something in the bucket.
    """
    import botocore.session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    path, _, query = uri.removeprefix("s3://").partition("?")
    endpoint, region = configured(dict(parse_qsl(query)))
    config = Config(
        connect_timeout=_PATIENCE_S,
        read_timeout=_PATIENCE_S,
        retries={"max_attempts": 0},
        s3={"addressing_style": "path"} if endpoint else None,
    )
    try:
        client = botocore.session.Session().create_client(
            "s3", endpoint_url=endpoint, region_name=region or "us-east-1", config=config
        )
        client.list_objects_v2(Bucket=path.partition("/")[0], MaxKeys=1)
    except ClientError as error:
        return str(error.response.get("Error", {}).get("Code", ""))
    except BotoCoreError as error:
        return type(error).__name__
    return ""
