"""Progress of a count: lines elsewhere than on a terminal, a bar with the same text on one."""

from __future__ import annotations

import io
import re

import pytest
from rich.text import Text

from gan_dist.core.console import CountProgress, LiveConsole
from tests.support.names import FOLDERS


def test_progress_elsewhere_than_on_a_terminal_is_a_line_at_times_and_at_the_end() -> None:
    stream = io.StringIO()
    with CountProgress(1000, "images", stream) as progress:
        for count in (400, 500, 600, 1000):
            progress.update(count)
    first, last = stream.getvalue().splitlines()
    assert re.fullmatch(r"500/1,000 images  [\d,]+ images/s  0:00:0\d left, until \d\d:\d\d:\d\d", first)
    assert last.startswith("1,000/1,000 images")
    assert progress.rate > 0


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
@pytest.mark.parametrize("name", [*FOLDERS, "[bold]x[/bold]", "[/]", "[link=http://x]y", ":warning: :x:"])
def test_text_of_users_is_printed_as_it_is(
    name: str, stream: type[io.StringIO], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    shown = stream()
    with LiveConsole(shown) as console:
        console.display(Text("live"))
        console.print(f"packing 5 images of {name}.")
    with CountProgress(10, name, shown) as progress:
        progress.update(0)
        progress.update(10)
    assert f"packing 5 images of {name}." in shown.getvalue()
    assert f"10/10 {name}" in shown.getvalue()
