"""The networks; the trained generator, and it as files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import nn

from gan_dist.config import ModelConfig
from gan_dist.config.fields import format_value
from gan_dist.config.settings import read_settings
from gan_dist.core import rng
from gan_dist.core.errors import ConfigError, Problem
from gan_dist.core.image_size import ImageSize
from gan_dist.core.import_path import is_import_path, load_subclass
from gan_dist.models import init
from gan_dist.models.base import Architecture, Discriminator, Generator
from gan_dist.models.dcgan import DCGAN
from gan_dist.models.fastgan import FastGAN
from gan_dist.models.generator import ImageShape
from gan_dist.models.layers import update_spectral_norms
from gan_dist.models.r3gan import R3GAN
from gan_dist.models.resnet import ResNet
from gan_dist.models.sizes import BASES, LARGEST, MIN_RESOLUTION, NetworkSize, base_of, possible_sizes
from gan_dist.models.stylegan2 import StyleGAN2

__all__ = [
    "Architecture",
    "Discriminator",
    "Generator",
    "build",
    "build_generator",
    "build_initial",
    "initialise",
    "update_spectral_norms",
    "uses_batch_statistics",
]

ARCHITECTURES: dict[str, type[Architecture]] = {
    "dcgan": DCGAN,
    "resnet": ResNet,
    "r3gan": R3GAN,
    "stylegan2": StyleGAN2,
    "fastgan": FastGAN,
}
"""The package's own architectures by `model.name`."""


def build(model: ModelConfig, shape: ImageShape) -> tuple[Generator, Discriminator]:
    """Return the generator and the discriminator of `model` for images of a shape.

    The classes of `shape` are ignored unless `model` is conditional. The weights are what the constructors
    draw from torch's global generator; `build_initial` has them from a seed.

    Raises:
        ConfigError: the architecture does not support this resolution or one of these settings, there are no
            labels for conditional networks, or there is no such architecture; with all problems.
    """
    architecture = find_architecture(model, shape)
    generator, discriminator = architecture.generator(), architecture.discriminator()
    _require_type(model, generator, Generator)
    _require_type(model, discriminator, Discriminator)
    return generator, discriminator


def build_generator(model: ModelConfig, shape: ImageShape) -> Generator:
    """Return the generator alone; raise what `build` does."""
    generator = find_architecture(model, shape).generator()
    _require_type(model, generator, Generator)
    return generator


def _require_type(model: ModelConfig, network: object, base: type) -> None:
    if not isinstance(network, base):
        what = f"model.name={model.name}: {base.__name__.lower()}() returned a {type(network).__name__}"
        raise ConfigError(what, f"derive it from gan_dist.{base.__name__}", keys=("model.name",))


def build_initial(model: ModelConfig, shape: ImageShape, seed: int) -> tuple[Generator, Discriminator]:
    """Return both networks on the CPU, with initial weights that are a function of the seed.

    Networks that have no `recipe` draw theirs from torch's global generator, which is seeded for this and
    then left as it was. Raises what `build` does.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(rng.generator(seed, "networks").initial_seed())
        generator, discriminator = build(model, shape)
    initialise(generator, rng.generator(seed, "generator"))
    initialise(discriminator, rng.generator(seed, "discriminator"))
    return generator, discriminator


def initialise(network: Generator | Discriminator, generator: torch.Generator) -> None:
    """Set every weight and statistic of a network in place, as a pure function of `generator`'s state.

    The distributions are the architecture's (`recipe`); a network without them keeps its weights. Numbers are
    drawn on `generator`'s device, layer after layer, and then copied, so the weights do not depend on the
    module's device or memory format.

    Raises:
        TypeError: the network has a layer without a rule in the recipe.
    """
    if network.recipe is not None:
        init.apply(network, network.recipe, generator)


def uses_batch_statistics(module: nn.Module) -> bool:
    """Return whether outputs depend on the other images of the batch: batch norm in training mode.

    If not, reals and fakes may share one forward pass.
    """
    norms = (nn.BatchNorm2d, nn.SyncBatchNorm)
    return any(isinstance(layer, norms) and layer.training for layer in module.modules())


def find_architecture(model: ModelConfig, shape: ImageShape) -> Architecture:
    """Return the architecture of `model.name`, the package's own or a user's; raise what `build` does."""
    named, size = f"model.name={model.name}", _size(model, shape)
    if is_import_path(model.name):
        kind = cast(type[Architecture], load_subclass("model.name", model.name, Architecture))
    else:
        kind = ARCHITECTURES[model.name]
    problems = list(_problems(model, shape, kind))
    try:
        settings = read_settings(kind.Settings, model.settings, "model.settings", named)
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    architecture = kind(model, size, settings)
    if problems := [*problems, *architecture.problems()]:
        raise ConfigError(problems)
    return architecture


def _size(model: ModelConfig, shape: ImageShape) -> NetworkSize:
    return NetworkSize(
        resolution=max(shape.size),
        channels=shape.channels,
        width=model.width,
        max_width=model.max_width,
        classes=shape.classes if model.conditional else 0,
        oblong=None if shape.size.height == shape.size.width else shape.size,
    )


def _problems(model: ModelConfig, shape: ImageShape, kind: type[Architecture]) -> Iterator[Problem]:
    named = f"model.name={model.name}"
    if kind.power_of_two and not base_of(shape.size):
        yield _impossible_size(shape.size, named)
    for key, most in (("latent_dim", LARGEST), ("width", LARGEST), ("max_width", LARGEST), ("blocks", 1000)):
        if (value := getattr(model, key) or 0) > most:
            yield Problem(f"model.{key}={value}: no network is that large", keys=(f"model.{key}",))
    if model.conditional and shape.classes == 0:
        yield Problem(
            "model.conditional=true needs a labelled set, and data.path has no labels",
            "use model.conditional=false, or pack the set with labels",
            ("model.conditional", "data.path"),
        )
    for key, (is_set, has_none, otherwise) in _OPTIONS.items():
        if is_set(model) and key not in kind.options:
            having = " or ".join(
                f"model.name={name}" for name, one in ARCHITECTURES.items() if key in one.options
            )
            what = f"model.{key}={format_value(getattr(model, key))}: {named} has {has_none}"
            yield Problem(what, f"use {having}, or {otherwise}", (f"model.{key}", "model.name"))


def _impossible_size(size: ImageSize, named: str) -> Problem:
    step = 2 ** NetworkSize(resolution=max(size), channels=1, width=1).halvings
    why = f"{next((edge for edge in size if edge % step), 0)} is no multiple of {step}"
    if max(size) < MIN_RESOLUTION:
        why = f"the longer one has {MIN_RESOLUTION} at least"
    return Problem(
        f"data.resolution={size.resolution}: {named} doubles both edges of maps, whose longer edge has "
        f"{BASES[0]} to {BASES[-1]} pixels, and {why}",
        f"use {' or '.join(str(one.resolution) for one in possible_sizes(size))}",
        ("data.resolution",),
    )


_OPTIONS: dict[str, tuple[Callable[[ModelConfig], object], str, str]] = {
    "attention": (lambda model: model.attention, "no self-attention", "false"),
    "blocks": (lambda model: model.blocks > 1, "one at every resolution", "1"),
    "group_width": (lambda model: model.group_width != 16, "no convolutions in groups", "16"),
    "spectral_norm": (lambda model: model.spectral_norm, "no spectral normalisation", "false"),
    "stddev_group": (lambda model: model.group > 1, "no minibatch standard deviation", "1"),
}
"""By key that only some architectures heed: whether it asks for something, what the others have, and the
value that asks for nothing."""
