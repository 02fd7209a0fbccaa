"""How far a long count is: a bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import math
import sys
import time
from datetime import datetime, timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

EVERY_S = 5.0


class CountProgress:
    """Shows a count with its rate and the time when it will be complete.

    Args:
        total: What the count goes up to.
        unit: What is counted.
        stream: Where to show it; standard error when None.
    """

    def __init__(self, total: int, unit: str, stream: TextIO | None = None) -> None:
        self._total, self._unit = total, unit
        self._start: tuple[float, int] | None = None
        self._shown_at = -math.inf
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        self._bar = Progress(BarColumn(), TextColumn("{task.description}"), console=self._console)
        self._task = self._bar.add_task(f"0/{total:,} {unit}", total=total)

    def __enter__(self) -> CountProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Show a sentence that stays."""
        self._console.print(text)

    @property
    def rate(self) -> float:
        """What was counted a second, from the first `update` to the last."""
        return self._rate

    _rate = 0.0

    def update(self, count: int, total: int | None = None) -> None:
        """Show the count, and of what total; the first call says where it starts from."""
        self._total = self._total if total is None else total
        now = time.monotonic()
        if self._start is None:
            self._start = now, count
        began, first = self._start
        self._rate = (count - first) / (now - began) if now > began else 0.0
        text = self._text(count)
        if self._console.is_terminal:
            self._bar.update(self._task, completed=count, total=self._total, description=text)
        elif count > first and (now - self._shown_at >= EVERY_S or count == self._total):
            self._shown_at = now
            self._console.print(text)

    def _text(self, count: int) -> str:
        parts = [f"{count:,}/{self._total:,} {self._unit}"]
        if self._rate > 0:
            left = math.ceil((self._total - count) / self._rate)
            at = datetime.now().astimezone() + timedelta(seconds=left)
            parts.append(f"{self._rate:,.0f} {self._unit}/s")
            parts.append(f"{timedelta(seconds=left)} left, until {at:%H:%M:%S}")
        return "  ".join(parts)
