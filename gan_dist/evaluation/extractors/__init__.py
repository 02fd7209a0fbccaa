"""Feature extractors by name: the package's own, or a user's class, `eval.extractor=package.module:Class`.

A user's class is called with the device (`torch.device`), and its object must

- have `dim`, the number of features, and `hash`, the SHA-256 of its weights or of whatever else defines it;
- return, for images uint8 (B, C, H, W) on the device, features (B, dim) of a floating type, or `Features`.

It may have `name` (absent: the class's name in lower case), `classes` (absent: 0, and logits are ignored),
and `layer` and `resize`, which are recorded. A PyTorch module is switched to evaluation mode.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

from gan_dist.core.errors import ConfigError, Problem, closest
from gan_dist.core.import_path import load_object
from gan_dist.evaluation.extractors.digits import load_digits
from gan_dist.evaluation.extractors.features import BUILT_IN, Extractor, Features, exact
from gan_dist.evaluation.extractors.inception import load_inception
from gan_dist.evaluation.extractors.random_features import RandomFeatures


def load_extractor(name: str, device: torch.device, *, inception_weights: str | None = None) -> Extractor:
    """Return an extractor: one of `BUILT_IN`, or of a user's `package.module:Class`.

    `inception_weights` is the path or URI of the weights of `inception`; absent, an environment variable has
    it.

    Raises:
        ConfigError: there is no such extractor, or it lacks something.
        CheckpointError: its weights are damaged or of another network.
        StorageError: its weights cannot be read.
    """
    if name == "digits":
        return load_digits(device)
    if name == "inception":
        return load_inception(device, inception_weights)
    if name == "random":
        return RandomFeatures(device)
    if ":" in name:
        return _load_custom(name, device)
    remedy = f"use {', '.join(BUILT_IN)}, or a class of your own as package.module:Class"
    if near := closest(name, BUILT_IN):
        remedy += f"; the nearest is {near}"
    raise _error(f"eval.extractor={name}: there is no such extractor", remedy)


class CustomExtractor:
    """A user's object with the interface of the package's extractors; errors name its import path.

    Raises:
        ConfigError: the object lacks an attribute, or an attribute has an impossible value.
    """

    def __init__(self, path: str, inner: Any, device: torch.device) -> None:
        if problems := _problems(f"eval.extractor={path}", inner):
            raise ConfigError(problems)
        self.name: str = _name(inner)
        self.metric = f"fd_{self.name}"
        self.dim: int = inner.dim
        self.classes: int = getattr(inner, "classes", 0)
        self.hash: str = inner.hash
        self.layer = str(getattr(inner, "layer", "output"))
        self.resize = str(getattr(inner, "resize", "own"))
        self._path = path
        self._inner = inner.eval() if isinstance(inner, nn.Module) else inner
        self._device = device

    def __call__(self, images: Tensor) -> Features:
        """Return the user's features as float32, and logits where it has classes.

        Raises TypeError if images are not uint8, ConfigError if the user's code returns another shape or type
        than it should.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images are {images.dtype}, not torch.uint8")
        with exact(self._device):
            returned = self._inner(images.to(self._device))
        features, logits = returned if isinstance(returned, Features) else (returned, None)
        count = len(images)
        return Features(
            self._checked(features, "features", (count, self.dim)),
            self._checked(logits, "logits", (count, self.classes)) if self.classes else None,
        )

    def _checked(self, values: Any, what: str, shape: tuple[int, int]) -> Tensor:
        if not isinstance(values, Tensor):
            returned = f"a {type(values).__name__}"
        elif values.shape != shape or not values.is_floating_point():
            returned = f"{tuple(values.shape)} of {values.dtype}"
        else:
            return values.to(self._device, torch.float32)
        raise _error(
            f"eval.extractor={self._path} returned {returned} as {what} of {shape[0]} images; its `dim` is "
            f"{self.dim} and its `classes` {self.classes}",
            f"return {shape} of a floating type",
        )


def _load_custom(path: str, device: torch.device) -> CustomExtractor:
    """Return the extractor of a user's class. Errors of the user's own code are not caught."""
    kind, name = load_object("eval.extractor", path), path.partition(":")[2]
    if not callable(kind):
        raise _error(
            f"eval.extractor={path}: {name} is no class, but {type(kind).__name__}", "correct the name"
        )
    try:
        inspect.signature(kind).bind(device)
    except (TypeError, ValueError) as error:  # ValueError: a built-in class may have no signature
        raise _error(
            f"eval.extractor={path}: {name} cannot be called with the device alone ({error})",
            "let it take one argument",
        ) from error
    return CustomExtractor(path, kind(device), device)


def _error(what: str, remedy: str) -> ConfigError:
    return ConfigError(what, remedy, keys=("eval.extractor",))


def _name(inner: Any) -> str:
    return str(getattr(inner, "name", type(inner).__name__.lower()))


def _problems(where: str, inner: Any) -> list[Problem]:
    dim, classes = getattr(inner, "dim", None), getattr(inner, "classes", 0)
    sha256, name = getattr(inner, "hash", None), _name(inner)
    problems: list[tuple[str, str]] = []
    if type(dim) is not int or dim < 1:
        problems.append((f"`dim` is {dim!r}", "set it to the number of features, 1 or more"))
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        remedy = "set it to the SHA-256 of its weights, as hashlib.sha256(...).hexdigest() gives it, for "
        remedy += "statistics of other weights must not be mistaken for its own"
        problems.append((f"`hash` is {sha256!r}", remedy))
    if not callable(inner):
        problems.append(("it cannot be called", "give it a __call__(images) that returns features (B, dim)"))
    if type(classes) is not int or classes < 0:
        problems.append((f"`classes` is {classes!r}", "set it to the number of logits, or leave it out"))
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in BUILT_IN:
        remedy = "set it to letters, digits, - and _, and not to a built-in extractor's"
        problems.append((f"`name` is {name!r}", remedy))
    return [Problem(f"{where}: {what}", remedy, ("eval.extractor",)) for what, remedy in problems]
