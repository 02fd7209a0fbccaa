"""Local folders and real S3, by both backends: contents exact, faults survived, errors said plainly."""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import botocore.session
import numpy as np
import pytest

from gan_dist.config import load_config
from gan_dist.core import storage
from gan_dist.core.errors import ConfigError, DataError, StorageError
from gan_dist.core.storage import StorageOptions
from gan_dist.core.storage.durable import require_file
from gan_dist.data.shards import verify
from gan_dist.data.shards.manifest import MANIFEST, read_manifest
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet, write_set
from gan_dist.data.shards.verify import find_damage, sha256_of, verify_set
from tests.support.faults import Proxy, proxy
from tests.support.ports import free_port
from tests.support.s3 import KEYS, put_object, refusing_server

Backend = Literal["pyarrow", "s3fs"]
SECRET = KEYS["AWS_SECRET_ACCESS_KEY"]


AT_ONCE = 6
"""Requests that a failure may take whose cause no retry mends; 60 s of retrying takes twenty and more."""
DAMAGED = 10
"""The same for a damaged row group, which is fetched three times: the damage may be the network's."""


def use(backend: str, timeout_s: float = 60.0) -> None:
    chosen: Backend = "s3fs" if backend == "s3fs" else "pyarrow"
    storage.configure(StorageOptions(chosen, timeout_s))


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    bucket: str = request.getfixturevalue("bucket")
    use(request.param)
    return bucket


everywhere = pytest.mark.parametrize("root", ["local", "pyarrow", "s3fs"], indirect=True)


@everywhere
def test_what_is_written_is_read(root: str) -> None:
    uri = storage.join(root, "folder", "file.bin")
    assert not storage.exists(uri)
    for content in (b"", b"x", os.urandom(3_000_000)):
        storage.write_bytes(uri, content)
        assert storage.read_bytes(uri) == content
    assert storage.exists(uri)
    storage.delete_file(uri)
    storage.delete_file(uri)
    assert not storage.exists(uri)
    with pytest.raises(StorageError, match="does not exist"):
        storage.read_bytes(uri)


@everywhere
def test_folders_are_listed_copied_and_deleted(root: str, tmp_path: Path) -> None:
    assert storage.list_names(storage.join(root, "absent")) == []
    for name in ("b", "a", "c/d"):
        storage.write_bytes(storage.join(root, "folder", name), name.encode())
    assert storage.list_names(storage.join(root, "folder")) == ["a", "b", "c"]
    storage.copy_tree(storage.join(root, "folder"), str(tmp_path / "copy"))
    assert (tmp_path / "copy" / "c" / "d").read_bytes() == b"c/d"
    storage.copy_tree(str(tmp_path / "copy"), storage.join(root, "again"))
    assert storage.read_bytes(storage.join(root, "again", "c", "d")) == b"c/d"
    storage.delete_tree(storage.join(root, "folder"))
    assert storage.list_names(storage.join(root, "folder")) == []


@everywhere
def test_text_is_appended(root: str) -> None:
    uri = storage.join(root, "log.jsonl")
    for line in ("eins\n", "zwei ä\n"):
        storage.append_text(uri, line)
    assert storage.read_text(uri) == "eins\nzwei ä\n"
    storage.write_bytes(uri, b"\xff")
    with pytest.raises(StorageError, match="not UTF-8"):
        storage.read_text(uri)


def test_what_another_process_has_written_is_listed(bucket: str, backend: str) -> None:
    others = {"s3fs": StorageOptions("pyarrow"), "pyarrow": StorageOptions("s3fs")}[backend]
    for number in range(3):
        storage.configure(others)
        storage.write_bytes(f"{bucket}/run/{number}", b"x")
        storage.configure(StorageOptions(backend))  # type: ignore[arg-type]
        assert storage.list_names(f"{bucket}/run") == [str(one) for one in range(number + 1)]


