"""Progress of a count: lines elsewhere than on a terminal, a bar with the same text on one."""

from __future__ import annotations

import io
import re

from gan_dist.core.console import CountProgress


def test_progress_elsewhere_than_on_a_terminal_is_a_line_at_times_and_at_the_end() -> None:
    stream = io.StringIO()
    with CountProgress(1000, "images", stream) as progress:
        for count in (400, 500, 600, 1000):
            progress.update(count)
    first, last = stream.getvalue().splitlines()
    assert re.fullmatch(r"500/1,000 images  [\d,]+ images/s  0:00:0\d left, until \d\d:\d\d:\d\d", first)
    assert last.startswith("1,000/1,000 images")
    assert progress.rate > 0
