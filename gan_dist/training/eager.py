"""Optimizers and DDP without PyTorch's compiler, whose import takes as long as that of PyTorch itself.

They import it only to keep it from compiling them. They also do in a PyTorch with other private parts than
2.15's, which are set here, and where the networks are compiled.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

_METHODS = (
    (Optimizer, "add_param_group"),
    (Optimizer, "zero_grad"),
    (Optimizer, "state_dict"),
    (Optimizer, "load_state_dict"),
    (DistributedDataParallel, "_inside_ddp_forward"),
)


def keep_compiler_out() -> None:
    """Let the methods of optimizers and of DDP be called as they are in this process.

    PyTorch calls what the attribute `__dynamo_disable` of such a function has, and imports the compiler to
    set it (`torch/_compile.py`).
    """
    for owner, name in _METHODS:
        if method := getattr(owner, name, None):
            function = inspect.unwrap(method)
            vars(function).setdefault("__dynamo_disable", function)


def update(optimizer: Optimizer) -> None:
    """Update the weights, as `optimizer.step()` does but for its hooks."""
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


@contextmanager
def ddp_defaults() -> Iterator[None]:
    """Let DDP's constructor see the default of the setting that it reads of the compiler, `optimize_ddp`."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    utils = SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer")
    stand_in = SimpleNamespace(utils=utils)
    names = vars(torch)
    names["_dynamo"] = stand_in
    try:
        yield
    finally:
        if names.get("_dynamo") is stand_in:
            del names["_dynamo"]
