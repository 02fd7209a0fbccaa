"""How far a run or a count is: shown live on a terminal, and as a line now and then elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from gan_dist.core.console import Screen

EVERY_S = 5.0
RATE_WINDOW_S = 30.0


@dataclass(frozen=True)
class Progress:
    """Where a run is: what its one line shows."""

    images: int
    total_images: int
    loss_d: float
    loss_g: float
    metric: str
    value: float | None
    best: float | None
    waited_s: float = 0.0
    """Seconds that this worker has waited for images."""

    def line(self, images_per_second: float | None) -> str:
        """Return the progress as one line of text."""
        parts = [f"{self.images / 1000:.1f}/{self.total_images / 1000:.1f} kimg"]
        if images_per_second is not None:
            parts.append(f"{images_per_second:,.0f} images/s")
        left = None
        if images_per_second and self.images < self.total_images:
            seconds = (self.total_images - self.images) / images_per_second
            left = timedelta(seconds=math.ceil(seconds))
            parts.append(f"{left} left")
        if self.value is not None:
            parts.append(f"{self.metric} {self.value:.2f}")
        if self.best is not None:
            parts.append(f"best {self.best:.2f}")
        # A narrow terminal cuts off what stands last.
        parts += [f"D {self.loss_d:.3f}", f"G {self.loss_g:.3f}"]
        if left is not None:
            parts.append(f"until {datetime.now().astimezone() + left:%H:%M:%S}")
        return "  ".join(parts)


@dataclass(frozen=True)
class Outcome:
    """Where a run ended."""

    images: int
    finished: bool
    """False when it was asked to stop before its last image."""
    images_per_second: float | None
    """Over this call's training, evaluations left out; None when there was nothing to do."""
    value: float | None
    """The last measurement."""
    stopped_early: bool = False
    """Whether it ended for want of progress, before its last image."""


class Rate:
    """Images a second over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, images: int) -> float | None:
        """Note that the clock shows `images` now, and return the rate; None as long as there is none."""
        now = time.monotonic()
        self._seen.append((now, images))
        while now - self._seen[0][0] > RATE_WINDOW_S:
            self._seen.popleft()
        began, first = self._seen[0]
        return (images - first) / (now - began) if now > began else None


class ProgressLine(Screen):
    """Shows progress: one live line on a terminal, a line every `every_s` seconds elsewhere.

    Args:
        every_s: Seconds between lines where `stream` is no terminal.
        stream: Where to show it; standard error when None.
    """

    def __init__(self, every_s: float, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._every_s = every_s
        self._rate = Rate()
        self._shown_at = time.monotonic() - every_s
        self._shown = -1
        self._value: float | None = None

    def status(self, text: str) -> None:
        """Show what is being done while there is no progress to show yet."""
        if self.is_live:
            self._show_line(text)
        else:
            self.note(text)

    def restart(self) -> None:
        """Forget the rate so far: the run does not train now, and may go on from an earlier place."""
        self._rate, self._shown = Rate(), -1

    def update(self, progress: Progress) -> None:
        """Show a run's progress."""
        line = progress.line(self._rate(progress.images))
        if self.is_live:
            self._show_line(line)
        elif self._is_due(progress):
            self._shown_at, self._shown, self._value = time.monotonic(), progress.images, progress.value
            self.note(line)

    def _show_line(self, text: str) -> None:
        self.show(Text(text, overflow="ellipsis", no_wrap=True))

    def _is_due(self, progress: Progress) -> bool:
        ended = progress.images >= progress.total_images
        late = ended or time.monotonic() - self._shown_at >= self._every_s
        # A run's last measurement is made when its last image has been shown.
        return late and (progress.images > self._shown or (ended and progress.value != self._value))


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
        self._bar = Bar(BarColumn(), TextColumn("{task.description}"), console=self._console)
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
