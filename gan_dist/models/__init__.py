"""Architectures: each has a file with its generator, its discriminator and their initial weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gan_dist.config import ModelConfig
from gan_dist.core.errors import ConfigError
from gan_dist.models import dcgan, init, r3gan, resnet
from gan_dist.models.base import Discriminator, Generator
from gan_dist.models.layers import update_spectral_norms
from gan_dist.models.sizes import MIN_RESOLUTION, possible_resolutions

__all__ = [
    "Discriminator",
    "Generator",
    "build",
    "initialise",
    "update_spectral_norms",
    "uses_batch_statistics",
]


@dataclass(frozen=True)
class _Architecture:
    generator: Callable[..., Generator]
    discriminator: Callable[..., Discriminator]
    spectral_norm: bool | None
    """Whether the discriminator has it unless it is asked otherwise; None if it cannot."""
    attention: bool = False
    blocks: bool = False


_ARCHITECTURES = {
    "dcgan": _Architecture(dcgan.Generator, dcgan.Discriminator, spectral_norm=False),
    "resnet": _Architecture(resnet.Generator, resnet.Discriminator, spectral_norm=True, attention=True),
    "r3gan": _Architecture(r3gan.Generator, r3gan.Discriminator, spectral_norm=None, blocks=True),
}


def build(
    model: ModelConfig, *, resolution: int, channels: int, classes: int = 0
) -> tuple[Generator, Discriminator]:
    """The generator and the discriminator of `model` for images (channels, resolution, resolution).

    `classes` is the number of classes of the image set, 0 if it has no labels; it is read if `model` is
    conditional. The weights are torch's defaults; `initialise` sets them from a seed.

    Raises:
        ConfigError: the architecture cannot have this resolution (with the nearest ones that it can) or has
            no such option, or there are no labels for a conditional one; with all that is wrong.
    """
    problems = _problems(model, resolution, classes)
    if problems:
        raise ConfigError(problems)
    architecture = _ARCHITECTURES[model.name]
    both: dict[str, Any] = {
        "width": model.width,
        "max_width": model.max_width,
        "resolution": resolution,
        "channels": channels,
        "classes": classes if model.conditional else 0,
    }
    if architecture.attention:
        both["attention"] = model.attention
    if architecture.blocks:
        both["blocks"] = model.blocks
    norm: dict[str, Any] = {}
    if (usual := architecture.spectral_norm) is not None:
        norm["spectral_norm"] = usual if model.spectral_norm is None else model.spectral_norm
    generator = architecture.generator(latent_dim=model.latent_dim, **both)
    return generator, architecture.discriminator(pack=model.pack, **both, **norm)


def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Set every weight and statistic of a network in place, as a pure function of `generator`'s state.

    The distributions are the architecture's (`recipe`). Numbers are drawn on `generator`'s device, layer
    after layer, and then copied, so the weights do not depend on the module's device or memory format.
    Raises TypeError for what `build` has not made, and for a layer that the architecture does not know.
    """
    if not isinstance(module, Generator | Discriminator):
        raise TypeError(f"a {type(module).__name__} is no network of an architecture that is known here")
    init.apply(module, module.recipe, generator)


def uses_batch_statistics(module: nn.Module) -> bool:
    """Whether the images of a batch influence one another's results: batch norm in training mode.

    If not, reals and fakes may share one pass (images of one pack side by side).
    """
    norms = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return any(isinstance(layer, norms) and layer.training for layer in module.modules())


def _problems(model: ModelConfig, resolution: int, classes: int) -> list[str]:
    architecture = _ARCHITECTURES[model.name]
    named = f"model.name={model.name}"
    problems = []
    possible = possible_resolutions(resolution)
    if resolution not in possible:
        problems.append(
            f"data.resolution={resolution}: {named} makes images whose edge is a power of two of at least "
            f"{MIN_RESOLUTION}; use {' or '.join(map(str, possible))}"
        )
    if model.conditional and classes == 0:
        problems.append(
            "model.conditional=true needs a labelled set, and data.path has no labels; use "
            "model.conditional=false, or pack the set with labels"
        )
    if model.attention and not architecture.attention:
        problems.append(
            f"model.attention=true: {named} has no self-attention; use "
            f"{_those(lambda one: one.attention)}, or false"
        )
    elif model.attention and resolution in possible and resolution < resnet.MIN_ATTENTION:
        problems.append(
            f"model.attention=true: at data.resolution={resolution} there are no feature maps of a quarter "
            f"of it; use data.resolution={resnet.MIN_ATTENTION}, or model.attention=false"
        )
    if model.blocks > 1 and not architecture.blocks:
        problems.append(
            f"model.blocks={model.blocks}: {named} has one at every resolution; use "
            f"{_those(lambda one: one.blocks)}, or 1"
        )
    if model.spectral_norm and architecture.spectral_norm is None:
        problems.append(
            f"model.spectral_norm=true: {named} has no spectral normalisation; use "
            f"{_those(lambda one: one.spectral_norm is not None)}, or false"
        )
    return problems


def _those(having: Callable[[_Architecture], bool]) -> str:
    return " or ".join(f"model.name={name}" for name, one in _ARCHITECTURES.items() if having(one))
