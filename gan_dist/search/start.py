"""The start of a search: what could keep it from one, its folder, and points of an earlier search."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from gan_dist.artifacts.search_folder import FORMAT
from gan_dist.config import FREE_ON_RESUME, differing_keys, load_config, to_yaml
from gan_dist.core import storage
from gan_dist.core.errors import ConfigError, ResumeError
from gan_dist.core.json_text import parse_object
from gan_dist.core.storage.hashed_folder import to_json
from gan_dist.models.release import CONFIG, SEARCH
from gan_dist.search.budget import require_time_left
from gan_dist.search.database import require_database
from gan_dist.search.plan import Plan
from gan_dist.search.population import changed_settings, settings_of
from gan_dist.search.space import Space
from gan_dist.search.study import lowest_value
from gan_dist.search.study_storage import JOURNAL, read_study

WARM_START_POINTS = 5
"""Points that a search takes from an earlier one."""
_OTHER_NAME = "give the search another name (name=...)"


def prepared(plan: Plan, metric: str) -> Plan:
    """Return a plan with the points of `search.warm_start`; nothing is written.

    Raises:
        CheckpointError: the record of what the search has spent is damaged.
        ConfigError: `search.budget.until` has passed.
        ResumeError: the folder belongs to another search; or there is no such search to start from.
        StorageError: `search.optuna_storage` names no database, or a file cannot be read.
    """
    search = plan.search
    _identity(plan, metric)
    require_time_left(plan.uri, search.budget)
    if search.optuna_storage is not None:
        require_database(search.optuna_storage)
    if search.warm_start is None:
        return plan
    points = (*search.points, *warm_start_points(search.warm_start, plan.space))
    return replace(plan, search=search.model_copy(update={"points": points}))


def begin(plan: Plan, metric: str) -> dict[str, str]:
    """Write a search's files, or check that those of an earlier process are of the same search.

    Returns its identity, for its study: an `id`, and the `folder` for people to read.

    Raises:
        ResumeError: the folder belongs to another search, with what differs; or its record is damaged.
    """
    identity = _identity(plan, metric)
    storage.write_bytes(storage.join(plan.uri, CONFIG), to_yaml(plan.config).encode())
    record = {"format": FORMAT, "metric": metric, "mode": "min", "space": plan.space.to_json()}
    if plan.search.objectives:
        record["objectives"] = [*plan.search.objectives.items()]  # in their order, which a JSON object loses
    record |= {"population": settings_of(plan.search)} if plan.evolves else {}
    most = plan.search.most_trials
    trials = int(most) if math.isfinite(most) else None
    storage.write_bytes(storage.join(plan.uri, SEARCH), to_json({**record, "trials": trials, "id": identity}))
    return {"id": identity, "folder": storage.redact(plan.uri)}


def _identity(plan: Plan, metric: str) -> str:
    """Return what names a search and its study; refuse the folder of another search, or of a run."""
    uri, identity = storage.join(plan.uri, SEARCH), uuid.uuid4().hex
    if storage.exists(uri):
        try:
            earlier = parse_object(storage.read_bytes(uri))
            space, earlier_metric = Space.from_json(earlier["space"]), earlier["metric"]
            objectives = dict(earlier.get("objectives", ()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            what = f"{storage.redact(uri)} is damaged ({error!r})"
            raise ResumeError(what, f"restore it, or {_OTHER_NAME}") from None
        others = changed_settings(plan.search, earlier.get("population"))
        if [*objectives.items()] != [*(plan.search.objectives or {}).items()]:  # also in their order
            others.append((objectives, plan.search.objectives, "search.objectives"))
        if earlier_metric != metric:
            others.append((earlier_metric, metric, "the metric"))
        _require_same(plan, space, others)
        identity = str(earlier.get("id", identity))
    elif storage.exists(storage.join(plan.uri, CONFIG)):
        raise ResumeError(f"{plan.uri} is a run, not a search", _OTHER_NAME, keys=("name",))
    return identity


def _require_same(plan: Plan, space: Space, others: Iterable[tuple[object, object, str]]) -> None:
    """Refuse another space or configuration, or `others`: what was, is now, and the name of what differs."""
    differing = plan.space.differences(space)
    differing += [f"{name} was {was}, is now {now}" for was, now, name in others]
    varied = frozenset(plan.space.distributions)
    before = load_config(storage.join(plan.uri, CONFIG))
    # Trials continue only at their own length: values at different lengths are not comparable. A study keeps
    # the name that it was begun with.
    free = (FREE_ON_RESUME | varied) - {"name", "train.kimg", "eval.every_kimg"}
    keys = differing_keys(before, plan.config, free)
    differing += [f"{key} was {old}, is now {new}" for key, old, new in keys]
    if differing:
        raise ResumeError(
            f"{plan.uri} belongs to another search: {'; '.join(differing)}",
            f"{_OTHER_NAME}, or what it was begun with",
            keys=("name", *(key for key, _, _ in keys)),
        )


def warm_start_points(uri: str, space: Space) -> list[dict[str, Any]]:
    """Return the values of the best trials in an earlier search's journal within a space, the best first.

    Raises:
        ResumeError: there is no search with a journal, or none of its trials is of this space.
        StorageError: the journal cannot be read, or is damaged.
    """
    where = f"search.warm_start={storage.redact(uri)}"
    if not all(storage.exists(storage.join(uri, name)) for name in (SEARCH, JOURNAL)):
        raise ResumeError(
            f"{where}: there is no search with a {JOURNAL}",
            "give the folder of one, or its best values as search.points",
            keys=("search.warm_start",),
        )
    study = read_study(uri, None, name="")
    begun = [] if study is None else study.get_trials(deepcopy=False)
    measured = [trial for trial in begun if math.isfinite(lowest_value(trial))]
    found: dict[str, dict[str, Any]] = {}
    for trial in sorted(measured, key=lambda one: (lowest_value(one), one.number)):
        point = {key: value for key, value in trial.params.items() if key in space.distributions}
        try:
            space.check_point(point)
        except ConfigError:
            continue
        found.setdefault(json.dumps(point, sort_keys=True), point)
    if not found:
        raise ResumeError(
            f"{where}: none of its {len(measured)} measured trials lies within search.space",
            "leave search.warm_start out, or give search.points",
            keys=("search.warm_start", "search.space"),
        )
    return list(found.values())[:WARM_START_POINTS]
