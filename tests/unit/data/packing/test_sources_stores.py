"""Sources in S3, by both backends: listed through faults, and what is wrong said as storage says it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_dist.core import storage
from gan_dist.core.errors import DataError, StorageError
from gan_dist.core.storage import StorageOptions
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.items import SourceOptions
from tests.support.faults import Proxy, proxy
from tests.support.ports import free_port
from tests.support.s3 import put_object, refusing_server
from tests.unit.core.test_storage import use


@pytest.fixture
def faulty(s3_url: str, backend: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the server, and the query that leads through it."""
    use(backend)
    with proxy(s3_url, seed=1) as running:
        yield running, f"?endpoint_override=127.0.0.1:{running.port}&scheme=http"


def parquet(rows: int) -> bytes:
    buffer = io.BytesIO()
    table = pa.table({"image": [b"picture"] * rows, "label": [f"class {n}" for n in range(rows)]})
    pq.write_table(table, buffer)
    return buffer.getvalue()


def tar(count: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = 100_000
            archive.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


CONTENTS = {
    "pics": {f"{n % 3}/{n}.png": b"x" for n in range(20)},
    "tars": {"a.tar": tar(30)},
    "rows": {"a.parquet": parquet(30)},
}


@pytest.mark.parametrize("folder", CONTENTS)
def test_faults_are_survived_in_listing(faulty: tuple[Proxy, str], bucket: str, folder: str) -> None:
    running, query = faulty
    for name, content in CONTENTS[folder].items():
        storage.write_bytes(f"{bucket}/{folder}/{name}", content)
    uri = f"{bucket}/{folder}{query}"
    expected = open_source(uri, SourceOptions())
    requests = running.counts.total()
    # A backend by itself tries twice.
    running.faults.planned = ["unavailable"] * 3 + ["pass"] * (requests - 1) + ["reset"] * 3
    source = open_source(uri, SourceOptions())
    assert running.counts["unavailable"] == running.counts["reset"] == 3
    assert (source.items, source.classes) == (expected.items, expected.classes)
    assert len(source.items) in (20, 30)
    assert source.rejected == []


def test_faults_are_survived_in_reading_a_column(faulty: tuple[Proxy, str], bucket: str) -> None:
    running, query = faulty
    pictures = [str(row).encode() * 20_000 for row in range(100, 140)]
    buffer = io.BytesIO()
    # Row groups of 600 kB: a batch is several requests.
    pq.write_table(pa.table({"image": pictures}), buffer, row_group_size=10, compression="none")
    storage.write_bytes(f"{bucket}/rows/a.parquet", buffer.getvalue())
    source = open_source(f"{bucket}/rows{query}", SourceOptions())
    read = source.origin.open()
    running.faults.errors, running.faults.reset, running.faults.truncate = 0.5, 0.1, 0.1
    assert [read(item) for item in source.items] == pictures
    assert sum(running.counts[kind] for kind in running.counts if kind != "pass") > 5


def test_a_missing_bucket_is_told_from_a_missing_prefix(faulty: tuple[Proxy, str], bucket: str) -> None:
    _, query = faulty
    for uri in (f"s3://no-such-bucket-here{query}", f"s3://no-such-bucket-here/x{query}"):
        with pytest.raises(StorageError, match="the bucket does not exist; create it"):
            open_source(uri, SourceOptions())
    with pytest.raises(DataError, match="does not exist; give a folder"):
        open_source(f"{bucket}/none{query}", SourceOptions())


@pytest.mark.parametrize(
    ("code", "said"),
    [("InvalidAccessKeyId", "does not know the access key"), ("AccessDenied", "refuses access")],
)
def test_refusals_are_said_plainly(bucket: str, backend: str, code: str, said: str) -> None:
    use(backend)
    with refusing_server(code) as (url, _):
        query = f"?endpoint_override={url.removeprefix('http://')}&scheme=http"
        for uri in (f"{bucket}{query}", f"{bucket}/x{query}"):
            with pytest.raises(StorageError, match=said):
                open_source(uri, SourceOptions())


def test_nobody_listening_is_said(bucket: str, backend: str) -> None:
    use(backend)
    with pytest.raises(StorageError, match="nobody answers at the store's address in 2 tries"):
        open_source(f"{bucket}/x?endpoint_override=127.0.0.1:{free_port()}&scheme=http", SourceOptions())


@pytest.mark.parametrize(("name", "content"), [("a.tar", tar(30)), ("a.parquet", parquet(30))])
def test_a_store_that_ends_answering_is_no_damage(
    faulty: tuple[Proxy, str], bucket: str, backend: str, name: str, content: bytes
) -> None:
    running, query = faulty
    storage.write_bytes(f"{bucket}/x/{name}", content)
    uri = f"{bucket}/x{query}"
    requests = running.counts.total()
    open_source(uri, SourceOptions())
    requests = running.counts.total() - requests
    storage.configure(StorageOptions("s3fs" if backend == "s3fs" else "pyarrow", 3.0))
    running.faults.planned = ["pass"] * (requests - 1) + ["unavailable"] * 1000
    with pytest.raises(StorageError, match=rf"x/{name}\S* could not be used within \d+ s, in \d+ tries"):
        open_source(uri, SourceOptions())


def test_damage_in_a_store_is_named_at_once(faulty: tuple[Proxy, str], bucket: str) -> None:
    running, query = faulty
    content = bytearray(parquet(30))
    content[-60:-8] = b"x" * 52  # of the footer
    storage.write_bytes(f"{bucket}/x/a.parquet", bytes(content))
    with pytest.raises(DataError, match=r"a.parquet of .* cannot be read as Parquet"):
        open_source(f"{bucket}/x{query}", SourceOptions())
    assert running.counts.total() < 20


@pytest.mark.parametrize(
    ("name", "content"),
    [("a?b.png", None), ("a?b.tar", tar(2)), ("a?b.parquet", parquet(2))],
)
def test_a_question_mark_in_a_key_is_no_setting(
    s3_url: str, bucket: str, backend: str, name: str, content: bytes | None
) -> None:
    """Images are read by their keys; what a library opens by its URI is refused by name."""
    use(backend)
    key = f"{bucket.removeprefix('s3://')}/pics/{name.replace('?', '%3F')}"
    put_object(s3_url, key, content or b"picture")
    if content is None:
        source = open_source(f"{bucket}/pics", SourceOptions())
        assert source.origin.open()(source.items[0]) == b"picture"
    else:
        with pytest.raises(StorageError, match=r"question mark"):
            open_source(f"{bucket}/pics", SourceOptions())
