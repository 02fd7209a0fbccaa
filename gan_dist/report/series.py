"""A run's records as series to draw, each with its unit, and as facts that hold all along."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gan_dist.artifacts.best import distance
from gan_dist.artifacts.records import METRICS, read_valid_records
from gan_dist.core import storage

Record = Mapping[str, Any]
CLOCK = ("images", "kimg")
UNTOLD = ("checkpoint", "time")
"""What changes from record to record and is no number."""
OF_EXTRACTOR = r"(_[a-z]\w*)?"
"""What a score's name ends with where it is not the papers' extractor that it is of."""
GROUPS = (
    ("Kernel distance", "lower is better", rf"kid{OF_EXTRACTOR}"),
    ("Inception Score", "higher is better", rf"is{OF_EXTRACTOR}"),
    ("Precision and recall", "share of images", rf"(precision|recall){OF_EXTRACTOR}"),
    ("Density and coverage", "1 is as real images", rf"(density|coverage){OF_EXTRACTOR}"),
    ("Losses", "loss, mean over the batch", r"loss_\w+"),
    ("Accuracy of the discriminator", "share judged rightly", r"(real|fake)_accuracy"),
    ("Gradient norms", "L2 norm", r"grad_norm_\w+"),
    ("Weight norms", "L2 norm", r"weight_norm_\w+"),
    ("Diversity", "distance apart, generated over real", r"diversity"),
    ("Modes", "classes made", r"modes"),
    ("Augmentation", "probability p", r"augment_p"),
    ("Speed", "images/s, evaluations left out", r"images_per_second"),
    ("Images left out as damaged", "images", r"quarantined"),
)
"""Title, unit, and names of the series that are drawn together."""
UNITS = {"_s": "seconds", "_bytes": "bytes", "_gb": "GB", "_kimg": "kimg"}


@dataclass(frozen=True)
class Group:
    """Series that are drawn together."""

    title: str
    unit: str
    series: Mapping[str, Sequence[float | None]]
    """By key: a value for each record; None where there is none, or none that is finite."""


def read_legible(run_uri: str) -> tuple[list[Record], int]:
    """Return the records of a run by images seen, and how many lines are none and were left out.

    A run that has recorded nothing has no records.
    """
    if not storage.exists(storage.join(run_uri, METRICS)):
        return [], 0
    records, damaged = read_valid_records(run_uri)
    return sorted(records, key=lambda record: int(record["images"])), len(damaged)


def finite(value: object) -> float | None:
    """Return a value that is a finite number, as what it is; else None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return value
    return None


def groups(records: Sequence[Record]) -> list[Group]:
    """Return every series of numbers, grouped; the distance first, what has no group of its own last."""
    left = {key: values for key, values in _numbers(records).items() if not _same(records, key)}
    found = []
    metric = distance(records)
    if metric in left:
        found.append(Group("Distance", "lower is better", {metric: left.pop(metric)}))
    for title, unit, pattern in GROUPS:
        if mine := {key: left.pop(key) for key in list(left) if re.fullmatch(pattern, key)}:
            found.append(Group(title, unit, mine))
    for key, values in left.items():
        unit = next((unit for suffix, unit in UNITS.items() if key.endswith(suffix)), "")
        found.append(Group(key, unit, {key: values}))
    return found


def settled(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Yield what records say that is no series: words, and whole numbers that never change."""
    for key in dict.fromkeys(key for record in records for key in record):
        if key in CLOCK or key in UNTOLD:
            continue
        values = [record[key] for record in records if record.get(key) is not None]
        words = [value for value in values if isinstance(value, str)]
        if _same(records, key) or words:
            yield key, ", then ".join(dict.fromkeys(map(str, words or values[:1])))


def _numbers(records: Sequence[Record]) -> dict[str, list[float | None]]:
    keys = dict.fromkeys(key for record in records for key in record if key not in CLOCK)
    series = {key: [finite(record.get(key)) for record in records] for key in keys}
    return {key: values for key, values in series.items() if any(value is not None for value in values)}


def _same(records: Sequence[Record], key: str) -> bool:
    """Tell whether a key has one whole number all along."""
    values = [record[key] for record in records if record.get(key) is not None]
    return bool(values) and isinstance(values[0], int) and all(value == values[0] for value in values)
