"""Mutated inputs: each is read, or refused with an error that says what is wrong, and no more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.chaos.conftest import Chaos
from tests.support import fence, inputs


def test_mutated_inputs_are_read_or_refused_by_a_named_error(chaos: Chaos, tmp_path: Path) -> None:
    """No other exception, signal, hang, write outside, process, connection or gigabyte of memory."""
    inputs.write_examples(tmp_path / "good")
    count = chaos.rounds(len(inputs.KINDS), 5000)
    outcomes, wrong = fence.results(
        "tests.support.inputs:Mutations", str(chaos.seed), tmp_path / "good", tmp_path / "work", range(count)
    )
    names = list(inputs.KINDS)
    assert not wrong, "\n\n".join(f"{names[n % len(names)]} {n}: {what}" for n, what in wrong.items())
    assert len(outcomes) == count
    counts = Counter(outcomes.values())
    assert 0 < counts["read"] < count
    chaos.keep(inputs=count, kinds=len(names), **dict(counts.most_common()))
