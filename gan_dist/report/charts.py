"""Charts as plotly figures: JSON in the page, which plotly.js draws in the browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from gan_dist.report.blocks import Chart

GREY, GRID = "#8a8f98", "rgba(128,128,128,0.22)"
"""Colours that are legible on white and on black."""
COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#eab308")
AXIS = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID}
Values = Sequence[float | None]


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
    kimg: Sequence[float],
    series: Mapping[str, Values],
    *,
    best: tuple[float, float] | None = None,
) -> Chart:
    """Return curves over kimg, the thousands of images seen.

    Args:
        title: Title of the chart.
        unit: Unit of the values.
        kimg: Horizontal positions of the values.
        series: Values by name; None is a gap.
        best: Position and value of a point to mark; such a chart has the full width of the page.
    """
    wide = best is not None
    traces: list[Any] = [
        go.Scatter(
            x=list(kimg),
            y=list(values),
            name=escape(name),
            mode="lines+markers",
            marker={"size": 4},
            showlegend=wide or len(series) > 1,
        )
        for name, values in series.items()
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
