"""The process of one tracker: it reads runs' folders, and sends what is new there.

Its standard input has a line of JSON for what to follow, then one for each change of a run's state; at its
end, or that of the process which started this one, what is left is sent, and this process ends. A line of its
standard output is a warning for the user.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from gan_dist.artifacts.records import RecordReader, read_valid_records
from gan_dist.artifacts.trackers.tracker import TrackedRun, Tracker
from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, StorageError
from gan_dist.core.json_text import parse_object
from gan_dist.core.storage.redaction import reason

POLL_S, REMOTE_POLL_S = 2.0, 15.0
"""Seconds between looks at folders on disks and in object stores."""
FIRST_WAIT_S, LONGEST_WAIT_S = 2.0, 60.0
"""Seconds between tries at a tracker that fails."""
SLOW_S = 30.0
"""Seconds after which a tracker that has not answered counts as one that does not answer."""
LONGEST_END_S = 120.0
"""Seconds at the end in which a tracker that does answer gets what is left."""
CHECK_S = 1.0
_FAKES = re.compile(r"fakes_\d+\.\d+\.png")


class Feed:
    """Runs, and what of them one tracker has not got."""

    def __init__(self, begin: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        self._name, self._uri, self._warn = begin["tracker"], begin["uri"], warn
        self._title, self._project, self._end_s = begin["name"], begin["project"], begin["end_s"]
        self._path = storage.join(self._uri, "trackers", f"{self._name}.json")
        self._runs: dict[str, TrackedRun] = {}
        self._sent: dict[str, dict[str, Any]] = {}
        """By run: the images of its last record that was logged, and its state if it has ended."""
        self._written, self._id = "", ""
        self._tracker: Tracker | None = None
        self._messages: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._ends = self._said = False
        self._busy_since: float | None = None
        self._progress = 0.0
        """When the tracker last took something."""

    def read(self) -> None:
        """Take messages from standard input; after its end, wait until the tracker takes no more."""
        for line in sys.stdin:
            with self._changed:
                self._messages.append(json.loads(line))
                self._changed.notify_all()
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        began = self._progress = time.monotonic()
        while time.monotonic() < min(self._progress + self._end_s, began + LONGEST_END_S):
            time.sleep(0.1)
        if left := self._count_left():
            remedy = self._tracker.remedy if self._tracker else ""
            self._warn(
                f"{left} records did not reach {self._where()} by the end: they are in metrics.jsonl, and "
                f"are logged when the run goes on{remedy and '; ' + remedy}"
            )
        os._exit(1)

    def run(self) -> None:
        """Send until all has been sent after the end of the messages."""
        wait_s = FIRST_WAIT_S
        threading.Thread(target=self._watch, daemon=True).start()
        while True:
            ends = self._ends
            try:
                self._busy_since = time.monotonic()
                self._take()
                self._pass(ends=ends)
            except Exception as error:  # whatever a tracker's library raises
                for one in self._runs.values():
                    one.is_open = False  # the tracker may have taken what it did not answer
                self._say(f"fails ({reason(error)})")
                pause, wait_s = wait_s, min(2 * wait_s, LONGEST_WAIT_S)
            else:
                if self._said:
                    self._said = False
                    self._warn(f"{self._where()} answers again, and has all records")
                if ends:
                    return
                pause, wait_s = REMOTE_POLL_S if "://" in self._uri else POLL_S, FIRST_WAIT_S
            finally:
                self._busy_since = None
            with self._changed:
                self._changed.wait_for(lambda: self._ends, min(pause, 1.0) if self._ends else pause)

    def _watch(self) -> None:
        while True:
            time.sleep(CHECK_S)
            since = self._busy_since
            if since is not None and time.monotonic() - max(since, self._progress) > SLOW_S:
                self._say(f"has not answered for {SLOW_S:g} s")

    def _say(self, what: str) -> None:
        if not self._said:
            self._said = True
            self._warn(f"{self._where()} {what}: the run goes on, and what it records is logged later")

    def _where(self) -> str:
        return self._tracker.address if self._tracker else f"log.to={self._name}"

    def _take(self) -> None:
        """Apply the messages that have come."""
        self._load()
        with self._changed:
            messages, self._messages = self._messages, []
        for message in messages:
            key = message["key"]
            run = self._runs.get(key) or self._run(key)
            run.state, run.reason = message["state"], message["reason"] or run.reason
            run.uri = message["uri"] or run.uri
            run.settings |= message["settings"]
            if figures := message["figures"]:
                last = max([run.images, *(one["images"] for one in run.waiting)])
                run.waiting += [figures] if figures["images"] > last else []
            known = self._sent.get(key, {})
            if run.state != "running" and run.state == known.get("state") and not run.is_open:
                del self._runs[key]  # the tracker has it already

    def _run(self, key: str) -> TrackedRun:
        top = self._runs.get("") if key else None
        if key and top is None:
            top = self._run("")
        name, own = (f"{self._title}/{key}", f"{self._id}-{key}") if key else (self._title, self._id)
        run = TrackedRun(key, own, name, top, int(self._sent.get(key, {}).get("images", -1)))
        self._runs[key] = run
        return run

    def _load(self) -> None:
        if self._id:
            return
        self._acquire()
        with suppress(AbsentError):
            known = parse_object(storage.read_text(self._path))
            self._id, self._sent = str(known.get("id", "")), dict(known.get("runs", {}))
        self._id = self._id or uuid.uuid4().hex[:12]
        self._save()

    def _acquire(self) -> None:
        """Wait for the process of an earlier command, which was killed, while it sends what is left."""
        same = uuid.uuid5(uuid.NAMESPACE_URL, f"{os.getuid()} {self._path}").hex
        self._lock = FileLock(Path(tempfile.gettempdir(), f"gan-dist-{same}.lock"))
        waited = False
        while not self._lock.is_locked:
            with suppress(Timeout):
                self._lock.acquire(timeout=CHECK_S)
            waited = waited or not self._lock.is_locked
            ended = any(not one["key"] and one["state"] != "running" for one in self._messages)
            if waited and self._ends and not ended:
                os._exit(0)  # this command was killed too: what is left is that of the next one

    def _save(self) -> None:
        text = json.dumps({"id": self._id, "runs": self._sent})
        if text != self._written:
            storage.write_bytes(self._path, text.encode())
            self._written = text

    def _pass(self, *, ends: bool) -> None:
        """Send what is new, and close the runs that have ended; at the end all have."""
        if self._tracker is None:
            self._tracker = make_tracker(self._name, self._project)
            self._progress = time.monotonic()
        for run in list(self._runs.values()):
            if not run.is_open:
                run.images = self._tracker.open(run)
                self._progress = time.monotonic()
                run.is_open = True
                if run.uri:
                    run.reader, run.waiting = RecordReader(run.uri, run.images), []
            if run.reader:
                run.waiting += run.reader.read_new()
            self._log(run, self._tracker)
        for run in reversed(list(self._runs.values())):
            if ends and run.state == "running":
                run.state = "interrupted"
            if run.state != "running" and (run.key or ends):
                self._tracker.close(run)
                self._progress = time.monotonic()
                self._sent[run.key] = {"images": run.images, "state": run.state}
                self._save()
                del self._runs[run.key]

    def _log(self, run: TrackedRun, tracker: Tracker) -> None:
        """Log each waiting record once: it is noted before it is sent."""
        run.waiting = [record for record in run.waiting if record["images"] > run.images]
        if not run.waiting:
            return
        self._sent[run.key] = {"images": run.waiting[-1]["images"]}
        self._save()
        while run.waiting:
            record = run.waiting[0]
            tracker.log(run, record, _pictures(run.uri, record) if "checkpoint" in record else {})
            run.images = record["images"]
            self._progress = time.monotonic()
            del run.waiting[0]

    def _count_left(self) -> int:
        """Return the number of records that the tracker has not got."""
        left = 0
        for run in list(self._runs.values()):
            records = list(run.waiting)
            if run.uri:
                with suppress(StorageError):
                    records = read_valid_records(run.uri)[0]
            left += sum(record["images"] > run.images for record in records)
        return left


def _pictures(run_uri: str, record: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the grids of samples of an evaluation, and with the first those of the reals."""
    folder, own = storage.join(run_uri, "samples"), f"fakes_{record['images'] / 1000:010.3f}.png"
    there = storage.list_names(folder)
    names = {"fakes": own} if own in there else {}
    if "reals.png" in there and own == min(filter(_FAKES.fullmatch, there), default=None):
        names["reals"] = "reals.png"
    return {name: storage.read_bytes(storage.join(folder, file)) for name, file in names.items()}


def make_tracker(name: str, project: str | None) -> Tracker:
    """Return the tracker of a name in `log.to`."""
    if name == "mlflow":
        from gan_dist.artifacts.trackers.mlflow import MlflowTracker

        return MlflowTracker(project)
    from gan_dist.artifacts.trackers.wandb import WandbTracker

    return WandbTracker(project)


def main() -> None:
    """Follow what standard input names, and send it."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print

    def warn(sentence: str) -> None:
        channel.write(" ".join(sentence.split()) + "\n")
        channel.flush()

    begin = json.loads(sys.stdin.readline() or "{}")
    if not begin:
        return
    storage.configure(storage.StorageOptions(**begin["options"]))
    feed = Feed(begin, warn)
    threading.Thread(target=feed.read, daemon=True).start()
    feed.run()
    os._exit(0)


if __name__ == "__main__":
    main()
