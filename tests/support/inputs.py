"""Inputs of every kind that the product reads, and what reads each: what mutations are made of."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import gan_dist
from gan_dist.artifacts.best import find_best
from gan_dist.artifacts.records import RecordReader, read_records, read_valid_records
from gan_dist.config import load_config
from gan_dist.core.errors import GanDistError
from gan_dist.data.packing import plan as packing_plan
from gan_dist.data.packing.decode import Decoding
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.items import SourceOptions
from gan_dist.data.packing.sources.lmdbs import PRINT_KEYS
from gan_dist.data.packing.task import _reader
from gan_dist.data.shards.shard_set import ShardSet
from gan_dist.data.shards.verify import verify_set
from gan_dist.models.generator import ImageShape
from gan_dist.report.page import write_report
from gan_dist.search.plan import make_plan
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from gan_dist.training import checkpoint
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.state import TrainingState, new_state
from tests.support import mutations
from tests.support.packing import pack_here, save_photos
from tests.support.searches import trial_uri

Mutated = Callable[[bytes, Random], bytes]
RUN = [
    *("name=run", "data.resolution=16", "model.name=dcgan", "model.max_width=null", "model.width=4"),
    *("loss.name=nonsaturating", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64"),
    *("data.cache=memory", "eval.every_kimg=0.128", "log.every_kimg=0.032", "train.kimg=0.128"),
    "train.checkpoint_every_s=null",
]


class Kind(NamedTuple):
    """A kind of input: where its whole example is, what is changed of it, and how it is read."""

    example: str
    """The folder of the example, in that of all."""
    files: str
    """What is changed: a pattern of paths in it."""
    mutated: Mutated
    read: Callable[[Path, Path], object]
    """Reads the input's folder; writes into another."""
    seal: Callable[[Path], None] | None = None
    """Gives the manifest beside a changed file that file's hash."""


def picture(number: int, size: int = 12) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(number: int, kind: str = "PNG") -> bytes:
    picture(number).save(buffer := io.BytesIO(), format=kind)
    return buffer.getvalue()


def write_examples(good: Path) -> None:
    """Write a whole input of every kind into a folder."""
    write_run(good / "run")
    _write_search(good, good / "run" / "run")
    source = open_source(str(save_photos(good / "photos", 40)), SourceOptions())
    plan = packing_plan.make_plan("photos", source, Decoding(8), 1 / 256)
    pack_here(source, str(good / "set"), plan)
    images = good / "images"
    images.mkdir()
    for number, kind in enumerate(("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM")):
        (images / f"{kind.lower()}.{'tif' if kind == 'TIFF' else kind.lower()}").write_bytes(
            encoded(number, kind)
        )
    _write_archives(good)
    _write_labels(good)


def write_run(folder: Path) -> None:
    torch.set_num_threads(1)
    settings = load_config("digits", [f"storage={folder}", *RUN])
    train(settings, LocalContext(settings.run_uri))


def _write_search(folder: Path, run: Path) -> None:
    space = {"optim.g.lr": {"log": [1e-4, 1e-2]}, "train.batch_size": [32, 64]}
    settings = [f"storage={folder}", *RUN, "name=search", f"search.space={json.dumps(space)}"]
    plan = make_plan("digits", settings)
    owner = begin(plan, "fd_digits")
    kept_at = study_storage(plan.uri, None)
    study = SearchStudy(kept_at, plan.config.name, plan.space, plan.search, plan.grace, owner=owner)
    for number in range(2):
        assert study.next() is not None
        study.report(number, 64, 9.0 - number)
        study.complete(number)
        shutil.copytree(run, trial_uri(plan.uri, number))


