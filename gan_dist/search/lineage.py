"""Lineages of a population: who copied whom, as a tree; and the winner's as one configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial

from gan_dist.artifacts.best import BestRelease, find_best, split_uri
from gan_dist.config import to_yaml
from gan_dist.core import storage
from gan_dist.search.plan import Plan
from gan_dist.search.population import Branch, Member
from gan_dist.search.space.distributions import Value

LINEAGE = "lineage.yaml"
"""In the folder of a search: the configuration that repeats its best generator from the start."""


@dataclass(frozen=True)
class Node:
    """A branch in the tree of a population's lineages."""

    branch: Branch
    curve: Mapping[int, float]
    """What the member measured while it trained the branch, by images."""
    children: Sequence[Node]


def lineages(trials: Sequence[FrozenTrial]) -> list[Node]:
    """Return the first branch of each member, with what was copied of it, and so on."""
    members = [Member.of(trial) for trial in trials]
    curves: dict[str, dict[int, float]] = {}
    for member in members:
        branches = {branch.name: curves.setdefault(branch.name, {}) for branch in member.branches}
        for images, value in sorted(member.measured.items()):
            branches[member.branch(images).name][images] = value
    begun = sorted((b for m in members for b in m.branches), key=lambda b: (b.images, b.member))

    def node(branch: Branch) -> Node:
        copies = [node(other) for other in begun if other.parent == branch.name]
        return Node(branch, curves[branch.name], copies)

    return [node(member.first) for member in members]


def lineage_values(trials: Sequence[FrozenTrial], name: str) -> dict[str, Any]:
    """Return the values of a branch and of those before it by key: one, or a mapping of kimg to value."""
    chain = ancestry(trials, name)
    found: dict[str, Any] = {}
    for key in chain[0].values:
        # What is copied before its parent's values acted replaces them.
        points: dict[float, Value] = {}
        for branch in chain:
            points = {kimg: value for kimg, value in points.items() if 1000 * kimg < branch.images}
            points[branch.images / 1000] = branch.values[key]
        found[key] = points if len(set(points.values())) > 1 else next(iter(points.values()))
    return found


def ancestry(trials: Sequence[FrozenTrial], name: str) -> list[Branch]:
    """Return a branch and those before it, the first one first."""
    branches = {one.name: one for trial in trials for one in Member.of(trial).branches}
    chain = [branches[name]]
    while (parent := chain[0].parent) is not None:
        chain.insert(0, branches[parent])
    return chain


def winner(plan: Plan, trials: Sequence[FrozenTrial]) -> tuple[list[str], dict[str, object]]:
    """Write the winner's configuration (see `write_lineage`); return its lineage in lines, and its record.

    The record has its values (`config`), its release (`checkpoint`) and the configuration (`lineage`).
    """
    uri, best = write_lineage(plan)
    name, lines = split_uri(best.run)[1], []
    for branch in ancestry(trials, name):
        values = "  ".join(f"{key}={_short(value)}" for key, value in branch.values.items())
        lines.append(f"from {branch.images / 1000:g} kimg member {branch.member}: {values}")
    return lines, {"config": lineage_values(trials, name), "checkpoint": best.release, "lineage": uri}


def _short(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def write_lineage(plan: Plan) -> tuple[str, BestRelease]:
    """Write the configuration that repeats the best generator; return its address, and what it repeats.

    It has the values of the lineage by kimg, and the length at which the generator was measured. The same
    weights come out where the search's members would have come to them: with equal hardware and workers.

    Raises:
        CheckpointError: no member has measured anything, or there is no release that is whole.
        StorageError: a file cannot be read or written.
    """
    best = find_best(plan.uri)
    config = best.config.until(best.images)
    train = config.train.model_copy(update={"kimg": best.images / 1000})
    config = config.model_copy(
        update={"name": f"{plan.config.name}-lineage", "storage": plan.config.storage, "train": train}
    )
    uri = storage.join(plan.uri, LINEAGE)
    storage.write_bytes(uri, to_yaml(config).encode())
    return uri, best
