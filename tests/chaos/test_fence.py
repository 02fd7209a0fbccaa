"""What the tests of bad inputs look for is seen where it happens."""

from __future__ import annotations

from pathlib import Path

from tests.support import fence
from tests.support.misdeeds import Misdeeds


def test_the_fence_sees_what_a_reader_may_not_do(tmp_path: Path) -> None:
    count = len(Misdeeds.calls)
    outcomes, wrong = fence.results("tests.support.misdeeds:Misdeeds", "", tmp_path, tmp_path, range(count))
    assert [outcomes[number] for number in (0, 1, count - 1)] == ["read", "DataError", "died"]
    assert sorted(wrong) == list(range(2, count))
