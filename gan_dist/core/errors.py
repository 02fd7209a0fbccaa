"""Errors that a user can cause. Each says what is wrong, where, and how to fix it.

GanDistError                what the command line prints without a traceback; exit code 2 but for the last two
├── ConfigError             a configuration's problems, all of them at once
├── DataError               an image set that is not what the configuration says
│   └── DamagedDataError    one that is missing, damaged or unreadable
├── StorageError            a path or URI that cannot be read or written
│   ├── AbsentError         one at which there is nothing
│   └── OutageError         one whose store or network does not answer at the moment
├── CheckpointError         a checkpoint or release that is missing, damaged or of another kind
│   └── UntrustedCodeError  one that needs code which the user has not allowed
├── ResumeError             a run folder that belongs to a different configuration
├── BusyError               a run or search that another process works on
├── CapacityError           a request that this machine or cluster can never place
│   └── DeviceMemoryError   a step or an evaluation that a GPU's memory does not hold
├── MissingPackageError     a command that needs packages which are not installed
├── ClusterError            a cluster that cannot be joined, or whose nodes cannot work together
├── NonFiniteError          a loss, gradient, image or feature that stopped being a number (exit code 3)
└── WorkerError             workers that kept failing (exit code 1)
    └── PlacementError      workers that lost their place in the cluster, or found none in time

Those with an external cause (storage, data, cluster) end a search, whose trials go on once it is mended; the
others end one of its trials.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Problem:
    """One thing that a user has to fix."""

    what: str
    """What is wrong, with the field, its value and the arithmetic."""
    remedy: str = ""
    """The command, key or value that fixes it."""
    keys: tuple[str, ...] = ()
    """Configuration keys that it concerns, dotted."""
    where: str = ""
    """Origin of the key: `file:line`, or the override; empty where `what` names it."""

    def __str__(self) -> str:
        start = f"{self.where}: " if self.where else ""
        return f"{start}{self.what}; {self.remedy}" if self.remedy else f"{start}{self.what}"


class GanDistError(Exception):
    """Base of all errors that a user can cause.

    `what`, `remedy` and `keys` are those of a `Problem`; several problems are given as `what`.
    """

    exit_code: ClassVar = 2
    external: ClassVar = False
    """Whether the cause is in the surroundings (storage, data, cluster) and may be mended there."""

    def __init__(self, what: str | Sequence[Problem], remedy: str = "", *, keys: Sequence[str] = ()) -> None:
        super().__init__(what, remedy)
        self.problems = (Problem(what, remedy, tuple(keys)),) if isinstance(what, str) else tuple(what)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


class ConfigError(GanDistError):
    """A configuration with one or more problems."""


class DataError(GanDistError):
    """An image set that is not what the configuration says it is."""


class DamagedDataError(DataError):
    """An image set that is missing, damaged or unreadable."""

    external = True


class StorageError(GanDistError):
    """A path or URI that cannot be opened, read or written."""

    external = True


class AbsentError(StorageError):
    """A path or URI at which there is nothing, though its store answers."""


class OutageError(StorageError):
    """A path or URI whose store or network does not answer at the moment."""


class CheckpointError(GanDistError):
    """A checkpoint, release or extractor that is missing, damaged, or of another kind."""

    external = True


class UntrustedCodeError(CheckpointError):
    """A release, checkpoint or run that needs code which the user has not allowed."""


class ResumeError(GanDistError):
    """A run folder that was begun with a configuration that differs where it matters."""

    external = True


class BusyError(GanDistError):
    """A run or search that another process works on."""

    external = True


class CapacityError(GanDistError):
    """A request that this machine or cluster can never place."""

    external = True


class DeviceMemoryError(CapacityError):
    """A step or an evaluation that a GPU's memory does not hold."""

    external = False


class MissingPackageError(GanDistError):
    """A command that needs packages of an extra of gan-dist, which are not installed."""


class ClusterError(GanDistError):
    """A cluster that cannot be joined, whose nodes differ, or that do not see the same storage."""

    external = True


class NonFiniteError(GanDistError):
    """A loss, gradient, image or feature that is infinite or not a number; nothing is updated or scored."""

    exit_code = 3


class WorkerError(GanDistError):
    """Workers that died or failed more often than they are started again."""

    exit_code = 1


class PlacementError(WorkerError):
    """Workers that lost their place in the cluster, or found none in time."""

    external = True


def extended(error: GanDistError, text: str) -> GanDistError:
    """Return an error of the same kind with a further line, such as the command that goes on."""
    return type(error)([*error.problems, Problem(text)])


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like an unknown one, None if no name is like it."""
    return next(iter(difflib.get_close_matches(name, list(known), 1)), None)
