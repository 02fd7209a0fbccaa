"""A configuration as tables: first what differs from the defaults."""

from __future__ import annotations

import json
from collections.abc import Mapping

from gan_dist.config import DataConfig, RunConfig, flatten
from gan_dist.config.loss_defaults import loss_defaults
from gan_dist.core import storage
from gan_dist.report.blocks import Section, Table


def settings(values: Mapping[str, object], varied: frozenset[str] = frozenset()) -> list[Section]:
    """Return the values of a configuration that differ from its loss's defaults, and folded all others.

    Keys that a search has `varied` are left out.
    """
    loss = str(values["loss.name"])
    # A run has no section `search`, which a search keeps in its study.
    values = {key: value for key, value in values.items() if key not in varied | {"search"}}
    bare = RunConfig(name=str(values["name"]), data=DataConfig(path=str(values["data.path"])))
    defaults = flatten(bare) | loss_defaults(loss)
    changed = [key for key in values if key not in defaults or values[key] != defaults[key]]
    changed = ["data.path", *(key for key in changed if key != "data.path")]
    others = [[key, _format(values[key])] for key in values if key not in changed]
    # A class of one's own has keys without a default here.
    usual = {
        key: _format(defaults[key]) for key in changed if key in defaults and values[key] != defaults[key]
    }
    rows = [[key, _format(values[key]), usual.get(key, "")] for key in changed]
    return [
        Section("Set otherwise than by default", [Table(["key", "value", "default"], rows)]),
        Section("All other settings, at their defaults", [Table(["key", "value"], others)], folded=True),
    ]


def _format(value: object) -> str:
    return storage.redact(value) if isinstance(value, str) else json.dumps(value, default=str)
