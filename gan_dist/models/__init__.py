"""The networks; the trained generator, and it as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from gan_dist.config import ModelConfig
from gan_dist.core.errors import ConfigError, Problem
from gan_dist.models import dcgan, init, r3gan, resnet
from gan_dist.models.base import Discriminator, Generator
from gan_dist.models.generator import ImageShape
from gan_dist.models.layers import update_spectral_norms
from gan_dist.models.sizes import LARGEST, MIN_RESOLUTION, NetworkSize, possible_resolutions

__all__ = [
    "Discriminator",
    "Generator",
    "build",
    "build_generator",
    "initialise",
    "update_spectral_norms",
    "uses_batch_statistics",
]


@dataclass(frozen=True)
class _Architecture:
    generator: Callable[..., Generator]
    discriminator: Callable[..., Discriminator]
    spectral_norm: bool | None
    """Default of `model.spectral_norm` for the discriminator; None where it is not possible."""
    options: tuple[str, ...] = ()
    """Keys of the section `model` that only some architectures have."""


_ARCHITECTURES = {
    "dcgan": _Architecture(dcgan.Generator, dcgan.Discriminator, spectral_norm=False),
    "resnet": _Architecture(
        resnet.Generator, resnet.Discriminator, spectral_norm=True, options=("attention",)
    ),
    "r3gan": _Architecture(
        r3gan.Generator,
        r3gan.Discriminator,
        spectral_norm=None,
        options=("blocks", "group_width", "variant"),
    ),
}


def build(model: ModelConfig, shape: ImageShape) -> tuple[Generator, Discriminator]:
    """Return the generator and the discriminator of `model` for images of a shape.

    The classes of `shape` are ignored unless `model` is conditional. The weights are torch's defaults;
    `initialise` sets them from a seed.

    Raises:
        ConfigError: the architecture does not support this resolution or one of these options, or there are
            no labels for conditional networks; with all problems.
    """
    generator = build_generator(model, shape)
    architecture = _ARCHITECTURES[model.name]
    norm: dict[str, Any] = {}
    if (default := architecture.spectral_norm) is not None:
        norm["spectral_norm"] = default if model.spectral_norm is None else model.spectral_norm
    options = _options(model)
    return generator, architecture.discriminator(_size(model, shape), pack=model.pack, **options, **norm)


def build_generator(model: ModelConfig, shape: ImageShape) -> Generator:
    """Return the generator alone; raise what `build` does."""
    if problems := list(_problems(model, shape)):
        raise ConfigError(problems)
    return _ARCHITECTURES[model.name].generator(model.latent_dim, _size(model, shape), **_options(model))


def _size(model: ModelConfig, shape: ImageShape) -> NetworkSize:
    return NetworkSize(
        resolution=shape.resolution,
        channels=shape.channels,
        width=model.width,
        max_width=model.max_width,
        classes=shape.classes if model.conditional else 0,
    )


def _options(model: ModelConfig) -> dict[str, Any]:
    return {name: getattr(model, name) for name in _ARCHITECTURES[model.name].options}


def initialise(module: Generator | Discriminator, generator: torch.Generator) -> None:
    """Set every weight and statistic of a network in place, as a pure function of `generator`'s state.

    The distributions are the architecture's (`recipe`). Numbers are drawn on `generator`'s device, layer
    after layer, and then copied, so the weights do not depend on the module's device or memory format.

    Raises:
        TypeError: the network has a layer without a rule in the recipe.
    """
    init.apply(module, module.recipe, generator)


def uses_batch_statistics(module: nn.Module) -> bool:
    """Return whether outputs depend on the other images of the batch: batch norm in training mode.

    If not, reals and fakes may share one forward pass.
    """
    norms = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return any(isinstance(layer, norms) and layer.training for layer in module.modules())


def _problems(model: ModelConfig, shape: ImageShape) -> Iterator[Problem]:
    architecture, resolution = _ARCHITECTURES[model.name], shape.resolution
    named = f"model.name={model.name}"
    possible = possible_resolutions(resolution)
    if resolution not in possible:
        yield Problem(
            f"data.resolution={resolution}: {named} makes images whose edge is a power of two of at least "
            f"{MIN_RESOLUTION}",
            f"use {' or '.join(map(str, possible))}",
            ("data.resolution",),
        )
    for key, most in (("latent_dim", LARGEST), ("width", LARGEST), ("max_width", LARGEST), ("blocks", 1000)):
        if (value := getattr(model, key) or 0) > most:
            yield Problem(f"model.{key}={value}: no network is that large", keys=(f"model.{key}",))
    if model.conditional and shape.classes == 0:
        yield Problem(
            "model.conditional=true needs a labelled set, and data.path has no labels",
            "use model.conditional=false, or pack the set with labels",
            ("model.conditional", "data.path"),
        )
    if model.attention and "attention" not in architecture.options:
        yield Problem(
            f"model.attention=true: {named} has no self-attention",
            f"use {_architectures(lambda one: 'attention' in one.options)}, or false",
            ("model.attention", "model.name"),
        )
    elif model.attention and resolution in possible and resolution < resnet.MIN_ATTENTION:
        yield Problem(
            f"model.attention=true: at data.resolution={resolution} there are no feature maps of a quarter "
            "of it",
            f"use data.resolution={resnet.MIN_ATTENTION}, or model.attention=false",
            ("model.attention", "data.resolution"),
        )
    if model.blocks > 1 and "blocks" not in architecture.options:
        yield Problem(
            f"model.blocks={model.blocks}: {named} has one at every resolution",
            f"use {_architectures(lambda one: 'blocks' in one.options)}, or 1",
            ("model.blocks", "model.name"),
        )
    if model.group_width != (usual := ModelConfig.model_fields["group_width"].default) and (
        "group_width" not in architecture.options
    ):
        yield Problem(
            f"model.group_width={model.group_width}: {named} has no convolutions in groups",
            f"use {_architectures(lambda one: 'group_width' in one.options)}, or {usual}",
            ("model.group_width", "model.name"),
        )
    if model.spectral_norm and architecture.spectral_norm is None:
        yield Problem(
            f"model.spectral_norm=true: {named} has no spectral normalisation",
            f"use {_architectures(lambda one: one.spectral_norm is not None)}, or false",
            ("model.spectral_norm", "model.name"),
        )


def _architectures(having: Callable[[_Architecture], bool]) -> str:
    return " or ".join(f"model.name={name}" for name, one in _ARCHITECTURES.items() if having(one))
