"""The speed, memory, traffic and exactness of metrics, each against a reference computed in the same run."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.linalg
import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.core.host import cores
from gan_dist.core.memory import keep_freed_memory
from gan_dist.evaluation.metrics.distances import frechet_distance, kid
from gan_dist.evaluation.metrics.moments import Moments

DIM = 2048
FEW = 1000
"""Images of the comparison below full rank."""
REPEATS = 3
BATCH = 128

Array = npt.NDArray[np.float64]


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the figures at d = 2048, the number of FID's features; with `quick` at 256."""
    torch.set_num_threads(cores())
    keep_freed_memory()  # as every process that evaluates does
    dim = 256 if quick else DIM
    few = FEW * dim // DIM
    return {
        **_full_rank(dim),
        **_few_images(dim, few),
        **_kernel_distance(dim),
        **_moments(dim, quick=quick),
    }


def _features(count: int, dim: int, seed: int) -> Tensor:
    """Return rows float32 (count, dim) whose spectrum falls over three decades, as Inception's does."""
    generator = torch.Generator().manual_seed(seed)
    scale = torch.logspace(0, -1.5, dim) * (1 + 0.1 * seed)
    return torch.randn(count, dim, generator=generator) * scale + 0.4 + 0.01 * seed


def _timed(function: Callable[[], Any], repeats: int = 1) -> tuple[Any, float]:
    """Return a function's result and its best time in seconds."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - began)
    return result, min(times)


def _parts(a: Moments, b: Moments) -> tuple[float, Array]:
    """Return |mu_a - mu_b|^2 + tr S_a + tr S_b, and S_a S_b."""
    cov_a, cov_b = a.covariance().numpy(), b.covariance().numpy()
    difference = (a.mean - b.mean).numpy()
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b)), cov_a @ cov_b


def _full_rank(dim: int) -> dict[str, object]:
    a, b = (Moments.of(_features(5 * dim, dim, seed)) for seed in (0, 1))
    ours, seconds = _timed(lambda: frechet_distance(a, b), REPEATS)
    rest, product = _parts(a, b)
    root, seconds_sqrtm = _timed(lambda: scipy.linalg.sqrtm(product), REPEATS)
    reference = rest - 2 * float(np.trace(root).real)
    itself = frechet_distance(a, a) / float(a.covariance().trace())
    return {
        "ratio": seconds_sqrtm / seconds,
        "seconds": seconds,
        "seconds_sqrtm": seconds_sqrtm,
        "error": abs(ours - reference) / reference,
        "itself": itself,
        "dim": dim,
    }


def _few_images(dim: int, count: int) -> dict[str, object]:
    a, b = (Moments.of(_features(count, dim, seed)) for seed in (2, 3))
    _, seconds = _timed(lambda: frechet_distance(a, b), REPEATS)
    _, product = _parts(a, b)
    _, seconds_eigvals = _timed(lambda: scipy.linalg.eigvals(product), REPEATS)
    return {
        "few_ratio": seconds_eigvals / seconds,
        "few_seconds": seconds,
        "few_seconds_eigvals": seconds_eigvals,
        "few_itself": frechet_distance(a, a) / float(a.covariance().trace()),
    }


def _kernel_distance(dim: int) -> dict[str, object]:
    from torch_fidelity.metric_kid import kid_features_to_metric

    a, b = _features(2000, dim, 4), _features(2000, dim, 5)
    ours, seconds = _timed(lambda: kid(a, b), REPEATS)
    peers, seconds_peer = _timed(
        lambda: kid_features_to_metric(b.double(), a.double(), verbose=False), REPEATS
    )
    reference = float(peers["kernel_inception_distance_mean"])
    return {
        "kid_ratio": seconds_peer / seconds,
        "kid_error": abs(ours.mean().item() - reference) / abs(reference),
    }


def _moments(dim: int, *, quick: bool) -> dict[str, object]:
    """Memory and traffic of two ranks, as multiples of the d x d matrix and of its triangle."""
    matrix, triangle = 8 * dim**2, 4 * dim * (dim + 1)
    counts = (500, 1000) if quick else (5_000, 50_000)
    (few, sent), (many, _) = (_on_two_ranks(dim, count) for count in counts)
    return {
        "memory_matrices": many / matrix,
        "memory_growth": (many - few) / matrix,
        "sent_triangles": sent / triangle,
    }


def _on_two_ranks(dim: int, count: int) -> tuple[float, float]:
    """Return the most memory of a rank beyond what it held before, and the bytes it sent."""
    context = multiprocessing.get_context("spawn")
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        results = context.Queue()
        ranks = [
            context.Process(target=_rank, args=(rank, dim, count, str(Path(folder) / "store"), results))
            for rank in range(2)
        ]
        for rank in ranks:
            rank.start()
        found = [results.get(timeout=600) for _ in ranks]
        for rank in ranks:
            rank.join()
    return max(memory for memory, _ in found), max(sent for _, sent in found) / 2


def _rank(rank: int, dim: int, count: int, store: str, results: Any) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    Moments.of(_features(4, 4, rank)).all_reduce()  # libraries, threads and connections are there
    batch = _features(BATCH, dim, rank)
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the highest mark starts from here
    moments = Moments.empty(dim)
    for _ in range(count // (2 * BATCH)):
        moments.update(batch)
    dist.barrier()
    sent = _loopback()
    moments.all_reduce()
    dist.barrier()
    results.put((_memory("VmHWM") - before, _loopback() - sent))
    dist.destroy_process_group()


def _memory(field: str) -> int:
    """Return one of this process's memory figures in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(field)).split()[1])


def _loopback() -> int:
    """Return the bytes that the loopback interface has sent: those of both ranks."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split()[9])
