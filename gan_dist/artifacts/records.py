"""Records of a run: `metrics.jsonl`, one JSON object a line, and TensorBoard events with the same numbers.

`docs/records.md` has their keys.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from PIL.Image import Image

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, StorageError
from gan_dist.core.json_text import is_clock, parse_object

if TYPE_CHECKING:
    from gan_dist.artifacts.event_files import EventFiles

METRICS = "metrics.jsonl"
LOCAL_S, REMOTE_S = 5.0, 30.0
"""Seconds after which added records are written, to local disks and to object stores, where each time the
whole file is."""
_SCORE = re.compile(
    r"(fid|fd|kid|is|precision|recall|density|coverage)(_\w+)?|copying_z|copied_share|diversity|modes"
)


class RecordWriter:
    """Collects the records of a run and writes them now and then; a resumed run continues its file.

    Records after the `images` with which the run starts, left by a killed process, are deleted. TensorBoard's
    steps are the images seen divided by `images_per_step`.
    """

    def __init__(
        self, run_uri: str, images: int, images_per_step: int = 1, *, tensorboard: bool = True
    ) -> None:
        self._uri = storage.join(run_uri, METRICS)
        kept: list[dict[str, Any]] = []
        if storage.exists(self._uri):
            kept = [record for record in read_records(run_uri) if record["images"] <= images]
            storage.write_bytes(self._uri, "".join(map(_line, kept)).encode())
        self._remote = "://" in run_uri
        self._written = "".join(map(_line, kept)) if self._remote else ""
        self._bytes = sum(len(_line(record).encode()) for record in kept)
        self._added = ""
        self._events: EventFiles | None = None
        if tensorboard:
            # It imports TensorBoard, a second of which other ranks and readers are spared.
            from gan_dist.artifacts.event_files import EventFiles

            self._events = EventFiles(run_uri, kept, images_per_step)
        self._due_at = time.monotonic()

    def add(self, record: Mapping[str, object]) -> None:
        """Add a record, which has the key `images`; its numbers become TensorBoard scalars."""
        record = {**record, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        self._added += _line(record)
        if self._events is not None:
            self._events.add(record)

    def add_picture(self, name: str, picture: Image, images: int) -> None:
        """Add a grid of samples to the TensorBoard events."""
        if self._events is not None:
            self._events.add_picture(name, picture, images)

    def is_due(self) -> bool:
        """Return whether records wait that should be written."""
        return self._added != "" and time.monotonic() >= self._due_at

    def write(self) -> Callable[[], None]:
        """Return a call that writes what was added until now; any thread may call it, in order.

        A call that has failed may be repeated: no record is there twice.
        """
        added, self._added = self._added, ""
        self._due_at = time.monotonic() + (REMOTE_S if self._remote else LOCAL_S)
        copy_events = self._events.upload() if self._events is not None else lambda: None
        if self._remote:
            self._written += added

        def write() -> None:
            if added and self._remote:
                storage.write_bytes(self._uri, self._written.encode())
            elif added:
                storage.append_text(self._uri, added, self._bytes)
                self._bytes += len(added.encode())
            copy_events()

        return write

    def close(self) -> None:
        """Delete the local copy of the TensorBoard events."""
        if self._events is not None:
            self._events.close()


def finite(record: Mapping[str, object]) -> dict[str, object]:
    """Return a record with None in place of NaN and infinity, which JSON does not have."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def _line(record: Mapping[str, object]) -> str:
    return json.dumps(finite(record)) + "\n"


def read_records(run_uri: str) -> list[dict[str, Any]]:
    """Return the records of a run; a last line that a kill cut short is left out.

    Raises:
        StorageError: there is no `metrics.jsonl`, or one of its lines is damaged.
    """
    records, damaged = read_valid_records(run_uri)
    _require_whole(run_uri, damaged)
    return records


def read_valid_records(run_uri: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the records of a run, and the numbers of damaged lines, from 1.

    Raises:
        StorageError: there is no `metrics.jsonl`.
    """
    return _parse(storage.read_bytes(storage.join(run_uri, METRICS)))


class RecordReader:
    """Reads the records of a run while it goes on; each call reads only what was appended."""

    def __init__(self, run_uri: str, images: int = -1) -> None:
        """Read the records of a run after so many images."""
        self._run_uri = run_uri
        self._uri = storage.join(run_uri, METRICS)
        self._end = 0  # bytes of whole lines that were read
        self._lines = 0
        self._last_line = b""
        self._images = images  # of the last record that was returned

    def read_new(self) -> list[dict[str, Any]]:
        """Return the records that were written since the last call; none while there is no file.

        A run that is resumed rewrites the file without the records after its checkpoint, and then writes
        these again. The file is read from its start then, but no record is returned twice: only records with
        more images than those returned before are new.

        Raises:
            StorageError: a new line is damaged, or the file cannot be read.
        """
        try:
            # The last line is read again: a file that has another one there was rewritten.
            content = storage.read_bytes(self._uri, self._end - len(self._last_line))
            if not content.startswith(self._last_line):
                self._end, self._lines, self._last_line = 0, 0, b""
                content = storage.read_bytes(self._uri)
        except AbsentError:
            return []
        appended = content[len(self._last_line) : content.rfind(b"\n") + 1]
        records, damaged = _parse(appended, self._lines + 1)
        _require_whole(self._run_uri, damaged)
        if appended:
            self._end += len(appended)
            self._lines += appended.count(b"\n")
            self._last_line = appended[appended.rfind(b"\n", 0, -1) + 1 :]
        new = [record for record in records if record["images"] > self._images]
        self._images = max([self._images, *(record["images"] for record in new)])
        return new


def _parse(content: bytes, first: int = 1) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the records in whole lines, and the numbers of damaged lines, counted from `first`."""
    records, damaged = [], []
    for number, line in enumerate(content.decode(errors="replace").split("\n")[:-1], first):
        record = None
        with suppress(ValueError):
            record = parse_object(line)
        if record is not None and is_clock(record.get("images")):
            records.append(record)
        else:
            damaged.append(number)
    return records, damaged


def _require_whole(run_uri: str, damaged: Sequence[int]) -> None:
    if damaged:
        raise StorageError(
            f"{storage.redact(storage.join(run_uri, METRICS))} is damaged in {format_lines(damaged)}",
            "delete what is damaged there, with what it may have told, or restore the file",
        )


def format_lines(numbers: Sequence[int]) -> str:
    """Return line numbers in words, the first five of them, such as `lines 1, 2`."""
    few = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"line{'s' * (len(numbers) > 1)} {few}"


def is_score(key: str) -> bool:
    """Return whether a key of a record is the name of a score."""
    return _SCORE.fullmatch(key) is not None


def distance_name(records: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the name of the Frechet distance in the records of a run, `fid` or `fd_...`."""
    keys = (key for record in records for key in record)
    return next((key for key in keys if key == "fid" or key.startswith("fd_")), None)
