"""Records of a run as series of numbers with their units, and as constants."""

from __future__ import annotations

import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gan_dist.artifacts.records import distance_name, read_valid_records
from gan_dist.core.errors import AbsentError

Record = Mapping[str, Any]
CLOCK = ("images", "kimg")
LEFT_OUT = ("checkpoint", "time")
"""Keys whose values change from record to record and are no numbers."""
BESIDE = ("halves", "noise")
"""Keys whose values stand in the chart of the distance."""
SUFFIX = r"(_[a-z]\w*)?"
"""Suffix of a score's name: an extractor other than that of FID."""
GROUPS = (
    ("Kernel distance", "lower is better", rf"kid{SUFFIX}"),
    ("Inception Score", "higher is better", rf"is{SUFFIX}"),
    ("Precision and recall", "share of images", rf"(precision|recall){SUFFIX}"),
    ("Density and coverage", "1 is as real images", rf"(density|coverage){SUFFIX}"),
    ("Diversity", "distance apart, generated over real", r"diversity"),
    ("Modes", "classes made", r"modes"),
    ("Copying of training images", "below -3 is copying", rf"copying_z{SUFFIX}"),
    ("Losses", "loss, mean over an interval", r"loss_\w+"),
    ("Accuracy of the discriminator", "share judged rightly", r"(real|fake)_accuracy"),
    ("Speed", "images/s, evaluations left out", r"images_per_second"),
    ("Gradient norms", "L2 norm", r"grad_norm_\w+"),
    ("Weight norms", "L2 norm", r"weight_norm_\w+"),
    ("Augmentation", "probability p", r"augment_p"),
    ("Path length", "running mean", r"path_length"),
    ("Time", "s per kimg, evaluations left out", r"s_per_kimg"),
    ("Waiting for images", "share of the time", r"wait_share"),
    ("Memory", "GiB at the peak so far", r"peak_memory_gib"),
    ("Images left out as damaged", "images", r"quarantined"),
)
"""Title and unit of a chart, and the pattern of the names of its series."""
MAIN = 10
"""The first groups, which matter most; what no group has is a score of the user's own, and matters too."""
POINTS = 600
"""Points of a curve at most."""
UNITS = {"_s": "seconds", "_bytes": "bytes", "_gb": "GB", "_kimg": "kimg"}


@dataclass(frozen=True)
class Series:
    """Values of a key in the records that have it, at most `POINTS` evenly chosen ones."""

    kimg: Sequence[float]
    values: Sequence[float | None]
    """None where a value is not finite."""


@dataclass(frozen=True)
class Group:
    """Series in one chart."""

    title: str
    unit: str
    series: Mapping[str, Series]
    """By key."""
    main: bool = True
    """Whether it is among those that matter most."""


def read_sorted(run_uri: str) -> tuple[list[Record], int]:
    """Return the records of a run by images seen, and the number of damaged lines; no file has no records."""
    try:
        records, damaged = read_valid_records(run_uri)
    except AbsentError:
        return [], 0
    return sorted(records, key=lambda record: int(record["images"])), len(damaged)


def finite(value: object) -> float | None:
    """Return a value if it is a finite number, else None."""
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max:
        return value
    return None


def groups(records: Sequence[Record]) -> list[Group]:
    """Return all series of numbers in groups: the distance first, series without a group last."""
    keys = dict.fromkeys(key for record in records for key in record if key not in (*CLOCK, *BESIDE))
    varying = [key for key in keys if not _constant(records, key)]
    left = {key: _series(records, key) for key in varying}
    left = {key: one for key, one in left.items() if any(value is not None for value in one.values)}
    found = []
    metric = distance_name(records)
    if metric in left:
        found.append(Group("Distance", "lower is better", {metric: left.pop(metric)}))
    for place, (title, unit, pattern) in enumerate(GROUPS):
        if mine := {key: left.pop(key) for key in list(left) if re.fullmatch(pattern, key)}:
            found.append(Group(title, unit, mine, main=place < MAIN))
    for key, one in left.items():
        unit = next((unit for suffix, unit in UNITS.items() if key.endswith(suffix)), "")
        found.append(Group(key, unit, {key: one}))
    return found


def constants(records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    """Yield the values that are no series: texts, and integers that are the same in all records."""
    for key in dict.fromkeys(key for record in records for key in record):
        if key in CLOCK or key in LEFT_OUT:
            continue
        values = [record[key] for record in records if record.get(key) is not None]
        texts = [value for value in values if isinstance(value, str)]
        if _constant(records, key) or texts:
            yield key, ", then ".join(dict.fromkeys(map(str, texts or values[:1])))


def speed(records: Sequence[Record]) -> float | None:
    """Return the median images per second of the records; None if they have none."""
    rates = [rate for record in records if (rate := finite(record.get("images_per_second")))]
    return statistics.median(rates) if rates else None


def last_finite(records: Sequence[Record], key: str) -> float | None:
    """Return the last finite value of a key; None if there is none."""
    values = (finite(record.get(key)) for record in reversed(records))
    return next((value for value in values if value is not None), None)


def _series(records: Sequence[Record], key: str) -> Series:
    having = [record for record in records if key in record]
    having = having[:: -(-len(having) // POINTS) or 1]
    return Series([one["images"] / 1000 for one in having], [finite(one[key]) for one in having])


def _constant(records: Sequence[Record], key: str) -> bool:
    values = [record[key] for record in records if record.get(key) is not None]
    return bool(values) and isinstance(values[0], int) and all(value == values[0] for value in values)
