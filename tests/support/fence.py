"""Readers that are given bad files, in a process that sees what they do beside reading.

`python -m tests.support.fence MODULE:CLASS SEED GOOD WORK NUMBER...` is the process; `results` starts it.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

SECONDS = 60
"""Longest time for one input, on a machine that does other things."""
MEMORY = 2**30
"""Bytes that one input may need beyond what the process had."""
BACKSTOP = 3 * 2**30
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FORBIDDEN = (
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "pty.spawn"),
    *("socket.connect", "socket.getaddrinfo", "socket.bind", "pickle.find_class", "marshal.loads"),
    *("ctypes.dlopen", "code.__new__", "urllib.Request", "webbrowser.open"),
)
CHANGES = {"os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.mkdir": 1, "os.chmod": 1, "os.truncate": 1}
"""Events that change a path, and how many of their first arguments are paths."""


class Cases(Protocol):
    """Inputs by their numbers."""

    children: Sequence[str]
    """Programs (`python -c PROGRAM`) that readers may start."""

    def __init__(self, seed: str, good: Path) -> None: ...

    def make(self, number: int, folder: Path) -> Callable[[Path], object]:
        """Write an input into a folder, and return what reads it and writes into another folder."""


def results(
    cases: str, seed: str, good: Path, work: Path, numbers: Iterable[int]
) -> tuple[dict[int, str], dict[int, str]]:
    """Return what each input came to (`read`, or an error's name), and what was not allowed.

    A process that dies over an input is followed by another for the inputs after it.
    """
    left, outcomes, wrong = list(numbers), dict[int, str](), dict[int, str]()
    while left:
        command = [sys.executable, "-X", "faulthandler", "-m", __name__, cases, seed, str(good), str(work)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        work.mkdir(parents=True, exist_ok=True)
        with (work / "stderr").open("w+") as stderr:
            child = subprocess.run(
                [*command, *map(str, left)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment,
                check=False,
            )
            stderr.seek(0)
            said = stderr.read()[-3000:]
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        ended = {line["number"] for line in lines if "outcome" in line}
        for line in lines:
            if "outcome" in line:
                outcomes[line["number"]] = line["outcome"]
                if line["wrong"]:
                    wrong[line["number"]] = "\n".join(line["wrong"])
        begun = [line["number"] for line in lines if line["number"] not in ended]
        if child.returncode and not begun:
            raise RuntimeError(said)
        for number in begun:
            outcomes[number] = "died"
            wrong[number] = f"the process ended with {child.returncode}: {said}"
        left = [number for number in left if number not in outcomes]
    return outcomes, wrong


class Fence:
    """Notes what a reader does that it may not: an audit hook, which stays for the process's life."""

    def __init__(self, children: Sequence[str]) -> None:
        self.seen: list[str] = []
        self._children = children
        self._box: Path | None = None
        self._out = ""
        sys.addaudithook(self._hook)

    def enter(self, box: Path, out: Path) -> None:
        self.seen, self._box, self._out = [], box, os.path.realpath(out)

    def leave(self) -> list[str]:
        self._box = None
        return self.seen

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._box is None:
            return
        if event == "open" and (arguments[2] or 0) & WRITES:
            self._require_inside(event, arguments[0])
        elif event in CHANGES:
            for path in arguments[: CHANGES[event]]:
                self._require_inside(event, path)
        elif event == "subprocess.Popen":
            if list(arguments[1][:2]) != [sys.executable, "-c"] or arguments[1][2] not in self._children:
                self.seen.append(f"{event} {arguments[1]}")
        elif event == "exec":
            caller, name = sys._getframe(1).f_code.co_filename, arguments[0].co_filename
            if name.startswith(str(self._box)) or "/gan_dist/" in caller:
                self.seen.append(f"{event} of {name} by {caller}")
        elif event == "marshal.loads" and "importlib" in sys._getframe(1).f_code.co_filename:
            pass  # a module that is imported now
        elif event in FORBIDDEN:
            self.seen.append(f"{event} {arguments!r:.200}")

    def _require_inside(self, event: str, path: object) -> None:
        if isinstance(path, int) or path is None or os.fsdecode(path) == os.devnull:  # type: ignore[arg-type]
            return
        real = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        if not f"{real}/".startswith(f"{self._out}/"):
            self.seen.append(f"{event} {path!r} outside the folder")


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def _try(fence: Fence, read: Callable[[Path], object], box: Path) -> tuple[str, list[str]]:
    """Return what an input came to, and what was not allowed."""
    from gan_dist.core.errors import GanDistError

    out = box / "out"
    out.mkdir()
    tempfile.tempdir = str(out)
    before, wrong = _listed(box), list[str]()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    memory = _status("VmRSS")
    fence.enter(box, out)
    try:
        read(out)
        outcome = "read"
    except GanDistError as error:
        outcome = type(error).__name__
        if not error.problems or not all(problem.what for problem in error.problems) or not str(error):
            wrong.append(f"{error!r} does not say what is wrong")
    except BaseException as error:
        outcome = f"wrong: {type(error).__name__}"
        wrong.append(traceback.format_exc()[-4000:])
    wrong += fence.leave()
    if (peak := _status("VmHWM") - memory) > MEMORY:
        wrong.append(f"{outcome}, with {peak / 2**20:.0f} MiB")
    if (after := _listed(box)) != before:
        wrong.append(f"changed what it read: {before ^ after}")
    return outcome, wrong


def _listed(box: Path) -> frozenset[tuple[str, int, int]]:
    """Return all but the folder `out` of a box, with sizes and times."""
    found = set()
    for folder, folders, files in os.walk(box):
        if folder == str(box):
            folders.remove("out")
        for name in [*folders, *files]:
            status = os.lstat(path := os.path.join(folder, name))  # noqa: PTH118
            found.add((path, status.st_size, status.st_mtime_ns))
    return frozenset(found)


def main(cases: str, seed: str, good: str, work: str, *numbers: str) -> None:
    protocol: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    module, _, name = cases.partition(":")
    made: Cases = getattr(importlib.import_module(module), name)(seed, Path(good))
    fence = Fence(made.children)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _status("VmSize") + BACKSTOP
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in map(int, numbers):
        box = Path(work, str(number))
        shutil.rmtree(box, ignore_errors=True)
        box.mkdir(parents=True)
        read = made.make(number, box)
        print(json.dumps({"number": number}), file=protocol, flush=True)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        outcome, wrong = _try(fence, read, box)
        faulthandler.cancel_dump_traceback_later()
        line = {"number": number, "outcome": outcome, "wrong": wrong}
        print(json.dumps(line), file=protocol, flush=True)
        if not wrong:
            shutil.rmtree(box)


if __name__ == "__main__":
    main(*sys.argv[1:])
