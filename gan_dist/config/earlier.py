"""Values of keys that did not exist when an earlier version of gan-dist wrote a configuration.

A new key whose default changes results stands in EARLIER with the value that keeps them: runs go on, and
releases load, with what they were begun with.
"""

from __future__ import annotations

from collections.abc import Mapping

EARLIER: Mapping[str, object] = {"model.variant": "tanh"}
"""Values by dotted key. `model.variant` matters to `model.name=r3gan` alone."""
_ALWAYS_WRITTEN = {
    *("model.name", "model.latent_dim", "model.width", "model.max_width", "model.blocks", "model.attention"),
    *("model.spectral_norm", "model.conditional", "model.pack"),
}
"""Keys that every version writes into every file. Nobody sets all of them by hand."""


def missing(values: Mapping[str, object]) -> dict[str, object]:
    """Return the values of the keys in EARLIER that a file lacks, by dotted key.

    `values` are those of the file. A file that gan-dist did not write lacks nothing: it is today's.
    """
    if not values.keys() >= _ALWAYS_WRITTEN:
        return {}
    return {key: value for key, value in EARLIER.items() if key not in values}


def applicable(values: Mapping[str, object], recorded: Mapping[str, object]) -> dict[str, object]:
    """Return the values of the keys in EARLIER that a run recorded, as far as `values` do not set them."""
    if values.get("model.name") != "r3gan":
        return {}
    return {key: recorded[key] for key in EARLIER.keys() & recorded.keys() if key not in values}
