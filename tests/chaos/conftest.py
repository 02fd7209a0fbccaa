"""Faults at random places: a few in the test suite, many with `make chaos`, whose figures are kept."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import record

FOLDER = Path(record.__file__).parent
HEAD = """# Faults at random places

What `make chaos` has found: the last figures of each test in tests/chaos. `make test` runs the same tests
with fewer faults, always the same. chaos.jsonl has every run, with its hardware and versions.

| test | figures | seed | date | machine |
| --- | --- | --- | --- | --- |
"""


@dataclass
class Chaos:
    """The faults of one test: how many, and where."""

    name: str
    random: random.Random
    seed: int | None
    """That of `make chaos`; None in the test suite."""

    def rounds(self, few: int, many: int) -> int:
        """Return the number of faults to try: `few` in the test suite, `many` with `make chaos`."""
        return few if self.seed is None else many

    def keep(self, **figures: object) -> None:
        """Keep the test's figures in benchmarks/, with `make chaos` only."""
        if self.seed is not None:
            made_by = {**record.environment(), "command": f"make chaos SEED={self.seed}"}
            _keep({"name": self.name, "seed": self.seed, "figures": figures, "environment": made_by})


def _keep(line: Mapping[str, object]) -> None:
    path = FOLDER / "chaos.jsonl"
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")
    lines = map(json.loads, path.read_text().splitlines())
    newest = {each["name"]: each for each in lines}
    (FOLDER / "chaos.md").write_text(HEAD + "".join(_row(newest[name]) for name in sorted(newest)))


def _row(line: Mapping[str, object]) -> str:
    figures, made_by = line["figures"], line["environment"]
    assert isinstance(figures, dict)
    assert isinstance(made_by, dict)
    shown = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in figures.items())
    return f"| {line['name']} | {shown} | {line['seed']} | {made_by['date']} | {made_by['cpu']} |\n"


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> Chaos:
    name, seed = request.node.name, request.config.getoption("--chaos")
    return Chaos(name, random.Random(f"{name} {seed}"), seed)
