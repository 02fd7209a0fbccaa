"""Lineages of a population: its branches as a tree over images, and the winner's descent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from optuna.trial import FrozenTrial

from gan_dist.report.blocks import Block, Table
from gan_dist.report.charts import GREY, WINNER, chart, is_log
from gan_dist.search.lineage import Node, ancestry, lineages
from gan_dist.search.space.distributions import format_plain


def lineage_blocks(trials: Sequence[FrozenTrial], metric: str, winner: str | None) -> list[Block]:
    """Return a chart of all branches, each from where it was copied, and a table of the winner's; else none.

    Args:
        trials: Members of a population, or other trials, which have copied nothing.
        metric: Name of the distance.
        winner: Name of the branch with the best release, if there is one.
    """
    nodes = lineages(trials)
    if not any(node.children for node in nodes):
        return []
    drawn = [one for root in nodes for one in _walk(root, None)]
    known = winner is not None and winner in {node.branch.name for node, _ in drawn}
    chain = ancestry(trials, winner) if winner is not None and known else []
    descent = {branch.name for branch in chain}
    # The winner's come last, on top.
    drawn.sort(key=lambda one: one[0].branch.name in descent)
    data = [_line(node, parent, on=node.branch.name in descent) for node, parent in drawn]
    log = is_log(value for one in data for value in one["y"])
    title = "Who copied whom: a line begins at the checkpoint that was copied"
    blocks: list[Block] = [chart(title, data, unit=metric, wide=True, height=380, x="kimg", log_y=log)]
    if chain:
        keys = list(chain[0].values)
        rows = [
            [one.name, f"{one.images / 1000:g}", *(format_plain(one.values[key]) for key in keys)]
            for one in chain
        ]
        blocks.append(Table(["the winner's branches", "from kimg", *keys], rows))
    return blocks


def _walk(node: Node, parent: Node | None) -> Iterator[tuple[Node, Node | None]]:
    """Yield a branch and all that descend from it, each with what it was copied from."""
    yield node, parent
    for child in node.children:
        yield from _walk(child, node)


def _line(node: Node, parent: Node | None, *, on: bool) -> dict[str, Any]:
    branch, curve = node.branch, dict(node.curve)
    begin = parent.curve.get(branch.images) if parent else None
    if begin is not None:
        curve[branch.images] = begin
    points = [(images, value) for images, value in sorted(curve.items()) if math.isfinite(value)]
    group = "the winner's lineage" if on else "other branches"
    style = WINNER if on else {"color": GREY + "aa", "width": 1.5}
    words = f"{branch.name}" + (f", copied from {branch.parent}" if branch.parent else "")
    x, y = [images / 1000 for images, _ in points], [value for _, value in points]
    return {"name": words, "group": group, "x": x, "y": y, "points": 4, **style}
