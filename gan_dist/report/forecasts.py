"""The forecasts of a search beside what came."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gan_dist.report.blocks import Block, Note
from gan_dist.report.charts import COLOURS, chart
from gan_dist.report.series import finite


def forecasts(record: Mapping[str, Any]) -> list[Block]:
    """Return charts of a search's forecasts, with their intervals, and what came; none where none was made.

    `record` is the search's `forecast.json`.
    """
    came, blocks = record.get("came") or {}, []
    for key, title, unit, scale in (
        ("value", "Forecast of the value at the end", str(record.get("metric", "")), 1.0),
        ("images", "Forecast of the images of all trials", "kimg", 1000.0),
    ):
        made = [one for one in record.get("made", []) if one.get(key)]
        if not made:
            continue
        x = [one["trials"] for one in made]
        low, middle, high = ([one[key][at] / scale for one in made] for at in range(3))
        data: list[dict[str, Any]] = [
            {"name": "forecast", "x": x, "y": middle, "low": low, "high": high, "points": 5}
        ]
        if (value := finite(came.get(key))) is not None:
            level = {"color": COLOURS[2], "dash": [6, 4], "points": 0}
            end = max(x[-1], came.get("trials", 0))
            data.append({"name": "what came", "x": [x[0], end], "y": [value / scale] * 2, **level})
        blocks.append(chart(title, data, unit=unit, x="trials that had ended", height=300))
    return [*blocks, Note("Bands are what 9 of 10 cases are expected in.")] if blocks else []
