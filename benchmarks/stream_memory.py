"""Whether streaming's memory stays flat: `python -m benchmarks.stream_memory`.

Streams 20 epochs of 16,384 images of 64x64x3 (201 MB an epoch) through Ray Data, and prints after every epoch
the reading process's own resident memory and what shared memory holds: Ray's object store, whose pages stay
with it once used, so that the figure is the most that it ever held. Linux only.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np

from gan_dist.cluster.connect import connect
from gan_dist.data.batches.loader import batches
from gan_dist.data.batches.ray_reader import RayDataReader
from gan_dist.data.builtin import Shapes
from gan_dist.data.order import Order
from gan_dist.data.shards.shard_set import ShardSet, write_set

COUNT, EPOCHS = 16_384, 20


def main() -> None:
    """Print one JSON object an epoch."""
    shapes = Shapes(COUNT, 64)
    with tempfile.TemporaryDirectory() as folder, connect():
        parts = (shapes.rows(np.arange(start, start + 8192)) for start in range(0, COUNT, 8192))
        shape = {"height": 64, "width": 64, "channels": 3, "classes": shapes.manifest.classes}
        write_set(str(Path(folder, "set")), parts, group_rows=1024, **shape)
        before = shutil.disk_usage("/dev/shm").used
        images = ShardSet(str(Path(folder, "set")))
        order = Order(images.group_rows, seed=0, batch_size=256, streams=None, window=4096)
        reader = batches(order, RayDataReader(images), rank=0, world_size=1, start=0, stop=EPOCHS * COUNT)
        for number, _ in enumerate(reader, 1):
            if number * 256 % COUNT == 0:
                _, resident, shared = map(int, Path("/proc/self/statm").read_text().split()[:3])
                figures = {
                    "epoch": number * 256 // COUNT,
                    "resident_mb": round((resident - shared) * os.sysconf("SC_PAGE_SIZE") / 1e6),
                    "shared_memory_mb": round((shutil.disk_usage("/dev/shm").used - before) / 1e6),
                }
                print(json.dumps(figures), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
