"""How much of a slow, faulty store's bandwidth the reader uses: `python -m benchmarks.s3_bandwidth`.

A real S3 server stands behind a proxy with 50 ms latency, 5 % errors and 100 MB/s. The allowed rate is the
bandwidth over the bytes of an image; the measured one is that of shuffled batches, contents compared with
what was packed.
"""

from __future__ import annotations

import argparse
import json
import os
import time

import numpy as np

from gan_dist import storage
from gan_dist.data.builtin import Shapes
from gan_dist.data.loader import batches
from gan_dist.data.order import Order
from gan_dist.data.resident import Direct
from gan_dist.data.shards import ShardSet, write_set
from gan_dist.storage import StorageOptions
from tests.faults import proxy
from tests.s3 import KEYS, make_bucket, s3_server

COUNT, EPOCHS, RESOLUTION = 32_768, 3, 64
BANDWIDTH = 100e6


def main() -> None:
    """Print one JSON object a backend."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backends", nargs="+", default=["pyarrow", "s3fs"])
    backends = parser.parse_args().backends
    shapes = Shapes(COUNT, RESOLUTION)
    with s3_server() as url, proxy(url, seed=0) as running:
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": url})
        make_bucket(url, "bench")
        parts = (shapes.rows(np.arange(start, start + 8192)) for start in range(0, COUNT, 8192))
        shape = {"height": RESOLUTION, "width": RESOLUTION, "channels": 3, "classes": shapes.manifest.classes}
        write_set("s3://bench/set", parts, group_rows=1024, **shape)
        for backend in backends:
            storage.configure(StorageOptions(backend))
            images = ShardSet(f"s3://bench/set?endpoint_override=127.0.0.1:{running.port}&scheme=http")
            running.faults.latency_s, running.faults.errors, running.faults.bandwidth = 0.05, 0.05, BANDWIDTH
            order = Order(images.group_rows, seed=0, batch_size=256, streams=None, window=8192)
            began = time.perf_counter()
            seen = sum(
                int(rows.pixels.sum(dtype=np.int64))
                for rows in batches(order, Direct(images), rank=0, world_size=1, start=0, stop=EPOCHS * COUNT)
            )
            rate = EPOCHS * COUNT / (time.perf_counter() - began)
            expected = EPOCHS * sum(
                int(shapes.rows(np.arange(start, start + 1024)).pixels.sum(dtype=np.int64))
                for start in range(0, COUNT, 1024)
            )
            allowed = BANDWIDTH / (RESOLUTION * RESOLUTION * 3)
            running.faults.latency_s = running.faults.errors = running.faults.bandwidth = 0.0
            figures = {"backend": backend, "share_of_bandwidth": rate / allowed, "images_per_second": rate}
            print(json.dumps({**figures, "exact": seen == expected, "faults": dict(running.counts)}))  # noqa: T201


if __name__ == "__main__":
    main()
