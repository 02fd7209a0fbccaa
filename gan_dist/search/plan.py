"""A search before its trials: its configuration, its space, and the configuration of each trial."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gan_dist.artifacts.objectives import Objectives
from gan_dist.artifacts.search_folder import REPLICATES, TRIALS
from gan_dist.config import (
    InitConfig,
    ModelConfig,
    RunConfig,
    SearchConfig,
    flatten,
    load_config,
    named_classes,
)
from gan_dist.config.load import ConfigBuilder, read_settings
from gan_dist.config.schedules import whole_rounds
from gan_dist.core import storage
from gan_dist.core.errors import ConfigError, Problem
from gan_dist.core.import_path import is_import_path
from gan_dist.models.release import CONFIG
from gan_dist.models.transfer import read_source
from gan_dist.search.algorithms import POPULATIONS
from gan_dist.search.budget import read_prices
from gan_dist.search.checks import ignored, impossible, unsuitable, unsuitable_population
from gan_dist.search.space import Space
from gan_dist.search.space.parse import parse

_FROM = "init.from"


@dataclass(frozen=True)
class Plan:
    """A search before anything is started."""

    settings: ConfigBuilder
    """What the file and the overrides set when the search was started; they are not read again."""
    config: RunConfig
    """The configuration that trials start from, without the section `search`."""
    search: SearchConfig
    space: Space

    @property
    def uri(self) -> str:
        """The search's folder."""
        return self.config.run_uri

    @property
    def evolves(self) -> bool:
        """Whether the trials are members of a population."""
        return self.search.scheduler in POPULATIONS

    @property
    def grace(self) -> int:
        """Images before which no trial is stopped."""
        return round(1000 * (self.search.grace_kimg or self.config.eval.every_kimg))

    def trial(self, number: int, values: Mapping[str, object]) -> RunConfig:
        """Return a trial's configuration: that of `gan-dist train` with its values as further overrides.

        Raises:
            ConfigError: the values do not go together.
        """
        config = self.settings.with_values(values).config()
        folder = config.storage.model_copy(update={"path": storage.join(self.uri, TRIALS)})
        return config.model_copy(update={"name": f"{number:05d}", "storage": folder, "search": None})

    @property
    def ends(self) -> list[int]:
        """Images at the ends of a population's intervals; the last one is that of a member's run."""
        config = self.config
        every = self.search.perturb_kimg or config.eval.every_kimg
        count, update = math.ceil(config.train.kimg / every), config.train.batch_size * config.optim.d_steps
        kimgs = [*(every * number for number in range(1, count)), config.train.kimg]
        return sorted({whole_rounds(kimg, update) for kimg in kimgs})

    def branch(self, name: str, values: Mapping[str, object], end: int) -> RunConfig:
        """Return the configuration of a member's branch up to `end` images, with values by kimg."""
        config = self.trial(0, {**values, "train.kimg": end / 1000})
        return config.model_copy(update={"name": name})

    def replica(self, number: int, values: Mapping[str, object], index: int) -> RunConfig:
        """Return the configuration of a trial's repetition with another seed; `index` counts from 1."""
        config = self.trial(number, values)
        folder = config.storage.model_copy(update={"path": storage.join(self.uri, REPLICATES)})
        name, seed = f"{number:05d}-{index}", (config.seed + index) % 2**32
        return config.model_copy(update={"name": name, "seed": seed, "storage": folder})

    def with_own_code(self) -> list[RunConfig]:
        """Return trials for every code of a user's own that the space names, and for its extreme settings."""
        found: dict[str, RunConfig] = {}
        for values in self.space.extreme_points():
            trial = self.trial(0, values)
            named = named_classes(trial)
            if any(map(is_import_path, named.values())):
                settings = [trial.model.settings, trial.loss.settings, trial.data.augment_settings]
                found.setdefault(json.dumps([named, settings]), trial)
        return list(found.values())


def make_plan(source: str, overrides: Sequence[str]) -> Plan:
    """Return the search that a configuration describes; see `plan_search`."""
    return plan_search(read_settings(source, overrides))


