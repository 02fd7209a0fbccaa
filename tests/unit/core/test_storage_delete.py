"""Deleting folders in stores without the request for several objects, or with one of their own."""

from __future__ import annotations

import pytest

from gan_dist.core import storage
from gan_dist.core.storage import BACKENDS, StorageOptions
from tests.support.faults import proxy
from tests.support.s3 import put_object


@pytest.mark.parametrize(("status", "backend"), [(501, "pyarrow"), (400, "s3fs")])
def test_a_folder_is_deleted_object_by_object(
    status: int, backend: BACKENDS, bucket: str, s3_url: str
) -> None:
    name = bucket.removeprefix("s3://")
    with proxy(s3_url) as store:
        store.faults.delete_status = status
        root = f"{bucket}?endpoint_override=127.0.0.1:{store.port}&scheme=http"
        storage.configure(StorageOptions(backend))
        for number in range(10):
            storage.write_bytes(storage.join(root, "run", "old", f"{number}"), b"x")
        storage.write_bytes(storage.join(root, "run", "older"), b"x")
        put_object(s3_url, f"{name}/run/old/empty/", b"")  # as some clients leave for a folder
        storage.delete_tree(storage.join(root, "run", "old"))
        assert storage.list_names(storage.join(root, "run")) == ["older"]
        storage.delete_tree(storage.join(root, "run", "old"))
        storage.delete_tree(storage.join(root, "run"))
        assert storage.list_names(root) == []
