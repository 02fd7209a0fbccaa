"""What serving costs: images over HTTP beside the same passes through the network without it.

Each image of `gan-dist serve` comes from a pass through the network with a batch of 8, as those of `gan-dist
sample` do, since another batch size changes its last bits. The reference is this pass, and as many direct
ones one after another, in turns with the requests. Both have one thread: two wait for each other where other
work shares the CPUs. The clients are threads of this process, and share the CPUs with the server.
"""

from __future__ import annotations

import http.client
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import torch
from PIL import Image

from gan_dist import models
from gan_dist.cluster.connect import connect
from gan_dist.cluster.serve.driver import Address, serving
from gan_dist.cluster.serve.query import ImageQuery
from gan_dist.cluster.serve.served import Served
from gan_dist.config import load_config, to_yaml
from gan_dist.models import release
from gan_dist.models.generator import BLOCK, ImageShape

PRESETS = {"few_shot64": "few-shot", "celeba64": "celeba64"}
"""A small network, FastGAN of 3.3 million parameters, and a larger one, R3GAN of 6.1 million."""
CLIENTS = (8, 32)
SECONDS = 6.0
ROUNDS = 3


def run(*, quick: bool = False) -> dict[str, object]:
    """Return milliseconds and images a second, of the networks alone and served to some clients."""
    torch.set_num_threads(1)
    seconds = 1.0 if quick else SECONDS
    found: dict[str, object] = {"seconds": seconds, "batch": BLOCK}
    with tempfile.TemporaryDirectory() as folder:
        for name, preset in PRESETS.items():
            uri = _untrained(Path(folder, name), preset)
            with connect():
                found |= {f"{name}_{key}": value for key, value in _measure(uri, seconds).items()}
    return found


def _measure(uri: str, seconds: float) -> dict[str, float]:
    """Return medians over rounds, in each of which the passes and the requests follow one another."""
    served = Served(uri)
    latents = served.release.latents(range(BLOCK))
    queries = [ImageQuery(seed, None) for seed in range(BLOCK)]
    served.pictures(queries)
    rounds: dict[str, list[float]] = defaultdict(list)
    with serving(uri, Address("127.0.0.1", 0), cpus=1) as url:
        _ask(url, 8, seconds / 4)  # everything has been imported and allocated then
        rounds["health_p50_ms"].append(statistics.median(_ask(url, 1, seconds / 8, "health")[0]) * 1e3)
        rounds["health_8_per_s"].append(_ask(url, 8, seconds / 8, "health")[1])
        for _ in range(ROUNDS):
            pass_s = _median_s(lambda: served.release.images(latents, None), seconds / 2)
            files_s = _median_s(lambda: served.pictures(queries), 0)
            one_s = _median_s(lambda: served.release.images(latents[:1], None), 0)
            found = {"pass_ms": pass_s * 1e3, "pass_and_png_ms": files_s * 1e3, "pass_of_1_ms": one_s * 1e3}
            for clients in CLIENTS:
                took, rate = _ask(url, clients, seconds)
                found[f"p50_ms_{clients}"] = statistics.median(took) * 1e3
                found[f"p50_{clients}_by_pass"] = statistics.median(took) / pass_s
                found[f"images_per_s_{clients}"] = rate
                found[f"throughput_{clients}_by_direct"] = rate * pass_s / BLOCK
            for name, value in found.items():
                rounds[name].append(value)
    return {
        "load": os.getloadavg()[0],
        **{name: statistics.median(values) for name, values in rounds.items()},
    }


def _ask(url: str, clients: int, seconds: float, path: str = "image") -> tuple[list[float], float]:
    """Return the seconds of each answer, and answers a second, of clients that ask one after another."""
    began = time.perf_counter()

    def ask(client: int) -> list[float]:
        connection = http.client.HTTPConnection(urlsplit(url).netloc)
        took: list[float] = []
        while (start := time.perf_counter()) < began + seconds:
            seed = client * 100_000 + len(took)
            connection.request("GET", f"/{path}?seed={seed}")
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{path} gave {answer.status}")
            took.append(time.perf_counter() - start)
        connection.close()
        return took

    with ThreadPoolExecutor(clients) as pool:
        took = [one for each in pool.map(ask, range(clients)) for one in each]
    return took, len(took) / (time.perf_counter() - began)


def _median_s(call: Callable[[], object], seconds: float) -> float:
    took: list[float] = []
    end = time.perf_counter() + seconds
    while not took or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def _untrained(folder: Path, preset: str) -> str:
    config = load_config(preset, [f"storage={folder}", "name=run", "data.resolution=64"])
    shape = ImageShape(64, 3)
    generator, _ = models.build_initial(config.model, shape, seed=0)
    record = {"images": 0, "fd_random": 1.0}
    release.best_writer(
        config.run_uri,
        generator,
        shape=shape,
        config_yaml=to_yaml(config),
        record=record,
        metric="fd_random",
        picture=Image.new("RGB", (64, 64)),
    )()
    return config.run_uri
