"""Progress of a run, its line on the console, and the run's result."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TextIO

from rich.text import Text

from gan_dist.core.console import LiveConsole, Rate, time_left
from gan_dist.training.early_stopping import EndKey


@dataclass(frozen=True)
class Progress:
    """State of a run for its progress line."""

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
        until = ""
        if images_per_second is not None:
            parts.append(f"{images_per_second:,.0f} images/s")
        if images_per_second and self.images < self.total_images:
            left, until = time_left((self.total_images - self.images) / images_per_second)
            parts.append(left)
        if self.value is not None:
            parts.append(f"{self.metric} {self.value:.2f}")
        if self.best is not None:
            parts.append(f"best {self.best:.2f}")
        # A narrow terminal cuts off the end of the line.
        parts += [f"D {self.loss_d:.3f}", f"G {self.loss_g:.3f}", until]
        return "  ".join(filter(None, parts))


@dataclass(frozen=True)
class RunResult:
    """State of a run after training."""

    images: int
    finished: bool
    """False if the run was asked to stop before its last image."""
    images_per_second: float | None
    """Without evaluations; None if the run had finished before."""
    value: float | None
    """The last measurement."""
    ended_by: EndKey | None = None
    """The key that ended the run before its last image."""


class ProgressLine(LiveConsole):
    """Shows a run's progress: a live line on a terminal, a line every `every_s` seconds elsewhere."""

    def __init__(self, every_s: float, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._every_s = every_s
        self._rate = Rate()
        self._printed_at = time.monotonic() - every_s
        self._printed: Progress | None = None

    def status(self, text: str) -> None:
        """Show a line of text."""
        if self.is_live:
            self.display(Text(text, overflow="ellipsis", no_wrap=True))
        else:
            self.print(text)

    def restart(self) -> None:
        """Reset the rate: the run is not training now, and may continue from an earlier checkpoint."""
        self._rate, self._printed = Rate(), None

    def update(self, progress: Progress) -> None:
        """Show a run's progress."""
        line = progress.line(self._rate(progress.images))
        if self.is_live or self._is_due(progress):
            self._printed_at, self._printed = time.monotonic(), progress
            self.status(line)

    def _is_due(self, progress: Progress) -> bool:
        last, ended = self._printed, progress.images >= progress.total_images
        due = ended or time.monotonic() - self._printed_at >= self._every_s
        # A run's last measurement comes after its last image.
        return due and (
            last is None or progress.images > last.images or (ended and progress.value != last.value)
        )
