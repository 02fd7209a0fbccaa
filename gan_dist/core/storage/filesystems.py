"""From a URI and the usual AWS settings to a filesystem of pyarrow's, made anew in every process."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

from gan_dist.core.errors import StorageError
from gan_dist.core.storage.redaction import holds_secret, redact

PART_BYTES = 8 * 2**20
"""Size of the parts in which s3fs sends an object."""


BACKENDS = Literal["pyarrow", "s3fs"]


@dataclass(frozen=True)
class StorageOptions:
    """How object stores are reached; credentials, region and endpoint come from the usual AWS places."""

    backend: BACKENDS = "pyarrow"
    """What talks to them."""
    timeout_s: float = 60.0
    """Seconds after which an operation that does not succeed is given up, its retries included."""


_current = StorageOptions()


def configure(options: StorageOptions) -> None:
    """Set this process's options."""
    global _current
    _current = options


def options() -> StorageOptions:
    """Return this process's options."""
    return _current


def open_uri(uri: str) -> tuple[Any, str]:
    """Return the pyarrow filesystem of a local path or URI, and the path inside it.

    Args:
        uri: A local path, or `s3://bucket/prefix`, with `?endpoint_override=host:port&scheme=http&region=...`
            where the AWS environment and configuration files do not say these.

    Raises:
        StorageError: the URI's scheme or form is not understood, or it holds a password.
    """
    import pyarrow
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    if holds_secret(uri):
        raise StorageError(
            f"{redact(uri)} holds credentials, which every record of the run would show",
            "take them out and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
        )
    scheme, _, rest = uri.partition("://")
    try:
        if scheme == "s3":
            path, _, query = rest.partition("?")
            if not path.partition("/")[0]:
                raise ValueError("it names no bucket")
            return _s3(_current, query, os.getpid()), path.rstrip("/")
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        meaning = str(error).replace(uri, redact(uri))
        raise StorageError(
            f"{redact(uri)} cannot be opened ({meaning})",
            "use a local path or a URI such as s3://bucket/prefix",
        ) from None
    return filesystem, path.rstrip("/")


@lru_cache(maxsize=16)
def _s3(using: StorageOptions, query: str, _process: int) -> Any:
    """Return a filesystem; one for each process, since connections do not survive a fork."""
    settings = dict(parse_qsl(query))
    unknown = set(settings) - {"endpoint_override", "scheme", "region"}
    if unknown:
        raise ValueError(f"{', '.join(sorted(unknown))} is not a setting of an s3 URI")
    endpoint, region = configured(settings)
    # An attempt ends well before the whole operation must, so that there is time for another.
    attempt_s = max(1.0, min(10.0, using.timeout_s / 3))
    if using.backend == "pyarrow":
        return _s3_by_pyarrow(endpoint, region, attempt_s)
    return _s3_by_s3fs(endpoint, region, attempt_s, max(attempt_s, using.timeout_s / 2))


def configured(settings: dict[str, str]) -> tuple[str | None, str | None]:
    """Return endpoint URL and region: the URI's own, else the environment's, else the profile's."""
    import botocore.session

    profile: dict[str, Any] = {}
    try:
        profile = botocore.session.Session().get_scoped_config()
    except botocore.exceptions.BotoCoreError as error:
        raise ValueError(str(error)) from None
    environment = os.environ
    endpoint = (
        environment.get("AWS_ENDPOINT_URL_S3")
        or environment.get("AWS_ENDPOINT_URL")
        or profile.get("s3", {}).get("endpoint_url")
        or profile.get("endpoint_url")
    )
    if host := settings.get("endpoint_override"):
        endpoint = host if "://" in host else f"{settings.get('scheme', 'https')}://{host}"
    region = (
        settings.get("region")
        or environment.get("AWS_REGION")
        or environment.get("AWS_DEFAULT_REGION")
        or profile.get("region")
    )
    return endpoint, region


def _s3_by_pyarrow(endpoint: str | None, region: str | None, attempt_s: float) -> Any:
    from pyarrow import fs

    scheme, _, host = (endpoint or "").rpartition("://")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or None,
        region=region or ("us-east-1" if endpoint else None),
        connect_timeout=attempt_s,
        request_timeout=attempt_s,
        # Written in the foreground, an object of which a part failed would be completed without that part.
        background_writes=True,
        # What fails is tried again by `retrying`, alike for both backends.
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
    )


def _s3_by_s3fs(endpoint: str | None, region: str | None, attempt_s: float, write_s: float) -> Any:
    import pyarrow
    import s3fs
    from pyarrow import fs

    class Handler(fs.FSSpecHandler):  # type: ignore[misc]
        """Opens without asking first whether it is a file: any failure to answer would count as no."""

        def open_input_file(self, path: str) -> Any:
            return pyarrow.PythonFile(self.fs.open(path, mode="rb", cache_type="none"), mode="r")

        def open_output_stream(self, path: str, metadata: object) -> Any:
            return pyarrow.PythonFile(writer.open(path, mode="wb"), mode="w")

    def make(read_s: float) -> Any:
        return s3fs.S3FileSystem(
            endpoint_url=endpoint,
            client_kwargs={"region_name": region},
            config_kwargs={
                "connect_timeout": attempt_s,
                "read_timeout": read_s,
                "retries": {"max_attempts": 2, "mode": "standard"},
            },
            default_block_size=PART_BYTES,
            fixed_upload_size=True,
            # Another process may have written since; and an instance belongs to its event loop.
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    # The time-out of an answer runs while a part is still being sent: it must suffice for slow links.
    writer = make(write_s)
    return fs.PyFileSystem(Handler(make(attempt_s)))