def test_a_copy_of_keys_that_differ_by_slashes_is_refused(
    backend: str, bucket: str, s3_url: str, tmp_path: Path
) -> None:
    use(backend)
    storage.write_bytes(f"{bucket}/x/a/2.png", b"2")
    client = botocore.session.Session().create_client("s3", endpoint_url=s3_url, region_name="us-east-1")
    client.put_object(Bucket=bucket.removeprefix("s3://"), Key="x/a//2.png", Body=b"another")
    with pytest.raises(StorageError, match=r"x holds a key with slashes in a row, .*; rename or delete it"):
        storage.copy_tree(f"{bucket}/x", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()


def test_a_copy_of_keys_with_question_marks_is_refused(
    s3_url: str, bucket: str, backend: str, tmp_path: Path
) -> None:
    """In a URI they begin its settings, and another object is meant."""
    use(backend)
    for name in ("a", "a%3Fb"):
        put_object(s3_url, f"{bucket.removeprefix('s3://')}/folder/{name}", name.encode())
    with pytest.raises(StorageError, match=r"question mark.*: a\?b; rename it"):
        storage.copy_tree(f"{bucket}/folder", str(tmp_path / "copy"))
    assert not (tmp_path / "copy").exists()
    (tmp_path / "a?b").write_text("local")
    assert storage.read_text(storage.join(str(tmp_path), "a?b")) == "local"


def test_a_copy_that_fails_has_no_manifest(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    for name in ("a.json", "manifest.json", "state.json"):
        storage.write_bytes(f"{source}/{name}", b"{}")
    (copy / "state.json").mkdir(parents=True)  # in its way
    with pytest.raises(StorageError, match=r"state\.json is a folder"):
        storage.copy_tree(str(source), str(copy))
    assert storage.list_names(str(copy)) == ["a.json", "state.json"]


def test_a_reader_never_sees_a_part_of_a_local_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "file")
    contents = [bytes([value]) * 300_000 for value in range(8)]
    storage.write_bytes(uri, contents[0])

    def write(content: bytes) -> None:
        for _ in range(20):
            storage.write_bytes(uri, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert storage.read_bytes(uri) in contents
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("uri", ["s3://", "s3:///photos", "s3://?region=eu-north-1"])
def test_a_uri_without_a_bucket_is_told_without_asking_a_store(uri: str) -> None:
    with pytest.raises(StorageError, match=r"it names no bucket\); use .* such as s3://bucket/prefix"):
        storage.list_names(uri)


def test_a_file_for_a_folder_and_a_folder_for_a_file_are_called_that(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for place in ("file/new", "file/new/new"):
        with pytest.raises(StorageError, match=f"{place} is a file, or in one, where there should be a fol"):
            storage.write_bytes(str(tmp_path / place), b"")
    with pytest.raises(StorageError, match="file is a file, or in one"):
        storage.list_names(str(tmp_path / "file"))
    with pytest.raises(StorageError, match="folder is a folder, where there should be a file"):
        storage.write_bytes(str(tmp_path / "folder"), b"")
    assert storage.list_names(str(tmp_path)) == ["file", "folder"]


def test_names_that_are_not_utf_8_are_listed_beside_the_others(tmp_path: Path) -> None:
    for name in (b"\xff", b"a"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(b"abc")
    (tmp_path / "folder").mkdir()
    (tmp_path / "gone").symlink_to("nothing")
    assert storage.list_names(str(tmp_path)) == ["\\xff", "a", "folder"]
    assert storage.file_sizes(str(tmp_path)) == {"\\xff": 3, "a": 3}
    assert storage.list_names(str(tmp_path / "none")) == []


def test_a_device_or_a_pipe_in_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    """The one has no end, the other no beginning; but a shell's `<(...)` is a pipe in /dev."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(StorageError, match=f"{name} cannot be used: it is a device or a pipe"):
            storage.read_bytes(str(tmp_path / name))
        with pytest.raises(ConfigError, match="it is a device or a pipe"):
            load_config(str(tmp_path / name))
    for name in ("zero", "urandom"):
        with pytest.raises(OSError, match="it is a device or a pipe"):
            require_file(f"/dev/{name}")
    assert storage.read_bytes("/dev/null") == b""
    reader, writer = os.pipe()
    os.write(writer, b"path,label\n")
    os.close(writer)
    assert storage.read_bytes(f"/dev/fd/{reader}") == b"path,label\n"
    os.close(reader)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()])
def test_a_local_write_that_fails_leaves_nothing_behind(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path / "file")
    storage.write_bytes(uri, b"old")

    written = os.write

    def write(file: int, content: bytes) -> int:
        written(file, content[:2])
        raise error

    monkeypatch.setattr(os, "write", write)
    expected = StorageError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected, match="No space left" if isinstance(error, OSError) else None):
        storage.write_bytes(uri, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
    assert storage.read_bytes(uri) == b"old"


@pytest.mark.parametrize("target", ["there", "absent", "new/folder"])
def test_a_link_is_followed_by_what_is_written(tmp_path: Path, target: str) -> None:
    (tmp_path / "there").write_bytes(b"old")
    link, chain = tmp_path / "link.png", tmp_path / "chain.png"
    link.symlink_to(target)
    chain.symlink_to(link)
    before = sorted(tmp_path.iterdir())
    storage.require_writable(str(chain))
    assert sorted(tmp_path.iterdir()) == before
    storage.write_bytes(str(chain), b"new")
    assert link.is_symlink()
    assert chain.is_symlink()
    assert (tmp_path / target).read_bytes() == b"new"
    assert not list(tmp_path.rglob("*.partial"))


def test_a_link_to_itself_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for action in (storage.require_writable, lambda uri: storage.write_bytes(uri, b"x")):
        with pytest.raises(StorageError, match="symbolic links"):
            action(str(tmp_path / "loop"))
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.parametrize("mode", [0o640, 0o600, 0o664, 0o444])
def test_a_file_that_is_replaced_keeps_its_mode_and_owner(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    file.chmod(mode)
    if os.getuid() == 0:
        os.chown(file, 1234, 5678)
    before = file.stat()
    storage.write_bytes(str(file), b"new")
    after = file.stat()
    assert file.read_bytes() == b"new"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_the_mode_of_a_new_file_is_the_users(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        storage.write_bytes(str(tmp_path / "file"), b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_what_is_no_file_is_written_and_not_replaced(tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe.png", tmp_path / "link.png"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        storage.require_writable(str(path))
        reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
        storage.write_bytes(str(path), b"x" * 100_000)
        assert reader.communicate(timeout=10)[0] == b"x" * 100_000
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes device nodes")
def test_a_device_is_written_and_not_replaced(tmp_path: Path) -> None:
    null, full = tmp_path / "null.png", tmp_path / "full.png"
    try:
        os.mknod(null, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        os.mknod(full, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        full.open("ab").close()
    except PermissionError:
        pytest.skip("this container makes no device nodes")
    storage.require_writable(str(null))
    storage.write_bytes(str(null), b"x")
    with pytest.raises(StorageError, match="No space left"):
        storage.write_bytes(str(full), b"x")
    assert null.is_char_device()
    assert full.is_char_device()


def test_standard_output_can_be_written() -> None:
    code = "from gan_dist.core import storage as s; s.require_writable('/dev/stdout'); "
    code += "s.write_bytes('/dev/stdout', b'picture')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"picture"


def test_endpoint_and_region_may_stand_in_the_uri(
    bucket: str, backend: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    use(backend)
    host = s3_url.removeprefix("http://")
    root = f"{bucket}?endpoint_override={host}&scheme=http&region=us-east-1"
    storage.write_bytes(storage.join(root, "x"), b"y")
    assert storage.read_bytes(storage.join(root, "x")) == b"y"
    with pytest.raises(StorageError, match="endpoint is not a setting"):
        storage.exists(f"{bucket}?endpoint={host}")


def test_the_aws_configuration_file_is_followed(
    bucket: str, backend: str, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(f"[profile lab]\nregion = us-east-1\nendpoint_url = {s3_url}\n")
    (tmp_path / "credentials").write_text(f"[lab]\naws_access_key_id = A\naws_secret_access_key = {SECRET}\n")
    for key in ("AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    use(backend, timeout_s=61.0)  # options of its own: filesystems are kept by options and URI
    storage.write_bytes(storage.join(bucket, "x"), b"y")
    assert storage.read_bytes(storage.join(bucket, "x")) == b"y"


@pytest.fixture
def faulty(s3_url: str, bucket: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the server, and the bucket through it."""
    with proxy(s3_url, seed=1) as running:
        yield running, f"{bucket}?endpoint_override=127.0.0.1:{running.port}&scheme=http"


@pytest.mark.parametrize(
    "faults",
    [{"errors": 0.3}, {"reset": 0.2, "truncate": 0.2, "latency_s": 0.02}],
    ids=["errors", "cut-off"],
)
def test_faults_are_survived_and_contents_are_exact(
    faulty: tuple[Proxy, str], backend: str, faults: dict[str, float]
) -> None:
    running, root = faulty
    use(backend)
    contents = {f"file{number}": os.urandom(200_000) for number in range(6)}
    for name, value in faults.items():
        setattr(running.faults, name, value)
    for name, content in contents.items():
        storage.write_bytes(storage.join(root, name), content)
    for name, content in contents.items():
        assert storage.read_bytes(storage.join(root, name)) == content
    assert sum(running.counts.values()) > running.counts["pass"]


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("throttled", "open_input_stream"),
        ("unavailable", "open_input_file"),
        ("internal", "open_input_stream"),
    ],
)
def test_a_store_that_gives_no_answer_does_not_say_that_a_file_is_gone(
    faulty: tuple[Proxy, str], bucket: str, backend: str, method: str, kind: str
) -> None:
    running, root = faulty
    use(backend)
    storage.write_bytes(storage.join(bucket, "x"), b"content")
    filesystem, path = storage.open_uri(storage.join(root, "x"))
    running.faults.planned = [kind] * 20
    with pytest.raises(OSError, match=r"429|503|500|Too Many|Unavailable|Internal") as caught:
        getattr(filesystem, method)(path).read()
    assert not isinstance(caught.value, FileNotFoundError)
    running.faults.planned = []
    assert getattr(filesystem, method)(path).read() == b"content"
    with pytest.raises(FileNotFoundError):
        getattr(filesystem, method)(f"{path}-absent").read()


def test_a_stall_ends_within_the_time_limit(faulty: tuple[Proxy, str], backend: str) -> None:
    running, root = faulty
    use(backend)
    storage.write_bytes(storage.join(root, "x"), os.urandom(100_000))
    use(backend, timeout_s=1.0)
    running.faults.stall = 1.0
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"could not be used within 1 s, in \d+ tries") as caught:
        storage.read_bytes(storage.join(root, "x"))
    assert time.monotonic() - began < 15
    assert "storage.timeout_s" in str(caught.value)


def test_nobody_listening_is_said_long_before_the_time_limit(bucket: str, backend: str) -> None:
    use(backend)
    said = r"nobody answers at the store's address in 2 tries: .* check the endpoint"
    with pytest.raises(StorageError, match=said):
        storage.read_bytes(f"{bucket}/x?endpoint_override=127.0.0.1:{free_port()}&scheme=http")


def test_a_missing_bucket_is_said_at_once(faulty: tuple[Proxy, str], backend: str) -> None:
    running, root = faulty
    use(backend)
    uri = f"s3://no-such-bucket-here/x?{root.partition('?')[2]}"
    for action in (lambda: storage.write_bytes(uri, b"x"), lambda: storage.read_bytes(uri)):
        asked = running.counts.total()
        with pytest.raises(StorageError, match="the bucket does not exist"):
            action()
        assert 0 < running.counts.total() - asked <= AT_ONCE


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("InvalidAccessKeyId", "does not know the access key"),
        ("SignatureDoesNotMatch", "the secret key does not belong to the access key"),
        ("ExpiredToken", "the credentials have expired"),
        ("AccessDenied", "refuses access"),
    ],
)
def test_refusals_are_said_at_once_and_without_secrets(
    bucket: str, backend: str, code: str, said: str
) -> None:
    use(backend)
    with refusing_server(code) as (url, requests):
        uri = f"{bucket}/x?endpoint_override={url.removeprefix('http://')}&scheme=http"
        for action in (
            lambda: storage.write_bytes(uri, b"x"),
            lambda: storage.read_bytes(uri),  # begins with a HEAD, whose refusal has no body to tell why
            lambda: storage.exists(uri),
        ):
            asked = len(requests)
            with pytest.raises(StorageError, match=said) as caught:
                action()
            assert 0 < len(requests) - asked <= AT_ONCE
            assert SECRET not in str(caught.value)
            assert KEYS["AWS_ACCESS_KEY_ID"] not in str(caught.value)


