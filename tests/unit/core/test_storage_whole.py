"""Objects are whole or absent, transfers may take long, and messages hold no secret, on real S3."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.core.storage import StorageOptions
from gan_dist.core.storage.redaction import reason
from tests.support.crashes import Disk
from tests.support.faults import Proxy, proxy
from tests.support.s3 import refusing_server

Backend = Literal["pyarrow", "s3fs"]
OLD = b"what was there before" * 100


def use(backend: str, timeout_s: float = 60.0) -> None:
    chosen: Backend = "s3fs" if backend == "s3fs" else "pyarrow"
    storage.configure(StorageOptions(chosen, timeout_s))


@pytest.fixture
def faulty(s3_url: str, bucket: str) -> Iterator[tuple[Proxy, str]]:
    with proxy(s3_url, seed=1) as running:
        yield running, f"{bucket}?endpoint_override=127.0.0.1:{running.port}&scheme=http"


@pytest.mark.parametrize("passed", [2, 4])
def test_an_upload_that_fails_leaves_the_object_as_it_was(
    faulty: tuple[Proxy, str], bucket: str, backend: str, passed: int
) -> None:
    running, root = faulty
    use(backend)
    storage.write_bytes(storage.join(bucket, "x"), OLD)
    content = os.urandom(32 * 2**20)
    filesystem, path = storage.open_uri(storage.join(root, "x"))
    # As many failures as end an upload for good, after which all is well: what then closes the file succeeds.
    running.faults.planned = ["pass"] * passed + ["internal"] * (2 if backend == "pyarrow" else 6)
    try:
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)
    except OSError:
        expected = OLD
    else:
        expected = content
    running.faults.planned.clear()
    assert storage.read_bytes(storage.join(bucket, "x")) == expected
    assert running.counts["internal"] >= 2 or expected == content


def test_an_object_written_anew_while_it_is_read_is_the_old_or_the_new(
    faulty: tuple[Proxy, str], bucket: str, backend: str
) -> None:
    running, root = faulty
    use(backend)
    contents = [b"a" * 5000, b"b" * 9000, b"c" * 2000]
    storage.write_bytes(storage.join(bucket, "x"), contents[0])
    assert storage.read_bytes(storage.join(root, "x")) == contents[0]
    running.faults.latency_s = 0.2
    for content in contents[1:]:
        read: list[bytes] = []
        reader = threading.Thread(target=lambda: read.append(storage.read_bytes(storage.join(root, "x"))))  # noqa: B023
        asked = running.counts["pass"]
        reader.start()
        while running.counts["pass"] == asked:  # the size is asked first
            time.sleep(0.005)
        time.sleep(0.25)
        storage.write_bytes(storage.join(bucket, "x"), content)
        reader.join()
        assert read[0] in contents


def test_a_transfer_may_last_longer_than_the_time_limit(
    faulty: tuple[Proxy, str], bucket: str, backend: str
) -> None:
    running, root = faulty
    use(backend, timeout_s=3.0)  # a store that shares busy cores may answer after two
    content = os.urandom(4 * 2**20)
    storage.write_bytes(storage.join(bucket, "x"), content)
    running.faults.bandwidth = 1e6
    began = time.monotonic()
    assert storage.read_bytes(storage.join(root, "x")) == content
    assert time.monotonic() - began > 3


def test_a_name_is_not_taken_for_the_stores_word(faulty: tuple[Proxy, str], backend: str) -> None:
    running, root = faulty
    use(backend)
    uri = storage.join(root, "NoSuchBucket", "Forbidden (403)")
    storage.write_bytes(uri, b"x")
    running.faults.planned = ["unavailable"] * 5
    assert storage.read_bytes(uri) == b"x"
    assert running.counts["unavailable"] == 5


def test_a_store_that_has_answered_is_waited_for(faulty: tuple[Proxy, str], backend: str) -> None:
    use(backend)
    uri = storage.join(faulty[1], "x")
    storage.write_bytes(uri, b"x")  # which loads the backend, for seconds where the machine is busy
    faulty[0].stop()
    use(backend, timeout_s=1.0)
    with pytest.raises(StorageError, match="could not be used within 1 s"):
        storage.read_bytes(uri)


def test_no_credentials_are_said(bucket: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    for key in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(key, str(Path(os.devnull)))
    use(backend)
    with (
        refusing_server("AccessDenied") as (url, _),
        pytest.raises(StorageError, match="there are no credentials; set AWS_ACCESS_KEY_ID"),
    ):
        storage.read_bytes(f"{bucket}/x?endpoint_override={url.removeprefix('http://')}&scheme=http")


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("s3://AKIA:SeCrEt@bucket/a", "s3://bucket/a"),
        ("s3://AKIA:SeC/rEt+/=@bucket/a?region=eu", "s3://bucket/a?region=eu"),
        ("s3://AKIA:12/SeCrEt@bucket/a", "s3://bucket/a"),
        ("s3://SeCrEt@bucket/a", "s3://bucket/a"),
        ("hdfs://user:SeCrEt@host:8020/a", "hdfs://host:8020/a"),
        ("s3://bucket/a?secret_key=SeCrEt&scheme=http", "s3://bucket/a?secret_key=...&scheme=http"),
    ],
)
def test_a_secret_in_a_uri_is_refused_and_not_repeated(uri: str, shown: str) -> None:
    with pytest.raises(StorageError) as caught:
        storage.open_uri(uri)
    assert str(caught.value).startswith(f"{shown} ")
    for part in ("SeC", "rEt", "AKIA"):
        assert part not in str(caught.value)


@pytest.mark.parametrize("uri", ["s3://b/us@er:x", "hdfs://h:8020/p@q", "abfs://c@account/x", "/a?b=c@d"])
def test_other_uris_are_shown_as_they_are(uri: str) -> None:
    assert storage.redact(uri) == uri


def test_what_a_call_has_written_outlasts_the_loss_of_power(tmp_path: Path) -> None:
    new, log = f"{tmp_path}/a/b/file", f"{tmp_path}/c/log"
    with Disk(10**6, lose_power=True):
        storage.write_bytes(new, b"1")
        storage.append_text(log, "1")
        storage.append_text(log, "2")
    assert (storage.read_text(new), storage.read_text(log)) == ("1", "12")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("no route to\n http://me:s3cr3t@head:8265 now", "no route to http://head:8265 now"),
        (
            "GET https://b/k?X-Amz-Signature=s3cr3t&x=1 failed",
            "GET https://b/k?X-Amz-Signature=...&x=... failed",
        ),
        ("AWS4-HMAC Credential=s3cr3t/eu, Signature=s3cr3t", "AWS4-HMAC Credential=... Signature=..."),
        ("", "OSError"),
    ],
)
def test_a_reason_is_one_line_without_secrets(said: str, told: str) -> None:
    assert reason(OSError(said)) == told
