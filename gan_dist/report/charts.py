"""Charts of runs and searches: series as JSON in the page, which `chart.js` draws."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gan_dist.artifacts.objectives import Objectives
from gan_dist.report.blocks import Bars, Block, Chart, Note, Table, number
from gan_dist.report.series import Series, finite
from gan_dist.report.trials import State, Trial

if TYPE_CHECKING:
    from optuna.study import Study

    from gan_dist.search.space import Space

GREY = "#8a8f98"
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#b98a00")
"""Colours that are legible on white and on black."""
STYLES: dict[State, dict[str, Any]] = {
    State.PRUNED: {"color": GREY + "88", "width": 1},
    State.FAILED: {"color": COLOURS[4], "width": 1, "dash": [2, 3]},
    State.RUNNING: {"color": COLOURS[2], "width": 1.5, "dash": [6, 4]},
    State.UNKNOWN: {"color": COLOURS[0], "width": 1.5},
    State.COMPLETE: {"color": COLOURS[0], "width": 1.5},
}
"""Lines by state, the topmost last."""
WINNER = {"color": COLOURS[1], "width": 3}
STAR = {"color": COLOURS[1], "points": 11, "line": False}
MARKED = 100
"""Points of a curve, at most, that are marked."""
RATIO = 3
"""Of the largest to the least value, from which their axis is logarithmic."""
SLICES = 12
"""Keys of a search, at most, that have a chart of their own."""


def chart(
    title: str,
    data: Sequence[Mapping[str, Any]],
    *,
    unit: str = "",
    wide: bool = False,
    height: int = 240,
    **axes: Any,
) -> Chart:
    """Return a chart of series: each has `name`, `x` and `y`, and may have

    - `group`: a name in the legend that several series share;
    - `color`, `width`, `dash`, `points` (their size), `line` (False for points alone), `stepped`;
    - `low`, `high`: edges of a band around it.

    `axes` are `x`, the label of the x axis; `log_x` and `log_y`; `ticks`, words on the x axis at 0, 1, 2;
    and `scatter`, for series whose x may be there more than once.
    """
    coloured = [{"color": COLOURS[at % len(COLOURS)], **one} for at, one in enumerate(data)]
    figure = json.dumps({**axes, "data": coloured}, separators=(",", ":"))
    return Chart(title, unit, figure.replace("<", "\\u003c"), wide, height)


def curves(
    title: str,
    unit: str,
    series: Mapping[str, Series],
    *,
    best: tuple[float, float] | None = None,
    spread: float | None = None,
    floor: float | None = None,
) -> Chart:
    """Return curves over kimg, the thousands of images seen; None is a gap.

    A chart in which a point, (kimg, value), is marked as `best` has the full width of the page. `spread` is
    the relative standard deviation of a value, of which a band shows two; `floor` is the distance of two
    halves of the real images.
    """
    data: list[dict[str, Any]] = []
    for name, one in series.items():
        points = 5 if len(one.values) <= MARKED else 0
        y = [None if value is None else float(number(value)) for value in one.values]
        entry: dict[str, Any] = {"name": name, "x": list(one.kimg), "y": y, "points": points}
        if spread is not None and math.isfinite(spread):
            for edge, sign in (("low", -2), ("high", 2)):
                factor = max(0.0, 1 + sign * spread)
                entry[edge] = [None if value is None else value * factor for value in y]
        data.append(entry)
    values = [value for one in series.values() for value in one.values if value is not None]
    if best is not None:
        data.append({"name": "best", "x": [best[0]], "y": [best[1]], **STAR})
        if floor is not None:
            at = [x for one in series.values() for x in one.kimg]
            values.append(floor)
            line = {"color": COLOURS[2], "dash": [6, 4], "points": 0}
            data.append(
                {"name": "two halves of the reals", "x": [min(at), max(at)], "y": [floor] * 2, **line}
            )
    wide = best is not None
    log = wide and is_log(values)
    return chart(title, data, unit=unit, wide=wide, x="kimg", log_y=log, height=340 if wide else 240)


def progress(metric: str, trials: Sequence[Trial]) -> Block:
    """Return the best value so far over the images that all trials together have trained with."""
    order = sorted(trials, key=lambda one: (one.ended.timestamp() if one.ended else math.inf, one.number))
    trained, best = 0, math.inf
    points: list[tuple[float, float]] = []
    for trial in order:
        for images, value in trial.curve.items():
            if value < best:
                best = value
                points.append(((trained + images) / 1000, value))
        trained += trial.images
    if points:
        points.append((trained / 1000, best))
    x, y = [at for at, _ in points], [value for _, value in points]
    title = "Best so far, trials in the order in which they ended"
    data = [{"name": "best so far", "x": x, "y": y, "points": 5, "stepped": True}]
    named = {"unit": metric, "x": "kimg trained by all trials"}
    return chart(title, data, **named, log_y=is_log(values_of(trials)), wide=True, height=300)


def learning(metric: str, trials: Sequence[Trial], best: int | None) -> Block:
    """Return the curves of all trials, a colour for each state, the best trial on top."""
    data: list[dict[str, Any]] = []
    for state, line in STYLES.items():
        drawn = [trial for trial in trials if trial.state == state and trial.curve]
        data += [_line(trial, f"{state} ({len(drawn)})", line) for trial in drawn]
    winner = [trial for trial in trials if trial.number == best and trial.curve]
    data += [_line(trial, f"the winner, trial {best}", WINNER) for trial in winner]
    log = is_log(values_of(trials))
    return chart("Learning curves", data, unit=metric, wide=True, height=380, x="kimg", log_y=log)


def importances(study: Study) -> list[Block]:
    """Return the importance of each key with Optuna's warnings, or the reason why there is none."""
    from optuna.importance import get_param_importances  # brings scikit-learn, which takes seconds

    unknown = "How much each key matters cannot be said yet"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            several = len(study.directions) > 1
            found = get_param_importances(study, target=(lambda one: one.values[0]) if several else None)
        except (ValueError, RuntimeError) as error:
            return [Note(f"{unknown}: {error}")]
    if not found:
        return [Note(f"{unknown}: too few trials are complete.")]
    notes = dict.fromkeys(str(one.message) for one in warned)
    return [Bars("What matters (PED-ANOVA, complete trials)", found), *map(Note, notes)]


