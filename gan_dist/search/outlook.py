"""The forecasts of a search while it goes on: in words for its status lines, and in its folder.

`forecast.json` has `made`, a forecast after each trial that ended (from the hundredth trial on, fewer), and
`came`, what became of it in the end. A forecast has the number of trials that had ended and, at the end of
the search, `images` and `value` as [low, middle, high], and seconds, GPU-seconds and dollars.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

from optuna.trial import FrozenTrial

from gan_dist.core import storage
from gan_dist.core.json_text import parse_object
from gan_dist.core.storage.hashed_folder import to_json
from gan_dist.search.budget import Ledger
from gan_dist.search.forecast import Curve, Forecast, Interval, forecast, mean_images
from gan_dist.search.plan import Plan
from gan_dist.search.replicas import TOP
from gan_dist.search.study import SearchStudy, images_trained

FORECAST = "forecast.json"
REFRESH_S = 5.0
"""Seconds between forecasts while no trial ends."""
LEARNING = ("tpe", "gp", "cmaes")
"""Samplers that learn from earlier trials."""


class Outlook:
    """Forecasts of a search.

    Args:
        plan: The search.
        study: Its study.
        ledger: Its ledger.
        length: Images of a whole trial.
        metric: Name of the metric.
    """

    def __init__(self, plan: Plan, study: SearchStudy, ledger: Ledger, length: int, metric: str) -> None:
        self._plan, self._study, self._ledger, self._length, self._metric = (
            plan,
            study,
            ledger,
            length,
            metric,
        )
        self._file = storage.join(plan.uri, FORECAST)
        self._made = _read(self._file)
        self._ended: list[Curve] = []
        self._seen: tuple[float, int] | None = None  # time and ended trials of the last forecast
        self._found = self._forecast()

    def text(self) -> str:
        """Return the present forecast in words; a new one is kept after a trial's end."""
        before = len(self._ended)
        self._found = self._forecast()
        ended = len(self._ended)
        last = self._made[-1]["trials"] if self._made else -1
        if ended > before and ended > last * 1.01:
            self._made.append(self.record())
            self._write()
        return format_forecast(self.record(), self._metric)

    def record(self) -> dict[str, Any]:
        """Return the present forecast as JSON."""
        found, images, spent = self._found, self._study.images, self._ledger.spent
        repeated = self._plan.search.replicates * TOP * self._length
        total = Interval(*(min(one + repeated, images + self._images_left) for one in found.images))
        known = math.isfinite(total.middle)
        done, more = images - spent.images_before, total.middle - images
        rates = {"seconds": spent.seconds, "gpu_seconds": spent.gpu_seconds, "dollars": spent.dollars}
        costs = {name: used * (1 + more / done) for name, used in rates.items() if known and done and used}
        return {
            "trials": len(self._ended),
            "images": [*total] if known else None,
            **costs,
            "value": found.value and [*found.value],
        }

    def close(self, value: float) -> dict[str, Any]:
        """Keep what became of the search, whose lowest value is given, and return the whole record."""
        spent = self._ledger.spent
        came: dict[str, Any] = {"trials": len(self._study.ended()), "images": self._study.images}
        came |= {"seconds": spent.seconds, "gpu_seconds": spent.gpu_seconds, "dollars": spent.dollars}
        return self._write({**came, "value": value if math.isfinite(value) else None})

    @property
    def _images_left(self) -> float:
        return self._ledger.images_left(self._study.images)

    def _forecast(self) -> Forecast:
        plan, study, search = self._plan, self._study, self._plan.search
        self._ended += map(curve_of, study.ended(len(self._ended)))
        now, ended = time.monotonic(), len(self._ended)
        if self._seen is not None and ended == self._seen[1] and now - self._seen[0] < REFRESH_S:
            return self._found
        self._seen = (now, ended)
        running = [curve_of(trial) for trial in study.running()]
        return forecast(
            self._ended,
            running,
            study.unfinished - len(running),
            every=round(1000 * plan.config.eval.every_kimg),
            length=self._length,
            mean=mean_images(search, plan.grace, self._length),
            images_left=self._images_left,
            learns=search.algorithm in LEARNING,
        )

    def _write(self, came: dict[str, Any] | None = None) -> dict[str, Any]:
        record = {"metric": self._metric, "made": self._made, "came": came}
        storage.write_bytes(self._file, to_json(record))
        return record


def format_forecast(record: dict[str, Any], metric: str) -> str:
    """Return a forecast in words; empty where nothing is known."""
    parts = []
    if record["images"] is not None:
        parts.append(format_kimg(record["images"][1]))
    if "seconds" in record:
        parts.append(f"{record['seconds'] / 3600:.2g} h")
    if "dollars" in record:
        parts.append(f"${record['dollars']:.2f}")
    if record["value"] is not None:
        low, middle, high = record["value"]
        parts.append(f"{metric} {middle:.3f} (90 %: {low:.3f} to {high:.3f})")
    return f"at its end {', '.join(parts)}" if parts else ""


def format_kimg(images: float) -> str:
    """Return images in words, such as `1,830 kimg` or `1.5 kimg`."""
    return f"{images / 1000:,.0f} kimg" if images >= 100_000 else f"{images / 1000:.3g} kimg"


def curve_of(trial: FrozenTrial) -> Curve:
    """Return the curve of a trial of the study."""
    points = sorted(trial.intermediate_values.items())
    finite = [(images, value) for images, value in points if math.isfinite(value)]
    images, values = zip(*finite, strict=True) if finite else ((), ())
    return Curve(images, values, images_trained(trial))


def _read(file: str) -> list[dict[str, Any]]:
    """Return the forecasts that earlier processes have kept; none where they are damaged."""
    if not storage.exists(file):
        return []
    try:
        made = parse_object(storage.read_bytes(file))["made"]
        return [one for one in made if isinstance(one["trials"], int)]
    except (ValueError, KeyError, TypeError, json.JSONDecodeError):
        return []
