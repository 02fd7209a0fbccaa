"""Train GANs on your own images across a Ray cluster; use what came out of it in three lines.

docs/extend.md says how networks, losses and augmentations of your own derive from the classes here.

import gan_dist
release = gan_dist.load("runs/digits")
images = release.sample(64)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gan_dist.config.section import Section
    from gan_dist.models.base import Architecture, Discriminator, Generator
    from gan_dist.models.generator import Release
    from gan_dist.models.release import load
    from gan_dist.models.sizes import NetworkSize
    from gan_dist.training.augment.base import Augmentation
    from gan_dist.training.losses import Adversarial

__all__ = [
    "Adversarial",
    "Architecture",
    "Augmentation",
    "Discriminator",
    "Generator",
    "NetworkSize",
    "Release",
    "Section",
    "load",
]
_ROOMS = {
    "Adversarial": "training.losses",
    "Architecture": "models.base",
    "Augmentation": "training.augment.base",
    "Discriminator": "models.base",
    "Generator": "models.base",
    "NetworkSize": "models.sizes",
    "Release": "models.generator",
    "Section": "config.section",
    "load": "models.release",
}


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import; the command line's help must not wait for it.
    if name in _ROOMS:
        return getattr(import_module(f"gan_dist.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'gan_dist' has no attribute {name!r}")
