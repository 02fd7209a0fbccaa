"""The base class of all sections, the number types of their keys, and the error of keys that disagree."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from gan_dist.core import import_path
from gan_dist.core.errors import Problem

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0, le=1e9)]
"""A time to wait; for longer ones threads have no number."""
MOST_KIMG = 1e12
"""Thousands of images: their number has an exact float."""
Kimg = Annotated[float, Field(gt=0, le=MOST_KIMG)]
Every = Annotated[float, Field(ge=0.001, le=MOST_KIMG)]
"""Thousands of images from one event to the next, at least one image."""
NotNegative = Annotated[float, Field(ge=0)]
Setting: TypeAlias = bool | int | float | str | list[bool | int | float | str] | None
"""A value of a key that a class names, such as `model.settings.depth`; the class says what it may be."""
ImportPath = Annotated[str, Field(pattern=import_path.PATTERN, examples=["package.module:Class"])]
Probability = Annotated[float, Field(ge=0, le=1)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the configuration: immutable, and with no key that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class ConflictError(ValueError):
    """Values of `keys` that contradict or lack one another; validators raise it, `load_config` reports it."""

    def __init__(self, what: str, remedy: str, keys: tuple[str, ...]) -> None:
        self.problem = Problem(what, remedy, keys)
        super().__init__(str(self.problem))
