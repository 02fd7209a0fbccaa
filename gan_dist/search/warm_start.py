"""What an earlier search found, as points to begin with."""

from __future__ import annotations

import json
import math
from typing import Any

from gan_dist.core import storage
from gan_dist.core.errors import ConfigError, ResumeError
from gan_dist.models.release import SEARCH
from gan_dist.search.display import lowest
from gan_dist.search.space import Space
from gan_dist.search.study_storage import JOURNAL, recorded_study

COUNT = 5
"""Points that are taken over."""


def earlier_points(uri: str, space: Space) -> list[dict[str, Any]]:
    """Return the values of an earlier search's best trials, the best first, as far as they are of this space.

    Args:
        uri: The earlier search's folder, with its journal.
        space: What is varied now.

    Raises:
        ResumeError: there is no search with a journal, or none of its trials is of this space.
        StorageError: the journal cannot be read, or is damaged.
    """
    if not all(storage.exists(storage.join(uri, name)) for name in (SEARCH, JOURNAL)):
        raise ResumeError(
            f"search.warm_start={storage.redact(uri)}: there is no search with a {JOURNAL}",
            "give the folder of one, or its best values as search.points",
        )
    study = recorded_study(uri, None, name="")
    begun = [] if study is None else study.get_trials(deepcopy=False)
    trials = [trial for trial in begun if math.isfinite(lowest(trial))]
    found: dict[str, dict[str, Any]] = {}
    for trial in sorted(trials, key=lambda one: (lowest(one), one.number)):
        point = {key: value for key, value in trial.params.items() if key in space.distributions}
        try:
            space.check_point(point)
        except ConfigError:
            continue
        found.setdefault(json.dumps(point, sort_keys=True), point)
    if not found:
        raise ResumeError(
            f"search.warm_start={storage.redact(uri)}: none of its {len(trials)} measured trials lies within "
            "search.space",
            "leave search.warm_start out, or give search.points",
        )
    return list(found.values())[:COUNT]
