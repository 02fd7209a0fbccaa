"""What a run writes down: metrics.jsonl, TensorBoard events, sample grids."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from gan_dist.core import storage
from gan_dist.core.errors import StorageError

METRICS = "metrics.jsonl"


class Records:
    """A run's `metrics.jsonl` and TensorBoard events, which a resume continues as if nothing had happened.

    Args:
        run_uri: The run's folder.
        images: Where the run starts on its clock; records beyond it, left by a killed process, are dropped.
    """

    def __init__(self, run_uri: str, images: int) -> None:
        self._uri = storage.join(run_uri, METRICS)
        self._events_uri = storage.join(run_uri, "tensorboard")
        if storage.exists(self._uri):
            kept = [record for record in read_records(run_uri) if record["images"] <= images]
            storage.write_bytes(self._uri, "".join(map(_line, kept)).encode())
        self._events = tempfile.TemporaryDirectory(prefix="gan-dist-events-")
        self._writer = SummaryWriter(self._events.name, purge_step=images + 1)

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record; it holds `images`, and its numbers become TensorBoard scalars."""
        record = {**record, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        storage.append_text(self._uri, _line(record))
        for key, value in record.items():
            if isinstance(value, float) and key != "kimg":
                self._writer.add_scalar(key, value, record["images"])
        self._writer.flush()
        storage.copy_tree(self._events.name, self._events_uri)

    def close(self) -> None:
        """Release the events' local copy."""
        self._writer.close()
        self._events.cleanup()


def _line(record: Mapping[str, object]) -> str:
    # JSON knows no NaN or infinity; a reader in another language must still get through the line.
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite) + "\n"


def read_records(run_uri: str) -> list[dict[str, Any]]:
    """Return the records of a run's metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        StorageError: there is no such file, or one of its lines is damaged.
    """
    records, damaged = legible_records(run_uri)
    if damaged:
        raise StorageError(
            f"{storage.redact(storage.join(run_uri, METRICS))} is damaged in {lines(damaged)}",
            "delete what is damaged there, with what it may have told, or restore the file",
        )
    return records


def legible_records(run_uri: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the records of a run's metrics.jsonl, and the numbers of the lines that are damaged.

    Raises:
        StorageError: there is no such file.
    """
    records, damaged = [], []
    content = storage.read_bytes(storage.join(run_uri, METRICS)).decode(errors="replace")
    for number, line in enumerate(content.split("\n")[:-1], 1):
        record = None
        with suppress(ValueError):
            record = json.loads(line)
        if isinstance(record, dict) and isinstance(record.get("images"), int):
            records.append(record)
        else:
            damaged.append(number)
    return records, damaged


def lines(numbers: Sequence[int]) -> str:
    """Return numbers of lines in words, the first few of them."""
    few = ", ".join(map(str, numbers[:5])) + (", ..." if len(numbers) > 5 else "")
    return f"line{'s' * (len(numbers) > 1)} {few}"


def local_folder() -> Path:
    """Return a new local folder for files on their way to storage."""
    return Path(tempfile.mkdtemp(prefix="gan-dist-"))
