"""Random numbers as pure functions of a key, so that a run continues without saved generator states.

A key consists of the run's seed, a name for the use, and counters such as images seen. NumPy guarantees the
output of `SeedSequence` and of the `Philox` bit generator, so permutations and the seeds of PyTorch's
generator are the same on every machine and in every version. PyTorch's CPU generator gives the same numbers
for a seed, except for the last bits of `normal`, which depend on the CPU's vector instructions.

A name is always used with the same number of counters, since `SeedSequence` treats (5,) and (5, 0) alike.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # processes that only read images in order, such as Ray Data's tasks, start without it
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
    """Return N(0, 1) float32 numbers on the CPU, to be drawn for the global batch and sliced by rank."""
    import torch

    return torch.randn(shape, generator=generator(seed, name, *counters))


def uniform(shape: tuple[int, ...], seed: int, name: str, *counters: int) -> torch.Tensor:
    """Return uniform float32 numbers in [0, 1) on the CPU, to be drawn for the global batch and sliced."""
    import torch

    return torch.rand(shape, generator=generator(seed, name, *counters))
