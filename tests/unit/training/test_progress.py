"""Progress of a run: one line, with a rate and an end."""

from __future__ import annotations

import io
from dataclasses import replace

from gan_dist.training.progress import Progress, ProgressLine

PROGRESS = Progress(
    images=1000, total_images=5000, loss_d=1.25, loss_g=0.5, metric="fd_digits", value=20.5, best=None
)


def test_the_line_has_clock_rate_losses_distance_and_time_left() -> None:
    line = replace(PROGRESS, best=19.25).line(images_per_second=400.0)
    for part in ("1.0/5.0 kimg", "400 images/s", "D 1.250", "G 0.500", "fd_digits 20.50", "best 19.25"):
        assert part in line
    assert "0:00:10 left" in line


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    stream = io.StringIO()
    with ProgressLine(every_s=3600, stream=stream) as line:
        for images in range(0, 5001, 100):
            line.update(replace(PROGRESS, images=images))
        line.update(replace(PROGRESS, images=5000))
    lines = stream.getvalue().splitlines()
    assert [text.split()[0] for text in lines] == ["0.0/5.0", "5.0/5.0"]


def test_the_last_line_has_the_measurement_that_is_made_at_the_end() -> None:
    stream = io.StringIO()
    with ProgressLine(every_s=3600, stream=stream) as line:
        for value in (75.0, 75.0, 47.0, 47.0):
            line.update(replace(PROGRESS, images=5000, value=value))
    assert ["75.00" in text for text in stream.getvalue().splitlines()] == [True, False]
    assert "47.00" in stream.getvalue().splitlines()[-1]


def test_a_run_that_goes_on_from_an_earlier_place_has_a_new_rate() -> None:
    stream = io.StringIO()
    with ProgressLine(every_s=0, stream=stream) as line:
        line.update(replace(PROGRESS, images=4000))
        line.restart()
        for images in (2000, 2100):
            line.update(replace(PROGRESS, images=images))
    before, first, second = stream.getvalue().splitlines()
    assert "images/s" not in before + first
    assert first.startswith("2.0/5.0 kimg")
    assert "images/s" in second
    assert "-" not in second
