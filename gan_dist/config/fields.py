"""Keys of a configuration: their types, their values as text, and the values of two configurations compared.

Types are read from the JSON schema, so a field added to `schema.py` needs nothing here.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

from pydantic import BaseModel

from gan_dist.config.machine import AUTO, AUTO_KEYS
from gan_dist.config.schedules import CHANGEABLE, written
from gan_dist.config.schema import SECTION_SHORTCUTS, RunConfig
from gan_dist.config.yaml12 import dump
from gan_dist.core.storage.redaction import without_password

BOUNDS = {
    "exclusiveMinimum": "greater than",
    "minimum": "of at least",
    "exclusiveMaximum": "less than",
    "maximum": "of at most",
}
CLASS_KEYS = ("data.augment", "model.name", "loss.name", "eval.extractor")
"""Keys that name a class: one of the package, or of a user as `package.module:Class`."""


class SectionKeys(NamedTuple):
    """Names directly inside a section, and whether the section may be null or must be given."""

    names: tuple[str, ...]
    nullable: bool
    required: bool
    inner: dict[str, Any] | None = None
    """JSON schema of the value of any key below it, if a class that the user names decides what these are."""


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file, for editors and documentation."""
    schema = _schema()
    # A file may leave its name to the file's own name.
    schema["required"] = [key for key in schema["required"] if key != "name"]
    for section in SECTION_SHORTCUTS:
        whole = schema["properties"][section]
        schema["properties"][section] = {"anyOf": [{"type": "string"}, whole]}
    for key in CHANGEABLE:
        inner = schema
        for name in key.split("."):
            definition = inner.get("$ref", "").rpartition("/")[2]
            inner = (schema["$defs"][definition] if definition else inner)["properties"][name]
        own = {word: inner.pop(word) for word in [*inner] if word not in ("default", "description", "title")}
        by_kimg = {"type": "object", "minProperties": 1, "additionalProperties": {"type": "number"}}
        inner["anyOf"] = [*own.get("anyOf", [own]), by_kimg]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def _schema() -> dict[str, Any]:
    """Return the JSON Schema of `RunConfig`, in which AUTO_KEYS may be `auto`."""
    schema = RunConfig.model_json_schema()
    del schema["properties"]["schedules"]
    for key in AUTO_KEYS:
        section, name = key.split(".")
        definition = schema["properties"][section]["$ref"].rpartition("/")[2]
        keys = schema["$defs"][definition]["properties"]
        about = {"default": AUTO, "description": keys[name]["description"]}
        own = {word: value for word, value in keys[name].items() if word not in (*about, "title")}
        keys[name] = {"anyOf": [{"const": AUTO}, own], **about}
        schema["properties"][section]["default"][name] = AUTO
    return schema


def flatten(config: BaseModel, above: str = "") -> dict[str, object]:
    """Return dotted key to value of every leaf, in the order of the fields.

    Lists and mappings stay whole, but for sections of settings; a key that changes within the run has its
    values by kimg. `above` is the key of `config` and a dot.
    """
    flat: dict[str, object] = {}
    for name, declared in type(config).model_fields.items():
        key, value = f"{above}{declared.alias or name}", getattr(config, name)
        if isinstance(value, BaseModel):
            flat |= flatten(value, f"{key}.")
        elif isinstance(value, dict) and key in sections():
            flat |= {f"{key}.{below}": setting for below, setting in value.items()}
        else:
            flat[key] = value
    if isinstance(config, RunConfig):
        del flat["schedules"]
        flat |= {key: written(points) for key, points in config.schedules.items()}
    return flat


def named_classes(config: BaseModel) -> dict[str, str]:
    """Return the values by dotted key that may be import paths of code of a user's own."""
    flat = flatten(config)
    return {key: value for key in CLASS_KEYS if isinstance(value := flat[key], str)}


def differing_keys(
    a: BaseModel, b: BaseModel, ignore: frozenset[str] = frozenset()
) -> list[tuple[str, str, str]]:
    """Return (dotted key, `a`'s value, `b`'s value) of keys that differ and are not in `ignore`."""
    in_a, in_b = flatten(a), flatten(b)

    def shown(value: object) -> str:
        if isinstance(value, dict):
            return dump(value, flow=True).strip()
        return value if isinstance(value, str) else json.dumps(value)

    differing = [key for key in in_a | in_b if key not in ignore and in_a.get(key) != in_b.get(key)]
    return [(key, shown(in_a.get(key)), shown(in_b.get(key))) for key in differing]


@cache
def _walk_schema() -> tuple[dict[str, dict[str, Any]], dict[str, SectionKeys]]:
    root = _schema()
    found_leaves: dict[str, dict[str, Any]] = {}
    found_sections: dict[str, SectionKeys] = {}

    def resolve(schema: dict[str, Any]) -> dict[str, Any]:
        return root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def walk(key: str, schema: dict[str, Any], required: bool) -> None:
        options = [resolve(option) for option in schema.get("anyOf", [schema])]
        inner = {
            name: (at, name in o.get("required", []))
            for o in options
            for name, at in o.get("properties", {}).items()
        }
        if not inner and key.endswith("settings"):
            found_sections[key] = SectionKeys((), False, False, schema["additionalProperties"])
            return
        if not inner:
            found_leaves[key] = schema | ({"anyOf": options} if len(options) > 1 else options[0])
            return
        found_sections[key] = SectionKeys(
            tuple(inner), any(o.get("type") == "null" for o in options), required and key != ""
        )
        for name, (below, is_required) in inner.items():
            walk(f"{key}.{name}" if key else name, below, required and is_required)

    walk("", root, True)
    return found_leaves, found_sections


