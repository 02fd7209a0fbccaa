"""What a search varies: keys, their values and conditions, asked for values trial by trial."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.trial import Trial

from gan_dist.config.fields import brief
from gan_dist.config.yaml12 import dump
from gan_dist.core.errors import ConfigError, nearest
from gan_dist.search.space import ranges
from gan_dist.search.space.ranges import Distribution, Value, word

MAX_GRID = 10_000
"""Combinations at most in a grid."""


@dataclass(frozen=True)
class Space:
    """Keys that vary, and when each applies; `parse.py` makes one of a configuration."""

    distributions: Mapping[str, Distribution]
    """By key, in the order in which values are asked for: alphabetical, but parents before what depends on
    them. So moving lines in the file changes no trial."""
    conditions: Mapping[str, Mapping[str, tuple[Value, ...]]]
    """By key, for those that have any: parents, and the values of each under which the key applies. All
    parents have to agree; a parent that does not apply itself agrees to nothing."""

    def applies(self, key: str, values: Mapping[str, object]) -> bool:
        """Return whether `key` is part of the trial whose parents of `key` have these values."""
        conditions = self.conditions.get(key, {})
        return all(parent in values and values[parent] in needed for parent, needed in conditions.items())

    def needs(self, key: str) -> dict[str, tuple[Value, ...]]:
        """Return the values of parents, of their parents and so on, under which `key` applies."""
        needs: dict[str, tuple[Value, ...]] = {}
        for parent, values in self.conditions.get(key, {}).items():
            for above, allowed in ({parent: values} | self.needs(parent)).items():
                needs[above] = tuple(value for value in needs.get(above, allowed) if value in allowed)
        return needs

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """Return the values of one trial, picked by its study's sampler, under the keys' own names."""
        values: dict[str, Value] = {}
        for key, distribution in self.distributions.items():
            if self.applies(key, values):
                values[key] = ranges.suggest(key, distribution, trial)
        return values

    @staticmethod
    def overrides(values: Mapping[str, object]) -> list[str]:
        """Return `key=value` for `load_config`, which reads back exactly these values."""
        return [f"{key}={dump([value]).removeprefix('- ').strip()}" for key, value in values.items()]

    def grid(self) -> list[dict[str, Value]]:
        """Return all combinations, without the keys that do not apply.

        Raises:
            ConfigError: some keys are ranges of real numbers, or there are more than MAX_GRID combinations.
        """
        endless = [key for key, at in self.distributions.items() if ranges.values(at) is None]
        if endless:
            said = f"a grid needs choices or whole numbers; {', '.join(endless)} can be any number"
            raise ConfigError([f"search.space: {said}"])
        points = list(islice(self._combinations(list(self.distributions), {}), MAX_GRID + 1))
        if len(points) > MAX_GRID:
            counts = {key: len(ranges.values(at) or ()) for key, at in self.distributions.items()}
            product = " x ".join(f"{count} ({key})" for key, count in counts.items())
            raise ConfigError(
                [f"search.space: a grid has at most {MAX_GRID} combinations; {product} are more"]
            )
        return points

    def corners(self) -> list[dict[str, Value]]:
        """Return points that between them have every choice, and both ends of every range.

        Rules that relate several keys (`train.batch_size` divides by `scale.workers`) are known to
        `load_config` only. Loading these points tells of most of what they refuse before any trial starts.
        """
        points = []
        for key, distribution in self.distributions.items():
            parents = {parent: values[0] for parent, values in self.needs(key).items()}
            points += [self._filled(parents | {key: value}) for value in ranges.extremes(distribution)]
        return points

    def check_point(self, values: Mapping[str, object]) -> None:
        """Check a point that a user gives, for a trial to start with.

        Raises:
            ConfigError: it has keys that are not in the space, or do not apply; it lacks some; or it has
                values outside of their ranges. All of them are listed.
        """
        problems = [
            f"{brief(key)} is not in the space{nearest(key, self.distributions)}"
            for key in values
            if key not in self.distributions
        ]
        point: dict[str, object] = {}
        for key, distribution in self.distributions.items():
            if not self.applies(key, point):
                if key in values:
                    problems.append(f"{key} does not apply: it is there only {self._when(key)}")
            elif key not in values:
                problems.append(f"{key} is missing; it is in {ranges.text(distribution)}")
            else:
                point[key] = values[key]
                if said := ranges.refusal(key, distribution, values[key]):
                    problems.append(said)
        if problems:
            origin = f"point {brief(json.dumps(values, default=str))}"
            raise ConfigError([f"{origin}: {said}" for said in problems])

    def normal(self, point: Mapping[str, Any]) -> dict[str, Value]:
        """Return a point that `check_point` passes as a study gives it back: in order, with keys' types."""
        return {
            key: at.to_external_repr(at.to_internal_repr(point[key]))
            for key, at in self.distributions.items()
            if key in point
        }

    def differences(self, other: Space) -> list[str]:
        """Return a sentence for every key that is not as in `other`, which was before; none if all are."""
        return [
            f"{key}: was {other.written(key)}, is now {self.written(key)}"
            for key in sorted({*self.distributions, *other.distributions})
            if self.distributions.get(key) != other.distributions.get(key)
            or self.conditions.get(key) != other.conditions.get(key)
        ]

    def written(self, key: str) -> str:
        """Return what a key may be, and when it applies, as a user would write it; `absent` for others."""
        if key not in self.distributions:
            return "absent"
        return f"{ranges.text(self.distributions[key])} {self._when(key)}".rstrip()

    def to_json(self) -> dict[str, object]:
        """Return plain data, for a study's user attributes; `from_json` gives the space back."""
        return {
            key: {
                "distribution": distribution_to_json(distribution),
                "when": dict(self.conditions.get(key, {})),
            }
            for key, distribution in self.distributions.items()
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Space:
        """Return what `to_json` was called on."""
        return cls(
            {key: cast(Distribution, json_to_distribution(at["distribution"])) for key, at in data.items()},
            {
                key: {parent: tuple(values) for parent, values in at["when"].items()}
                for key, at in data.items()
                if at["when"]
            },
        )

    def _combinations(self, keys: Sequence[str], point: dict[str, Value]) -> Iterator[dict[str, Value]]:
        if not keys:
            yield point
        elif not self.applies(keys[0], point):
            yield from self._combinations(keys[1:], point)
        else:
            for value in ranges.values(self.distributions[keys[0]]) or ():
                yield from self._combinations(keys[1:], {**point, keys[0]: value})

    def _filled(self, wanted: Mapping[str, Value]) -> dict[str, Value]:
        point: dict[str, Value] = {}
        for key, distribution in self.distributions.items():
            if self.applies(key, point):
                point[key] = wanted[key] if key in wanted else ranges.extremes(distribution)[0]
        return point

    def _when(self, key: str) -> str:
        conditions = self.conditions.get(key, {})
        parts = [f"{parent} is {' or '.join(map(word, needed))}" for parent, needed in conditions.items()]
        return f"when {' and '.join(parts)}" if parts else ""
