"""The extractor of a name: one of the package's, or a user's own."""

from __future__ import annotations

import torch

from gan_dist.core.errors import ConfigError, nearest
from gan_dist.evaluation.extractors.custom import load_custom
from gan_dist.evaluation.extractors.digits import load_digits
from gan_dist.evaluation.extractors.features import BUILT_IN, Extractor
from gan_dist.evaluation.extractors.inception import load_inception
from gan_dist.evaluation.extractors.random_features import RandomFeatures


def load_extractor(name: str, device: torch.device, *, inception_weights: str | None = None) -> Extractor:
    """Return the extractor of a name.

    Args:
        name: One of `BUILT_IN`, or `package.module:Class` for a user's own: see `custom.py`.
        device: Where it computes.
        inception_weights: Path or URI of the weights of `inception`; absent, the environment says it.

    Raises:
        ConfigError: there is no such extractor, or it lacks something.
        CheckpointError: its weights are damaged or others.
        StorageError: its weights cannot be read.
    """
    if name == "digits":
        return load_digits(device)
    if name == "inception":
        return load_inception(device, inception_weights)
    if name == "random":
        return RandomFeatures(device)
    if ":" in name:
        return load_custom(name, device)
    raise ConfigError(
        [
            f"eval.extractor={name}: there is no such extractor; use {', '.join(BUILT_IN)}, or a class of "
            f"your own as package.module:Class{nearest(name, BUILT_IN)}"
        ]
    )
