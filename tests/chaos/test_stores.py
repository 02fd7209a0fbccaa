"""A store with faults of every kind: what is read is what was written, or a named error comes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from random import Random

import numpy as np
import pytest

from gan_dist.artifacts.records import RecordWriter, read_records
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, DamagedDataError, StorageError
from gan_dist.core.storage.hashed_folder import delete_folder, is_whole, read_folder, write_folder
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet, write_set
from tests.chaos.conftest import Chaos
from tests.support.faults import Proxy, proxy
from tests.unit.core.test_storage import use

TIMEOUT_S = 4.0
KINDS = ("internal", "unavailable", "slowdown", "throttled", "reset", "stall", "truncate", "corrupt", "slow")
NAMES = (
    *(
        "plain",
        "a b",
        "50%",
        "50%25",
        "a+b",
        "a&b=c",
        "ü",
        "e\u0301",
        "日本",
        "x#y",
        "(1)!",
        "it's",
        "~@:,;$*",
    ),
    *("=", "[a]", "{b}", '"', "a\\b", "|", "^`", "%2F", "..a", " a"),
)
"""Names of objects, all of which stores take."""


@pytest.fixture
def faulty(s3_url: str, bucket: str, backend: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy before the store, and a bucket through it."""
    use(backend, 60.0)
    with proxy(s3_url) as running:
        yield running, f"{bucket}?endpoint_override=127.0.0.1:{running.port}&scheme=http"


class Work:
    """What a run does with its store, through a proxy, and without one (`direct`) to see what came of it."""

    def __init__(self, root: str, direct: str, chance: Random) -> None:
        self.root, self.direct, self._chance = root, direct, chance
        draw = np.random.default_rng(1)
        pixels = draw.integers(0, 256, (64, 48), dtype=np.uint8)
        self._rows = Rows(pixels, None)
        shards = iter([self._rows[:32], self._rows[32:]])
        write_set(storage.join(direct, "set"), shards, group_rows=16, height=4, width=4, channels=3)
        self._objects = dict[str, bytes]()
        self._folders = dict[str, dict[str, bytes]]()
        self._records = RecordWriter(storage.join(direct, "run"), 0)
        self._recorded = 0

    def all(self) -> tuple[Callable[[], None], ...]:
        return (self.read_data, self.objects, self.checkpoint, self.records, self.delete)

    def read_data(self) -> None:
        images = ShardSet(storage.join(self.root, "set"))
        for group in range(4):
            read = images.read_group(group)
            assert np.array_equal(read.pixels, self._rows.pixels[16 * group : 16 * group + 16])

    def objects(self) -> None:
        name = self._chance.choice(NAMES)
        content = self._chance.randbytes(self._chance.choice((0, 10, 5000, 100_000)))
        uri = storage.join(self.root, "odd", name)
        before = self._objects.get(name)
        try:
            storage.write_bytes(uri, content)
            self._objects[name] = content
        finally:
            found = self._directly("odd", name)
            assert found in (before, content)
            if found is not None:
                self._objects[name] = found
        assert storage.read_bytes(uri) == content

    def checkpoint(self) -> None:
        name = f"checkpoint_{self._chance.randrange(3)}"
        uri = storage.join(self.root, name)
        contents = {f"file{n}": self._chance.randbytes(20_000) for n in range(3)}
        try:
            delete_folder(uri)
            write_folder(uri, "checkpoint", contents.items())
        finally:
            # However it went: a folder that counts as whole has the bits that were saved.
            there = storage.join(self.direct, name)
            if is_whole(there, "checkpoint"):
                found = read_folder(there, ["checkpoint"])[1]
                assert found in (contents, self._folders.get(name))
                self._folders[name] = found
        assert read_folder(uri, ["checkpoint"])[1] == contents

    def records(self) -> None:
        uri = storage.join(self.root, "run")
        records = RecordWriter(uri, self._recorded)
        try:
            records.add({"images": self._recorded + 1})
            records.write()()
        finally:
            records.close()
            images = [record["images"] for record in read_records(storage.join(self.direct, "run"))]
            assert images in (list(range(1, n + 1)) for n in (self._recorded, self._recorded + 1))
            self._recorded = len(images)

    def delete(self) -> None:
        for name in ("a b", "50%", "ü"):
            storage.write_bytes(storage.join(self.direct, "gone", name), b"x")
        storage.delete_tree(storage.join(self.root, "gone"))
        assert storage.list_names(storage.join(self.direct, "gone")) == []

    def _directly(self, *names: str) -> bytes | None:
        uri = storage.join(self.direct, *names)
        return storage.read_bytes(uri) if storage.exists(uri) else None


def test_faults_of_a_store_corrupt_nothing(
    chaos: Chaos, faulty: tuple[Proxy, str], bucket: str, backend: str
) -> None:
    """Half of the stores have no request that deletes several objects."""
    running, root = faulty
    chance, outcomes, longest = chaos.random, Counter[str](), 0.0
    work = Work(root, bucket, chance)
    use(backend, TIMEOUT_S)
    wanted = chaos.rounds(4, 500)
    done = Counter[str]()
    while done.total() < wanted:
        kind, before = chance.choice(KINDS), running.counts.copy()
        begun = chance.choice(work.all())
        running.faults.delete_status = chance.choice((0, 501))
        running.faults.latency_s = 0.3 if kind == "slow" else 0.0
        running.faults.planned = ["pass"] * chance.randrange(8) + [kind] * chance.choice((1, 1, 2, 4))
        if kind == "slow":
            running.faults.planned, done["slow"] = [], done["slow"] + 1
        began = time.monotonic()
        try:
            begun()
            outcomes["done"] += 1
        except (StorageError, CheckpointError, DamagedDataError) as error:
            outcomes[type(error).__name__] += 1
        longest = max(longest, time.monotonic() - began)
        running.faults.planned = []
        running.faults.latency_s = 0.0
        done += running.counts - before - Counter({"pass": running.counts["pass"]})
    chaos.keep(
        faults=done.total(),
        **dict(done),
        operations=outcomes.total(),
        **dict(outcomes),
        longest_s=round(longest, 1),
    )