def slices(space: Space, metric: str, trials: Sequence[Trial], best: int | None) -> list[Block]:
    """Return for each key of a search a chart of the trials' best values over the key's values."""
    measured = [trial for trial in trials if trial.curve]
    if len(measured) < 2:
        return [Note("What each key did is drawn from two trials on.")]
    charts: list[Block] = []
    for key, distribution in list(space.distributions.items())[:SLICES]:
        having = [trial for trial in measured if key in trial.values]
        given = [trial.values[key] for trial in having]
        known = [figure for value in given if (figure := finite(value)) is not None]
        ticks = [] if len(known) == len(given) else sorted({str(value) for value in given})
        places = [ticks.index(str(value)) for value in given] if ticks else known
        at = {one.number: float(place) for one, place in zip(having, places, strict=True)}
        data = []
        for state, line in STYLES.items():
            if drawn := [one for one in having if one.state == state and one.number != best]:
                data.append(_points(str(state), drawn, at, line["color"], 7))
        if drawn := [one for one in having if one.number == best]:
            data.append(_points(f"the winner, trial {best}", drawn, at, COLOURS[1], 12))
        log_x = not ticks and bool(getattr(distribution, "log", False)) and is_log(at.values())
        log_y = is_log(trial.best for trial in measured)
        axes: dict[str, Any] = {"x": key, "log_x": log_x, "log_y": log_y, "ticks": ticks, "scatter": True}
        charts.append(chart(key, data, unit=f"{metric} at its best", **axes))
    return charts


def fronts(objectives: Objectives, trials: Sequence[Trial]) -> list[Block]:
    """Return charts of all trials over the first and each other objective, and a table of the front."""
    known = [(trial, trial.point) for trial in trials if trial.point is not None]
    front, others = objectives.order([point for _, point in known])
    meet = [at for at in others if objectives.violation(known[at][1]) == 0]
    groups = {
        "beyond a constraint": ([at for at in others if at not in meet], COLOURS[4], 6),
        "dominated": (meet, GREY, 6),
        "the front": (front, COLOURS[1], 10),
    }
    charts: list[Block] = []
    first, *rest = objectives.modes
    for name in rest:
        data = []
        for group, (places, color, size) in groups.items():
            points = [known[at][1] for at in places]
            xy = {"x": [point[first] for point in points], "y": [point[name] for point in points]}
            words = [f"trial {known[at][0].number}" for at in places]
            data.append({"name": group, **xy, "words": words, "color": color, "points": size, "line": False})
        axes: dict[str, Any] = {"x": f"{first} ({objectives.modes[first]})", "scatter": True}
        unit = f"{name} ({objectives.modes[name]})"
        charts.append(chart(f"{name} over {first}", data, unit=unit, wide=True, height=340, **axes))
    if not front:
        return [Note(f"No trial so far has {objectives.describe_bounds()}."), *charts]
    rows = [
        [str(known[at][0].number), *(f"{known[at][1][one]:.6g}" for one in objectives.names)] for at in front
    ]
    return [*charts, Table(["trial", *objectives.names], rows)]


def values_of(trials: Iterable[Trial]) -> list[float]:
    """Return all finite measurements of trials."""
    return [value for trial in trials for value in trial.curve.values()]


def _line(trial: Trial, group: str, style: Mapping[str, Any]) -> dict[str, Any]:
    x, y = [images / 1000 for images in trial.curve], list(trial.curve.values())
    return {"name": f"trial {trial.number}", "group": group, "x": x, "y": y, "points": 3, **style}


def _points(
    name: str, trials: Sequence[Trial], at: Mapping[int, float], color: str, size: int
) -> dict[str, Any]:
    x, y = [at[one.number] for one in trials], [one.best for one in trials]
    words = [f"trial {one.number}" for one in trials]
    return {"name": name, "x": x, "y": y, "words": words, "color": color, "points": size, "line": False}


def is_log(values: Iterable[float]) -> bool:
    """Return whether the axis of values is to be logarithmic."""
    # Distances fall by orders of magnitude; but zero and negative values have no logarithm.
    values = list(values)
    return bool(values) and min(values) > 0 and max(values) >= RATIO * min(values)
