"""Every error that a user can cause. Each says what is wrong, where, and how to mend it.

GanDistError                what the command line prints without a traceback; exit code 2 but for the last two
├── ConfigError             a configuration's problems, all of them at once
├── DataError               an image set that is missing, damaged or not what the configuration says
├── StorageError            a path or URI that cannot be read or written
│   └── AbsentError         one at which there is nothing
├── CheckpointError         a checkpoint or release that is missing, damaged or of another kind
├── ResumeError             a run folder that belongs to a different configuration
├── BusyError               a run or search that another process works on
├── CapacityError           a request that this machine or cluster can never place
├── ClusterError            a cluster that cannot be joined, or whose nodes cannot work together
├── NonFiniteError          a loss, gradient, image or feature that stopped being a number (exit code 3)
└── WorkerError             workers that kept failing (exit code 1)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class GanDistError(Exception):
    """Base of all errors that a user can cause; the message is one to show as it is."""

    exit_code = 2


class ConfigError(GanDistError):
    """A configuration with one or more problems.

    `problems` holds one sentence each, already prefixed with its origin (`file:line` or the override).
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[str, ...]]]:
        return type(self), (self.problems,)


class DataError(GanDistError):
    """An image set that is missing, damaged, or not what the configuration says it is."""


class StorageError(GanDistError):
    """A path or URI that cannot be opened, read or written."""


class AbsentError(StorageError):
    """A path or URI at which there is nothing, though its store answers."""


class CheckpointError(GanDistError):
    """A checkpoint or release that is missing, damaged, or of another kind."""


class ResumeError(GanDistError):
    """A run folder that was begun with a configuration that differs where it matters."""


class BusyError(GanDistError):
    """A run or search that another process works on."""


class CapacityError(GanDistError):
    """A request that this machine or cluster can never place."""


class ClusterError(GanDistError):
    """A cluster that cannot be joined, whose nodes differ, or that do not see the same storage."""


class NonFiniteError(GanDistError):
    """A loss, gradient, image or feature that is infinite or not a number; nothing is updated or scored."""

    exit_code = 3


class WorkerError(GanDistError):
    """Workers that died or failed more often than they are started again."""

    exit_code = 1


def nearest(name: str, known: Iterable[str]) -> str:
    """Return what a sentence about an unknown name ends with: the known one most like it, if any is."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; the nearest is {near[0]}" if near else ""
