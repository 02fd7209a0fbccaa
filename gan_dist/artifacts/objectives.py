"""Several objectives of a search: which of its trials are better, by NSGA-II's order.

Trials that meet the constraints come first, by non-dominated rank and, within a rank, by crowding distance;
the others follow, by how much they violate: Deb et al. 2002, https://doi.org/10.1109/4235.996017, III and VI.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray

from gan_dist.core.errors import ConfigError, GanDistError, Problem

Mode = Literal["min", "max"]
Point = Mapping[str, float]
"""What one measurement of a trial has, by name: a finite value of each objective and constraint."""
Standing = tuple[float, int, float]
"""Violation of the constraints, non-dominated rank, and the negative crowding distance: less is better."""
_ABLE = "give min, max, {above: NUMBER} or {below: NUMBER}"


@dataclass(frozen=True)
class Objectives:
    """What a search minimises, maximises and requires of its trials."""

    modes: Mapping[str, Mode]
    """Objectives in their order; there is at least one."""
    bounds: Mapping[str, tuple[str, float]]
    """Constraints: `above` or `below`, and the number."""

    @classmethod
    def parse(cls, given: Mapping[str, Any] | None) -> Objectives | None:
        """Return the objectives that `search.objectives` describes; None where there are none.

        Raises:
            ConfigError: with all problems.
        """
        modes: dict[str, Mode] = {}
        bounds: dict[str, tuple[str, float]] = {}
        problems = []
        for name, goal in (given or {}).items():
            one = isinstance(goal, Mapping) and len(goal) == 1
            side, limit = next(iter(goal.items())) if one else ("", None)
            if goal in ("min", "max"):
                modes[name] = goal
            elif side in ("above", "below") and _is_number(limit):
                bounds[name] = side, float(limit)
            else:
                what = f"search.objectives: {name}: {goal}"
                problems.append(Problem(what, _ABLE, ("search.objectives",)))
        if bounds and not modes and not problems:
            what = f"search.objectives has constraints only: {', '.join(bounds)}"
            problems.append(Problem(what, "add what is min or max", ("search.objectives",)))
        if problems:
            raise ConfigError(problems)
        return cls(modes, bounds) if modes else None

    def to_json(self) -> dict[str, object]:
        """Return what `parse` reads."""
        return {**self.modes, **{name: {side: limit} for name, (side, limit) in self.bounds.items()}}

    @property
    def names(self) -> tuple[str, ...]:
        return *self.modes, *self.bounds

    @property
    def first(self) -> str:
        return next(iter(self.modes))

    def point(self, record: Mapping[str, Any]) -> Point | None:
        """Return what a record has measured; None where a value is absent or not finite."""
        found = {name: record.get(name) for name in self.names}
        finite = {k: float(v) for k, v in found.items() if isinstance(v, int | float) and math.isfinite(v)}
        return finite if len(finite) == len(found) else None

    def loss(self, name: str, point: Point) -> float:
        """Return the value of an objective, negative where it is maximised: less is better."""
        return -point[name] if self.modes[name] == "max" else point[name]

    def excess(self, point: Point) -> dict[str, float]:
        """Return by how much a point is beyond each constraint; zero or less meets it."""
        sides = {"above": -1, "below": 1}
        return {name: sides[side] * (point[name] - limit) for name, (side, limit) in self.bounds.items()}

    def violation(self, point: Point) -> float:
        """Return the sum of what a point is beyond its constraints: 0 where all are met."""
        return sum(max(0.0, excess) for excess in self.excess(point).values())

    def standings(self, points: Sequence[Point]) -> list[Standing]:
        """Return how each point stands among all; equal points stand alike."""
        found: list[Standing] = [(self.violation(point), 0, 0.0) for point in points]
        feasible = [place for place, (violation, _, _) in enumerate(found) if violation == 0]
        if feasible:
            losses = np.array([[self.loss(name, points[at]) for name in self.modes] for at in feasible])
            for at, (rank, distance) in zip(feasible, _ranked(losses), strict=True):
                found[at] = 0.0, rank, -distance
        return found

    def order(self, points: Sequence[Point], prefer: str | None = None) -> tuple[list[int], list[int]]:
        """Return the places of the points on the front, and of the others, each the best first.

        On the front are those that meet the constraints and that no other such point dominates, in the order
        of the objective `prefer`, by default the first.
        """
        standings, name = self.standings(points), prefer or self.first
        front = [at for at, standing in enumerate(standings) if standing[:2] == (0.0, 0)]
        front.sort(key=lambda at: (self.loss(name, points[at]), at))
        others = sorted(set(range(len(points))) - {*front}, key=lambda at: (standings[at], at))
        return front, others

    def describe_best(self, points: Sequence[Point]) -> str:
        """Return the best value of each objective among points in words."""
        best = {name: (min if mode == "min" else max) for name, mode in self.modes.items()}
        return ", ".join(f"{name} {of(point[name] for point in points):.3f}" for name, of in best.items())

    def describe_bounds(self) -> str:
        """Return the constraints in words."""
        return " and ".join(f"{name} {side} {limit:g}" for name, (side, limit) in self.bounds.items())


def format_point(point: Point) -> str:
    """Return the values of a point in words."""
    return ", ".join(f"{name} {value:.6g}" for name, value in point.items())


def require_objective(prefer: str | None, objectives: Objectives | None) -> None:
    """Raise a GanDistError if a search with these objectives, or none, cannot prefer one of this name."""
    if prefer is None or (objectives and prefer in objectives.modes):
        return
    has = f"the objectives are {', '.join(objectives.modes)}" if objectives else "there are no objectives"
    raise GanDistError(f"--prefer {prefer}: {has}", "give one of them" if objectives else "leave it out")


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


def _ranked(losses: NDArray[np.float64]) -> list[tuple[int, float]]:
    """Return the non-dominated rank and the crowding distance of each row, from 0."""
    # Rows in lexicographic order: none is dominated by a later one.
    rows, inverse = np.unique(losses, axis=0, return_inverse=True)
    ranks, distances = np.zeros(len(rows), int), np.zeros(len(rows))
    left, rank = np.arange(len(rows)), 0
    while len(left):
        front, rest = [], left
        while len(rest):
            front.append(rest[0])
            rest = rest[np.any(rows[rest] < rows[rest[0]], axis=1)]
        ranks[front], distances[front] = rank, _crowding(rows[front])
        left, rank = np.setdiff1d(left, front), rank + 1
    return [(int(ranks[at]), float(distances[at])) for at in inverse.ravel()]


def _crowding(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each row the perimeter of the box between its neighbours; at the ends it is infinite."""
    distances = np.zeros(len(rows))
    for column in rows.T:
        order = np.argsort(column, kind="stable")
        values = column[order]
        span = values[-1] - values[0]
        distances[order[[0, -1]]] = math.inf
        if span > 0:
            distances[order[1:-1]] += (values[2:] - values[:-2]) / span
    return distances
