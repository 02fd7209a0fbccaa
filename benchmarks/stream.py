"""How fast images come out of shards, against WebDataset, a numpy memmap, Ray's own reader and a DataLoader.

All readers give shuffled batches of the same images in memory, `shapes` at 64x64x3; the files are in the page
cache. A ratio is that of images a second; each is the median of passes that the readers take in turns, since
what else a machine does changes from minute to minute. Memory is allocated as in a training worker.
"""

from __future__ import annotations

import io
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from gan_dist.core.memory import keep_freed_memory, use_one_arena
from gan_dist.data.batches.loader import batches
from gan_dist.data.batches.readers import Reader, ThreadedReader
from gan_dist.data.builtin import Shapes
from gan_dist.data.order import Order
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet, write_set

RESOLUTION = 64
BATCH = 256
GROUP_ROWS = 1024
SHARD_ROWS = 10 * GROUP_ROWS
PASSES = 9
EPOCHS = 4
"""In a pass of the fastest readers, which would be over in a tenth of a second otherwise."""
PIXELS = RESOLUTION * RESOLUTION * 3


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the figures: rates in images a second, and their ratios."""
    from benchmarks.ray_streams import ray_figures

    keep_freed_memory()
    use_one_arena()
    count = 4096 if quick else 65_536
    with tempfile.TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        shards = _write_shards(Path(folder, "shards"), count)
        pixels = _write_memmap(Path(folder, "pixels.bin"), shards)
        tars = {kind: _write_tars(Path(folder, kind), shards, kind) for kind in ("raw", "png")}
        # WebDataset and PNG are an order of magnitude slower; a part of the set tells their rate.
        part = min(count, 16_384)
        rates = rates_in_turns(
            {
                "reader": lambda: _reader(shards, ThreadedReader(shards)),
                "reader_unverified": lambda: _reader(shards, ThreadedReader(_unverified(shards))),
                "memmap": lambda: _memmap(pixels),
                "webdataset_raw": lambda: islice(_webdataset(tars["raw"], "raw"), part // BATCH),
                "webdataset_png": lambda: islice(_webdataset(tars["png"], "png"), part // BATCH),
                "dataloader": lambda: _dataloader(shards),
            }
        )
        order = shuffled_order(shards)
        through_ray = ray_figures(
            shards, order, tars["png"], lambda counts: rate(islice(counts, part // BATCH))
        )
        size = sum(file.stat().st_size for file in Path(folder, "shards").iterdir())
    return {
        "images": count,
        "reader_vs_webdataset_raw": rates["reader"] / rates["webdataset_raw"],
        "reader_vs_webdataset_png": rates["reader"] / rates["webdataset_png"],
        "reader_vs_memmap": rates["reader"] / rates["memmap"],
        "ray_vs_read_webdataset": through_ray["ray"] / through_ray["read_webdataset"],
        "ray_vs_dataloader": through_ray["ray"] / rates["dataloader"],
        "first_batch_s": through_ray["first_batch_s"],
        "first_batch_cold_s": through_ray["first_batch_cold_s"],
        "epoch_gap_ms": through_ray["epoch_gap_ms"],
        "checksum_cost": rates["reader_unverified"] / rates["reader"] - 1,
        "size_ratio": size / (count * PIXELS),
        "images_per_second": {
            **rates,
            "ray": through_ray["ray"],
            "read_webdataset": through_ray["read_webdataset"],
        },
    }


def rates_in_turns(readers: dict[str, Callable[[], Iterable[int]]]) -> dict[str, float]:
    """Return each reader's images a second: the median of passes, which the readers take in turns.

    The order is another one in each turn: a pass that follows a DataLoader's, whose processes are still
    ending, is slow.

    Args:
        readers: Each starts a pass, whose items are the numbers of images of the batches.
    """
    found: dict[str, list[float]] = {name: [] for name in readers}
    for turn in range(PASSES):
        for name in Random(turn).sample(sorted(readers), len(readers)):
            found[name].append(rate(readers[name]()))
    return {name: median(rates) for name, rates in found.items()}


def rate(counts: Iterable[int]) -> float:
    """Return a pass's images a second after its first batch, which is start-up."""
    images, began = 0, 0.0
    for number, count in enumerate(counts):
        if number == 0:
            began = time.perf_counter()
        else:
            images += count
    return images / (time.perf_counter() - began)