def shards(root: str) -> Rows:
    pixels = np.random.default_rng(0).integers(0, 256, (96, 16 * 16 * 3), dtype=np.uint8)
    rows = Rows(pixels, np.arange(96) % 3)
    parts = iter([rows[:64], rows[64:]])
    write_set(root, parts, group_rows=16, height=16, width=16, channels=3, classes=("a", "b", "c"))
    return rows


def forget_places(root: str) -> None:
    """Let the manifest not list where values are, as earlier versions' do not: the file's footer says."""
    manifest = read_manifest(root)
    bare = tuple(shard.model_copy(update={"pixels_at": ()}) for shard in manifest.shards)
    text = manifest.model_copy(update={"shards": bare}).model_dump_json()
    storage.write_bytes(storage.join(root, MANIFEST), text.encode())


@pytest.mark.parametrize("places", [True, False], ids=["listed", "by-footer"])
def test_shards_are_read_exactly_through_faults(
    faulty: tuple[Proxy, str], backend: str, places: bool
) -> None:
    running, root = faulty
    use(backend)
    rows = shards(root)
    if not places:
        forget_places(root)
    images = ShardSet(root)
    # A flipped bit on the way is found by the checksum and fetched again.
    running.faults.errors, running.faults.truncate, running.faults.corrupt = 0.1, 0.05, 0.05
    for group in range(6):
        read = images.read_group(group)
        assert np.array_equal(read.pixels, rows.pixels[16 * group : 16 * group + 16])
    assert sum(running.counts.values()) > running.counts["pass"]


