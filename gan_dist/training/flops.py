"""Arithmetic of a training step, and the most that the hardware can do."""

from __future__ import annotations

import re
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

PEAKS = (
    ("B200", 2250.0, 1100.0),
    ("H200", 989.0, 494.0),
    ("H100 PCIe", 756.0, 378.0),
    ("H100 80GB", 989.0, 494.0),
    ("A100", 312.0, 156.0),
    ("L40S", 362.0, 183.0),
    ("L4", 121.0, 60.0),
    ("RTX 4090", 165.2, 82.6),
    ("V100-SXM2", 15.7, 15.7),
    ("T4", 8.1, 8.1),
)
"""GPUs, and their dense TFLOP/s in bfloat16 and TF32, or in float32 of those that have neither.

Data sheets give most of them with sparsity, twice as much. The values agree with the table of bfloat16 peaks
of nanochat, with torchtitan's, which cites nvidia.com/en-us/data-center/a100, h100 and h200, with Lockwood's
tables of the H100 and the B200 at 1,000 W (TF32 too), and with the L40S's data sheet as its sellers quote it.
A GPU whose values no source confirmed, as the A10G, is left out.
"""
EDGE, PRODUCTS = 1024, 5
"""Edge of the matrices whose products measure a CPU, and their number."""


class FlopCounter(TorchDispatchMode):
    """Counts products and convolutions, forward and backward, by PyTorch's table of formulas."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total, self.entered, self.pauses = 0, False, False

    def enter(self) -> None:
        self.__enter__()  # type: ignore[no-untyped-call]
        self.entered = True

    def exit(self) -> None:
        if self.entered:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.entered = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.pauses and (formula := flop_registry.get(func._overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def peak_flops(device: torch.device, *, bf16: bool) -> tuple[float | None, str]:
    """Return the most operations a second that a device can do, and what says so; None for an unknown GPU."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((row for row in PEAKS if re.search(rf"\b{row[0]}\b(?! Laptop| D\b| NVL)", name)), None)
        if known is None:
            return None, f"{name} is not in the table"
        kind, flops = ("bfloat16", known[1]) if bf16 else ("TF32", known[2])
        return 1e12 * flops, f"data sheet of {known[0]}, {kind}"
    matrix = torch.ones(EDGE, EDGE, dtype=torch.bfloat16 if bf16 else torch.float32)
    times = []
    for _ in range(PRODUCTS):
        began = time.perf_counter()
        matrix @ matrix
        times.append(time.perf_counter() - began)
    return 2 * EDGE**3 / min(times), f"the best of {PRODUCTS} products of {EDGE}x{EDGE} matrices here"
