"""A store that checks signatures and clocks, which the one of the other tests does not."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import botocore.session
import pytest

from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.core.storage import StorageOptions
from tests.support.heads import gan_dist_here
from tests.support.swift import ABSENT, INSTALLED, KEYS, Swift, swift_server

AHEAD = "a store whose clock is ahead"
pytestmark = pytest.mark.skipif(not INSTALLED.exists(), reason=ABSENT)


@pytest.fixture(scope="module")
def swift(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Swift]:
    with swift_server(tmp_path_factory.mktemp("swift")) as running:
        yield running


@pytest.fixture
def folder(swift: Swift, backend: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder of a new bucket, reached as a user would."""
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": swift.url}.items():
        monkeypatch.setenv(key, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    bucket = f"b{uuid.uuid4().hex[:12]}"
    botocore.session.Session().create_client("s3").create_bucket(Bucket=bucket)
    forget(backend)
    yield f"s3://{bucket}/runs"
    storage.configure(StorageOptions())


def forget(backend: str) -> None:
    """Use a backend; connections are new wherever the settings in the environment are."""
    storage.configure(StorageOptions("s3fs" if backend == "s3fs" else "pyarrow"))


def test_a_folder_is_written_read_listed_and_deleted(folder: str) -> None:
    large = os.urandom(9 * 2**20)  # in several parts
    names = [f"step {number}/{name}" for number in range(2) for name in ("a+b.txt", "manifest.json")]
    for name in names:
        storage.write_bytes(storage.join(folder, name), name.encode())
    storage.write_bytes(storage.join(folder, "large"), large)
    storage.append_text(storage.join(folder, names[0]), " more")
    storage.require_writable(storage.join(folder, "new"))
    assert storage.read_bytes(storage.join(folder, "large")) == large
    assert storage.list_names(folder) == ["large", "step 0", "step 1"]
    storage.copy_tree(folder, f"{folder}-copy")
    storage.delete_tree(folder)
    assert not storage.exists(folder)
    assert storage.read_bytes(f"{folder}-copy/{names[0]}") == f"{names[0]} more".encode()
    assert storage.file_sizes(f"{folder}-copy/step 1") == {"a+b.txt": 14, "manifest.json": 20}


ACTIONS: list[Callable[[str], object]] = [
    lambda folder: storage.write_bytes(f"{folder}/a", b"new"),
    lambda folder: storage.read_bytes(f"{folder}/a"),
    lambda folder: storage.exists(folder),
    lambda folder: storage.require_writable(f"{folder}/new"),
    lambda folder: storage.delete_tree(folder),
]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("AWS_SECRET_ACCESS_KEY", "another secret", "the secret key does not belong to the access key"),
        ("AWS_ENDPOINT_URL", AHEAD, "this machine's clock is not the store's"),
    ],
)
def test_what_the_store_refuses_is_said_in_a_line(
    name: str,
    value: str,
    said: str,
    folder: str,
    backend: str,
    swift: Swift,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # pyarrow corrects its clock by the answer to a write, and works from then on; deletions are botocore's.
    works = 3 if (value, backend) == (AHEAD, "pyarrow") else 0
    storage.write_bytes(f"{folder}/a", b"old")
    with monkeypatch.context() as patch:
        patch.setenv(name, swift.url_ahead if value == AHEAD else value)
        for action in ACTIONS[:works]:
            action(folder)
        for action in ACTIONS[works:]:
            forget(backend)
            with pytest.raises(StorageError, match=rf"^s3://\S+: {said}; [^\n]+$") as caught:
                action(folder)
            assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
    forget(backend)
    assert storage.read_bytes(f"{folder}/a") == (b"new" if works else b"old")


@pytest.mark.parametrize("backend", ["pyarrow"])
def test_a_command_that_the_store_refuses_ends_at_once(
    folder: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
    given = ["best", folder, "--to", str(tmp_path / "best")]
    code, out, err = gan_dist_here(*given, cwd=tmp_path, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, out) == (2, "")
    assert "the secret key does not belong to the access key" in err
    assert err.splitlines()[1:] == ["docs/troubleshooting.md#storageerror"]
