"""How much of a slow, faulty store's bandwidth the reader uses: `python -m benchmarks.s3_bandwidth`.

A real S3 server stands behind a proxy with 50 ms latency, 5 % errors and 100 MB/s, each a process.
The allowed rate is the bandwidth over the bytes of an image; the measured one is that of shuffled batches,
contents compared with what was packed. Beside it what bare requests for the same row groups get of that
bandwidth without errors, checksums and batches: server, proxy and reader share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np

from gan_dist.core import storage
from gan_dist.core.storage import StorageOptions
from gan_dist.data.batches.loader import batches
from gan_dist.data.batches.readers import READERS, ThreadedReader
from gan_dist.data.builtin import Shapes
from gan_dist.data.order import Order
from gan_dist.data.shards.shard_set import ShardSet, write_set
from tests.support.faults import proxy
from tests.support.s3 import KEYS, make_bucket, s3_server

COUNT, EPOCHS, RESOLUTION, GROUP = 32_768, 3, 64, 1024
LATENCY_S, ERRORS = 0.05, 0.05


def main() -> None:
    """Print one JSON object a backend."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backends", nargs="+", default=["pyarrow", "s3fs"])
    parser.add_argument("--megabytes", type=int, default=100, help="what the proxy lets through in a second")
    arguments = parser.parse_args()
    bandwidth = arguments.megabytes * 1e6
    shapes = Shapes(COUNT, RESOLUTION)
    groups = [shapes.rows(np.arange(start, start + GROUP)) for start in range(0, COUNT, GROUP)]
    expected = EPOCHS * sum(int(rows.pixels.sum(dtype=np.int64)) for rows in groups)
    allowed = bandwidth / groups[0].pixels.shape[1]
    with s3_server() as url:
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": url})
        make_bucket(url, "bench")
        parts = (shapes.rows(np.arange(start, start + 8192)) for start in range(0, COUNT, 8192))
        shape = {"height": RESOLUTION, "width": RESOLUTION, "channels": 3, "classes": shapes.manifest.classes}
        write_set("s3://bench/set", parts, group_rows=GROUP, **shape)
        for backend in arguments.backends:
            storage.configure(StorageOptions(backend))
            with slow_store(url, 0, bandwidth) as (uri, _):
                bare = _bare_rate(uri)
            with slow_store(url, ERRORS, bandwidth) as (uri, asked):
                rate, seen = _reader_rate(uri)
                faults = asked()
            shares = {"share_of_bandwidth": rate / allowed, "share_by_bare_requests": bare / allowed}
            figures = {"backend": backend, **shares, "images_per_second": rate, "exact": seen == expected}
            print(json.dumps({**figures, "faults": faults}))  # noqa: T201


def _reader_rate(uri: str) -> tuple[float, int]:
    """Return the images a second of shuffled batches, and the sum of their pixels."""
    images = ShardSet(uri)
    order = Order(images.group_rows, seed=0, batch_size=256, streams=None, window=8192)
    began = time.perf_counter()
    seen = sum(
        int(rows.pixels.sum(dtype=np.int64))
        for rows in batches(order, ThreadedReader(images), rank=0, world_size=1, start=0, stop=EPOCHS * COUNT)
    )
    return EPOCHS * COUNT / (time.perf_counter() - began), seen


def _bare_rate(uri: str) -> float:
    """Return the images a second by requests for row groups, as many at a time as the reader's."""
    filesystem, root = storage.open_uri(uri)
    manifest = ShardSet(uri).manifest
    ranges = [(shard.file, start) for shard in manifest.shards for start in shard.pixels_at] * EPOCHS

    def fetch(place: tuple[str, int]) -> None:
        with filesystem.open_input_file(f"{root}/{place[0]}") as source:
            source.seek(place[1])
            source.read_buffer(GROUP * manifest.image_bytes)

    began = time.perf_counter()
    with ThreadPoolExecutor(READERS) as pool:
        list(pool.map(fetch, ranges))
    return EPOCHS * COUNT / (time.perf_counter() - began)


@contextmanager
def slow_store(
    url: str, errors: float, bandwidth: float
) -> Iterator[tuple[str, Callable[[], dict[str, int]]]]:
    """Run a proxy before the store; yields the set's URI through it, and what asks for its counts."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=_serve, args=(url, errors, bandwidth, theirs)
    )
    process.start()
    try:
        port = ours.recv()
        yield f"s3://bench/set?endpoint_override=127.0.0.1:{port}&scheme=http", lambda: _asked(ours)
    finally:
        ours.send(None)
        process.join(10)


def _asked(ours: Connection) -> dict[str, int]:
    ours.send("counts")
    counts: dict[str, int] = ours.recv()
    return counts


def _serve(url: str, errors: float, bandwidth: float, pipe: Connection) -> None:
    with proxy(url, seed=0) as running:
        faults = running.faults
        faults.latency_s, faults.errors, faults.bandwidth = LATENCY_S, errors, bandwidth
        pipe.send(running.port)
        while pipe.recv() is not None:
            pipe.send(dict(running.counts))


if __name__ == "__main__":
    main()