def test_damage_in_the_store_is_named_at_once(faulty: tuple[Proxy, str], bucket: str, backend: str) -> None:
    running, root = faulty
    use(backend)
    shards(bucket)
    uri = storage.join(bucket, "shard-00001.parquet")
    content = bytearray(storage.read_bytes(uri))
    content[5000] ^= 1
    storage.write_bytes(uri, bytes(content))
    images = ShardSet(root)
    images.read_group(0)
    asked = running.counts.total()
    with pytest.raises(DataError, match=r"shard-00001\.parquet, row group 0, .* is damaged"):
        images.read_group(4)
    assert 0 < running.counts.total() - asked <= DAMAGED


@pytest.mark.parametrize(
    ("root", "places"),
    [
        *(("local", places) for places in (True, False)),
        *(("pyarrow", True), ("s3fs", False)),
        *(pytest.param(*case, marks=pytest.mark.soak) for case in (("pyarrow", False), ("s3fs", True))),
    ],
    indirect=["root"],
)
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda _: None, r"cannot be read \(.*shard-00001\.parquet.*\)"),
        (lambda _: b"", r"cannot be read \(it is 0 bytes long, not \d+\)"),
        (lambda content: content[:9000], r"cannot be read \(it is 9000 bytes long, not \d+\)"),
        (lambda content: bytes(len(content)), r"cannot be read \(.*\)"),
        (
            lambda content: content[:5000] + b"damage" + content[5006:],
            r"is damaged: its checksum is not the .*",
        ),
        (lambda content: content[:4] + b"\xff" * 5000 + content[5004:], r"cannot be read \(.*thrift.*\)"),
    ],
    ids=["missing", "empty", "truncated", "zeroed", "changed", "header"],
)
def test_a_damaged_shard_is_said_alike_everywhere(
    root: str, places: bool, damage: Callable[[bytes], bytes | None], said: str
) -> None:
    shards(root)
    if not places:
        forget_places(root)
    uri = storage.join(root, "shard-00001.parquet")
    damaged = damage(storage.read_bytes(uri))
    if damaged is None:
        storage.delete_file(uri)
    else:
        storage.write_bytes(uri, damaged)
    remedy = "; restore the file or pack the set again, or go on without it: data.verify=quarantine"
    found = find_damage(ShardSet(root), range(6))
    assert list(found) in ([4], [4, 5])
    for group, sentence in found.items():
        where = f"shard shard-00001.parquet, row group {group - 4}, of {root} "
        assert re.fullmatch(re.escape(where) + said + re.escape(remedy), sentence)


