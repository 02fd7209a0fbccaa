"""Where a search's study is kept: a file in its folder, objects in a bucket, or a database."""

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
from urllib.parse import quote, quote_plus

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend, JournalFileOpenLock
from optuna.study import Study

from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.core.storage.redaction import reason, redact

JOURNAL = "study.journal"
ENV = "env:"
PART_BYTES = 256 * 1024
"""Size that a journal's objects in a bucket reach; every record that is added sends one of them anew."""
_DRIVERS = {
    "psycopg": "psycopg[binary]",
    "psycopg2": "psycopg2-binary",
    "MySQLdb": "mysqlclient",
    "_mysql_connector": "mysql-connector-python",
}
_SCHEMES = "postgresql://user:password@host/database, mysql+pymysql://... or sqlite:////path/study.db"


def study_storage(folder_uri: str, url: str | None) -> BaseStorage:
    """Return where a search's study is kept; it is made if it is not there yet.

    Args:
        folder_uri: The search's folder. On a disk the study is its file `study.journal`, which
            `optuna-dashboard` opens. In a bucket it is the object of that name, followed, when this has
            256 KiB, by `study.journal.00001` and so on: one after another they are that file.
        url: A database to keep it in instead, or `env:NAME` for one whose URL is in a variable.

    Raises:
        StorageError: the place cannot be read or written, the journal is damaged, or the database cannot be
            reached; passwords are left out of the message.
    """
    if url is not None:
        return _database(_from_environment(url) if url.startswith(ENV) else url)
    uri = storage.join(folder_uri, JOURNAL)
    filesystem, path = storage.open_uri(uri)
    try:
        if filesystem.type_name == "local":
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return JournalStorage(JournalFileBackend(path, _Lock(path)))
        return JournalStorage(_Parts(folder_uri))
    except OSError as error:
        raise StorageError(
            f"{redact(uri)} cannot be opened ({error.strerror})", "give the search another folder"
        ) from None
    except (ValueError, KeyError) as error:
        raise StorageError(
            f"{redact(uri)} is damaged ({reason(error)})",
            "restore a copy of it, or give the search another name (name=...)",
        ) from None


def recorded_study(folder_uri: str, url: str | None, name: str) -> Study | None:
    """Return a search's study as it is at this moment, to be read alone: nothing is locked or written.

    Args:
        folder_uri: The search's folder.
        url: The database that it is kept in, if it is: see `study_storage`.
        name: Its name in a database.

    Returns:
        None where the folder has no journal and no database is given, or no trial was begun yet.

    Raises:
        StorageError: the place cannot be read, the journal is damaged, or the database has no such study.
    """
    uri = storage.join(folder_uri, JOURNAL)
    if url is not None:
        kept_at = _database(_from_environment(url) if url.startswith(ENV) else url, existing=True)
        try:
            return optuna.load_study(study_name=name, storage=kept_at)
        except KeyError:
            raise StorageError(
                f"the database {redact(url)} has no study {name}",
                "give the one that the search was begun with",
            ) from None
    lines = _Parts(folder_uri).whole_lines()
    try:
        kept_at = JournalStorage(_Recorded(lines))
        names = [study.study_name for study in kept_at.get_all_studies()]
        return optuna.load_study(study_name=names[0], storage=kept_at) if names else None
    except (ValueError, KeyError) as error:
        raise StorageError(f"{redact(uri)} is damaged ({reason(error)})", "restore a copy of it") from None


class _Recorded(BaseJournalBackend):
    """A journal as it was when it was read."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        return [json.loads(line) for line in self._lines[log_number_from:]]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        raise io.UnsupportedOperation("a study that is only read was to be written")


class _Lock(JournalFileOpenLock):
    """Optuna's lock for an append, but one that the kernel takes from a process that is killed.

    Optuna's own leaves a file, and lets nobody write for half a minute. Whoever is killed while it appends
    may also leave half a line, which would spoil the next; that is cut off before anything is appended.
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


class _Parts(BaseJournalBackend):
    """A journal in an object store, which cannot append: objects one after another, the last written anew.

    So an append sends `PART_BYTES` at most, however long the journal is. One process may write; what it has
    written itself it does not read again.
    """

    def __init__(self, folder_uri: str) -> None:
        self._folder = folder_uri
        self._part = 0
        self._before = 0
        """Records in the parts before the last."""
        self._lines: list[bytes] = []
        """The last part's."""

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        if log_number_from == 0 or log_number_from < self._before:
            lines = self._load()[log_number_from:]
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

    def whole_lines(self) -> list[bytes]:
        """Return all records; on a disk the last may be one that is being written, and is left out."""
        lines = self._load()
        return lines[:-1] if lines and not lines[-1].endswith(b"\n") else lines

    def _load(self) -> list[bytes]:
        """Return all records."""
        lines: list[bytes] = []
        there = storage.list_names(self._folder)
        self._part, self._before, self._lines = 0, 0, []
        for part in takewhile(lambda part: _name(part) in there, count()):
            self._part, self._before = part, len(lines)
            self._lines = storage.read_bytes(self._uri(part)).splitlines(keepends=True)
            lines += self._lines
        return lines

    def _uri(self, part: int) -> str:
        return storage.join(self._folder, _name(part))


def _name(part: int) -> str:
    return f"{JOURNAL}.{part:05d}" if part else JOURNAL


def _from_environment(written: str) -> str:
    url = os.environ.get(written.removeprefix(ENV))
    if not url:
        raise StorageError(
            f"search.optuna_storage={written} names a variable that is not set",
            "set it to the database's URL where this runs: for a job that is the head, before `ray start`",
        )
    return url


def _database(url: str, *, existing: bool = False) -> BaseStorage:
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    place = f"the database {redact(url)} (search.optuna_storage)"
    try:
        # Connections that were dropped while trials ran are noticed and made anew.
        if existing:
            _require_studies(url)
        return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except NoSuchModuleError:
        said = f"{place} is of a kind that is not known; write a URL like {_SCHEMES}"
    except ArgumentError:
        said = f"search.optuna_storage is not the URL of a database; write one like {_SCHEMES}"
    except ImportError as error:
        module = getattr(error.__cause__ or error, "name", None) or "of its driver"
        said = f"{place} needs the Python package {_DRIVERS.get(module, module)}; install it"
    except SQLAlchemyError as error:
        said = f"{place} cannot be used ({_without_secrets(error, url)}); start it, or correct the URL"
    except (RuntimeError, ValueError) as error:
        said = f"{place} cannot be used ({_without_secrets(error, url)})"
    # Out here, so that the error with the URL in it is no part of this one.
    raise StorageError(said)


def _require_studies(url: str) -> None:
    """Refuse a database that Optuna would have to prepare, and a file that SQLite would make.

    Raises:
        ValueError: it is one.
    """
    from sqlalchemy import create_engine, inspect

    engine = create_engine(url)
    file = engine.url.database if engine.dialect.name == "sqlite" else None
    if file and not Path(file).exists():
        raise ValueError("there is no such file")
    try:
        if not inspect(engine).has_table("studies"):
            raise ValueError("there are no studies in it")
    finally:
        engine.dispose()


def _without_secrets(error: Exception, url: str) -> str:
    from sqlalchemy.engine import make_url

    parsed = make_url(url)
    queried = [
        one for given in parsed.query.values() for one in ((given,) if isinstance(given, str) else given)
    ]
    text = reason(getattr(error, "orig", None) or error).replace(url, redact(url))
    for secret in [parsed.password, *queried]:
        for form in {secret, quote(secret), quote_plus(secret)} if secret else ():
            text = text.replace(form, "...")
    return text
