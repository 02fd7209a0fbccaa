"""Networks whose gradients are averaged over the workers."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

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
        return DistributedDataParallel(network, **options)
