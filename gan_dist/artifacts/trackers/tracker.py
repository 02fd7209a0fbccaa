"""A tracker, and a run as a tracker has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gan_dist.artifacts.records import RecordReader


@dataclass
class TrackedRun:
    """A run as a tracker has it."""

    key: str
    """"" for the run or search that is followed, a trial's number for one of its trials."""
    id: str
    """Chosen by us, and the same after every restart."""
    name: str
    parent: TrackedRun | None = None
    images: int = -1
    """Those of the last record that was logged, -1 before the first."""
    uri: str = ""
    """Folder of its records; empty for a search."""
    state: str = "running"
    reason: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    waiting: list[dict[str, Any]] = field(default_factory=list)
    """Records to be logged."""
    reader: RecordReader | None = None
    is_open: bool = False


class Tracker(Protocol):
    """A service that runs are logged to. Any of its calls may raise whatever its library raises."""

    address: str
    """Where it is, in words."""

    @property
    def remedy(self) -> str:
        """What brings to it what it did not take, in words."""

    def open(self, run: TrackedRun) -> int:
        """Begin a run, or go on with it; return the images of its last record that the tracker has.

        A tracker that cannot be asked for them returns `run.images`.
        """

    def log(self, run: TrackedRun, record: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        """Log the numbers of a record, and PNG pictures by name; the step is the record's images."""

    def close(self, run: TrackedRun) -> None:
        """End a run with its state."""
