"""Extractors of a user's own, by import path: `eval.extractor=package.module:Class`.

The class is called with the device (`torch.device`) and makes an object that

- has `dim`, the number of features, and `hash`, the SHA-256 of its weights or of what else defines it;
- returns, for images uint8 (B, C, H, W) on the device, features (B, dim) of a floating type, or `Features`;
- may have `name` (else the class's, in lower case), `classes` (else 0, and its logits are ignored), and
  `layer` and `resize`, which are recorded.

A PyTorch module is switched to evaluation.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

from gan_dist.core.errors import ConfigError
from gan_dist.evaluation.extractors.features import BUILT_IN, Features, exact

PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Custom:
    """A user's object with the interface of the other extractors.

    Args:
        path: Import path that it was asked for by; errors name it.
        inner: The object.
        device: Where it computes.

    Raises:
        ConfigError: it lacks something, or has a value that cannot be.
    """

    def __init__(self, path: str, inner: Any, device: torch.device) -> None:
        if problems := _problems(inner):
            raise ConfigError([f"eval.extractor={path}: {problem}" for problem in problems])
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

        Raises TypeError if images are not uint8, ConfigError if what the user's code returns is of another
        shape or type.
        """
        if images.dtype != torch.uint8:
            raise TypeError(f"images are {images.dtype}, not torch.uint8")
        with exact(self._device):
            found = self._inner(images.to(self._device))
        features, logits = found if isinstance(found, Features) else (found, None)
        count = len(images)
        return Features(
            self._checked(features, "features", (count, self.dim)),
            self._checked(logits, "logits", (count, self.classes)) if self.classes else None,
        )

    def _checked(self, values: Any, what: str, shape: tuple[int, int]) -> Tensor:
        if not isinstance(values, Tensor):
            found = f"a {type(values).__name__}"
        elif values.shape != shape or not values.is_floating_point():
            found = f"{tuple(values.shape)} of {values.dtype}"
        else:
            return values.to(self._device, torch.float32)
        raise ConfigError(
            [
                f"eval.extractor={self._path} returned {found} as {what} of {shape[0]} images; its `dim` is "
                f"{self.dim} and its `classes` {self.classes}: return {shape} of a floating type"
            ]
        )


def load_custom(path: str, device: torch.device) -> Custom:
    """Return the extractor that `package.module:Class` makes.

    Raises ConfigError if there is no such module or class, it cannot be called with the device, or what it
    makes lacks something. Errors of the user's own code pass.
    """
    if not PATH.fullmatch(path):
        raise ConfigError([f"eval.extractor={path} is no import path; write it as package.module:Class"])
    module, _, name = path.partition(":")
    try:
        kind = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise ConfigError(
            [
                f"eval.extractor={path}: importing {module} failed ({error}); install it on every machine, "
                "or put its folder into PYTHONPATH there"
            ]
        ) from error
    if not callable(kind):
        raise ConfigError([f"eval.extractor={path}: {module} has no class {name}; correct the name"])
    try:
        inspect.signature(kind).bind(device)
    except (TypeError, ValueError) as error:  # ValueError: a built-in class may have no signature
        raise ConfigError(
            [
                f"eval.extractor={path}: {name} cannot be called with the device alone ({error}); let it "
                "take one argument"
            ]
        ) from error
    return Custom(path, kind(device), device)


def _name(inner: Any) -> str:
    return str(getattr(inner, "name", type(inner).__name__.lower()))


def _problems(inner: Any) -> list[str]:
    """Return what a user's object lacks, a sentence each."""
    dim, classes = getattr(inner, "dim", None), getattr(inner, "classes", 0)
    sha256 = getattr(inner, "hash", None)
    problems = []
    if type(dim) is not int or dim < 1:
        problems.append(f"`dim` is {dim!r}; set it to the number of features, 1 or more")
    if not isinstance(sha256, str) or not re.fullmatch(r"[0-9a-f]{64}", sha256):
        problems.append(
            f"`hash` is {sha256!r}; set it to the SHA-256 of its weights, as hashlib.sha256(...).hexdigest() "
            "gives it, for statistics of other weights must not be mistaken for its own"
        )
    if not callable(inner):
        problems.append("it cannot be called; give it a __call__(images) that returns features (B, dim)")
    if type(classes) is not int or classes < 0:
        problems.append(f"`classes` is {classes!r}; set it to the number of logits, or leave it out")
    name = _name(inner)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name) or name in BUILT_IN:
        problems.append(
            f"`name` is {name!r}; set it to letters, digits, - and _, and not to a built-in extractor's"
        )
    return problems
