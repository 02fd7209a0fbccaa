"""Initial weights: drawn from one generator, layer after layer, the same on every device."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.overrides import TorchFunctionMode

from gan_dist.models.layers import ConditionalBatchNorm, Norm, SpectralNorm

Rule: TypeAlias = Callable[[Any, torch.Generator], None]
"""Sets a module, and all modules inside it, from a generator's numbers."""
Recipe: TypeAlias = Mapping[type[nn.Module], Rule]
"""One architecture's rules by type of module; the first that matches a module applies."""


@contextmanager
def shapes_only() -> Iterator[None]:
    """Let networks be built without memory and without values, for the shapes of their tensors.

    Of some layers PyTorch would import its compiler to draw values that no memory holds.
    """
    with torch.device("meta"), _NoValues():
        yield


class _NoValues(TorchFunctionMode):
    """Leaves tensors as they are where `torch.nn.init` would set them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@torch.no_grad()
def apply(module: nn.Module, recipe: Recipe, generator: torch.Generator) -> None:
    """Set `module` in place, depth first in the order of registration.

    Raises TypeError for a module with parameters that no rule covers.
    """
    for kind, rule in recipe.items():
        if isinstance(module, kind):
            rule(module, generator)
            return
    if any(True for _ in module.parameters(recurse=False)):
        raise TypeError(f"this architecture's initialisation does not cover a {type(module).__name__}")
    for child in module.children():
        apply(child, recipe, generator)


def normal(layer: nn.Module, generator: torch.Generator, *, std: float, mean: float = 0.0) -> None:
    """Draw `layer.weight` from N(mean, std^2); the bias, if there is one, becomes 0."""
    shape = _weight(layer).shape
    values = torch.normal(mean, std, shape, generator=generator, device=generator.device, dtype=torch.float32)
    _set(layer, values, generator)


def msr(layer: nn.Module, generator: torch.Generator, *, gain: float) -> None:
    """Draw `layer.weight` from N(0, gain^2 / fan-in) (He et al. 2015); the bias becomes 0."""
    fan_in, _ = _fans(_weight(layer))
    normal(layer, generator, std=gain / math.sqrt(fan_in))


def xavier(layer: nn.Module, generator: torch.Generator, *, gain: float) -> None:
    """Draw `layer.weight` uniformly with variance 2 gain^2 / (fan-in + fan-out); the bias becomes 0.

    Glorot and Bengio 2010, the normalized initialization.
    """
    weight = _weight(layer)
    bound = gain * math.sqrt(6 / sum(_fans(weight)))
    numbers = torch.rand(weight.shape, generator=generator, device=generator.device, dtype=torch.float32)
    _set(layer, numbers.mul_(2).sub_(1).mul_(bound), generator)


def norm(layer: Norm, generator: torch.Generator, *, std: float) -> None:
    """Draw batch norm's gain from N(1, std^2), for every class; bias 0, running statistics 0 and 1."""
    statistics = layer.norm if isinstance(layer, ConditionalBatchNorm) else layer
    statistics.reset_running_stats()
    normal(layer, generator, std=std, mean=1.0)


def with_batch_norm(layer: Rule, *, std: float) -> dict[type[nn.Module], Rule]:
    """Return the recipe of convolutions, linear layers and embeddings by one rule, and of batch norm."""
    weighted: tuple[type[nn.Module], ...] = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.Embedding)
    norms: tuple[type[nn.Module], ...] = (nn.BatchNorm2d, nn.SyncBatchNorm, ConditionalBatchNorm)
    return {**dict.fromkeys(weighted, layer), **dict.fromkeys(norms, partial(norm, std=std))}


def _weight(layer: nn.Module) -> Tensor:
    """Return the trained tensor, which spectral normalisation keeps as `original`."""
    holder: Any = layer
    weight: Tensor = holder.parametrizations.weight.original if is_parametrized(layer) else holder.weight
    return weight


def _set(layer: nn.Module, values: Tensor, generator: torch.Generator) -> None:
    _weight(layer).copy_(values)
    bias = getattr(layer, "bias", None)
    if isinstance(bias, Tensor):
        bias.zero_()
    for module in layer.modules():
        if isinstance(module, SpectralNorm):
            module.draw(generator)


def _fans(weight: Tensor) -> tuple[int, int]:
    """Return the inputs of one output and the outputs of one input, of a weight (out, in, ...)."""
    taps = math.prod(weight.shape[2:])
    return weight.shape[1] * taps, weight.shape[0] * taps