def test_a_store_that_fails_is_no_damage(faulty: tuple[Proxy, str], bucket: str, backend: str) -> None:
    running, root = faulty
    use(backend)
    shards(bucket)
    images = ShardSet(root)
    use(backend, timeout_s=1.0)
    running.faults.reset = 1.0
    with pytest.raises(StorageError, match="could not be used within"):
        find_damage(images, [0])
    use(backend)
    with refusing_server("AccessDenied") as (url, _):
        images.uri = f"{bucket}?endpoint_override={url.removeprefix('http://')}&scheme=http"
        del images._folder
        with pytest.raises(StorageError, match="refuses access"):
            find_damage(images, [0])
    images.uri = f"s3://no-such-bucket-here?{root.partition('?')[2]}"
    del images._folder
    running.faults.reset = 0.0
    with pytest.raises(StorageError, match="the bucket does not exist"):
        find_damage(images, [0])


def test_verification_takes_no_failure_of_a_store_for_damage(
    faulty: tuple[Proxy, str], bucket: str, backend: str
) -> None:
    running, root = faulty
    use(backend)
    shards(bucket)
    running.faults.errors, running.faults.reset, running.faults.truncate = 0.1, 0.1, 0.1
    for _ in range(2):
        for shard in verify_set(root).shards:
            assert sha256_of(storage.join(root, shard.file), shard.bytes) == shard.sha256
    assert sum(running.counts.values()) > running.counts["pass"]


