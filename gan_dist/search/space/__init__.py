"""A search space: the keys that vary, their values, and the conditions under which they apply."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, cast

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import Trial

from gan_dist.config.fields import override, shorten
from gan_dist.core.errors import ConfigError, Problem, closest
from gan_dist.search.space.distributions import (
    Distribution,
    Value,
    all_values,
    as_plain,
    extreme_values,
    format_distribution,
    format_plain,
    suggest,
    value_problem,
)

MAX_GRID = 10_000
"""Most combinations of a grid."""


@dataclass(frozen=True)
class Space:
    """Keys that vary, and when each applies; `parse.py` makes one of a configuration."""

    distributions: Mapping[str, Distribution]
    """By key, in the order in which values are drawn: alphabetical, but parents before the keys that depend
    on them. So moving lines in the file changes no trial."""
    conditions: Mapping[str, Mapping[str, tuple[Value, ...]]]
    """By key, for those that have any: parents, and the values of each under which the key applies. All
    parents have to match; a parent that does not apply itself never matches."""

    def applies(self, key: str, values: Mapping[str, object]) -> bool:
        """Return whether `key` is part of a trial in which its parents have these values."""
        conditions = self.conditions.get(key, {})
        return all(parent in values and values[parent] in needed for parent, needed in conditions.items())

    def ancestor_values(self, key: str) -> dict[str, tuple[Value, ...]]:
        """Return the values of parents, of their parents and so on, under which `key` applies."""
        allowed: dict[str, tuple[Value, ...]] = {}
        for parent, values in self.conditions.get(key, {}).items():
            for above, fitting in ({parent: values} | self.ancestor_values(parent)).items():
                allowed[above] = tuple(value for value in allowed.get(above, fitting) if value in fitting)
        return allowed

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """Return the values of one trial by key; its study's sampler draws those that it has not yet."""
        values: dict[str, Value] = {}
        for key, distribution in self.distributions.items():
            if self.applies(key, values):
                values[key] = suggest(key, distribution, trial)
        return values

    @staticmethod
    def overrides(values: Mapping[str, object]) -> list[str]:
        """Return `key=value` for `load_config`, which reads back exactly these values."""
        return [override(key, value) for key, value in values.items()]

    def grid(self) -> list[dict[str, Value]]:
        """Return all combinations, without the keys that do not apply.

        Raises:
            ConfigError: some keys are ranges of real numbers, or there are more than MAX_GRID combinations.
        """
        keys = ("search.algorithm", "search.space")
        endless = [key for key, at in self.distributions.items() if all_values(at) is None]
        if endless:
            what = f"a grid needs choices or whole numbers; {', '.join(endless)} can be any number"
            raise ConfigError([Problem(what, keys=keys, where="search.space")])
        points = list(islice(self._combinations(list(self.distributions), {}), MAX_GRID + 1))
        if len(points) > MAX_GRID:
            counts = {key: len(all_values(at) or ()) for key, at in self.distributions.items()}
            product = " x ".join(f"{count} ({key})" for key, count in counts.items())
            what = f"a grid has at most {MAX_GRID} combinations; {product} are more"
            raise ConfigError([Problem(what, keys=keys, where="search.space")])
        return points

    def extreme_points(self) -> list[dict[str, Value]]:
        """Return points that between them have every choice, and both ends of every range.

        Only `load_config` knows rules that relate several keys (`train.batch_size` divides by
        `scale.workers`). Loading these points finds most of what it would refuse before any trial starts.
        """
        points = []
        for key, distribution in self.distributions.items():
            parents = {parent: values[0] for parent, values in self.ancestor_values(key).items()}
            points += [self._fill(parents | {key: value}) for value in extreme_values(distribution)]
        return points

    def check_point(self, values: Mapping[str, object]) -> None:
        """Check a point that a user gives, for a trial to start with.

        Raises:
            ConfigError: it has keys that are not in the space, or do not apply; it lacks some; or it has
                values outside of their ranges. All of them are listed.
        """
        problems = [
            Problem(f"{shorten(key)} is not in the space", f"the nearest is {near}" if near else "")
            for key in values
            if key not in self.distributions
            for near in [closest(key, self.distributions)]
        ]
        point: dict[str, object] = {}
        for key, distribution in self.distributions.items():
            if not self.applies(key, point):
                if key in values:
                    what = f"{key} does not apply: it is there only {self._condition(key)}"
                    problems.append(Problem(what, keys=(key,)))
            elif key not in values:
                what = f"{key} is missing; it is in {format_distribution(distribution)}"
                problems.append(Problem(what, keys=(key,)))
            else:
                point[key] = as_plain(key, values[key])
                if problem := value_problem(key, distribution, values[key]):
                    problems.append(problem)
        if problems:
            origin = f"point {shorten(json.dumps(values, default=str))}"
            raise ConfigError([replace(problem, where=origin) for problem in problems])

    def normalise(self, point: Mapping[str, Any]) -> dict[str, Value]:
        """Return a point that `check_point` accepts as a study returns it: in order, of the keys' types."""
        return {
            key: at.to_external_repr(at.to_internal_repr(as_plain(key, point[key])))
            for key, at in self.distributions.items()
            if key in point
        }

    def differences(self, earlier: Space) -> list[str]:
        """Return a sentence for every key that is not as in an earlier space; none if all are."""
        return [
            f"{key}: was {earlier.describe(key)}, is now {self.describe(key)}"
            for key in sorted({*self.distributions, *earlier.distributions})
            if self.distributions.get(key) != earlier.distributions.get(key)
            or self.conditions.get(key) != earlier.conditions.get(key)
        ]

    def describe(self, key: str) -> str:
        """Return a key's values and condition as a user would write them; `absent` for other keys."""
        if key not in self.distributions:
            return "absent"
        return f"{format_distribution(self.distributions[key])} {self._condition(key)}".rstrip()

    def to_json(self) -> dict[str, object]:
        """Return plain data, for a study's user attributes."""
        return {
            key: {"distribution": distribution_to_json(at), "when": dict(self.conditions.get(key, {}))}
            for key, at in self.distributions.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Return the space that `to_json` made plain data of.

        Raises:
            ValueError: it made no such data.
        """
        try:
            return cls(
                {k: cast(Distribution, json_to_distribution(at["distribution"])) for k, at in data.items()},
                {
                    key: {parent: tuple(values) for parent, values in at["when"].items()}
                    for key, at in data.items()
                    if at["when"]
                },
            )
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            raise ValueError(f"no space of a search: {error!r}") from None

    def _combinations(self, keys: Sequence[str], point: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if not keys:
            yield point
        elif not self.applies(keys[0], point):
            yield from self._combinations(keys[1:], point)
        else:
            for value in all_values(self.distributions[keys[0]]) or ():
                yield from self._combinations(keys[1:], {**point, keys[0]: value})

    def _fill(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """Return the given values, and the first of every other key that applies beside them."""
        point: dict[str, Value] = {}
        for key, distribution in self.distributions.items():
            if self.applies(key, point):
                point[key] = given[key] if key in given else extreme_values(distribution)[0]
        return point

    def _condition(self, key: str) -> str:
        conditions = self.conditions.get(key, {})
        parts = [
            f"{parent} is {' or '.join(map(format_plain, needed))}" for parent, needed in conditions.items()
        ]
        return f"when {' and '.join(parts)}" if parts else ""
