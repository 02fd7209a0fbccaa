"""Google Cloud Storage and Azure Blob Storage, by pyarrow's own filesystems."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

SCHEMES = ("gs", "gcs", "abfs", "abfss")
VARIABLES = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN", "STORAGE_EMULATOR_HOST")
"""Environment variables that a filesystem follows here; the clouds' own libraries follow others."""
RETRY_S = 2
"""For how long Google's client itself repeats a request; `retrying` does so for both clouds."""
AZURES = ("core.windows.net", "core.usgovcloudapi.net", "core.chinacloudapi.cn")
"""Domains of Azure's own stores: no other host is sent a token."""
MOST_COPIED = 256 * 2**20
"""Bytes of the largest blob that Azure copies in one request."""


def is_cloud(uri: str) -> bool:
    """Return whether a URI is one of these stores."""
    return uri.partition("://")[0] in SCHEMES


def open_cloud(scheme: str, rest: str) -> tuple[Any, str]:
    """Return the filesystem of a URI `scheme://rest`, and the path inside it.

    `gs://bucket/prefix`, with the credentials of GOOGLE_APPLICATION_CREDENTIALS or of the machine.
    `abfs://container@account.dfs.core.windows.net/prefix`, or `abfs://container/prefix` of the account in
    AZURE_STORAGE_ACCOUNT; with AZURE_STORAGE_KEY, AZURE_STORAGE_SAS_TOKEN, or the machine's identity. Either
    may have `?endpoint_override=host:port&scheme=http`. A URI may come from a stranger's release, so a host
    that it names is sent no token: of Google's store it is asked without credentials, of Azure's with
    requests that AZURE_STORAGE_KEY signs.

    Raises:
        ValueError: it is none of these, or a host of its own would be sent a token.
    """
    path, _, query = rest.partition("?")
    settings = dict(parse_qsl(query))
    if odd := settings.keys() - {"endpoint_override", "scheme"}:
        raise ValueError(f"it has the setting {min(odd)}; there are endpoint_override and scheme")
    bucket, slash, key = path.rstrip("/").partition("/")
    bucket, _, host = bucket.partition("@")
    if not bucket:
        raise ValueError("it names no bucket")
    if "//" in path.rstrip("/"):
        raise ValueError("it has two slashes in a row")
    environment = tuple(os.environ.get(name, "") for name in VARIABLES)
    endpoint = settings.get("endpoint_override", ""), settings.get("scheme", "https")
    if scheme.startswith("g"):
        if host:
            raise ValueError("it has an @, which no bucket has")
        return _google(endpoint, environment, os.getpid()), bucket + slash + key
    return _azure(host, endpoint, environment, os.getpid()), bucket + slash + key


@lru_cache(maxsize=16)
def _google(endpoint: tuple[str, str], environment: tuple[str, ...], _process: int) -> Any:
    from pyarrow import fs

    override, scheme = endpoint
    emulator = environment[VARIABLES.index("STORAGE_EMULATOR_HOST")]
    if emulator and not override:
        scheme, _, override = emulator.rstrip("/").rpartition("://")
    return fs.GcsFileSystem(
        # Over HTTP credentials would cross the net in clear.
        anonymous=bool(endpoint[0]) or (bool(emulator) and scheme != "https"),
        scheme=scheme or "http",
        endpoint_override=override or None,
        retry_time_limit=timedelta(seconds=RETRY_S),
    )


@lru_cache(maxsize=16)
def _azure(host: str, endpoint: tuple[str, str], environment: tuple[str, ...], _process: int) -> Any:
    from pyarrow import fs

    named, _, domain = host.partition(".")
    account, key, sas, _ = environment
    if not (account := named or account):
        raise ValueError("it names no account, as abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX does")
    override, scheme = endpoint
    if not key and (override or (domain and domain.partition(".")[2] not in AZURES)):
        raise ValueError("it names a host that is not Azure's, which is sent no token: set AZURE_STORAGE_KEY")
    blob, dfs = f".{domain.replace('dfs.', 'blob.', 1)}", f".{domain.replace('blob.', 'dfs.', 1)}"
    return fs.AzureFileSystem(
        account,
        account_key=key or None,
        sas_token=None if key else sas or None,
        blob_storage_authority=override or (blob if domain else None),
        dfs_storage_authority=override or (dfs if domain else None),
        blob_storage_scheme=scheme,
        dfs_storage_scheme=scheme,
    )


def read_object(filesystem: Any, path: str, start: int) -> bytes:
    """Return the content of an object of Google's store from byte `start` on.

    A file of pyarrow's `open_input_file` asks for the whole object before anything else, while no other
    thread runs, and does not read the answer.

    Raises:
        OSError: it cannot be read, or was cut off.
    """
    size = filesystem.get_file_info(path).size
    with filesystem.open_input_stream(path) as stream:
        stream.read(start)
        content: bytes = stream.read()
    if size is not None and len(content) != max(0, size - start):
        raise OSError(f"{len(content)} of {size - start} bytes arrived")
    return content


def write_blob(filesystem: Any, path: str, content: bytes, beside: str) -> None:
    """Write a blob to Azure: readers see the old content or the new.

    pyarrow begins a blob by an empty one in its place. So the content is written beside it, and copied by the
    store; what is larger than it copies is written in place.
    """
    place = path if len(content) > MOST_COPIED else beside
    with filesystem.open_output_stream(place) as stream:
        stream.write(content)
    if place != path:
        filesystem.copy_file(place, path)
        filesystem.delete_file(place)


def objects_below(filesystem: Any, path: str) -> list[str]:
    """Return the paths of all objects in a folder."""
    from pyarrow import fs

    # pyarrow's own deletion of a folder fails in Google's store, where a folder is no object.
    found = filesystem.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    return [info.path for info in found if info.type == fs.FileType.File]


def delete_blob(filesystem: Any, path: str) -> None:
    """Delete an object; an absent one is no error."""
    with suppress(FileNotFoundError):
        filesystem.delete_file(path)


def try_upload(filesystem: Any, path: str) -> None:
    """Write an empty object and delete it, which the store refuses if it may not be written."""
    with filesystem.open_output_stream(path):
        pass
    delete_blob(filesystem, path)
