"""Storage of a search's study: a file in its folder, objects in a bucket, or a database (`database.py`)."""

from __future__ import annotations

import fcntl
import io
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._file import get_lock_file
from optuna.study import Study
from optuna.trial import FrozenTrial

from gan_dist.core import storage
from gan_dist.core.errors import GanDistError, StorageError
from gan_dist.core.json_text import is_clock
from gan_dist.core.storage.redaction import reason, redact
from gan_dist.search.database import open_database

JOURNAL = "study.journal"
PART_BYTES = 256 * 1024
"""Greatest size of a journal's objects in a bucket; each added record uploads the last of them again."""


def study_storage(folder_uri: str, url: str | None) -> BaseStorage:
    """Return the storage of a search's study; it is made if it is not there yet.

    On a disk the study is a file in the search's folder, `study.journal`, which `optuna-dashboard` opens. In
    a bucket it is the object of that name, followed, once this has 256 KiB, by `study.journal.00001` and so
    on; concatenated they are that file. `url` is a database to use instead, or `env:NAME` for one whose URL
    is in an environment variable.

    Raises:
        StorageError: the folder cannot be read or written, the journal is damaged, or the database cannot be
            reached; passwords are left out of the message.
    """
    if url is not None:
        return open_database(url)
    uri = storage.join(folder_uri, JOURNAL)
    filesystem, path = storage.open_uri(uri)
    try:
        if filesystem.type_name == "local":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(_FileJournal(path))
        return JournalStorage(_BucketJournal(folder_uri))
    except OSError as error:
        raise StorageError(
            f"{redact(uri)} cannot be opened ({error.strerror})", "give the search another folder"
        ) from None
    except GanDistError:
        raise
    except Exception as error:  # Optuna meets a line that somebody made up with nearly every type
        raise StorageError(
            f"{redact(uri)} is damaged ({reason(error)})",
            "restore a copy of it, or give the search another name (name=...)",
        ) from None


def read_study(folder_uri: str, url: str | None, name: str) -> Study | None:
    """Return a search's study as it is at this moment; nothing is locked or written.

    `url` is its database, if it is in one (see `study_storage`), and `name` its name there. Without one the
    result is None where the folder has no journal, or no trial was begun yet.

    Raises:
        StorageError: the folder cannot be read, the journal is damaged, or the database has no such study.
    """
    if url is not None:
        database = open_database(url, existing=True)
        try:
            return optuna.load_study(study_name=name, storage=database)
        except KeyError:
            raise StorageError(
                f"the database {redact(url)} has no study {name}",
                "give the one that the search was begun with",
            ) from None
    lines = _BucketJournal(folder_uri).load()
    # On a disk another process may be writing the last one.
    whole = lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines
    try:
        journal = JournalStorage(_ReadOnlyJournal(whole))
        names = [study.study_name for study in journal.get_all_studies()]
        study = optuna.load_study(study_name=names[0], storage=journal) if names else None
        _require_plain(study.get_trials(deepcopy=False) if study else [])
        return study
    except Exception as error:  # as above
        raise StorageError(
            f"{redact(storage.join(folder_uri, JOURNAL))} is damaged ({reason(error)})",
            "restore a copy of it",
        ) from None


def _require_plain(trials: Iterable[FrozenTrial]) -> None:
    """Raise a ValueError if a trial holds what no search writes, which Optuna takes from a journal."""
    for trial in trials:
        measured = [*trial.intermediate_values.values(), *(trial.values or [])]
        if not all(isinstance(key, str) for key in (*trial.params, *trial.user_attrs)):
            raise ValueError(f"trial {trial.number} has a key that is no text")
        if not all(map(is_clock, trial.intermediate_values)):
            raise ValueError(f"trial {trial.number} was measured after no number of images")
        if not all(isinstance(value, int | float) for value in measured):
            raise ValueError(f"trial {trial.number} measured no number")


class _FileJournal(JournalFileBackend):
    """A journal on a disk, which may be full."""

    def __init__(self, path: str) -> None:
        self._path = path
        super().__init__(path, _KernelLock(path))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            with suppress(OSError), get_lock_file(self._lock):
                pass  # this cuts off what was written of the line
            raise StorageError(
                f"{self._path}, the search's study, cannot be written ({error.strerror})",
                "free some space, or mend the disk",
            ) from None


class _ReadOnlyJournal(BaseJournalBackend):
    """The records of a journal, read once."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return [json.loads(line) for line in self._lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise io.UnsupportedOperation("this study is read-only")


class _KernelLock(JournalFileOpenLock):
    """Optuna's lock for an append, as a lock of the kernel, which ends with its process.

    Optuna's own is a file, which a killed process leaves behind: nobody can write for half a minute. A
    process that is killed while it appends may also leave half a line, which the next append cuts off.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = Path(path)

    def acquire(self) -> bool:
        self._file = self._path.open("r+b")
        with suppress(OSError):  # some filesystems have no locks; a search is one process
            fcntl.flock(self._file, fcntl.LOCK_EX)
        end = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, end - 1))
        if self._file.read() not in (b"", b"\n"):
            self._file.seek(0)
            self._file.truncate(self._file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self._file.close()


class _BucketJournal(BaseJournalBackend):
    """A journal in an object store, which cannot append: numbered objects, the last of which is overwritten.

    So an append uploads at most `PART_BYTES`, however long the journal is. Only one process may write; it
    does not download what it has written itself.
    """

    def __init__(self, folder_uri: str) -> None:
        self._folder = folder_uri
        self._part = 0
        self._before = 0
        """Number of records in the parts before the last."""
        self._lines: list[bytes] = []
        """Records of the last part."""

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        if log_number_from == 0 or log_number_from < self._before:
            lines = self.load()[log_number_from:]
        else:
            lines = self._lines[log_number_from - self._before :]
        return [json.loads(line) for line in lines]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        added = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
        full = bool(self._lines) and sum(map(len, self._lines + added)) > PART_BYTES
        part, lines = (self._part + 1, added) if full else (self._part, self._lines + added)
        storage.write_bytes(self._uri(part), b"".join(lines))
        # Only now: after an error the next append writes this part again.
        self._before += len(self._lines) if full else 0
        self._part, self._lines = part, lines

    def load(self) -> list[bytes]:
        """Return all records."""
        lines: list[bytes] = []
        existing = storage.list_names(self._folder)
        self._part, self._before, self._lines = 0, 0, []
        for part in takewhile(lambda part: _name(part) in existing, count()):
            self._part, self._before = part, len(lines)
            self._lines = storage.read_bytes(self._uri(part)).splitlines(keepends=True)
            lines += self._lines
        return lines

    def _uri(self, part: int) -> str:
        return storage.join(self._folder, _name(part))


def _name(part: int) -> str:
    return f"{JOURNAL}.{part:05d}" if part else JOURNAL
