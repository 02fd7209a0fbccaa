"""One process for many commands, which imports torch once; they pack, train and search in it, without Ray.

The process reads lines of JSON, `words` of a command, `env` and `cwd`, and answers each with the exit code.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.support.heads import ROOT


class Interpreter:
    """A running process for commands."""

    def __init__(self, process: subprocess.Popen[str], printed: Path) -> None:
        self._process, self._printed = process, printed

    def begin(self, words: Sequence[str], env: Mapping[str, str], cwd: Path) -> None:
        """Let it run a command in a folder; `words` are those after `gan-dist`, or -c and Python."""
        assert self._process.stdin is not None
        self._printed.write_text("")
        self._process.stdin.write(json.dumps({"words": words, "env": dict(env), "cwd": str(cwd)}) + "\n")
        self._process.stdin.flush()

    def interrupt(self) -> None:
        """Send the signal of Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def printed(self) -> str:
        """Return what the command has printed so far, to standard output and standard error."""
        return self._printed.read_text()

    def end(self) -> tuple[int, str]:
        """Wait for the command's end; return its exit code and what it printed."""
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        return (int(answer) if answer else self._process.wait()), self.printed()


@contextmanager
def interpreter(printed: Path, env: Mapping[str, str]) -> Iterator[Interpreter]:
    """Start a process whose commands print to a file."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.interpreter", str(printed)],
        cwd=ROOT,
        env={name: value for name, value in env.items() if name != "PYTHONDONTWRITEBYTECODE"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Interpreter(process, printed)
    finally:
        process.kill()
        process.wait()


def _train_here(config: Any, *_: object) -> Any:
    """Do what the driver of a run does on a cluster, in this process alone."""
    import torch

    from gan_dist.core import storage
    from gan_dist.models import transfer
    from gan_dist.training.context import LocalContext
    from gan_dist.training.loop import train

    torch.set_num_threads(config.scale.threads)
    storage.configure(config.storage.options)
    config = config.model_copy(update={"init": transfer.keep(config.init, config.run_uri)})
    return train(config, LocalContext(config.run_uri))


def _search_here(_plan: Any, source: Any, count: float, _stop: Any, spending: Any) -> None:
    """Do what Ray Tune does in a search, with one trial at a time."""
    from gan_dist.cluster.tune.trial import _TrialRun
    from gan_dist.config import RunConfig

    source.spending = spending
    for number in map(str, range(int(count))):
        if source.spent() or (given := source.next_run(number)) is None:
            break
        run = _TrialRun(RunConfig.model_validate(given["run"]), given["metric"], given.get("names", ()))
        while not (result := run.next_result())["done"] and not source.on_result(number, result):
            pass
        run.end()
        source.on_end(number, result, died=False)
    if source.error is not None:
        raise source.error


def _without_ray() -> None:
    """Let packing, training and searches go on in this process."""
    from gan_dist.cluster import connect
    from gan_dist.cluster.nodes import node_checks
    from gan_dist.cluster.train import driver
    from gan_dist.cluster.tune import driver as tune_driver
    from gan_dist.data.packing import ray_pack
    from tests.support.packing import pack_here

    def alone(*_: object, **__: object) -> AbstractContextManager[None]:
        return nullcontext()

    replaced: dict[tuple[ModuleType, str], Callable[..., object]] = {
        (connect, "connect"): alone,
        (connect, "connect_for"): alone,
        (tune_driver, "connect_for"): alone,
        (node_checks, "check_nodes"): lambda *_: None,
        (tune_driver, "check_nodes"): lambda *_: None,
        (ray_pack, "pack"): lambda source, path, plan, *_: pack_here(source, path, plan),
        (driver, "run"): _train_here,
        (tune_driver, "_run_trials"): _search_here,
    }
    for (module, name), replacement in replaced.items():
        setattr(module, name, replacement)


def _main(printed: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    log = os.open(printed, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os._exit = sys.exit  # type: ignore[assignment]  # where a command does not wait for one of its threads
    from gan_dist.cli import main

    _without_ray()
    names: dict[str, Any] = {}
    for line in sys.stdin:
        given = json.loads(line)
        os.environ.update(given["env"])
        os.chdir(given["cwd"])
        words = given["words"]
        try:
            if words[0] == "-c":
                exec(words[1], names)
            else:
                main(words)
            code: Any = 0
        except SystemExit as ended:
            code = ended.code
        except BaseException:
            traceback.print_exc()
            code = 1
        print(code, file=answers, flush=True)


if __name__ == "__main__":
    _main(sys.argv[1])
