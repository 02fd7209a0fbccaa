"""What a search is going to do: its folder, its trials' configurations, the checks that need no cluster."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gan_dist.artifacts.search_folder import FORMAT, REPLICATES, TRIALS
from gan_dist.config import FREE_ON_RESUME, RunConfig, SearchConfig, differing_keys, load_config, to_yaml
from gan_dist.core import storage
from gan_dist.core.errors import ConfigError, ResumeError
from gan_dist.core.storage.hashed_folder import to_json
from gan_dist.models.release import CONFIG, SEARCH
from gan_dist.search.space import Space
from gan_dist.search.space.parse import parse


@dataclass(frozen=True)
class Plan:
    """A search before anything is started."""

    source: str
    overrides: tuple[str, ...]
    config: RunConfig
    """The configuration that trials start from, without the section `search`."""
    search: SearchConfig
    space: Space

    @property
    def uri(self) -> str:
        """The search's folder."""
        return self.config.run_uri

    @property
    def grace(self) -> int:
        """Images before which no trial is stopped."""
        return round(1000 * (self.search.grace_kimg or self.config.eval.every_kimg))

    def trial(self, number: int, values: Mapping[str, object]) -> RunConfig:
        """Return a trial's configuration: that of `gan-dist train` with its values as further overrides.

        Raises:
            ConfigError: the values do not go together.
        """
        config = load_config(self.source, [*self.overrides, *self.space.overrides(values)])
        kept_at = config.storage.model_copy(update={"path": storage.join(self.uri, TRIALS)})
        return config.model_copy(update={"name": f"{number:05d}", "storage": kept_at, "search": None})

    def replica(self, number: int, values: Mapping[str, object], index: int) -> RunConfig:
        """Return the configuration of a trial's repetition with another seed; `index` counts from 1."""
        config = self.trial(number, values)
        kept_at = config.storage.model_copy(update={"path": storage.join(self.uri, REPLICATES)})
        name, seed = f"{number:05d}-{index}", (config.seed + index) % 2**32
        return config.model_copy(update={"name": name, "seed": seed, "storage": kept_at})


def make_plan(source: str, overrides: Sequence[str]) -> Plan:
    """Return the search that a configuration describes.

    Raises:
        ConfigError: with all problems of the configuration, or of the space and the points to start from.
    """
    config = load_config(source, overrides)
    search = config.search
    if search is None:
        raise ConfigError(
            [
                f"{source} has no section search; it says what varies, such as "
                "search={space: {optim.g.lr: {log: [1e-5, 1e-3]}}}"
            ]
        )
    space = parse(search.space, config)
    plan = Plan(source, tuple(overrides), config.model_copy(update={"search": None}), search, space)
    problems: list[str] = []
    for values in space.corners():
        try:
            plan.trial(0, values)
        except ConfigError as error:
            problems += [f"search.space: {problem}" for problem in error.problems]
    if search.scheduler != "none" and (search.grace_kimg or 0) >= config.train.kimg:
        problems.append(
            f"search.grace_kimg={search.grace_kimg:g}: trials end after train.kimg={config.train.kimg:g}, so "
            f"that search.scheduler={search.scheduler} stops none; lower it, or set search.scheduler=none"
        )
    for point in search.points:
        try:
            space.check_point(point)
        except ConfigError as error:
            problems += [f"search.points: {problem}" for problem in error.problems]
    if search.algorithm == "grid":
        space.grid()
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return plan


def begin(plan: Plan, metric: str) -> dict[str, str]:
    """Write a search's files, or see that those of an earlier process are of the same search.

    Returns:
        What its study is known by, wherever that is kept: an `id`, and the `folder` for people to read.

    Raises:
        ResumeError: the folder belongs to another search, with what differs; or its record is damaged.
    """
    record = {"format": FORMAT, "metric": metric, "mode": "min", "space": plan.space.to_json()}
    record["trials"] = plan.search.trials  # for those who read of it
    uri, identity = storage.join(plan.uri, SEARCH), uuid.uuid4().hex
    if storage.exists(uri):
        try:
            earlier = json.loads(storage.read_bytes(uri))
            space, measured_by = Space.from_json(earlier["space"]), earlier["metric"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ResumeError(
                f"{storage.redact(uri)} is damaged ({error!r})",
                "restore it, or give the search another name (name=...)",
            ) from None
        _require_same(plan, space, measured_by, metric)
        identity = str(earlier.get("id", identity))
    elif storage.exists(storage.join(plan.uri, CONFIG)):
        raise ResumeError(f"{plan.uri} is a run, not a search: give the search another name (name=...)")
    storage.write_bytes(storage.join(plan.uri, CONFIG), to_yaml(plan.config).encode())
    storage.write_bytes(uri, to_json({**record, "id": identity}))
    return {"id": identity, "folder": storage.redact(plan.uri)}


def _require_same(plan: Plan, space: Space, measured_by: str, metric: str) -> None:
    differing = plan.space.differences(space)
    if measured_by != metric:
        differing.append(f"the metric was {measured_by}, is now {metric}")
    varied = frozenset(plan.space.distributions)
    before = load_config(storage.join(plan.uri, CONFIG))
    # Trials continue only at their own length: values at different lengths are not comparable. A study keeps
    # the name that it was begun with.
    free = (FREE_ON_RESUME | varied) - {"name", "train.kimg", "eval.every_kimg"}
    keys = differing_keys(before, plan.config, free)
    differing += [f"{key} was {old}, is now {new}" for key, old, new in keys]
    if differing:
        raise ResumeError(
            f"{plan.uri} belongs to another search: {'; '.join(differing)}. Give the search another name "
            "(name=...), or what it was begun with"
        )