def _write_archives(good: Path) -> None:
    members = {f"{number}.{kind}": content for number in range(6) for kind, content in _sample(number)}
    for name in ("tar", "zip", "parquet", "lmdb"):
        (good / name).mkdir()
    with tarfile.open(good / "tar" / "a.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with zipfile.ZipFile(good / "zip" / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{'ab'[int(name[0]) % 2]}/{name}", content)
    pictures = [{"bytes": encoded(number), "path": None} for number in range(20)]
    table = pa.table({"image": pictures, "label": [number % 3 for number in range(20)]})
    pq.write_table(table, good / "parquet" / "a.parquet", row_group_size=8, compression="snappy")
    path = str(good / "lmdb" / "a.mdb")
    with (
        lmdb.open(path, subdir=False, map_size=2**20) as environment,
        environment.begin(write=True) as transaction,
    ):
        for number in range(20):
            transaction.put(b"%04d" % number, encoded(number))
    (good / "lmdb" / "a.mdb-lock").unlink()


def _sample(number: int) -> list[tuple[str, bytes]]:
    label = b"%d" % (number % 2) if number % 3 else None
    return [("png", encoded(number)), ("cls", label) if label else ("json", b'{"label": "0"}')]


def _write_labels(good: Path) -> None:
    names = [f"{number}.png" for number in range(6)]
    for kind in ("stylegan", "csv", "jsonl", "listed"):
        (good / kind).mkdir()
        for number, name in enumerate(names):
            (good / kind / name).write_bytes(encoded(number))
    labels = [[name, number % 2] for number, name in enumerate(names)]
    (good / "stylegan" / "dataset.json").write_text(json.dumps({"labels": labels}))
    for path in (good / "csv" / "metadata.csv", good / "listed" / "labels.csv"):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([["file_name", "label"], *labels])
    lines = [json.dumps({"file_name": name, "label": label}) + "\n" for name, label in labels]
    (good / "jsonl" / "metadata.jsonl").write_text("".join(lines))


def _pack(folder: Path, out: Path, labels: str | None = None) -> None:
    source = open_source(str(folder), SourceOptions(labels=labels))
    plan = packing_plan.make_plan(str(folder), source, Decoding(8, max_pixels=2**20), 1 / 256)
    _reader.cache_clear()
    pack_here(source, str(out / "set"), plan)
    _read_set(out / "set", out)


def _read_set(folder: Path, _: Path) -> None:
    damaged = []
    for verify in (True, False):
        images = ShardSet(str(folder), verify=verify)
        for group in range(len(images.group_rows)):
            try:
                images.read_group(group)
            except GanDistError as error:
                damaged.append(error)
    verify_set(str(folder))
    if damaged:
        raise damaged[0]


def fresh_state(folder: Path) -> TrainingState:
    settings = load_config("digits", [f"storage={folder}", *RUN])
    shape, channels_last = ImageShape(16, 1), settings.train.channels_last
    device = torch.device("cpu")
    return new_state(
        settings.model, settings.optim, shape, device, seed=settings.seed, channels_last=channels_last
    )


def _read_checkpoint(folder: Path, out: Path) -> None:
    newest = folder / "checkpoint_000000000128"
    try:
        checkpoint.load(fresh_state(out), str(newest))
    finally:
        gan_dist.load(str(newest)).sample(2)


def _read_release(folder: Path, _: Path) -> None:
    try:
        gan_dist.load(str(folder)).sample(2)
    finally:
        find_best(str(folder))


def _read_run(folder: Path, out: Path) -> None:
    readers: list[Callable[[], object]] = [
        lambda: read_valid_records(str(folder)),
        lambda: read_records(str(folder)),
        RecordReader(str(folder)).read_new,
        lambda: find_best(str(folder)),
        lambda: checkpoint.load_latest(fresh_state(out), str(folder)),
        lambda: write_report(str(folder), str(out / "page.html")),
    ]
    _all(readers)


def _read_search(folder: Path, out: Path) -> None:
    _all([lambda: find_best(str(folder)), lambda: write_report(str(folder), str(out / "page.html"))])


def _all(readers: list[Callable[[], object]]) -> None:
    """Call all, and raise the first error that is typed."""
    errors = []
    for read in readers:
        try:
            read()
        except GanDistError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def reseal(file: Path) -> None:
    """Give the manifest beside a changed file that file's hash and size."""
    where = file.parent / "manifest.json"
    if not file.is_file() or file.is_symlink() or file == where or not where.is_file():
        return
    content, manifest = file.read_bytes(), json.loads(where.read_text())
    digest = hashlib.sha256(content).hexdigest()
    if "shards" in manifest:
        for shard in manifest["shards"]:
            if shard["file"] == file.name:
                shard.update(bytes=len(content), sha256=digest)
    else:
        manifest["files"][file.name], manifest["sizes"][file.name] = digest, len(content)
    where.write_text(json.dumps(manifest))


