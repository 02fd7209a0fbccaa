"""The lock of a run's or search's folder: a file that names its process and is renewed while that lives.

A process that is killed leaves the file behind. On the same machine its death is seen at once. Elsewhere,
where clocks may differ, a waiting process watches the file, and takes the lock if nobody renews it.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gan_dist.core.errors import BusyError, StorageError
from gan_dist.core.interrupts import interruptible
from gan_dist.core.json_text import parse_json
from gan_dist.core.storage import files
from gan_dist.core.storage.filesystems import open_uri
from gan_dist.core.storage.redaction import redact

LOCK_FILE = "driver.json"
RENEW_S = 10.0
STALE_S = 60.0
"""Seconds without a renewal after which the process of a lock counts as gone."""
CONFIRM_S = 0.5
"""Seconds before a new lock is read again: of two processes that write it at once, the last has it."""

UNKNOWN = "unknown"
"""Start time of a process that exists but whose details this user may not read."""


@contextmanager
def folder_lock(uri: str, notify: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Lock a folder for this process.

    If another process takes the lock, after this one was suspended or cut off from the folder for a minute,
    this process is interrupted as by Ctrl-C.

    The folder is created if it is absent; `notify` is called with a message for the user before a wait.

    Raises:
        BusyError: another process has the lock.
        StorageError: the folder cannot be written.
    """
    lock = _FolderLock(uri)
    with interruptible():
        try:
            lock.acquire(notify)
            yield
        finally:
            lock.release()
    if lock.successor:
        raise lock.busy_error(lock.successor)


def lock_holder(uri: str) -> str | None:
    """Return a description of the process that has a folder's lock, or None; nothing is written."""
    holder = _FolderLock(uri).read()
    if holder is None:
        return None
    state = {True: "at work", False: "killed", None: "at work, or killed"}[_is_alive_here(holder)]
    renewed = f", last heard of at {holder['renewed']}" if "renewed" in holder else ""
    return f"{_describe(holder)}{renewed}: {state}"


class _FolderLock:
    def __init__(self, uri: str) -> None:
        self.successor: dict[str, Any] | None = None
        """The process that took the lock from this one."""
        self._folder, self._uri = uri, files.join(uri, LOCK_FILE)
        pid = os.getpid()
        process = {"host": platform.node(), "machine": _machine(), "pid": pid, "started": _start_time(pid)}
        self._own = {"id": uuid.uuid4().hex, **process, "since": _now()}
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lock", daemon=True)

    def acquire(self, notify: Callable[[str], None]) -> None:
        holder = self.read()
        if holder is not None and self._is_held(holder, notify):
            raise self.busy_error(holder)
        if holder is not None or not self._create():
            self._write()
        time.sleep(CONFIRM_S)
        holder = self.read()
        if holder is None or holder["id"] != self._own["id"]:
            raise self.busy_error(holder or {})
        self._thread.start()

    def release(self) -> None:
        self._released.set()
        if self._thread.ident is not None:
            self._thread.join()
        with suppress(StorageError):  # the work is done; the next process will see that this one is gone
            if (self.read() or {}).get("id") == self._own["id"]:
                files.delete_file(self._uri)
                files.delete_empty_folder(self._folder)

    def busy_error(self, holder: Mapping[str, Any]) -> BusyError:
        return BusyError(
            f"{redact(self._folder)} is being worked on by {_describe(holder)}",
            "let that end, or stop it (it writes a checkpoint at Ctrl-C), or take another name (name=...)",
            keys=("name",),
        )

    def _is_held(self, holder: dict[str, Any], notify: Callable[[str], None]) -> bool:
        """Return whether the process that wrote the lock file still works; wait for a renewal if need be."""
        alive = _is_alive_here(holder)
        if alive is not None:
            return alive
        left = f"{redact(self._folder)} was left by {_describe(holder)}, or is being worked on"
        notify(f"{left}: waiting up to {STALE_S:g} s to see which")
        deadline = time.monotonic() + STALE_S
        while time.monotonic() < deadline:
            time.sleep(min(1.0, STALE_S / 10))
            now = self.read()
            if now != holder:
                return now is not None
        return False

    def _renew(self) -> None:
        while not self._released.wait(RENEW_S):
            # A store that does not answer for a while is no reason to stop.
            with suppress(StorageError):
                holder = self.read()
                if holder is not None and holder["id"] != self._own["id"]:
                    self.successor = holder
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                self._write()

    def read(self) -> dict[str, Any] | None:
        if not files.exists(self._uri):
            return None
        try:
            content = parse_json(files.read_bytes(self._uri))
        except StorageError:
            if files.exists(self._uri):
                raise
            return None  # deleted in between
        except ValueError:
            content = None
        return content if isinstance(content, dict) and "id" in content else {"id": ""}

    def _create(self) -> bool:
        """Create the lock file by a link, which only one process can; return whether links are possible."""
        filesystem, path = open_uri(self._uri)
        if filesystem.type_name != "local":
            return False
        try:
            files.require_writable(self._uri)
        except StorageError as error:
            raise StorageError(
                f"{redact(self._folder)} cannot be written, where this is to be kept: {error}",
                "give another storage=...",
                keys=("storage.path",),
            ) from None
        name = f".{LOCK_FILE}.{self._own['id']}"
        files.write_bytes(files.join(self._folder, name), json.dumps(self._own).encode())
        complete = Path(path).with_name(name)
        try:
            Path(path).hardlink_to(complete)
        except FileExistsError:
            raise self.busy_error(self.read() or {}) from None
        except OSError:  # a filesystem without links
            return False
        finally:
            complete.unlink()
        return True

    def _write(self) -> None:
        files.write_bytes(self._uri, json.dumps({**self._own, "renewed": _now()}).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _describe(holder: Mapping[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host')}, since {holder.get('since')}"


def _machine() -> str:
    """Return an identifier that processes share if they see each other's process ids."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"{platform.node()} {uuid.getnode():x}"


def _start_time(pid: int) -> str | None:
    """Return the start time of a process in the system's unit, or None if there is no such process."""
    try:
        # Behind the process's name, which may hold anything: the state is first, the start time twentieth.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except OSError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return UNKNOWN


def _is_alive_here(holder: Mapping[str, Any]) -> bool | None:
    """Return whether a process of this machine is alive, or None for one of another machine."""
    if holder.get("machine") != _machine() or not isinstance(holder.get("pid"), int):
        return None
    now = _start_time(holder["pid"])
    return now is not None and now in (holder.get("started"), UNKNOWN)
