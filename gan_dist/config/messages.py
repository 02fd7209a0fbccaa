"""What is wrong with keys and values, in sentences: keys that do not exist, and pydantic's errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gan_dist.config.fields import brief, choices, expectation, leaves, nearest_key, sections, shown
from gan_dist.config.schema import RunConfig
from gan_dist.config.yaml12 import is_number
from gan_dist.core.errors import nearest

SPACE = "search.space"


class Objection(NamedTuple):
    """What the schema has against a configuration's values."""

    key: str | None
    """The key whose value it is about; None of a rule that relates several, which its sentence names."""
    missing: bool
    """Whether that key has no value, and must have one."""
    sentence: str


def check(values: Mapping[str, object]) -> tuple[RunConfig | None, list[Objection]]:
    """Return the configuration with these values, by dotted key, or else what the schema has against them.

    A key has one objection at most. Rules that relate several keys wait until every key by itself is right.
    """
    try:
        # Strict, and as JSON: lists may then stand for tuples, while text still cannot stand for numbers.
        return RunConfig.model_validate_json(json.dumps(_nested(values)), strict=True), []
    except ValidationError as error:
        return None, _objections(error.errors(), values)


def unknown_key(key: str, is_section: bool) -> tuple[str, str | None]:
    """Return what to say of a key that does not exist, and the key that was probably meant.

    Args:
        key: As it is written; it may be empty, or hold anything.
        is_section: Whether a mapping stands under it.
    """
    written = brief(key) or "''"
    if key.startswith(f"{SPACE}."):
        varied = f"search={{space: {{{written.removeprefix(f'{SPACE}.')}: ...}}}}"
        return f"{written} is not a key; what varies is given as a whole, as in {varied}", SPACE
    meant = nearest_key(written, is_section)
    if meant is not None:
        return f"{written} is not a key; the nearest is {meant}", meant
    parent = key
    while parent and parent not in sections():
        parent = parent.rpartition(".")[0]
    there_are = f"{parent or 'a configuration'} has {', '.join(sections()[parent].names)}"
    return f"{written} is not a key; {there_are}", None


def _nested(values: Mapping[str, object]) -> dict[str, Any]:
    """Return values by dotted key as sections within sections, with those that must be there."""
    tree: dict[str, Any] = {name: {} for name, section in sections().items() if section.required}
    for key, value in values.items():
        *parents, name = key.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = value
    return tree


def _objections(errors: Sequence[ErrorDetails], values: Mapping[str, object]) -> list[Objection]:
    by_key: dict[str, Objection] = {}
    rules = []
    for error in errors:
        key = _key_of(error)
        if key is None:
            rules.append(Objection(None, False, str(error["ctx"]["error"])))
        elif key in by_key:
            pass  # each item of a list, and each type that a value may have, is an error of its own
        elif error["type"] == "missing":
            by_key[key] = Objection(key, True, _missing(key))
        else:
            by_key[key] = Objection(key, False, _misfit(key, values[key], error))
    return list(by_key.values()) or rules


def _key_of(error: ErrorDetails) -> str | None:
    """Return the key whose value an error is about or in; None of a rule that relates several."""
    path = [str(part) for part in error["loc"]]
    above = (".".join(path[:end]) for end in range(1, len(path) + 1))
    return next((key for key in above if key in leaves()), None)


def _missing(key: str) -> str:
    about = " ".join(leaves()[key].get("description", "").split()).rstrip(".")
    return f"{key} is missing" + (f" ({about})" if about else "")


def _misfit(key: str, value: object, error: ErrorDetails) -> str:
    """Return what the value of a key, or what an error finds inside it, should be and is not."""
    schema = leaves()[key]
    inside = error["loc"][len(key.split(".")) :]
    refused = f", not {shown(value)}"
    if inside and isinstance(value, dict):
        item = str(inside[0])
        key, value, schema = f"{key}.{item}", value.get(item), schema.get("additionalProperties", {})
        refused = f", not {shown(value)}"
    elif inside and isinstance(value, list):
        value = error["input"]
        refused = f"; {shown(value)} is not"
    expected = expectation(schema)
    if error["type"] == "finite_number":
        expected = expected.replace("number", "finite number", 1)
    return f"{key} must be {expected}{refused}{_hint(value, error['type'], choices(schema))}"


def _hint(value: object, kind: str, words: Sequence[str]) -> str:
    """Return how a value of the wrong kind might be mended, as it stands at the end of a sentence."""
    if isinstance(value, str) and len(words) > 1 and (near := nearest(value, words)):
        return near
    if isinstance(value, str) and kind in ("int_type", "float_type") and is_number(value):
        return "; leave out the quotes"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "; in quotes it is text"
    return ""
