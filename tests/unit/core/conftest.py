"""Storage that tries again after short waits."""

from __future__ import annotations

import pytest

from gan_dist.core.storage import retry


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "LONGEST_WAIT_S", 0.2)
