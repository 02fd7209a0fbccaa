"""Output for people on standard error: on a terminal a live part that changes in place, elsewhere lines."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from datetime import datetime, timedelta
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

LINE_EVERY_S = 5.0
BAR_EVERY_S = 0.1
RATE_WINDOW_S = 30.0


def plain_console(stream: TextIO | None = None) -> Console:
    """Return a console that prints text as it is: names of users may hold `[raw]` or `:cat:`."""
    return Console(file=stream, highlight=False, soft_wrap=True, markup=False, emoji=False)


class LiveConsole:
    """Messages on a stream (standard error if None) and, if that is a terminal, a live part below them."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = plain_console(stream or sys.stderr)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    @property
    def is_live(self) -> bool:
        """Whether there is a live part."""
        return self._live is not None

    def display(self, content: RenderableType) -> None:
        """Replace the content of the live part, if there is one."""
        if self._live:
            self._live.update(content, refresh=True)

    def print(self, text: str) -> None:
        """Print a message."""
        self._console.print(text)

    def warn(self, sentence: str) -> None:
        """Print a warning; any thread may call it."""
        self.print(f"warning: {sentence}")


class Rate:
    """Images per second over the last half minute."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def __call__(self, images: int) -> float | None:
        """Add the number of images so far, and return the rate; None at the first call."""
        now = time.monotonic()
        self._samples.append((now, images))
        while now - self._samples[0][0] > RATE_WINDOW_S:
            self._samples.popleft()
        began, first = self._samples[0]
        return (images - first) / (now - began) if now > began else None


def time_left(seconds: float) -> tuple[str, str]:
    """Return a remaining time and the time of day at its end, as in `0:01:30 left` and `until 12:00:00`."""
    left = timedelta(seconds=math.ceil(seconds))
    return f"{left} left", f"until {datetime.now().astimezone() + left:%H:%M:%S}"


class CountProgress(LiveConsole):
    """Progress of a count: a bar on a terminal, a line every few seconds elsewhere, with rate and time left.

    `total` is the count at the end, and `unit` the plural name of what is counted.
    """

    def __init__(self, total: int, unit: str, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self.rate = 0.0
        """Counted per second, from the first `update` to the last."""
        self._total, self._unit = total, unit
        self._start: tuple[float, int] | None = None
        self._shown_at = -math.inf

    def update(self, count: int, total: int | None = None) -> None:
        """Show the count, and a new total if given; the first call sets the count at the start."""
        self._total = self._total if total is None else total
        now = time.monotonic()
        self._start = self._start or (now, count)
        began, first = self._start
        self.rate = (count - first) / (now - began) if now > began else 0.0
        due = now - self._shown_at >= (BAR_EVERY_S if self.is_live else LINE_EVERY_S) or count == self._total
        if not due or (count == first and not self.is_live):
            return
        self._shown_at = now
        if self.is_live:
            grid = Table.grid(padding=(0, 1))
            grid.add_row(ProgressBar(total=self._total, completed=count, width=40), self._text(count))
            self.display(grid)
        else:
            self.print(self._text(count))

    def _text(self, count: int) -> str:
        parts = [f"{count:,}/{self._total:,} {self._unit}"]
        if self.rate > 0:
            left = ", ".join(time_left((self._total - count) / self.rate))
            parts += [f"{self.rate:,.0f} {self._unit}/s", left]
        return "  ".join(parts)
