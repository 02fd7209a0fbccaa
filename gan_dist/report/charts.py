"""Charts of runs and searches as plotly figures: JSON in the page, which plotly.js draws in the browser."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from gan_dist.report.blocks import Block, Chart, Note
from gan_dist.report.series import Series, finite
from gan_dist.report.trials import State, Trial

if TYPE_CHECKING:
    from optuna.study import Study

    from gan_dist.search.space import Space

GREY, GRID = "#8a8f98", "rgba(128,128,128,0.22)"
"""Colours that are legible on white and on black."""
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#eab308")
AXIS = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID}
STYLES: dict[State, dict[str, Any]] = {
    State.PRUNED: {"color": "rgba(138,143,152,0.55)", "width": 1},
    State.FAILED: {"color": COLOURS[4], "width": 1, "dash": "dot"},
    State.RUNNING: {"color": COLOURS[2], "width": 1.5, "dash": "dash"},
    State.UNKNOWN: {"color": COLOURS[0], "width": 1.5},
    State.COMPLETE: {"color": COLOURS[0], "width": 1.5},
}
"""Lines by state, the topmost last."""
BEST_TO_WORST = [[0, COLOURS[1]], [0.5, COLOURS[3]], [1, COLOURS[0]]]
TICKS = 4
MARKED = 100
"""Points of a curve, at most, that are marked."""


def chart(
    title: str,
    traces: Sequence[Any],
    *,
    unit: str = "",
    wide: bool = False,
    height: int = 260,
    margin: Mapping[str, int] | None = None,
    **layout: Any,
) -> Chart:
    """Return a chart of plotly traces with a transparent background.

    Names and texts of traces must be escaped, since plotly interprets some HTML in them.
    """
    figure = go.Figure(list(traces))
    figure.layout.template = None
    figure.update_layout(
        margin={"l": 56, "r": 12, "t": 8, "b": 40, **(margin or {})},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": GREY, "size": 12},
        colorway=COLOURS,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": GREY, "remove": ["select2d", "lasso2d", "autoScale2d"]},
        hovermode="closest",
        height=height,
        **layout,
    )
    figure.update_xaxes(**AXIS)
    figure.update_yaxes(**AXIS)
    return Chart(title, unit, figure.to_json().replace("<", "\\u003c"), wide, height)


def curves(
    title: str,
    unit: str,
    series: Mapping[str, Series],
    *,
    best: tuple[float, float] | None = None,
) -> Chart:
    """Return curves over kimg, the thousands of images seen; None is a gap.

    A chart in which a point, (kimg, value), is marked as `best` has the full width of the page.
    """
    wide = best is not None
    traces: list[Any] = [
        go.Scatter(
            x=list(one.kimg),
            y=list(one.values),
            name=escape(name),
            mode="lines" if len(one.values) > MARKED else "lines+markers",
            marker={"size": 4},
            showlegend=wide or len(series) > 1,
        )
        for name, one in series.items()
    ]
    if best is not None:
        marker = {"symbol": "star", "size": 14, "color": COLOURS[1]}
        traces.append(go.Scatter(x=[best[0]], y=[best[1]], name="best", mode="markers", marker=marker))
    return chart(title, traces, unit=unit, wide=wide, xaxis_title="kimg", height=320 if wide else 260)


def bars(title: str, unit: str, values: Mapping[str, float]) -> Chart:
    """Return a chart with a horizontal bar for each name, the first on top."""
    names = [escape(name) for name in values]
    trace = go.Bar(x=list(values.values()), y=names, orientation="h", marker={"color": COLOURS[0]})
    return chart(
        title,
        [trace],
        height=80 + 26 * len(names),
        xaxis_title=unit,
        yaxis={"autorange": "reversed", "automargin": True, "type": "category"},
    )


def progress(metric: str, trials: Sequence[Trial]) -> Block:
    """Return the best value so far over the images that all trials together have trained with."""
    order = sorted(trials, key=lambda one: (one.ended.timestamp() if one.ended else math.inf, one.number))
    trained, best = 0, math.inf
    points: list[tuple[float, float, str]] = []
    for trial in order:
        for images, value in trial.curve.items():
            if value < best:
                best = value
                points.append(((trained + images) / 1000, value, f"trial {trial.number}"))
        trained += trial.images
    if points:
        points.append((trained / 1000, best, "now"))
    trace = go.Scatter(
        x=[at for at, _, _ in points],
        y=[value for _, value, _ in points],
        text=[who for _, _, who in points],
        mode="lines+markers",
        line={"shape": "hv"},
    )
    title = "Best so far, trials in the order in which they ended"
    named: dict[str, Any] = {"xaxis_title": "kimg trained by all trials", "yaxis_title": escape(metric)}
    return chart(title, [trace], **named, yaxis_type=_scale(trials))


def learning(metric: str, trials: Sequence[Trial], best: int | None) -> Block:
    """Return the curves of all trials, a colour for each state, the best trial on top."""
    traces: list[Any] = []
    for state, line in STYLES.items():
        drawn = [trial for trial in trials if trial.state == state and trial.curve]
        if drawn:
            traces.append(_lines(f"{state} ({len(drawn)})", drawn, line))
    winner = [trial for trial in trials if trial.number == best and trial.curve]
    if winner:
        traces.append(_lines(f"the winner, trial {best}", winner, {"color": COLOURS[1], "width": 3}))
    named: dict[str, Any] = {"xaxis_title": "kimg", "yaxis_title": escape(metric)}
    return chart("Learning curves", traces, wide=True, height=380, **named, yaxis_type=_scale(trials))


def importances(study: Study) -> list[Block]:
    """Return the importance of each key with Optuna's warnings, or the reason why there is none."""
    from optuna.importance import get_param_importances  # brings scikit-learn, which takes seconds

    unknown = "How much each key matters cannot be said yet"
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = get_param_importances(study)
        except (ValueError, RuntimeError) as error:
            return [Note(f"{unknown}: {error}")]
    if not found:
        return [Note(f"{unknown}: too few trials are complete.")]
    notes = dict.fromkeys(str(one.message) for one in warned)
    title = "What matters (PED-ANOVA, complete trials)"
    return [bars(title, "importance", found), *map(Note, notes)]


