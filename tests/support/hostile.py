"""Checkpoints, releases and configurations that an attacker made; whatever code is in them makes a marker."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import gan_dist
from gan_dist.config import load_config
from gan_dist.core.errors import GanDistError
from gan_dist.core.storage.hashed_folder import read_folder
from gan_dist.training import checkpoint
from tests.support.inputs import fresh_state, reseal

CHECKPOINT, RELEASE = "checkpoint_000000000128", "best_000000000128"
MARKER = "marker"


class Payload:
    """Makes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.system, (f"touch {self.marker}",)


def pickled(marker: Path, protocol: int = 2) -> bytes:
    return pickle.dumps(Payload(marker), protocol)


def saved(marker: Path) -> bytes:
    """Return what `torch.save` writes, as in .pt and .pth."""
    torch.save({"w": Payload(marker)}, buffer := io.BytesIO())
    return buffer.getvalue()


def old_saved(marker: Path) -> bytes:
    """Return what `torch.save` wrote before it wrote ZIPs."""
    torch.save([Payload(marker)], buffer := io.BytesIO(), _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def archive(marker: Path) -> bytes:
    """Return a ZIP as TorchScript and `torch.export` (.pt2) write, with a pickle and code in it."""
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as made:
        made.writestr("model/data.pkl", pickled(marker))
        made.writestr("model/constants.pkl", pickled(marker))
        made.writestr("model/version", "3")
        made.writestr("model/code/__torch__.py", f"import os\nos.system('touch {marker}')\n")
        made.writestr("model/archive_format", "pt2")
    return buffer.getvalue()


def numpy_array(marker: Path) -> bytes:
    np.save(buffer := io.BytesIO(), np.array([Payload(marker)], dtype=object), allow_pickle=True)
    return buffer.getvalue()


def zip_bomb(_: Path) -> bytes:
    with zipfile.ZipFile(buffer := io.BytesIO(), "w", zipfile.ZIP_DEFLATED) as made:
        for number in range(4):
            made.writestr(f"{number}", bytes(2**27))
    return buffer.getvalue()


def gzip_bomb(_: Path) -> bytes:
    return gzip.compress(bytes(2**27))


PICKLES = {
    "pickle": pickled,
    "text pickle": lambda marker: pickled(marker, 0),
    "framed pickle": lambda marker: pickled(marker, 5),
    ".pt": saved,
    "old .pth": old_saved,
    ".pt2": archive,
    ".npy": numpy_array,
    "ZIP bomb": zip_bomb,
    "gzip bomb": gzip_bomb,
}
FILES = (
    f"{RELEASE}/generator.safetensors",
    f"{RELEASE}/shape.json",
    f"{RELEASE}/manifest.json",
    f"{CHECKPOINT}/optimizer_g.safetensors",
    f"{CHECKPOINT}/state.json",
    "best.json",
)


def safetensors(header: bytes, size: int = 64, length: int | None = None) -> bytes:
    return (len(header) if length is None else length).to_bytes(8, "little") + header + bytes(size)


def entry(begin: int, end: int, shape: str = "[4]") -> bytes:
    return b'{"dtype": "F32", "shape": %s, "data_offsets": [%d, %d]}' % (shape.encode(), begin, end)


HEADERS = {
    "overlapping tensors": safetensors(b'{"a": %s, "b": %s}' % (entry(0, 16), entry(8, 24))),
    "a tensor past the end": safetensors(b'{"a": %s}' % entry(0, 2**40)),
    "a tensor that ends before it begins": safetensors(b'{"a": %s}' % entry(16, 0)),
    "2^60 elements": safetensors(b'{"a": %s}' % entry(0, 16, "[1152921504606846976]")),
    "elements whose product overflows": safetensors(b'{"a": %s}' % entry(0, 16, "[4294967296, 4294967296]")),
    "a header of 2^60 bytes": safetensors(b"{}", length=2**60),
    "a header of 2^64 - 1 bytes": safetensors(b"{}", length=2**64 - 1),
    "a deep header": safetensors(b'{"a": ' * 50_000 + b"1" + b"}" * 50_000),
    "a key twice": safetensors(b'{"a": %s, "a": %s}' % (entry(0, 16), entry(16, 32)), size=32),
    "an unknown type": safetensors(b'{"a": {"dtype": "PICKLE", "shape": [4], "data_offsets": [0, 16]}}'),
}
CONFIGS = {
    "a tag that calls": "!!python/object/apply:os.system ['touch {marker}']\n",
    "a tag at a key": "name: x\nstorage: !!python/object/apply:os.system ['touch {marker}']\n",
    "a tag of a module": "name: !!python/module:antigravity\n",
    "a tag of a new object": "name: !!python/object/new:os.system ['touch {marker}']\n",
    "aliases of aliases": "a: &a [x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 8)}]\n" for a, b in pairwise("abcdefghi")),
    "a deep list": "name: " + "[" * 100_000,
}
NAMES = ("../../outside.json", "/etc/passwd", "..", "a/../../b", "\x00", "shape.json/../../x")


