"""From the section `search.space` of a configuration to a checked `Space`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from gan_dist.config import FREE_ON_RESUME
from gan_dist.config.fields import (
    convert_integers,
    format_value,
    is_leaf,
    leaves,
    nearest_key,
    schema_of,
    sections,
    shorten,
)
from gan_dist.core.errors import ConfigError, Problem, closest
from gan_dist.search.space import Space
from gan_dist.search.space.distributions import (
    Distribution,
    Value,
    all_values,
    as_plain,
    format_plain,
    read_distribution,
    value_problem,
)

FIXED = {
    "name": "the search names its trials",
    "seed": "the best of several seeds is luck, which does not repeat",
    "search": "a search does not vary itself",
    "eval": "trials that are measured differently cannot be compared",
    "init.sha256": "it says what is at init.from",
    "data.path": "distances to different images cannot be compared",
    "data.resolution": "distances to different images cannot be compared",
    "data.fit": "distances to different images cannot be compared",
    "data.channels": "distances to different images cannot be compared",
    "train.kimg": "the search decides how long its trials train",
}
"""Keys and sections that no search varies, and why; what is free on resume is not varied either."""


def parse(space: Mapping[str, object], configured: Mapping[str, object]) -> Space:
    """Return the space that `search.space` describes: each key's choices or range, conditions under `when`.

        optim.g.lr: {log: [1e-5, 1e-3]}
        loss.name: [hinge, wgan-gp]
        loss.gp: {log: [1, 30], when: {loss.name: wgan-gp}}

    Every value that a key may have is one that the schema allows for it; see `Space.extreme_points` for what
    `load_config` checks beyond that. Messages name the `configured` values of keys that do not vary.

    Raises:
        ConfigError: with all problems.
    """
    problems: list[Problem] = []
    if not space:
        problems.append(Problem("empty; it needs keys to vary, such as optim.g.lr: {log: [1e-5, 1e-3]}"))
    distributions: dict[str, Distribution] = {}
    for key, written in space.items():
        if problem := _key_problem(key):
            problems.append(problem)
            continue
        try:
            distributions[key] = read_distribution(key, written)
        except ConfigError as error:
            problems += error.problems
    conditions = {key: at["when"] for key, at in space.items() if isinstance(at, Mapping) and "when" in at}
    for key, when in conditions.items():
        found = _condition_problems(when, space, distributions, configured)
        problems += [Problem(f"{key}: {what}", keys=(key,)) for what in found]
    order, circles = _order(list(space), conditions)
    problems += circles
    _refuse(problems)
    result = Space(
        {key: distributions[key] for key in order},
        {key: _conditions(when, distributions) for key, when in conditions.items()},
    )
    _refuse(
        [
            Problem(f"{key} never applies: its conditions leave no value of {parent}", keys=(key, parent))
            for key in order
            for parent, values in result.ancestor_values(key).items()
            if not values
        ]
    )
    return result


def _refuse(problems: list[Problem]) -> None:
    if problems:
        raise ConfigError([replace(problem, where="search.space") for problem in problems])


def _key_problem(key: str) -> Problem | None:
    for fixed, why in FIXED.items():
        if f"{key}.".startswith(f"{fixed}."):
            return Problem(f"{shorten(key)} cannot vary: {why}", keys=(key,))
    if key in FREE_ON_RESUME:
        why = "it says where and how a run proceeds, not what it computes"
        return Problem(f"{key} cannot vary: {why}", keys=(key,))
    if is_leaf(key):
        return None
    if key in sections():
        such_as = next((leaf for leaf in leaves() if leaf.startswith(f"{key}.")), f"{key}.depth")
        return Problem(f"{key} is a section; what can vary is a key such as {such_as}", keys=(key,))
    near = nearest_key(shorten(key))
    if near is None:
        return Problem(f"{shorten(key)} is not a key of the configuration")
    return Problem(f"{shorten(key)} is not a key", f"the nearest is {near}", (near,))


def _condition_problems(
    when: object,
    space: Mapping[str, object],
    distributions: Mapping[str, Distribution],
    configured: Mapping[str, object],
) -> Iterator[str]:
    if not isinstance(when, Mapping) or not when:
        yield f"when must be a mapping of keys of the space to values, not {format_value(when)}"
        return
    for parent, needed in when.items():
        distribution = distributions.get(parent)
        if parent not in space:
            near = closest(parent, space)
            hint = f"; the nearest is {near}" if near else ""
            if parent in configured:
                hint = f"; the configuration has {parent}={format_plain(configured[parent])}"
            yield f"when names {shorten(parent)}, which is not in the space{hint}"
        elif distribution is None:
            continue  # the parent itself has a problem, which is listed already
        elif all_values(distribution) is None:
            yield f"when names {parent}, which can be any number; it needs choices or whole numbers"
        elif needed in ([], ()):
            yield f"when gives no value of {parent}"
        else:
            refused = (value_problem(parent, distribution, value) for value in _as_list(needed))
            yield from (f"when is never met: {problem}" for problem in refused if problem)


def _conditions(
    when: Mapping[str, object], distributions: Mapping[str, Distribution]
) -> dict[str, tuple[Value, ...]]:
    found = {}
    for parent in sorted(when):
        given = [as_plain(parent, value) for value in _as_list(when[parent])]
        values = {convert_integers(value, schema_of(parent)) for value in given}
        found[parent] = tuple(sorted(values, key=distributions[parent].to_internal_repr))
    return found


def _order(keys: list[str], conditions: Mapping[str, object]) -> tuple[list[str], list[Problem]]:
    """Return the keys, parents first, and a problem for each circle of conditions."""
    parents: dict[str, list[str]] = {key: [] for key in sorted(keys)}
    for key, when in conditions.items():
        parents[key] = sorted(parents.keys() & when.keys()) if isinstance(when, Mapping) else []
    circles: list[Problem] = []
    while True:
        try:
            return list(TopologicalSorter(parents).static_order()), circles
        except CycleError as error:
            circle = error.args[1]
            what = f"when goes round in a circle: {' -> '.join(circle)}"
            circles.append(Problem(what, keys=tuple(circle[:-1])))
            parents |= {key: [] for key in circle}


def _as_list(values: object) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]
