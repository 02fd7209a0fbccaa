"""A configuration as tables: what was set otherwise than by default first."""

from __future__ import annotations

import json

from gan_dist.config import DataConfig, RunConfig, flatten
from gan_dist.config.loss_defaults import LOSS_DEFAULTS
from gan_dist.core import storage
from gan_dist.report.blocks import Section, Table


def settings(config: RunConfig, varied: frozenset[str] = frozenset()) -> list[Section]:
    """Return what differs from the defaults, and folded everything else.

    Args:
        config: The resolved configuration. Defaults are those that its loss brings with it.
        varied: Keys that a search varies, and that are left out.
    """
    # No run has a section `search`: a search keeps it in its study.
    left_out = varied | {"search"}
    values = {key: value for key, value in flatten(config).items() if key not in left_out}
    bare = RunConfig(name=config.name, data=DataConfig(path=config.data.path))
    defaults = flatten(bare) | LOSS_DEFAULTS.get(config.loss.name, {})
    set_here = [key for key in values if key not in defaults or values[key] != defaults[key]]
    set_here = ["data.path", *(key for key in set_here if key != "data.path")]
    others = [[key, _written(values[key])] for key in values if key not in set_here]
    rows = [
        [key, _written(values[key]), _written(defaults[key]) if values[key] != defaults[key] else ""]
        for key in set_here
    ]
    return [
        Section("Set otherwise than by default", [Table(["key", "value", "default"], rows)]),
        Section("All other settings, at their defaults", [Table(["key", "value"], others)], folded=True),
    ]


def _written(value: object) -> str:
    """Return a value as it stands after `key=`; a URI without what is secret in it."""
    return storage.redact(value) if isinstance(value, str) else json.dumps(value, default=str)
