"""Checkpoints, releases and configurations that an attacker made: all are refused, and no code runs."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.conftest import Chaos
from tests.support import fence, hostile
from tests.support.inputs import write_run


def test_what_an_attacker_made_is_refused_and_runs_no_code(chaos: Chaos, tmp_path: Path) -> None:
    write_run(tmp_path / "good" / "run")
    names = [case.name for case in hostile.cases()]
    numbers = sorted(chaos.random.sample(range(len(names)), chaos.rounds(5, len(names))))
    outcomes, wrong = fence.results(
        "tests.support.hostile:Hostile", "", tmp_path / "good", tmp_path / "work", numbers
    )
    assert not wrong, "\n\n".join(f"{names[number]}: {what}" for number, what in wrong.items())
    assert [names[number] for number, outcome in outcomes.items() if outcome == "read"] == []
    assert not list((tmp_path / "work").glob("*/out/marker"))
    chaos.keep(cases=len(outcomes), refused=len(outcomes), code_run=0)