def shuffled_order(shards: ShardSet) -> Order:
    """Return the order that a run with default settings has."""
    return Order(shards.group_rows, seed=0, batch_size=BATCH, streams=None, window=16_384)


def _write_shards(folder: Path, count: int) -> ShardSet:
    shapes = Shapes(count, RESOLUTION)
    starts = range(0, count, SHARD_ROWS)
    parts = (shapes.rows(np.arange(start, min(start + SHARD_ROWS, count))) for start in starts)
    write_set(
        str(folder),
        parts,
        group_rows=GROUP_ROWS,
        height=RESOLUTION,
        width=RESOLUTION,
        channels=3,
        classes=shapes.manifest.classes,
    )
    return ShardSet(str(folder))


def _rows(shards: ShardSet) -> Iterator[Rows]:
    return (shards.read_group(group) for group in range(len(shards.group_rows)))


def _write_memmap(path: Path, shards: ShardSet) -> npt.NDArray[np.uint8]:
    with path.open("wb") as file:
        for rows in _rows(shards):
            file.write(rows.pixels.tobytes())
    return np.memmap(path, dtype=np.uint8, mode="r").reshape(-1, PIXELS)


def _write_tars(folder: Path, shards: ShardSet, kind: str) -> list[str]:
    """Write the images as WebDataset tars, their pixels as they are or as PNG."""
    folder.mkdir()
    paths = []
    for number, rows in enumerate(_rows(shards)):
        path = folder / f"{number:05d}.tar"
        with tarfile.open(path, "w") as tar:
            assert rows.labels is not None
            for index, (row, label) in enumerate(zip(rows.pixels, rows.labels, strict=True)):
                content = row.tobytes()
                if kind == "png":
                    buffer = io.BytesIO()
                    Image.fromarray(row.reshape(RESOLUTION, RESOLUTION, 3)).save(buffer, "PNG")
                    content = buffer.getvalue()
                for suffix, member in ((kind, content), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{number:05d}{index:05d}.{suffix}")
                    info.size = len(member)
                    tar.addfile(info, io.BytesIO(member))
        paths.append(str(path))
    return paths


def _unverified(shards: ShardSet) -> ShardSet:
    return ShardSet(shards.uri, verify=False)


def _reader(shards: ShardSet, fetch: Reader) -> Iterator[int]:
    stop = EPOCHS * shards.manifest.count
    for rows in batches(shuffled_order(shards), fetch, rank=0, world_size=1, start=0, stop=stop):
        yield len(rows)


def _memmap(pixels: npt.NDArray[np.uint8]) -> Iterator[int]:
    for epoch in range(EPOCHS):
        order = np.random.default_rng(epoch).permutation(len(pixels))
        for start in range(0, len(pixels), BATCH):
            yield len(pixels[order[start : start + BATCH]])


def _webdataset(tars: list[str], kind: str) -> Iterator[int]:
    import webdataset

    def decode(sample: dict[str, Any]) -> tuple[npt.NDArray[np.uint8], int]:
        content = sample[kind]
        if kind == "png":
            return np.asarray(Image.open(io.BytesIO(content))), int(sample["cls"])
        image = np.frombuffer(content, dtype=np.uint8).reshape(RESOLUTION, RESOLUTION, 3)
        return image, int(sample["cls"])

    dataset = webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0).shuffle(1000).map(decode)
    held: list[tuple[npt.NDArray[np.uint8], int]] = []
    for example in dataset:
        held.append(example)
        if len(held) == BATCH:
            images, labels = zip(*held, strict=True)
            yield len(np.stack(images)) and len(np.array(labels))
            held = []


class _Shuffled(IterableDataset[torch.Tensor]):
    """The same order as batches, each DataLoader worker being one of the ranks that share it."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = get_worker_info()
        assert info is not None
        order = shuffled_order(self._shards)
        mine = batches(
            order,
            ThreadedReader(self._shards),
            rank=info.id,
            world_size=info.num_workers,
            start=0,
            stop=self._shards.manifest.count,
        )
        return (torch.from_numpy(rows.pixels) for rows in mine)


def _dataloader(shards: ShardSet) -> Iterator[int]:
    for batch in DataLoader(_Shuffled(shards), batch_size=None, num_workers=2):
        yield len(batch)
