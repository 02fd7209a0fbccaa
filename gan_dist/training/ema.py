"""An averaged copy of the generator: it is what is evaluated and released."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay(batch: int, images: int, half_life_kimg: float, ramp_up: float) -> float:
    """Weight in [0, 1) of the old average in the update after a batch.

    beta = 0.5^(batch / half-life), half-life = min(1000 half_life_kimg, ramp_up * images): Karras et al.
    2020 (StyleGAN2), with the ramp of Karras et al. 2022 (EDM). `batch` is the number of images over all
    workers, `images` the number seen before this batch. At the start (`images` 0) it is 0: the average
    is then the model itself.
    """
    half_life = min(1000.0 * half_life_kimg, ramp_up * images)
    return float(0.5 ** (batch / half_life)) if half_life > 0 else 0.0


@torch.no_grad()
def update(average: nn.Module, model: nn.Module, beta: float) -> None:
    """Move `average` towards `model` in place: parameters to beta * average + (1 - beta) * model.

    Buffers (batch norm's statistics, already averages themselves) are copied. The two modules have the same
    structure and device; `model` may be the module inside DDP or DDP around it. Raises ValueError if
    beta is outside [0, 1] or the modules differ in their number of parameters or buffers.
    """
    averaged, current = list(average.parameters()), list(model.parameters())
    if len(averaged) != len(current):
        raise ValueError(f"the average has {len(averaged)} parameters, the model has {len(current)}")
    if averaged:
        # One call for all parameters: on a GPU, small kernels one by one would cost more than the sums.
        get_ema_multi_avg_fn(beta)(averaged, current, None)
    for kept, new in zip(average.buffers(), model.buffers(), strict=True):
        kept.copy_(new)