class Case(NamedTuple):
    """What is in the folder of a run, and what reads it."""

    name: str
    change: Callable[[Path, Path], None]
    """Changes the folder; is given the marker, too."""


def cases() -> list[Case]:
    """Return all cases, each of which is refused."""
    return [*_files(), *_folders()]


def _files() -> Iterator[Case]:
    def put(file: str, made: Callable[[Path], bytes]) -> Callable[[Path, Path], None]:
        def change(run: Path, marker: Path) -> None:
            (run / file).write_bytes(made(marker))
            reseal(run / file)

        return change

    for number, (kind, made) in enumerate(PICKLES.items()):
        # Every kind for weights and JSON; the other files take turns.
        for file in dict.fromkeys([*FILES[:2], FILES[2 + number % 4]]):
            yield Case(f"{kind} as {file}", put(file, made))
    for kind, content in HEADERS.items():
        yield Case(kind, put(f"{RELEASE}/generator.safetensors", lambda _, content=content: content))  # type: ignore[misc]
    for kind, text in CONFIGS.items():
        yield Case(
            kind,
            put(
                f"{RELEASE}/config.yaml",
                lambda marker, text=text: text.replace("{marker}", str(marker)).encode(),  # type: ignore[misc]
            ),
        )


def _folders() -> Iterator[Case]:
    def name(outside: str) -> Callable[[Path, Path], None]:
        def change(run: Path, _: Path) -> None:
            manifest = json.loads((run / RELEASE / "manifest.json").read_text())
            manifest["files"][outside] = "0" * 64
            (run / RELEASE / "manifest.json").write_text(json.dumps(manifest))

        return change

    def link(file: str, target: str) -> Callable[[Path, Path], None]:
        def change(run: Path, _: Path) -> None:
            (run / file).unlink()
            (run / file).symlink_to(target)

        return change

    def lead(run: Path, _: Path) -> None:
        shutil.copytree(run / RELEASE, run.parent / "other")
        told = json.loads((run / "best.json").read_text())
        (run / "best.json").write_text(json.dumps({**told, "release": "../other"}))

    for outside in NAMES:
        yield Case(f"a manifest that names {outside!r}", name(outside))
    for file in ("generator.safetensors", "manifest.json", "config.yaml"):
        for target in ("/etc/passwd", "/dev/zero", "../../outside.json"):
            yield Case(f"{file} that leads to {target}", link(f"{RELEASE}/{file}", target))
    yield Case("best.json that leads out of the run", lead)


class Hostile:
    """The cases for the fence: all that loads is tried, and one of them has to refuse."""

    children = ()

    def __init__(self, seed: str, good: Path) -> None:
        torch.set_num_threads(1)
        self._good, self._cases = good, cases()
        _read(good / "run" / "run", good)

    def make(self, number: int, folder: Path) -> Callable[[Path], object]:
        run = folder / "storage" / "run"
        shutil.copytree(self._good / "run" / "run", run)
        (folder / "outside.json").write_text("{}")
        case = self._cases[number]
        case.change(run, folder / "out" / MARKER)
        return lambda out: _read(run, out)


def _read(run: Path, out: Path) -> None:
    release, newest = run / RELEASE, run / CHECKPOINT
    readers: list[Callable[[], object]] = [
        lambda: gan_dist.load(str(run)),
        lambda: gan_dist.load(str(release)),
        lambda: gan_dist.load(str(release / "generator.safetensors")),
        lambda: gan_dist.load(str(newest)),
        lambda: read_folder(str(release), ["release"]),
        lambda: load_config(str(release / "config.yaml")),
        lambda: checkpoint.load(fresh_state(out), str(newest)),
    ]
    refusals = list[BaseException]()
    for number, read in enumerate(readers):
        try:
            read()
        except GanDistError as error:
            refusals += [error] if number != 2 else []  # a file is no release
    if (out / MARKER).exists():
        raise RuntimeError("code of the input was run")
    if refusals:
        raise refusals[0]
