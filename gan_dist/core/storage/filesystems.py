"""Filesystems of pyarrow for paths and URIs, with the usual AWS settings; each process opens its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from gan_dist.core.errors import StorageError
from gan_dist.core.storage.aws_settings import addressing, endpoint_and_region, needs_s3fs
from gan_dist.core.storage.clouds import SCHEMES, open_cloud
from gan_dist.core.storage.redaction import CREDENTIALS, CREDENTIALS_REMEDY, holds_secret, redact

PART_BYTES = 8 * 2**20
"""Bytes of the parts in which s3fs uploads an object."""

BACKENDS = Literal["pyarrow", "s3fs"]


@dataclass(frozen=True)
class StorageOptions:
    """Options of access to object stores; credentials, region and endpoint come from the AWS settings."""

    backend: BACKENDS = "pyarrow"
    """Client library."""
    timeout_s: float = 60.0
    """Time limit of an operation in seconds, its retries included."""


_current = StorageOptions()


def configure(options: StorageOptions) -> None:
    """Set this process's options."""
    global _current
    _current = options


def options() -> StorageOptions:
    """Return this process's options."""
    return _current


def expand_home(path: str) -> Path:
    """Return a local path with a home for `~` or `~user`; raise a StorageError if there is no such home."""
    if "\0" in path:
        raise StorageError(f"{path!r} holds the character NUL, which no path does", "correct it")
    expanded = os.path.expanduser(path)  # noqa: PTH111  # Path's own also takes ./~x for a user's home
    if expanded.startswith("~"):
        user = path[1:].partition("/")[0]
        what = f"there is no user {user}" if user else "this user has no home directory, and HOME is not set"
        raise StorageError(f"{path}: {what}", f"a file or folder of this name is written ./{path}")
    return Path(expanded)


def open_uri(uri: str) -> tuple[Any, str]:
    """Return the pyarrow filesystem of a local path or URI, and the path inside it.

    `s3://bucket/prefix` may have `?endpoint_override=host:port&scheme=http&region=...`, which win over the
    AWS environment and configuration files. `open_cloud` says what `gs://` and `abfs://` may have.

    Raises:
        StorageError: the URI's scheme or form is not understood, or it holds a password.
    """
    import pyarrow
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), str(expand_home(uri).absolute())
    if holds_secret(uri):
        raise StorageError(f"{redact(uri)} {CREDENTIALS}", CREDENTIALS_REMEDY)
    scheme, _, rest = uri.partition("://")
    if scheme == "hf":  # which pyarrow would open, and ask over and over where nobody answers
        raise StorageError(
            f"{redact(uri)} is a model repository, which holds a release: no run, search or images are in it",
            "`sample`, `evaluate`, `export`, `serve` and init.from read it; here give a folder or a bucket",
        )
    try:
        if scheme == "s3":
            path, _, query = rest.partition("?")
            if not path.partition("/")[0]:
                raise ValueError("it names no bucket")
            if "//" in path.rstrip("/"):
                raise ValueError("it has two slashes in a row")
            return _s3(_current, query, _settings(), os.getpid()), path.rstrip("/")
        if scheme in SCHEMES:
            return open_cloud(scheme, rest)
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        what = f"{redact(uri)} cannot be opened ({str(error).replace(uri, redact(uri))})"
        raise StorageError(what, "use a local path or a URI such as s3://bucket/prefix") from None
    return filesystem, path.rstrip("/")


def _settings() -> frozenset[tuple[str, str]]:
    """Return the environment variables that an S3 filesystem follows when it is made."""
    proxies = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    found = os.environ.items()
    return frozenset(one for one in found if one[0].startswith("AWS_") or one[0].lower() in proxies)


@lru_cache(maxsize=16)
def _s3(options: StorageOptions, query: str, _settings: frozenset[tuple[str, str]], _process: int) -> Any:
    """Return an S3 filesystem; one for each process, since connections do not survive a fork."""
    endpoint, region = endpoint_and_region(query)
    # A request times out well before the whole operation does, so that there is time for another.
    request_s = max(1.0, min(10.0, options.timeout_s / 3))
    if options.backend == "pyarrow" and not needs_s3fs(endpoint):
        return _s3_by_pyarrow(endpoint, region, request_s)
    style = addressing(endpoint, options.backend)
    return _s3_by_s3fs(endpoint, region, style, request_s, max(request_s, options.timeout_s / 2))


def _s3_by_pyarrow(endpoint: str | None, region: str | None, request_s: float) -> Any:
    from pyarrow import fs

    scheme, _, host = (endpoint or "").rpartition("://")
    return fs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or None,
        region=region or ("us-east-1" if endpoint else None),
        connect_timeout=request_s,
        request_timeout=request_s,
        # In the foreground, an upload of which a part failed would be completed without that part.
        background_writes=True,
        # `retrying` retries, for both backends alike.
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
    )


def _s3_by_s3fs(
    endpoint: str | None, region: str | None, style: dict[str, str] | None, request_s: float, upload_s: float
) -> Any:
    import pyarrow
    import s3fs
    from pyarrow import fs

    class Handler(fs.FSSpecHandler):  # type: ignore[misc]
        # pyarrow's own first ask whether it is a file, and take a store's failure to answer for a no.
        def open_input_file(self, path: str) -> Any:
            return pyarrow.PythonFile(self.fs.open(path, mode="rb", cache_type="none"), mode="r")

        def open_input_stream(self, path: str) -> Any:
            return pyarrow.PythonFile(self.fs.open(path, mode="rb"), mode="r")

        def open_output_stream(self, path: str, metadata: object) -> Any:
            return pyarrow.PythonFile(uploader.open(path, mode="wb"), mode="w")

    def filesystem(answer_s: float) -> Any:
        return s3fs.S3FileSystem(
            endpoint_url=endpoint,
            client_kwargs={"region_name": region},
            config_kwargs={
                "connect_timeout": request_s,
                "read_timeout": answer_s,
                # Its own waits are ten times those of `retrying`.
                "retries": {"total_max_attempts": 2, "mode": "standard"},
                "s3": style,
            },
            default_block_size=PART_BYTES,
            fixed_upload_size=True,
            # Another process may have written since; and an instance belongs to its event loop.
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    # The wait for an answer includes the upload of a part, which takes longer over slow links.
    uploader = filesystem(upload_s)
    return fs.PyFileSystem(Handler(filesystem(request_s)))
