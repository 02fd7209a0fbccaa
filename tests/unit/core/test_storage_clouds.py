"""Google's and Azure's stores, by emulators: contents exact, objects whole or absent, errors said plainly."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from gan_dist.config import load_config
from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, OutageError, StorageError
from gan_dist.core.storage import StorageOptions, retry
from gan_dist.core.storage.hashed_folder import delete_folder, read_folder, write_folder
from gan_dist.data.shards.shard_set import ShardSet
from gan_dist.data.shards.verify import verify_set
from tests.support.clouds import ABSENT, ACCOUNT, INSTALLED, KEY, Cloud, cloud
from tests.support.faults import proxy
from tests.support.heads import ROOT
from tests.support.ports import free_port

DIGITS = ROOT / "gan_dist" / "assets" / "digits"
needs_emulators = pytest.mark.skipif(not INSTALLED.exists(), reason=ABSENT)


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AZURE_STORAGE_KEY", KEY)
    monkeypatch.setattr(retry, "TRIES_AT_UNKNOWN", 1)  # the clients themselves try for seconds
    for name in ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_SAS_TOKEN", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    yield
    storage.configure(StorageOptions())


@pytest.fixture(scope="module", params=["gs", "abfs"])
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AZURE_STORAGE_KEY", KEY)
        with cloud(request.param, tmp_path_factory.mktemp("cloud")) as running:
            yield running


@pytest.mark.parametrize(
    "where", ["c@acct/x?endpoint_override=127.0.0.1:1&scheme=http", "c@acct.evil.example/x"]
)
def test_a_host_that_a_uri_names_is_sent_no_token(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2022-11-02&sig=SECRET")
    with pytest.raises(StorageError, match="which is sent no token: set AZURE_STORAGE_KEY") as caught:
        storage.open_uri(f"abfs://{where}")
    assert "SECRET" not in str(caught.value)
    storage.open_uri("abfs://c@acct.dfs.core.windows.net/x")


@needs_emulators
def test_files_come_back_and_go(store: Cloud) -> None:
    root = storage.join(store.uri("first"), "runs", "one")
    assert storage.list_names(root) == []
    assert not storage.exists(root)
    content = bytes(range(256)) * 40_000  # more than one part
    write_folder(root, "release", {"a.bin": content, "b.txt": b"two"}.items())
    assert storage.list_names(root) == ["a.bin", "b.txt", "manifest.json"]
    assert read_folder(root, ["release"])[1] == {"a.bin": content, "b.txt": b"two"}
    assert storage.read_bytes(storage.join(root, "a.bin"), len(content) - 3) == content[-3:]
    storage.append_text(storage.join(root, "b.txt"), " and three")
    assert storage.read_text(storage.join(root, "b.txt")) == "two and three"
    other = storage.join(store.uri("first"), "other")
    storage.copy_tree(root, other)
    assert storage.file_sizes(other)["a.bin"] == len(content)
    storage.require_writable(storage.join(root, "new.png"))
    assert storage.list_names(root) == ["a.bin", "b.txt", "manifest.json"]
    delete_folder(root)
    delete_folder(root)
    storage.delete_file(storage.join(root, "b.txt"))
    assert storage.list_names(root) == []
    assert not storage.exists(root)
    assert storage.file_sizes(other)["a.bin"] == len(content)


@needs_emulators
def test_a_packed_set_is_read_from_there(store: Cloud) -> None:
    uri = storage.join(store.uri("first"), "digits")
    storage.copy_tree(str(DIGITS), uri)
    assert verify_set(uri) == verify_set(str(DIGITS))
    here = ShardSet(str(DIGITS)).read_group(0).pixels
    assert np.array_equal(ShardSet(uri).read_group(0).pixels, here)


@needs_emulators
def test_a_file_that_is_written_again_is_the_old_or_the_new_one(store: Cloud) -> None:
    uri = storage.join(store.uri("first"), "best.json")
    contents = {bytes([number]) * 3000 for number in range(20)}
    storage.write_bytes(uri, bytes(3000))
    seen, stop = set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(storage.read_bytes(uri))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for content in sorted(contents):
            storage.write_bytes(uri, content)
    finally:
        stop.set()
        reader.join()
    assert seen <= contents
    assert len(seen) > 1


@needs_emulators
@pytest.mark.parametrize("store", ["gs"], indirect=True)  # Azure's signatures cover what the proxy changes
def test_a_store_that_fails_now_and_then_is_asked_again(store: Cloud) -> None:
    with proxy(f"http://127.0.0.1:{store.port}", seed=1) as running:
        uri = storage.join(store.uri("first", running.port), "faulty", "file")
        running.faults.planned[:] = ["reset", "unavailable", "internal"]
        storage.write_bytes(uri, b"here")
        running.faults.planned[:] = ["reset", "unavailable", "internal"]
        assert storage.read_bytes(uri) == b"here"
        assert running.faults.planned == []


@needs_emulators
def test_what_no_retry_mends_is_told_at_once(store: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AbsentError, match=r"/absent\?.* does not exist"):
        storage.read_bytes(storage.join(store.uri("first"), "absent"))
    nowhere = store.uri("nowhere")
    for use in (
        lambda: storage.write_bytes(storage.join(nowhere, "file"), b"1"),
        lambda: storage.read_bytes(storage.join(nowhere, "file")),
        lambda: storage.require_bucket(nowhere),
    ):
        with pytest.raises(StorageError, match="the bucket does not exist; create it, or correct its name"):
            use()
    if store.scheme == "abfs":
        secret = base64.b64encode(b"wrong" * 12).decode()
        monkeypatch.setenv("AZURE_STORAGE_KEY", secret)
        with pytest.raises(StorageError, match="the store does not accept the credentials") as refused:
            storage.read_bytes(storage.join(store.uri("first"), "file"))
        assert secret not in str(refused.value)


@pytest.mark.parametrize("scheme", ["gs", "abfs"])
def test_an_address_where_nobody_answers_is_an_outage(scheme: str) -> None:
    storage.configure(StorageOptions(timeout_s=30))
    nobody = Cloud(scheme, free_port()).uri("first")
    with pytest.raises(OutageError, match="nobody answers at the store's address in 1 tries"):
        storage.read_bytes(storage.join(nobody, "file"))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("abfs://container/runs", "it names no account, as abfs://CONTAINER@ACCOUNT.dfs.core.windows.net"),
        ("gs://", "it names no bucket"),
        ("gs://bucket//runs", "it has two slashes in a row"),
        ("gs://me@bucket/runs", "it has an @, which no bucket has"),
        ("gs://bucket/runs?region=here", "it has the setting region; there are endpoint_override and scheme"),
        (f"abfs://c:{KEY[:20]}@{ACCOUNT}.dfs.core.windows.net/runs", "holds credentials"),
        ("a\0b", "holds the character NUL, which no path does"),
        ("hf://user/model", "is a model repository, which holds a release"),
    ],
)
def test_a_uri_that_cannot_be_meant_is_refused(uri: str, said: str) -> None:
    with pytest.raises(StorageError) as refused:
        storage.open_uri(uri)
    assert said in str(refused.value)
    assert KEY[:20] not in str(refused.value)


@pytest.mark.parametrize("uri", ["gs://", "s3://?region=here", "abfs:///", "hf://"])
def test_a_uri_without_a_bucket_is_no_local_folder(uri: str) -> None:
    with pytest.raises(StorageError, match=r"names no bucket; write [a-z0-9]+://BUCKET/FOLDER"):
        storage.join(uri, "run")
    assert storage.join("file:///", "run") == "file:///run"


def test_the_account_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", ACCOUNT)
    filesystem, path = storage.open_uri("abfs://container/runs/one/")
    assert (filesystem.type_name, path) == ("abfs", "container/runs/one")
    assert load_config("digits", ["storage=gs://bucket/runs", "name=x"]).run_uri == "gs://bucket/runs/x"
