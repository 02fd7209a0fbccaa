"""Where progress is shown: one live part on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from typing import Self, TextIO

from rich.console import Console, RenderableType
from rich.live import Live


class Screen:
    """A stream that may be a terminal.

    Args:
        stream: Standard error when None.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True, markup=False)
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
        """Whether what `show` shows replaces what it showed before."""
        return self._live is not None

    def show(self, content: RenderableType) -> None:
        """Show the live part anew; only where `is_live`."""
        if self._live:
            self._live.update(content, refresh=True)

    def note(self, text: str) -> None:
        """Show a sentence that stays."""
        self._console.print(text)