def plan_search(settings: ConfigBuilder) -> Plan:
    """Return the search that a configuration describes.

    Raises:
        ConfigError: with all problems of the configuration, or of the space and the points to start from.
    """
    settings = replace(settings, searching=True)
    config = settings.config()
    search = config.search
    if search is None:
        remedy = "say what varies, such as search={space: {optim.g.lr: {log: [1e-5, 1e-3]}}}"
        raise ConfigError(f"{settings.label} has no section search", remedy, keys=("search",))
    space = parse(search.space, flatten(config))
    plan = Plan(settings, config.model_copy(update={"search": None}), search, space)
    Objectives.parse(search.objectives)
    problems: list[Problem] = []
    for values in space.extreme_points():
        try:
            source = plan.trial(0, values).init.source or ""
        except ConfigError as error:
            problems += [_within("search.space", problem) for problem in error.problems]
            continue
        if _FROM in values and not source.startswith("/") and "://" not in source:
            what = f"init.from={source} is a relative path, and trials run in other folders"
            problems.append(
                _within("search.space", Problem(what, "give an absolute path or a URI", (_FROM,)))
            )
    problems += ignored(search, space, config.schedules, config.train.kimg)
    for point in search.points:
        try:
            space.check_point(point)
        except ConfigError as error:
            problems += [_within("search.points", problem) for problem in error.problems]
    problems += unsuitable(search, space, config.eval)
    if plan.evolves:
        problems += unsuitable_population(search, space, config.train, config.eval)
    scale = config.scale
    problems += impossible(search, config.train.kimg, scale.workers * scale.gpus_per_worker)
    if search.prices is not None:
        read_prices(search.prices)
    if search.algorithm == "grid":
        space.grid()
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return plan


def with_objectives(plan: Plan, metric: str, scores: Sequence[str], more: Mapping[str, str]) -> Plan:
    """Return a plan whose trials report its objectives, those of `scores` and `images_per_second`.

    `more` are values that trials report with more of `eval.metrics`, and with which: what objectives need of
    these is added. The distance, `metric`, as the only objective is a search without objectives.

    Raises:
        ConfigError: trials cannot report such a value, with those that they can.
    """
    given, able = plan.search.objectives or {}, (*scores, *more, "images_per_second")
    if unknown := [name for name in given if name not in able]:
        extractor = plan.config.eval.extractor
        raise ConfigError(
            f"search.objectives: no trial reports {', '.join(unknown)}; with eval.extractor={extractor} they "
            f"can report {', '.join(able)}",
            "name some of these",
            keys=("search.objectives", "eval.extractor"),
        )
    if given == {metric: "min"} or not given:
        return replace(plan, search=plan.search.model_copy(update={"objectives": None}))
    needed = {more[name]: None for name in given if name in more}
    metrics = [*dict.fromkeys((*plan.config.eval.metrics, *needed))]
    evaluation = plan.config.eval.model_copy(update={"metrics": tuple(metrics)})
    config = plan.config.model_copy(update={"eval": evaluation})
    settings = plan.settings.with_values({"eval.metrics": metrics}) if needed else plan.settings
    return replace(plan, settings=settings, config=config)


def pinned(plan: Plan) -> Plan:
    """Return a plan with the hash of the weights that its trials begin with, so that all have the same.

    A search that goes on keeps that which it began with. One that varies `init.from` has no such hash; its
    trials record their own.

    Raises:
        CheckpointError: there are no such weights.
        StorageError: they cannot be read.
    """
    init, sha256 = plan.config.init, None
    if init.source is None or init.sha256 or _FROM in plan.space.distributions:
        return plan
    earlier = storage.join(plan.uri, CONFIG)
    if storage.exists(earlier):
        sha256 = load_config(earlier).init.sha256
    sha256 = sha256 or read_source(init).sha256
    config = plan.config.model_copy(update={"init": init.model_copy(update={"sha256": sha256})})
    return replace(plan, settings=plan.settings.with_values({"init.sha256": sha256}), config=config)


def beginnings(plan: Plan) -> list[tuple[InitConfig, ModelConfig]]:
    """Return what the trials at the ends of the space begin with, each pair of sections once."""
    configs = [plan.trial(0, values) for values in plan.space.extreme_points()]
    return [*{repr(pair): pair for one in configs if (pair := (one.init, one.model))[0].source}.values()]


def _within(key: str, problem: Problem) -> Problem:
    return replace(problem, where=f"{key}: {problem.where}" if problem.where else key)
