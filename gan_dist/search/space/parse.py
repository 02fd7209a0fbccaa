"""From the section `search.space` of a configuration to a checked `Space`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

from gan_dist.config import FREE_ON_RESUME, RunConfig, flatten
from gan_dist.config.fields import brief, fit, leaves, nearest_key, sections, shown
from gan_dist.core.errors import ConfigError, nearest
from gan_dist.search.space import Space, ranges
from gan_dist.search.space.ranges import Distribution, Value, word

FIXED = {
    "name": "the search names its trials",
    "seed": "the best of several seeds is luck, which does not repeat",
    "search": "a search does not vary itself",
    "eval": "trials that are measured differently cannot be compared",
    "data.path": "distances to different images cannot be compared",
    "data.resolution": "distances to different images cannot be compared",
    "train.kimg": "the search decides how long its trials train",
}
"""Keys and sections that no search varies, and why; what is free on resume is not varied either."""


def parse(space: Mapping[str, object], config: RunConfig) -> Space:
    """Return what `search.space` describes: each key's choices or range, and conditions under `when`.

        optim.g.lr: {log: [1e-5, 1e-3]}
        loss.name: [hinge, wgan-gp]
        loss.gp: {log: [1, 30], when: {loss.name: wgan-gp}}

    `config` is the configuration that trials start from. Every value that a key may take is one that the
    schema allows for it; see `Space.corners` for what `load_config` checks beyond that.

    Raises:
        ConfigError: with all problems.
    """
    problems = [] if space else ["empty; it needs keys to vary, such as optim.g.lr: {log: [1e-5, 1e-3]}"]
    distributions: dict[str, Distribution] = {}
    for key, written in space.items():
        if said := _never_varied(key):
            problems.append(said)
            continue
        try:
            distributions[key] = ranges.read(key, written)
        except ConfigError as error:
            problems += map(str, error.problems)
    conditions = {key: at["when"] for key, at in space.items() if isinstance(at, Mapping) and "when" in at}
    for key, when in conditions.items():
        problems += _wrong_conditions(key, when, space, distributions, config)
    order, circles = _order(list(space), conditions)
    problems += circles
    if problems:
        raise _refused(problems)
    found = Space(
        {key: distributions[key] for key in order},
        {key: _conditions(when, distributions) for key, when in conditions.items()},
    )
    never = [
        f"{key} never applies: its conditions leave no value of {parent}"
        for key in order
        for parent, values in found.needs(key).items()
        if not values
    ]
    if never:
        raise _refused(never)
    return found


def _refused(problems: list[str]) -> ConfigError:
    return ConfigError([f"search.space: {said}" for said in problems])


def _never_varied(key: str) -> str | None:
    for fixed, why in FIXED.items():
        if f"{key}.".startswith(f"{fixed}."):
            return f"{brief(key)} cannot vary: {why}"
    if key in FREE_ON_RESUME:
        return f"{key} cannot vary: it says where and how a run proceeds, not what it computes"
    if key in leaves():
        return None
    if key in sections():
        such_as = next(leaf for leaf in leaves() if leaf.startswith(f"{key}."))
        return f"{key} is a section; what can vary is a key such as {such_as}"
    near = nearest_key(brief(key))
    return f"{brief(key)} is not a key" + (f"; the nearest is {near}" if near else " of the configuration")


def _wrong_conditions(
    key: str,
    when: object,
    space: Mapping[str, object],
    distributions: Mapping[str, Distribution],
    config: RunConfig,
) -> Iterator[str]:
    if not isinstance(when, Mapping) or not when:
        yield f"{key}: when must be a mapping of keys of the space to values, not {shown(when)}"
        return
    for parent, needed in when.items():
        distribution = distributions.get(parent)
        if parent not in space:
            known = flatten(config)
            has = f"; the configuration has {parent}={word(known[parent])}" if parent in known else ""
            hint = has or nearest(parent, space)
            yield f"{key}: when names {brief(parent)}, which is not in the space{hint}"
        elif distribution is None:
            continue  # what is wrong with the parent itself has been said
        elif ranges.values(distribution) is None:
            yield f"{key}: when names {parent}, which can be any number; it needs choices or whole numbers"
        elif needed in ([], ()):
            yield f"{key}: when gives no value of {parent}"
        else:
            refused = (ranges.refusal(parent, distribution, value) for value in _listed(needed))
            yield from (f"{key}: when is never met: {said}" for said in refused if said)


def _conditions(
    when: Mapping[str, object], distributions: Mapping[str, Distribution]
) -> dict[str, tuple[Value, ...]]:
    found = {}
    for parent in sorted(when):
        values = {fit(value, leaves()[parent]) for value in _listed(when[parent])}
        found[parent] = tuple(sorted(values, key=distributions[parent].to_internal_repr))
    return found


def _order(keys: list[str], conditions: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """Return the keys, parents first, and a sentence for each circle of conditions."""
    parents: dict[str, list[str]] = {key: [] for key in sorted(keys)}
    for key, when in conditions.items():
        parents[key] = sorted(parents.keys() & when.keys()) if isinstance(when, Mapping) else []
    circles: list[str] = []
    while True:
        try:
            return list(TopologicalSorter(parents).static_order()), circles
        except CycleError as error:
            circle = error.args[1]
            circles.append(f"when goes round in a circle: {' -> '.join(circle)}")
            parents |= {key: [] for key in circle}


def _listed(values: object) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]
