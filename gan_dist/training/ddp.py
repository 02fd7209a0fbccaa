"""Networks whose gradients are averaged over the workers."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gan_dist.core.distributed import Process
from gan_dist.training import eager

# Newer versions of torch warn of the old name, older ones do not know the new one.
_DDP_OPTIONS = inspect.signature(DistributedDataParallel.__init__).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers"


def distributed(network: nn.Module, process: Process, *, synchronised: bool = True) -> nn.Module:
    """Return a network whose gradients are averaged over the ranks.

    On GPUs batch normalisation then sees the global batch if `synchronised`, otherwise each rank's own part.
    """
    if process.world_size == 1:
        return network
    if process.device.type == "cuda" and synchronised:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # Of a convolution from one channel both layouts are the same, and its gradient may come in either.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # `average_over_ranks` averages buffers; a broadcast between two forward passes would break the backward.
    options: dict[str, Any] = {SYNC_BUFFERS: False, "gradient_as_bucket_view": True}
    with eager.ddp_defaults():
        wrapped = DistributedDataParallel(network, **options)
    _settle_buckets(wrapped)
    return wrapped


def _settle_buckets(network: DistributedDataParallel) -> None:
    """Let DDP arrange its buckets before the first round, by a backward pass that adds nothing.

    It does so once, after its first backward pass, and from three ranks on the order in which an all-reduce
    adds numbers depends on their places in a bucket. So the first round of a process would have other bits
    than the same round in a process that began earlier, and a continued run others than an undisturbed one.
    """
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    network.reducer.prepare_for_backward([])
    torch.autograd.backward([weight.view_as(weight) for weight in weights], [*map(torch.zeros_like, weights)])
    network.reducer._rebuild_buckets()
    for weight in weights:
        weight.grad = None
