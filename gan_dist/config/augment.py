"""The values of `data.augment`: a name, or a name with its transforms."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

from gan_dist.config.section import ConflictError
from gan_dist.config.yaml12 import UnreadableYaml, compose, plain_value
from gan_dist.core.errors import closest
from gan_dist.core.import_path import PATTERN

ADA = ("flip", "turn", "shift", "geom", "color", "filter", "noise", "cutout")
"""ADA's transforms, in the order in which they are applied."""
DIFFAUGMENT = ("color", "translation", "cutout")
"""DiffAugment's transforms, likewise."""
GROUPS = {"blit": ("flip", "shift")}
"""Words that stand for several of ADA's transforms."""
NAMES = ("none", "diffaugment", "ada")

Transforms: TypeAlias = tuple[str, ...] | dict[str, float]
"""Transforms in the order of application; or each with its share of the probability, in (0, 1]."""
AugmentChoice: TypeAlias = str | dict[str, Transforms]
"""A name, or an import path; or a mapping of one name to transforms, `{"ada": ("flip", "shift", "geom")}`."""


def read_augment(value: object) -> AugmentChoice:
    """Return the value of `data.augment` in its normal form, in which equal choices are equal.

    Transforms come in the order of application, groups as what they stand for. Shares are left out where all
    are 1, and all transforms of DiffAugment are its name alone. Text that begins with a brace is the mapping
    that it describes in YAML: Optuna's studies hold text, and no mappings.

    Raises:
        ConflictError: a mapping has names, transforms or shares that are not possible.
        ValueError: the value is no name, import path or mapping.
    """
    if isinstance(value, str) and value.startswith("{"):
        value = _read_text(value)
    if isinstance(value, str) and (value in NAMES or re.fullmatch(PATTERN, value)):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is no name, import path or mapping")
    name = str(next(iter(value), ""))
    if len(value) != 1 or name not in ("ada", "diffaugment"):
        found = ", ".join(map(str, value)) or "nothing"
        raise _refusal(
            f"data.augment names {found}, and a mapping names ada or diffaugment, one of them",
            "write {ada: [blit, geom, color]} or {diffaugment: [translation, cutout]}",
        )
    shares = _shares(name, value[name])
    ordered = {one: shares[one] for one in (ADA if name == "ada" else DIFFAUGMENT) if one in shares}
    if name == "diffaugment" and len(ordered) == len(DIFFAUGMENT):
        return name
    return {name: tuple(ordered) if set(ordered.values()) == {1.0} else ordered}


def format_augment(choice: AugmentChoice) -> str:
    """Return a value of `data.augment` as text, which `read_augment` reads."""
    if isinstance(choice, str):
        return choice
    ((name, transforms),) = choice.items()
    if isinstance(transforms, Mapping):
        inner = ", ".join(f"{one}: {share:.15g}" for one, share in transforms.items())
        return f"{{{name}: {{{inner}}}}}"
    return f"{{{name}: [{', '.join(transforms)}]}}"


def augment_name(choice: AugmentChoice) -> str:
    """Return the name of an augmentation, without its transforms."""
    return choice if isinstance(choice, str) else next(iter(choice))


def _read_text(text: str) -> object:
    try:
        node = compose(text)
        return None if node is None else plain_value(node)
    except UnreadableYaml as error:
        raise _refusal(f"data.augment={text} is {error}", error.remedy) from None


def _shares(name: str, given: object) -> dict[str, float]:
    """Return the share of every transform that is given, with groups as what they stand for."""
    groups = GROUPS if name == "ada" else {}
    known = (*groups, *(ADA if name == "ada" else DIFFAUGMENT))
    if isinstance(given, list | tuple):
        pairs = [(one, 1.0) for one in given]
    elif isinstance(given, Mapping) and name == "ada":
        pairs = list(given.items())
    else:
        shared = ", or a mapping of them to their shares of the probability" if name == "ada" else ""
        what = f"data.augment: {name} has a list of transforms{shared}"
        raise _refusal(what, f"there are {_listed(known)}")
    shares: dict[str, float] = {}
    for word, share in pairs:
        if word not in known:
            near = closest(word, known) if isinstance(word, str) else None
            remedy = f"the nearest is {near}" if near else f"there are {_listed(known)}"
            raise _refusal(f"data.augment: {name} has no transform {word!r}", remedy)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise _refusal(
                f"data.augment: the share of {name}'s {word} must be above 0 and at most 1, not {share!r}",
                "leave out what is not wanted",
            )
        for one in groups.get(word, (word,)):
            if one in shares:
                raise _refusal(f"data.augment: {name} has {one} twice", "name it once")
            shares[one] = float(share)
    if not shares:
        raise _refusal(f"data.augment: {name} has no transforms", "name some, or set data.augment=none")
    return shares


def _listed(known: tuple[str, ...]) -> str:
    return ", ".join(f"{one} ({' and '.join(GROUPS[one])})" if one in GROUPS else one for one in known)


def _refusal(what: str, remedy: str) -> ConflictError:
    return ConflictError(what, remedy, keys=("data.augment",))


_SHARE = {"type": "number", "exclusiveMinimum": 0, "maximum": 1}
_WORDS = sorted({*GROUPS, *ADA, *DIFFAUGMENT})
_SCHEMA: dict[str, Any] = {
    "anyOf": [
        {"type": "string", "enum": list(NAMES)},
        {"type": "string", "pattern": PATTERN, "examples": ["package.module:Class"]},
        {
            "type": "object",
            "minProperties": 1,
            "maxProperties": 1,
            "propertyNames": {"enum": ["ada", "diffaugment"]},
            "additionalProperties": {
                "anyOf": [
                    {"type": "array", "minItems": 1, "items": {"type": "string", "enum": _WORDS}},
                    {"type": "object", "propertyNames": {"enum": _WORDS}, "additionalProperties": _SHARE},
                ]
            },
        },
    ]
}
# Not a union of models: their errors would name the union's branches, and the keys of a section could not be
# varied as one value.
AugmentField = Annotated[
    AugmentChoice,
    PlainValidator(read_augment),
    PlainSerializer(lambda choice: choice, return_type=Any),
    WithJsonSchema(_SCHEMA),
]
"""The type of `data.augment`."""
