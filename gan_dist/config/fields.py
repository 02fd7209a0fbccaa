"""The configuration's keys, what each may hold, and how to say so.

All of it is read off the JSON schema, so a field added to `schema.py` needs nothing here.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from gan_dist.config.schema import RunConfig

BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "of at least",
    "exclusiveMaximum": "less than",
    "maximum": "of at most",
}


class Section(NamedTuple):
    """The names directly inside a section, and whether the section may be null or must be there."""

    names: tuple[str, ...]
    nullable: bool
    required: bool


@cache
def _shape() -> tuple[dict[str, dict[str, Any]], dict[str, Section]]:
    root = RunConfig.model_json_schema()
    found_leaves: dict[str, dict[str, Any]] = {}
    found_sections: dict[str, Section] = {}

    def resolve(schema: dict[str, Any]) -> dict[str, Any]:
        target = schema.get("$ref")
        return root["$defs"][target.rpartition("/")[2]] if target else schema

    def walk(key: str, schema: dict[str, Any], required: bool) -> None:
        options = [resolve(option) for option in schema.get("anyOf") or schema.get("oneOf") or [schema]]
        inner = {
            name: (at, name in o.get("required", []))
            for o in options
            for name, at in o.get("properties", {}).items()
        }
        if not inner:
            found_leaves[key] = schema | ({"anyOf": options} if len(options) > 1 else options[0])
            return
        found_sections[key] = Section(
            tuple(inner), any(o.get("type") == "null" for o in options), required and key != ""
        )
        for name, (below, is_required) in inner.items():
            walk(f"{key}.{name}" if key else name, below, required and is_required)

    walk("", root, True)
    return found_leaves, found_sections


def leaves() -> dict[str, dict[str, Any]]:
    """Return dotted key to JSON schema of everything that holds a value."""
    return _shape()[0]


def sections() -> dict[str, Section]:
    """Return dotted key to section; the empty key is the whole configuration."""
    return _shape()[1]


def nearest_key(key: str, is_section: bool = False) -> str | None:
    """Return the key that was probably meant: alike as a whole, or of the same last name elsewhere."""

    def likeness(known: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, key, known).ratio()
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], known.rpartition(".")[2]).ratio()
        return max(whole, 0.98 * last), whole

    known: Iterable[str] = [*leaves(), *(key for key in sections() if key)] if is_section else leaves()
    best = max(known, key=likeness)
    return best if likeness(best)[0] >= 0.6 else None


def choices(schema: dict[str, Any]) -> list[str]:
    """Return the words that a key, or an item of its list, may be; empty if it is no choice of words."""
    within = [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]
    own = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [str(word) for word in own] + [word for option in within for word in choices(option)]


def expectation(schema: dict[str, Any]) -> str:
    """Return what a key may hold, as it stands after "must be"."""
    if "anyOf" in schema:
        return " or ".join(expectation(option) for option in schema["anyOf"])
    words = choices(schema)
    kind = schema.get("type")
    if words and kind != "array":
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if kind in ("integer", "number"):
        limits = [f"{said} {schema[bound]:.15g}" for bound, said in BOUNDS.items() if bound in schema]
        return f"{'a whole number' if kind == 'integer' else 'a number'} {' and '.join(limits)}".rstrip()
    if kind == "string" and "pattern" in schema:
        return f"text that matches {schema['pattern']}"
    if kind == "array":
        count = f" of at least {schema['minItems']}" if "minItems" in schema else ""
        each = f", each item {expectation(schema['items'])}" if "items" in schema else ""
        return f"a list{count}{each}"
    names = {"string": "text", "boolean": "true or false", "object": "a mapping", "null": "null"}
    return names.get(str(kind), "another value") + (" that is not empty" if schema.get("minLength") else "")


def brief(text: str) -> str:
    """Return `text` on one line, cut to 80 characters, without what UTF-8 cannot hold."""
    line = " ".join(text.encode("utf-8", "backslashreplace").decode().split())
    return line if len(line) <= 80 else f"{line[:79]}…"


def shown(value: object) -> str:
    """Return a value as a user would write it, text in quotes, lists and mappings by kind."""
    if isinstance(value, list | dict):
        kind = "list" if isinstance(value, list) else "mapping"
        return f"a {kind}" if value else f"an empty {kind}"
    if isinstance(value, str):
        return repr(brief(value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    return brief(json.dumps(value))


def fit(value: Any, schema: dict[str, Any]) -> Any:
    """Return 64.0 as 64 where only whole numbers fit, inside lists too."""
    options = schema.get("anyOf", [schema])
    kinds = {option.get("type") for option in options}
    if isinstance(value, list):
        items: dict[str, Any] = next((option["items"] for option in options if "items" in option), {})
        return [fit(item, items) for item in value]
    if isinstance(value, float) and value.is_integer() and "integer" in kinds and "number" not in kinds:
        return int(value)
    return value
