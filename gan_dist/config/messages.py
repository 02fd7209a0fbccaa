"""Problems of keys and values: keys that do not exist, and pydantic's errors in words of a configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gan_dist.config.fields import (
    choices,
    describe_allowed,
    format_value,
    is_leaf,
    leaves,
    nearest_key,
    schema_of,
    sections,
    shorten,
)
from gan_dist.config.schedules import images_of, read_points, value_at
from gan_dist.config.schema import RunConfig
from gan_dist.config.section import ConflictError
from gan_dist.config.yaml12 import is_number
from gan_dist.core.errors import Problem, closest
from gan_dist.core.storage.redaction import CREDENTIALS, CREDENTIALS_REMEDY, holds_secret, redact

SPACE = "search.space"


def check(values: Mapping[str, object]) -> tuple[RunConfig | None, list[Problem]]:
    """Return the configuration with these values, by dotted key, or else the problems that the schema finds.

    A key has one problem at most. Rules between several keys are checked once every key by itself is right;
    their problems have all these keys. Where values change within the run, all is checked at every change.
    """
    read = {
        key: read_points(key, value)
        for key, value in values.items()
        if isinstance(value, Mapping) and _takes_numbers(key)
    }
    if wrong := [found for found in read.values() if isinstance(found, Problem)]:
        _, others = check({key: value for key, value in values.items() if key not in read})
        return None, [*wrong, *(one for one in others if read.keys().isdisjoint(one.keys))]
    schedules = {key: points for key, points in read.items() if not isinstance(points, Problem)}
    begin = None
    found: dict[tuple[str, ...], Problem] = {}
    for kimg in sorted({0.0, *(kimg for points in schedules.values() for kimg, _ in points)}):
        now = {key: value_at(points, images_of(kimg)) for key, points in schedules.items()}
        config, problems = _check_plain({**values, **now})
        for one in problems:
            at = f"at {kimg:g} kimg " if not read.keys().isdisjoint(one.keys) else ""
            found.setdefault(tuple(one.keys), replace(one, what=at + one.what))
        begin = begin or config
    if found:
        return None, [*found.values()]
    changing = {key: points for key, points in schedules.items() if len(points) > 1}
    return begin and begin.model_copy(update={"schedules": changing}), []


def _takes_numbers(key: str) -> bool:
    """Return whether a key takes numbers, and no mapping but one of kimg to value."""
    schema = schema_of(key)
    kinds = {option.get("type") for option in schema.get("anyOf", [schema])}
    return bool(kinds & {"integer", "number"}) and "object" not in kinds


def _check_plain(values: Mapping[str, object]) -> tuple[RunConfig | None, list[Problem]]:
    tree: dict[str, Any] = {name: {} for name, section in sections().items() if section.required}
    for key, value in values.items():
        *parents, name = key.split(".")
        inner = tree
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[name] = value
    try:
        # Strict, and as JSON: lists may then stand for tuples, while text still cannot stand for numbers.
        config = RunConfig.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        return None, _problems(error.errors(), values)
    open_secrets = [
        Problem(f"{key}={redact(value)} {CREDENTIALS}", CREDENTIALS_REMEDY, (key,))
        for key, value in values.items()
        if isinstance(value, str) and holds_secret(value) and key != "search.optuna_storage"
    ]
    return (None, open_secrets) if open_secrets else (config, [])


def unknown_key(written: str, is_section: bool) -> Problem:
    """Return the problem of a key that does not exist; its `keys` hold the one that was meant."""
    key = shorten(written) or "''"
    if written.startswith(f"{SPACE}."):
        example = f"search={{space: {{{key.removeprefix(f'{SPACE}.')}: ...}}}}"
        remedy = f"what varies is given as a whole, as in {example}"
        return Problem(f"{key} is not a key", remedy, keys=(SPACE,))
    meant = nearest_key(key, is_section)
    if meant is not None:
        return Problem(f"{key} is not a key", f"the nearest is {meant}", keys=(meant,))
    parent = written
    while parent and parent not in sections():
        parent = parent.rpartition(".")[0]
    names = ", ".join(sections()[parent].names)
    return Problem(f"{key} is not a key", f"{parent or 'a configuration'} has {names}")


def _problems(errors: Sequence[ErrorDetails], values: Mapping[str, object]) -> list[Problem]:
    by_key: dict[str, Problem] = {}
    rules = []
    for error in errors:
        path = [str(part) for part in error["loc"]]
        above = (".".join(path[:end]) for end in range(1, len(path) + 1))
        key = next((key for key in above if is_leaf(key)), None)
        if key is None:
            rules.append(error["ctx"]["error"].problem)
        elif key in by_key:
            pass  # each item of a list, and each type that a value may have, is an error of its own
        elif isinstance(refusal := error.get("ctx", {}).get("error"), ConflictError):
            by_key[key] = refusal.problem
        elif error["type"] == "missing":
            about = " ".join(leaves()[key].get("description", "").split()).rstrip(".")
            by_key[key] = Problem(f"{key} is missing" + (f" ({about})" if about else ""), keys=(key,))
        else:
            by_key[key] = _wrong_value(key, values[key], error)
    return list(by_key.values()) or rules


def _wrong_value(key: str, value: object, error: ErrorDetails) -> Problem:
    """Return the problem of a key's value, or of an item inside it."""
    schema, name = schema_of(key), key
    inside = error["loc"][len(key.split(".")) :]
    in_list = bool(inside) and isinstance(value, list)
    if in_list:
        value = error["input"]
    elif inside and isinstance(value, dict) and "additionalProperties" in schema:
        item = str(inside[0])
        name, value, schema = f"{key}.{item}", value.get(item), schema.get("additionalProperties", {})
    found = f"; {format_value(value)} is not" if in_list else f", not {format_value(value)}"
    allowed = describe_allowed(schema)
    if error["type"] == "finite_number":
        allowed = allowed.replace("number", "finite number", 1)
    remedy = _remedy(value, error["type"], choices(schema))
    if schema.get("type") == "array" and isinstance(value, str) and {*value.split(",")} <= {*choices(schema)}:
        remedy = f"write {name}=[{value}]"
    return Problem(f"{name} must be {allowed}{found}", remedy, (key,))


def _remedy(value: object, kind: str, words: Sequence[str]) -> str:
    if isinstance(value, str) and len(words) > 1 and (near := closest(value, words)):
        return f"the nearest is {near}"
    if isinstance(value, str) and kind in ("int_type", "float_type") and is_number(value):
        return "leave out the quotes"
    if kind == "string_type" and isinstance(value, bool | int | float):
        return "in quotes it is text"
    return ""