def leaves() -> dict[str, dict[str, Any]]:
    """Return dotted key to JSON schema of every key that holds a value."""
    return _walk_schema()[0]


def is_leaf(key: str) -> bool:
    """Return whether a key holds a value, or may do so in a section of settings."""
    return key in leaves() or _setting(key) is not None


def schema_of(key: str) -> dict[str, Any]:
    """Return the JSON schema of a key that holds a value; raise a KeyError for any other."""
    return _setting(key) or leaves()[key]


def _setting(key: str) -> dict[str, Any] | None:
    """Return the JSON schema of a key directly inside a section of settings; None of other keys."""
    above, _, name = key.rpartition(".")
    section = sections().get(above)
    return section.inner if section and name else None


def sections() -> dict[str, SectionKeys]:
    """Return dotted key to names of every section; the empty key is the whole configuration."""
    return _walk_schema()[1]


def nearest_key(key: str, is_section: bool = False) -> str | None:
    """Return the key that was probably meant: similar as a whole, or with the same last name elsewhere."""

    def similarity(known: str) -> tuple[float, float]:
        whole = difflib.SequenceMatcher(None, key, known).ratio()
        last = difflib.SequenceMatcher(None, key.rpartition(".")[2], known.rpartition(".")[2]).ratio()
        return max(whole, 0.98 * last), whole

    known: Iterable[str] = [*leaves(), *(key for key in sections() if key)] if is_section else leaves()
    best = max(known, key=similarity)
    return best if similarity(best)[0] >= 0.6 else None


def choices(schema: dict[str, Any]) -> list[str]:
    """Return the words that a value, or an item of a list, can be; empty if it is not one of a few words."""
    within = [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]
    own = schema.get("enum", [schema["const"]] if "const" in schema else [])
    return [str(word) for word in own] + [word for option in within for word in choices(option)]


def describe_allowed(schema: dict[str, Any]) -> str:
    """Return the allowed values in words that follow "must be"."""
    if "anyOf" in schema:
        return " or ".join(describe_allowed(option) for option in schema["anyOf"])
    words = choices(schema)
    kind = schema.get("type")
    if words and kind != "array":
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if kind in ("integer", "number"):
        limits = [f"{words} {schema[bound]:.15g}" for bound, words in BOUNDS.items() if bound in schema]
        return f"{'a whole number' if kind == 'integer' else 'a number'} {' and '.join(limits)}".rstrip()
    if kind == "string" and "pattern" in schema:
        if examples := schema.get("examples"):
            if "format" in schema:
                return f"{schema['format']} (such as {examples[0]})"
            return f"your own {examples[0]}"
        return f"text that matches {schema['pattern']}"
    if kind == "array":
        count = f" of at least {schema['minItems']}" if "minItems" in schema else ""
        each = f", each item {describe_allowed(schema['items'])}" if "items" in schema else ""
        return f"a list{count}{each}"
    names = {"string": "text", "boolean": "true or false", "object": "a mapping", "null": "null"}
    return names.get(str(kind), "another value") + (" that is not empty" if schema.get("minLength") else "")


def override(key: str, value: object) -> str:
    """Return `key=value` for a plain value, from which `load_config` reads this key and this value again."""
    text = dump([value]).removeprefix("- ").strip()
    # Inside a shell's quotes, "" are easier to read than ''.
    readable = text.startswith("'") and not re.search(r'["\\]', text)
    return f'{key}="{value}"' if readable else f"{key}={text}"


def valid_name(text: str) -> str:
    """Return a run's name (the key `name`) that is like `text`, such as a folder's name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-") or "mine"


def shorten(text: str) -> str:
    """Return `text` on one line, cut to 80 characters, without passwords and what UTF-8 cannot hold."""
    line = " ".join(map(without_password, text.encode("utf-8", "backslashreplace").decode().split()))
    return line if len(line) <= 80 else f"{line[:79]}…"


def format_value(value: object) -> str:
    """Return a value as a user would write it: text in quotes, a list or mapping only by its kind."""
    if isinstance(value, list | dict):
        kind = "list" if isinstance(value, list) else "mapping"
        return f"a {kind}" if value else f"an empty {kind}"
    if isinstance(value, str):
        return repr(shorten(value))
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", ".inf").replace("nan", ".nan")
    return shorten(json.dumps(value))


def convert_integers(value: Any, schema: dict[str, Any]) -> Any:
    """Return 64.0 as 64 where the schema has whole numbers only, inside lists too."""
    options = schema.get("anyOf", [schema])
    kinds = {option.get("type") for option in options}
    if isinstance(value, list):
        items: dict[str, Any] = next((option["items"] for option in options if "items" in option), {})
        return [convert_integers(item, items) for item in value]
    if isinstance(value, float) and value.is_integer() and "integer" in kinds and "number" not in kinds:
        return int(value)
    return value
