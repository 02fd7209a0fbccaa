"""What readers may not do, for the test of the fence that sees it."""

from __future__ import annotations

import os
import pickle
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from gan_dist.core.errors import DataError


def _refuse(_: Path) -> None:
    raise DataError("refused")


def _hold(_: Path) -> None:
    bytearray(b"x") * (2**30 + 2**26)


class Misdeeds:
    """Cases for the fence: two that are allowed, and then one of each that is not."""

    children = ()
    calls: tuple[Callable[[Path], object], ...] = (
        lambda out: (out / "inside").write_text("x"),
        _refuse,
        lambda out: (out.parent.parent / "outside").write_text("x"),
        lambda out: (out.parent / "input").write_text("y"),
        lambda out: (out.parent / "input").replace(out / "input"),
        lambda _: os.system("true"),
        lambda _: subprocess.run(["true"], check=False),
        lambda _: pickle.loads(pickle.dumps(tempfile.TemporaryFile)),
        lambda _: next(iter(())),
        _hold,
        lambda _: os.abort(),
    )

    def __init__(self, seed: str, good: Path) -> None: ...

    def make(self, number: int, folder: Path) -> Callable[[Path], object]:
        (folder / "input").write_text("x")
        return self.calls[number]
