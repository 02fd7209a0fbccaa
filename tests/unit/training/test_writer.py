"""What a run writes while its store fails: in order, once, and no more of it in memory than the newest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from gan_dist.core.errors import GanDistError, OutageError, StorageError, WorkerError
from gan_dist.training import writer
from gan_dist.training.writer import RunWriter

URI = "s3://bucket/run"


@dataclass
class Store:
    """A store that fails by the errors that are set, and what it has."""

    error: Exception | None = None
    written: list[str] = field(default_factory=list)
    tries: int = 0
    warnings: list[str] = field(default_factory=list)

    def write(self, name: str) -> None:
        self.tries += 1
        if self.error is not None:
            raise self.error
        self.written.append(name)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(writer, "LONGEST_WAIT_S", 0.01)


@pytest.fixture
def store() -> Store:
    return Store()


def begun(store: Store, uri: str = URI, max_outage_s: float = 60.0) -> RunWriter:
    return RunWriter(uri, 1000, max_outage_s, lambda: 5000, lambda: None, store.warnings.append)


@pytest.fixture
def running(store: Store) -> Iterator[RunWriter]:
    one = begun(store)
    yield one
    one.close()


@pytest.mark.parametrize("error", [OutageError("no answer"), StorageError("the credentials have expired")])
def test_what_waits_during_an_outage_is_written_in_order_and_of_checkpoints_the_newest(
    store: Store, running: RunWriter, error: GanDistError
) -> None:
    store.error = error
    for number in range(1, 4):
        running.add(lambda name=f"records{number}": store.write(name))  # type: ignore[misc]
        running.add_release(lambda name=f"release{number}": store.write(name))  # type: ignore[misc]
        running.add_checkpoint(number, lambda name=f"checkpoint{number}": store.write(name))  # type: ignore[misc]
        assert not running.wait()  # at once
    while store.tries < 5:
        assert not running.is_idle()
        time.sleep(0.01)
    store.error = None
    assert running.wait(through_outage=True)
    assert running.is_idle()
    assert store.written == ["records1", "records2", "records3", "release3", "checkpoint3"]
    deadline = time.monotonic() + 10
    while len(store.warnings) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    failed, recovered = store.warnings
    assert str(error) in failed
    assert "wait in memory for 60 s at most (storage.max_outage_s)" in failed
    assert recovered == "the store answers again, and all that waited is written, at 5 kimg"


def test_a_longer_outage_ends_the_run_and_says_what_is_kept(store: Store) -> None:
    running = begun(store, max_outage_s=0.2)
    running.add_checkpoint(2000, lambda: store.write("checkpoint"))
    assert running.wait()
    store.error = OutageError("no answer")
    running.add(lambda: store.write("records"))
    with pytest.raises(StorageError, match=r"(?s)no answer.*at 2 kimg, is whole,.* 3,000 im") as caught:
        running.wait(through_outage=True)
    assert not isinstance(caught.value, OutageError)
    assert store.tries > 2
    with pytest.raises(StorageError, match="the same command goes on"):
        running.is_idle()
    running.close()


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("/runs/run", StorageError("the disk is full")),
        (URI, WorkerError("others")),
        (URI, ValueError()),
    ],
)
def test_what_no_waiting_mends_is_raised_at_once(store: Store, uri: str, error: Exception) -> None:
    running = begun(store, uri)
    store.error = error
    running.add(lambda: store.write("records"))
    with pytest.raises(type(error)):
        running.wait(through_outage=True)
    assert store.tries == 1
    assert store.warnings == []
    running.close()


def test_a_network_disk_that_does_not_answer_is_waited_for(store: Store) -> None:
    running = begun(store, "/net/run")
    store.error = OutageError("Stale file handle")
    running.add(lambda: store.write("records"))
    assert not running.wait()
    store.error = None
    assert running.wait(through_outage=True)
    running.close()


def test_a_disk_that_lets_no_write_end_ends_the_run_in_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHECK_S", 0.01)
    mended = threading.Event()
    hanging = begun(store, "/disk/run", 0.2)
    hanging.add(lambda: store.write("records"))
    hanging.add_checkpoint(2000, mended.wait)  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="/disk/run lets no write end; look at its disk") as caught:
        hanging.wait(through_outage=True)
    assert "the last checkpoint, at 1 kimg, is whole" in str(caught.value)
    hanging.close()
    mended.set()
    assert store.written[0] == "records"
    # A large checkpoint may take longer on its way into a bucket.
    slow = begun(store, URI, 0.05)
    slow.add(lambda: time.sleep(0.3))
    assert slow.wait()
    slow.close()


def test_a_checkpoint_that_is_added_while_another_is_written_is_written_next(
    store: Store, running: RunWriter
) -> None:
    go_on, writing = threading.Event(), threading.Event()

    def slow() -> None:
        writing.set()
        assert go_on.wait(60)
        store.write("first")

    running.add_checkpoint(1, slow)
    assert writing.wait(60)
    running.add_checkpoint(2, lambda: store.write("second"))
    go_on.set()
    assert running.wait()
    assert store.written == ["first", "second"]
