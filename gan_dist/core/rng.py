"""Random numbers as pure functions of a key, so that nothing has to be saved to continue a run.

A key is the run's seed, a name for the use, and counters such as images seen. NumPy promises that
`SeedSequence` and the `Philox` bit generator never change their output: orders and the seeds of PyTorch's
generator are the same for ever and everywhere. So is what PyTorch's CPU generator makes of a seed, but for
the last bits of `normal`, which CPUs with other vector instructions round otherwise.

A name is always used with the same number of counters: `SeedSequence` does not tell (5,) from (5, 0).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # those that only read images in order, such as Ray Data's tasks, start without it
    import torch


def _sequence(seed: int, name: str, counters: tuple[int, ...]) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(name.encode()), *counters])


def bits(count: int, seed: int, name: str, *counters: int) -> npt.NDArray[np.uint64]:
    """Return `count` uniform 64-bit integers."""
    philox = np.random.Philox(_sequence(seed, name, counters))
    return philox.random_raw(count)


def permutation(count: int, seed: int, name: str, *counters: int) -> npt.NDArray[np.intp]:
    """Return a uniform permutation of `range(count)`."""
    return np.argsort(bits(count, seed, name, *counters), kind="stable")


def generator(seed: int, name: str, *counters: int) -> torch.Generator:
    """Return a fresh CPU generator for the key."""
    import torch

    state = _sequence(seed, name, counters).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def normal(shape: tuple[int, ...], seed: int, name: str, *counters: int) -> torch.Tensor:
    """Return N(0, 1) float32 numbers on the CPU; draw the whole global batch and slice it by rank."""
    import torch

    return torch.randn(shape, generator=generator(seed, name, *counters))


def uniform(shape: tuple[int, ...], seed: int, name: str, *counters: int) -> torch.Tensor:
    """Return uniform float32 numbers in [0, 1), likewise."""
    import torch

    return torch.rand(shape, generator=generator(seed, name, *counters))