def parallel(space: Space, metric: str, trials: Sequence[Trial]) -> Block:
    """Return complete trials as lines across their common keys, coloured by rank."""
    complete = [trial for trial in trials if trial.state == State.COMPLETE and trial.curve]
    keys = [key for key in space.distributions if all(key in trial.values for trial in complete)]
    if len(complete) < 2 or not keys:
        return Note("Values beside each other are drawn from two complete trials on.")
    axes = []
    for key in keys:
        log = getattr(space.distributions[key], "log", False)
        axes.append(_axis(key, [trial.values[key] for trial in complete], log=log))
    best = [trial.best for trial in complete]
    axes.append(_axis(metric, best, log=_scale(complete) == "log"))
    # Ranks rather than values: one diverged trial would leave all others the same colour.
    ranks = sorted(best)
    line = {"color": [ranks.index(value) for value in best], "colorscale": BEST_TO_WORST}
    font = {"color": GREY}
    trace = go.Parcoords(dimensions=axes, line=line, labelfont=font, tickfont=font, rangefont=font)
    title = "Values of complete trials, from orange, the best, to blue (drag along an axis to pick)"
    return chart(title, [trace], wide=True, height=400, margin={"l": 110, "r": 48, "t": 48})


def _lines(name: str, trials: Sequence[Trial], line: dict[str, Any]) -> Any:
    """Return the curves of several trials as one trace, with gaps between them."""
    kimg: list[float | None] = []
    values: list[float | None] = []
    words: list[str] = []
    for trial in trials:
        kimg += [*(images / 1000 for images in trial.curve), None]
        values += [*trial.curve.values(), None]
        words += [f"trial {trial.number}"] * (len(trial.curve) + 1)
    return go.Scatter(
        x=kimg, y=values, text=words, name=escape(name), mode="lines+markers", line=line, marker={"size": 3}
    )


def _scale(trials: Sequence[Trial]) -> str:
    # Distances fall by orders of magnitude; but zero and negative values have no logarithm.
    return "log" if all(value > 0 for trial in trials for value in trial.curve.values()) else "linear"


def _axis(name: str, values: Sequence[object], *, log: bool) -> dict[str, Any]:
    """Return a dimension of parallel coordinates: numbers, their logarithms, or indices of words."""
    known = [figure for value in values if (figure := finite(value)) is not None]
    if len(known) < len(values):
        words = sorted({str(value) for value in values})
        at = [words.index(str(value)) for value in values]
        ticks, texts = list(range(len(words))), [escape(word) for word in words]
        return {"label": escape(name), "values": at, "tickvals": ticks, "ticktext": texts}
    if not log:
        return {"label": escape(name), "values": known}
    powers = [math.log10(figure) for figure in known]
    marks = np.linspace(min(powers), max(powers), TICKS).tolist()
    texts = [f"{10**mark:.3g}" for mark in marks]
    return {"label": escape(name), "values": powers, "tickvals": marks, "ticktext": texts}
