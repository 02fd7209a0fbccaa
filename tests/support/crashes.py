"""A process that dies, or a machine that loses power, at any chosen moment of its work on a local disk.

All that the process does to files goes through functions of `os`. Each call is a moment: nothing of the
call has happened, but a write may have happened by half. After the death no call does anything.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch


class Died(BaseException):
    """The process is dead: no handler of it may do anything."""


class Disk:
    """While it is entered, `os` dies at the call numbered `moment`, from 0.

    With `lose_power` what is not synchronised at the end is lost: content of files, and names in folders.
    Deletions are never lost, which is the worst for whoever deletes before the new is safe.
    """

    def __init__(self, moment: int, *, lose_power: bool) -> None:
        self.calls = 0
        self._moment, self._lose_power = moment, lose_power
        self._dead = False
        self._paths: dict[int, str] = {}
        self._unsynced: dict[str, bytes] = {}
        """Content on the disk of files that were written since."""
        self._names: list[tuple[str, Callable[[], object]]] = []
        """Folder of each name that was made since, and what takes the name back."""
        self._real: dict[str, Callable[..., Any]] = {}
        self._patches: list[Any] = []

    def __enter__(self) -> Disk:
        for name in ("open", "write", "fsync", "close", "replace", "rename", "mkdir", "unlink", "rmdir"):
            self._real[name] = getattr(os, name)
            self._patches.append(patch.object(os, name, getattr(self, f"_{name}")))
            self._patches[-1].start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._patches:
            each.stop()
        if self._lose_power:
            for path, content in self._unsynced.items():
                if Path(path).exists():
                    Path(path).write_bytes(content)
            for _folder, undo in reversed(self._names):
                undo()

    def _call(self, half: Callable[[], object] = lambda: None) -> None:
        if not self._dead and self.calls == self._moment:
            self._dead = True
            half()
        if self._dead:
            raise Died
        self.calls += 1

    def _open(self, path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        name = os.fspath(path)
        is_new = bool(flags & os.O_CREAT) and not Path(name).exists()
        if is_new:
            self._call()
        file: int = self._real["open"](path, flags, mode, **options)
        self._paths[file] = name
        if is_new:
            self._unsynced[name] = b""
            self._names.append((str(Path(name).parent), lambda: Path(name).unlink(missing_ok=True)))
        return file

    def _close(self, file: int) -> None:
        self._paths.pop(file, None)
        self._real["close"](file)

    def _write(self, file: int, content: Any) -> int:
        if file in self._paths:
            self._unsynced.setdefault(self._paths[file], Path(self._paths[file]).read_bytes())
            self._call(lambda: self._real["write"](file, content[: len(content) // 2]))
        return int(self._real["write"](file, content))

    def _fsync(self, file: int) -> None:
        self._call()
        self._unsynced.pop(self._paths[file], None)
        self._names = [entry for entry in self._names if entry[0] != self._paths[file]]

    def _replace(self, source: Any, target: Any, **options: Any) -> None:
        self._call()
        old, new = os.fspath(source), os.fspath(target)
        before = Path(new).read_bytes() if Path(new).is_file() else None
        self._real["replace"](source, target, **options)
        if old in self._unsynced:
            self._unsynced[new] = self._unsynced.pop(old)

        def undo() -> None:
            Path(new).unlink(missing_ok=True)
            if before is not None:
                Path(new).write_bytes(before)

        self._names.append((str(Path(new).parent), undo))

    _rename = _replace

    def _mkdir(self, path: Any, mode: int = 0o777, **options: Any) -> None:
        name = os.fspath(path)
        if not Path(name).exists():
            self._call()
        self._real["mkdir"](path, mode, **options)
        self._names.append((str(Path(name).parent), lambda: shutil.rmtree(name, ignore_errors=True)))

    def _unlink(self, path: Any, **options: Any) -> None:
        self._call()
        self._real["unlink"](path, **options)

    def _rmdir(self, path: Any, **options: Any) -> None:
        self._call()
        self._real["rmdir"](path, **options)


def every_crash(prepared: Path, work: Callable[[Path], object]) -> Iterator[tuple[Path, bool]]:
    """Let `work` die at each of its moments, each time with a copy of `prepared`, with and without power.

    The copies are in memory where that is possible, as synchronising with a disk takes milliseconds.

    Yields:
        The folder as a crash left it, and whether there was one: the last of each kind has finished its work.
    """
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    for lose_power in (False, True):
        for moment in count():
            with TemporaryDirectory(prefix="gan-dist-crash-", dir=memory) as scratch:
                folder = Path(scratch, prepared.name)
                shutil.copytree(prepared, folder)
                with suppress(Died), Disk(moment, lose_power=lose_power) as disk:
                    work(folder)
                crashed = disk.calls == moment
                yield folder, crashed
            if not crashed:
                break
