"""Faults at random places: a few in the test suite, many with `make chaos`, whose figures are kept."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks import record

FOLDER = Path(record.__file__).parent
HEAD = """# Faults at random places

What `make chaos` has found: the last figures of each test in tests/chaos. `make test` runs the same tests
with fewer faults, always the same. chaos.jsonl has every run, with its hardware and versions.

| test | figures | seed | date | machine |
| --- | --- | --- | --- | --- |
"""
MATRIX = "recovers_or_ends"
"""Part of the name of the test whose parameters are a fault and a phase."""
PHASES = ("data", "step", "save")
MATRIX_HEAD = """
## Each fault in each phase of a run on Ray

Seconds until the run is whole again (exit code 0) or has ended with a sentence (its exit code), from the
fault on. All have an undisturbed run's bits, at once or when the same command goes on.

| fault | while data is read | in a step | while a checkpoint is written |
| --- | --- | --- | --- |
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
    names = sorted(name for name in newest if MATRIX not in name)
    text = HEAD + "".join(_row(newest[name]) for name in names)
    (FOLDER / "chaos.md").write_text(text + MATRIX_HEAD + "".join(_matrix(newest)))


def _row(line: Mapping[str, Any]) -> str:
    made_by = line["environment"]
    shown = ", ".join(f"{key.replace('_', ' ')}: {value}" for key, value in line["figures"].items())
    words = line["name"].removeprefix("test_").replace("_", " ")
    return f"| {words} | {shown} | {line['seed']} | {made_by['date']} | {made_by['cpu']} |\n"


def _matrix(newest: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    cells: dict[str, dict[str, str]] = {}
    for name in filter(lambda one: MATRIX in one, newest):
        fault, _, phase = name.partition("[")[2].rstrip("]").rpartition("-")
        figures = newest[name]["figures"]
        cells.setdefault(fault, {})[phase] = f"{figures['seconds']} s, {figures['exit_code']}"
    for fault in sorted(cells):
        yield f"| {fault} | {' | '.join(cells[fault].get(phase, '') for phase in PHASES)} |\n"


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> Chaos:
    name, seed = request.node.name, request.config.getoption("--chaos")
    return Chaos(name, random.Random(f"{name} {seed}"), seed)
