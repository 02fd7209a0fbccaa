"""Our plan through Ray Data, and its own WebDataset reader: for `python -m benchmarks stream`."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import ray.data
from PIL import Image

from gan_dist.cluster.connect import connect
from gan_dist.data.batches.loader import batches
from gan_dist.data.batches.ray_reader import RayDataReader
from gan_dist.data.order import Order
from gan_dist.data.shards.shard_set import ShardSet

EPOCHS = 4
PASSES = 3


Rate = Callable[[Iterable[int]], float]
"""From the numbers of images in the batches of a pass to its images a second."""


def ray_figures(shards: ShardSet, order: Order, png_tars: list[str], rate: Rate) -> dict[str, float]:
    """Return rates in images a second, seconds to the first batch, and the longest wait at an epoch.

    Medians of passes that our plan and Ray's own reader take in turns. `first_batch_s` is with Ray warm, that
    is with workers started and code imported, `first_batch_cold_s` with no worker yet.
    """
    passes, own = [], []
    with connect():
        cold = _drain(shards, order, epochs=1)["first_batch_s"]
        for _ in range(PASSES):
            _drain(shards, order, epochs=1)  # the other reader's tasks are ended with their workers
            passes.append(_drain(shards, order, EPOCHS))
            own.append(rate(_read_webdataset(png_tars, order.batch_size)))
    figures = {name: median(one[name] for one in passes) for name in passes[0]}
    return {**figures, "first_batch_cold_s": cold, "read_webdataset": median(own)}


def _drain(shards: ShardSet, order: Order, epochs: int) -> dict[str, float]:
    """Read some epochs through Ray Data; the gap is the longest wait for a batch near an epoch's border."""
    count = shards.manifest.count
    began = time.perf_counter()
    reader = batches(order, RayDataReader(shards), rank=0, world_size=1, start=0, stop=epochs * count)
    arrivals = [began]
    for _ in reader:
        arrivals.append(time.perf_counter())
    waits = np.diff(arrivals)
    # Steady state: from the second epoch on.
    per_epoch = count // order.batch_size
    steady = arrivals[per_epoch:] if epochs > 1 else arrivals[1:]
    border = [
        waits[max(1, epoch * per_epoch - 2) : epoch * per_epoch + 3].max() for epoch in range(1, epochs)
    ]
    return {
        "ray": (len(steady) - 1) * order.batch_size / (steady[-1] - steady[0]),
        "first_batch_s": float(waits[0]),
        "epoch_gap_ms": 1000 * float(max(border, default=0.0)),
    }


def _read_webdataset(tars: list[str], batch: int) -> Iterator[int]:
    def decode(row: dict[str, Any]) -> dict[str, npt.NDArray[np.uint8]]:
        return {"image": np.asarray(Image.open(io.BytesIO(row["png"])))}

    dataset = ray.data.read_webdataset(tars, decoder=None, shuffle="files").map(decode)
    for rows in dataset.iter_batches(batch_size=batch, local_shuffle_buffer_size=1000, batch_format="numpy"):
        yield len(rows["image"])
