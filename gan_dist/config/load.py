"""From a preset, a YAML file or a URI, and `key=value` overrides, to a checked `RunConfig`, and back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel

from gan_dist.config.builder import ConfigBuilder, Origin, Rank
from gan_dist.config.schema import SHORTHAND, RunConfig
from gan_dist.config.yaml12 import dump
from gan_dist.core.errors import ConfigError, StorageError, nearest

PRESETS = Path(__file__).parents[1] / "presets"
MAX_BYTES = 1024 * 1024


def load_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration that `source` and `overrides` describe.

    `source` is a preset's name, the path of a YAML file (1 MiB at most) or a URI such as
    `s3://bucket/run.yaml`. An override is `key=value` with a dotted key and a value in YAML:
    `optim.g.lr=1e-4`, `data.resolution=null`, `train={kimg: 5, batch_size: 32}`. Of two overrides of one key
    the later wins, as in a shell. Where nothing sets `name`, it is the preset's or the file's name without
    its suffix.

    Types are not bent: text is no number, a number is no text and a bool is neither; `1` may stand for
    `1.0` and `64.0` for `64`. Rules that relate several keys are checked once every key by itself is right.

    Raises:
        ConfigError: with all problems, in the order of the file's lines and then of the overrides.
    """
    label = f"preset {source}" if source in preset_names() else _printable(source) or "''"
    draft = ConfigBuilder()
    text = None
    try:
        text = _read(source)
    except _UnreadableSource as error:
        draft.refuse(Origin(Rank.FILE, 0, label), str(error))
    readable = text is not None and draft.read_file(label, text)
    for index, override in enumerate(overrides):
        draft.read_override(index, override)
    config = draft.finish(label, _stem(source)) if readable else None
    if config is None:
        raise ConfigError(draft.sentences())
    return config


def preset_names() -> tuple[str, ...]:
    """Return the names of the presets that travel with the package, sorted."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.yaml")))


def to_yaml(config: RunConfig) -> str:
    """Return every key of `config` as YAML, in the order of `schema.py`; `load_config` gives it back."""
    return dump(config.model_dump(mode="json"))


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a configuration file, for editors and documentation."""
    schema = RunConfig.model_json_schema()
    # A file may leave its name to the file's own name.
    schema["required"] = [key for key in schema["required"] if key != "name"]
    for section in SHORTHAND:
        whole = schema["properties"][section]
        schema["properties"][section] = {"anyOf": [{"type": "string"}, whole]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | schema


def flatten(config: BaseModel) -> dict[str, object]:
    """Return dotted key to value of every leaf, in the order of the fields; lists and mappings stay whole."""
    flat: dict[str, object] = {}
    for key in type(config).model_fields:
        value = getattr(config, key)
        if isinstance(value, BaseModel):
            flat |= {f"{key}.{below}": leaf for below, leaf in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def differing_keys(
    a: RunConfig, b: RunConfig, ignore: frozenset[str] = frozenset()
) -> list[tuple[str, str, str]]:
    """Return the dotted keys not in `ignore` whose values differ: (key, `a`'s value, `b`'s), as set."""
    in_a, in_b = flatten(a), flatten(b)
    return [
        (key, _as_set(in_a.get(key)), _as_set(in_b.get(key)))
        for key in in_a | in_b
        if key not in ignore and in_a.get(key) != in_b.get(key)
    ]


def _as_set(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class _UnreadableSource(Exception):  # noqa: N818 - it is always turned into a ConfigError
    pass


def _stem(source: str) -> str:
    return _printable(PurePosixPath(urlsplit(source).path if "://" in source else source).stem)


def _printable(name: str) -> str:
    # Names of files need not be UTF-8, and may hold what would break a message over several lines.
    return "".join(one if one.isprintable() else repr(one)[1:-1] for one in name)


def _read(source: str) -> str:
    if "://" in source:
        # The storage layer brings pyarrow, which presets and local files should not wait for.
        from gan_dist.core import storage

        try:
            text = storage.read_text(source)
        except StorageError as error:
            raise _UnreadableSource(str(error).removeprefix(source).lstrip(" :")) from error
        _check_size(len(text.encode()))
        return text
    if not source:
        raise _UnreadableSource(_not_found(source))
    path = PRESETS / f"{source}.yaml" if source in preset_names() else Path(source)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except IsADirectoryError as error:
        raise _UnreadableSource("this is a directory, not a YAML file") from error
    except FileNotFoundError as error:
        raise _UnreadableSource(_not_found(source)) from error
    except (OSError, ValueError) as error:
        said = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise _UnreadableSource(f"this file cannot be read: {said}") from error
    _check_size(len(content))
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise _UnreadableSource(f"this is not UTF-8 text (byte {error.start})") from error


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise _UnreadableSource(f"this is larger than {MAX_BYTES} bytes, which no configuration is")


def _not_found(source: str) -> str:
    presets = preset_names()
    if _stem(source) in presets:
        return f"there is no such file; the preset is called {_stem(source)}"
    if "/" in source or source.endswith((".yaml", ".yml")):
        return "there is no such file"
    listed = f"the presets are {', '.join(presets)}{nearest(source, presets)}"
    return f"there is no preset or file of this name; {listed}"