def _any_image(content: bytes, chance: Random) -> bytes:
    is_png = content.startswith(b"\x89PNG")
    return (mutations.mutated_png if is_png else mutations.mutated_bytes)(content, chance)


def _of_folder(content: bytes, chance: Random) -> bytes:
    """Change a file of a checkpoint or release by what it holds."""
    if content.startswith((b"{", b"[")) or b": " in content[:40]:
        return mutations.mutated_text(content, chance)
    is_safetensors = content[8:9] == b"{"
    return (mutations.mutated_safetensors if is_safetensors else _any_image)(content, chance)


KINDS = {
    "shards": Kind("set", "*.parquet", mutations.mutated_bytes, _read_set, reseal),
    "manifest of shards": Kind("set", "manifest.json", mutations.mutated_text, _read_set),
    "checkpoint": Kind("run/run", "checkpoint_000000000128/*", _of_folder, _read_checkpoint, reseal),
    "release": Kind("run/run", "best*/*", _of_folder, _read_release, reseal),
    "best.json": Kind("run/run", "best.json", mutations.mutated_text, _read_release),
    "configuration": Kind(
        "run/run",
        "config.yaml",
        mutations.mutated_text,
        lambda folder, _: load_config(f"{folder}/config.yaml"),
    ),
    "records": Kind("run/run", "metrics.jsonl", mutations.mutated_text, _read_run),
    "run": Kind("run/run", "*.*", _of_folder, _read_run),
    "search": Kind("search", "*.*", mutations.mutated_text, _read_search),
    "trials": Kind("search", "trials/*/**/*.*", _of_folder, _read_search, reseal),
    "images": Kind("images", "*", _any_image, _pack),
    "tar": Kind("tar", "*", mutations.mutated_tar, _pack),
    "ZIP": Kind("zip", "*", mutations.mutated_bytes, _pack),
    "Parquet": Kind("parquet", "*", mutations.mutated_bytes, _pack),
    "LMDB": Kind("lmdb", "*", mutations.mutated_bytes, _pack),
    "dataset.json": Kind("stylegan", "dataset.json", mutations.mutated_text, _pack),
    "metadata.csv": Kind("csv", "metadata.csv", mutations.mutated_text, _pack),
    "metadata.jsonl": Kind("jsonl", "metadata.jsonl", mutations.mutated_text, _pack),
    "labels.csv": Kind(
        "listed",
        "labels.csv",
        mutations.mutated_text,
        lambda folder, out: _pack(folder, out, str(folder / "labels.csv")),
    ),
}


class Mutations:
    """Mutated inputs by their numbers: `Cases` for the fence."""

    children = (PRINT_KEYS,)

    def __init__(self, seed: str, good: Path) -> None:
        torch.set_num_threads(1)
        self._seed, self._good = seed, good
        # What is imported when it is needed is imported now.
        for number in range(len(KINDS)):
            kind = self.kind(number)
            with TemporaryDirectory() as out:
                kind.read(good / kind.example, Path(out))

    @staticmethod
    def kind(number: int) -> Kind:
        return list(KINDS.values())[number % len(KINDS)]

    def make(self, number: int, folder: Path) -> Callable[[Path], object]:
        chance, kind = Random(f"{self._seed} {number}"), self.kind(number)
        outside = folder / "outside.json"
        outside.write_text('{"images": 1}')
        shutil.copytree(self._good / kind.example, inside := folder / "in")
        file = chance.choice(sorted(path for path in inside.glob(kind.files) if path.is_file()))
        mutations.change_file(file, outside, chance, kind.mutated)
        if kind.seal and chance.random() < 0.7:
            kind.seal(file)
        return lambda out: kind.read(inside, out)