def test_verification_names_what_a_store_lacks_and_ends_where_it_fails(
    faulty: tuple[Proxy, str], bucket: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, root = faulty
    use(backend)
    shards(bucket)
    storage.delete_file(storage.join(bucket, "shard-00001.parquet"))
    with pytest.raises(DataError, match=r"1 of 2 shards of .* damaged; .*\n  shard-00001\.parquet: missing$"):
        verify_set(root)
    manifest = read_manifest(root)
    monkeypatch.setattr(verify, "read_manifest", lambda *_, **__: manifest)
    use(backend, timeout_s=1.0)
    running.faults.reset = 1.0
    with pytest.raises(StorageError, match="could not be used within"):
        verify_set(root)
    use(backend)
    with refusing_server("AccessDenied") as (url, _), pytest.raises(StorageError, match="refuses access"):
        verify_set(f"{bucket}?endpoint_override={url.removeprefix('http://')}&scheme=http")


STUCK = """
import time
import pyarrow
from gan_dist import cli
from gan_dist.core import storage
from gan_dist.core.storage.retry import retrying

class Silent:
    closed = False

    def read(self, size):
        while True:
            time.sleep(0.001)

storage.configure(storage.StorageOptions(timeout_s=0.2))
cli.app = lambda _: retrying("s3://bucket/file", lambda: pyarrow.PythonFile(Silent(), mode="r").read(1))
cli.main([])
"""


def test_a_store_that_stays_silent_ends_a_command_as_any_error_does() -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False)
    said = "gan-dist: s3://bucket/file could not be used within 0 s, in 1 tries: no answer; "
    assert (done.returncode, done.stderr.startswith(said)) == (2, True), done
    assert done.stderr.splitlines()[1:] == ["docs/troubleshooting.md#outageerror"]
