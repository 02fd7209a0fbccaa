"""A folder that one process at a time works on: a file in it, renewed for as long as that process lives.

A process that is killed leaves the file. On its own machine it is known at once to be gone. Elsewhere, where
clocks may differ, the file is watched: it is renewed every `RENEW_S`, or else its writer is gone.
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

from gan_dist.core import storage
from gan_dist.core.errors import BusyError, StorageError

LEASE = "driver.json"
RENEW_S = 10.0
GONE_S = 60.0
"""Seconds without a renewal after which the process that wrote a lease is taken to be gone."""
CONFIRM_S = 0.5
"""Seconds after which it is seen which of two processes, that wrote theirs at once, was the last."""

UNKNOWN = "unknown"
"""When a process was started of which this user may not see more than that it is there."""


@contextmanager
def alone(uri: str, tell: Callable[[str], None] = lambda _: None) -> Iterator[None]:
    """Be the only process that works on a folder.

    Should another take over, which it may after this one was suspended or cut off from the folder for a
    minute, this process is interrupted as by Ctrl-C.

    Args:
        uri: The folder; it is made if need be.
        tell: Told when there is something to wait for.

    Raises:
        BusyError: another process works on it.
        StorageError: nothing can be written there.
    """
    lease = _Lease(uri)
    with _interruptible():
        lease.take(tell)
        try:
            yield
        finally:
            lease.release()
    if lease.taken_by:
        raise lease.refusal(lease.taken_by)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT interrupt this process: what a script starts in the background is born ignoring it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def holder(uri: str) -> str | None:
    """Return in words which process works on a folder, as far as can be told without waiting; None if none.

    Nothing is written, and nobody is held up.
    """
    told = _Lease(uri).told()
    if told is None:
        return None
    state = {True: "at work", False: "killed", None: "at work, or killed"}[_is_alive_here(told)]
    renewed = f", last heard of at {told['renewed']}" if "renewed" in told else ""
    return f"{_named(told)}{renewed}: {state}"


class _Lease:
    def __init__(self, uri: str) -> None:
        self.taken_by: dict[str, Any] | None = None
        self._folder, self._uri = uri, storage.join(uri, LEASE)
        self._mine = {"id": uuid.uuid4().hex, **_this_process(), "since": _now()}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def take(self, tell: Callable[[str], None]) -> None:
        earlier = self.told()
        if earlier is not None and self._is_held(earlier, tell):
            raise self.refusal(earlier)
        if earlier is not None or not self._create():
            self._write()
        time.sleep(CONFIRM_S)
        now = self.told()
        if now is None or now["id"] != self._mine["id"]:
            raise self.refusal(now or {})
        self._thread.start()

    def release(self) -> None:
        self._closed.set()
        self._thread.join()
        with suppress(StorageError):  # what was done is done; the next process will see that this one is gone
            if (self.told() or {}).get("id") == self._mine["id"]:
                storage.delete_file(self._uri)
                storage.delete_empty_folder(self._folder)

    def refusal(self, holder: Mapping[str, Any]) -> BusyError:
        return BusyError(
            f"{storage.redact(self._folder)} is being worked on by {_named(holder)}: let that end, or "
            "stop it "
            "(it writes a checkpoint at Ctrl-C)",
            "or take another name (name=...)",
        )

    def _is_held(self, earlier: dict[str, Any], tell: Callable[[str], None]) -> bool:
        """Tell whether the process that wrote a lease still works."""
        here = _is_alive_here(earlier)
        if here is not None:
            return here
        tell(
            f"{storage.redact(self._folder)} was left by {_named(earlier)}, or is being worked on: "
            "waiting up "
            f"to {GONE_S:g} s to see which"
        )
        began = time.monotonic()
        while time.monotonic() - began < GONE_S:
            time.sleep(min(1.0, GONE_S / 10))
            now = self.told()
            if now != earlier:
                return now is not None
        return False

    def _renew(self) -> None:
        while not self._closed.wait(RENEW_S):
            # A store that does not answer for a while is no reason to stop.
            with suppress(StorageError):
                now = self.told()
                if now is not None and now["id"] != self._mine["id"]:
                    self.taken_by = now
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                self._write()

    def told(self) -> dict[str, Any] | None:
        """Return what the file says, None where there is none."""
        if not storage.exists(self._uri):
            return None
        try:
            found = json.loads(storage.read_bytes(self._uri))
        except StorageError:
            if storage.exists(self._uri):
                raise
            return None  # gone since it was seen
        except ValueError:
            found = None
        return found if isinstance(found, dict) and "id" in found else {"id": ""}

    def _create(self) -> bool:
        """Write the first lease where only one process can; return whether that is possible here.

        Raises:
            BusyError: another process has just done so.
            StorageError: nothing can be written there.
        """
        filesystem, path = storage.open_uri(self._uri)
        if filesystem.type_name != "local":
            return False
        try:
            storage.require_writable(self._uri)
        except StorageError as error:
            raise StorageError(
                f"{storage.redact(self._folder)} cannot be written, where this is to be kept: {error}",
                "give another storage=...",
            ) from None
        name = f".{LEASE}.{self._mine['id']}"
        storage.write_bytes(storage.join(self._folder, name), json.dumps(self._mine).encode())
        whole = Path(path).with_name(name)
        try:
            Path(path).hardlink_to(whole)
        except FileExistsError:
            raise self.refusal(self.told() or {}) from None
        except OSError:  # a filesystem without links
            return False
        finally:
            whole.unlink()
        return True

    def _write(self) -> None:
        storage.write_bytes(self._uri, json.dumps({**self._mine, "renewed": _now()}).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _named(holder: Mapping[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host')}, since {holder.get('since')}"


def _this_process() -> dict[str, object]:
    pid = os.getpid()
    return {"host": platform.node(), "machine": _machine(), "pid": pid, "started": _started(pid)}


def _machine() -> str:
    """Return what two processes have in common that see each other's numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux
        return f"{platform.node()} {uuid.getnode():x}"


def _started(pid: int) -> str | None:
    """Return when a process was started, in a unit of the system's; None of one that is not there."""
    try:
        # Behind the name, which may hold anything: state, and as the twentieth of the fields the start.
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
    """Tell whether a process of this machine lives; None of one that is not of this machine."""
    if holder.get("machine") != _machine() or not isinstance(holder.get("pid"), int):
        return None
    now = _started(holder["pid"])
    return now is not None and now in (holder.get("started"), UNKNOWN)
