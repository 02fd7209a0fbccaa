"""Pictures to pack, and packing in this process, without Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gan_dist.data.packing.plan import Plan
from gan_dist.data.packing.sources import Source
from gan_dist.data.packing.task import begin_packing, finish_packing, make_shard, write_record
from gan_dist.data.shards.manifest import Manifest


def save_photos(folder: Path, count: int, edges: tuple[int, int] = (20, 20)) -> Path:
    """Write pictures of noise in two classes, with edges in pixels between two bounds; return the folder."""
    draw = np.random.default_rng(count)
    for number in range(count):
        height, width = draw.integers(edges[0], edges[1] + 1, 2).tolist()
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = folder / ("cat", "dog")[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def pack_here(source: Source, path: str, plan: Plan) -> Manifest:
    """Make a set, or what is missing of it, one shard after another."""
    records = begin_packing(path, plan)
    for job in plan.jobs():
        if job.number not in records:
            items = source.items[job.start : job.stop]
            *_, last = make_shard(source.origin, plan, job, items, path, 1)
            assert last.record is not None
            write_record(path, job, last.record)
            records[job.number] = last.record
    return finish_packing(path, plan, source, records)
