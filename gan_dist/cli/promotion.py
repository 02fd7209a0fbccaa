"""Which trials of a search `promote` takes, and the runs that they become; nothing is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from gan_dist.cli.paths import load_run, shorten
from gan_dist.core.errors import CheckpointError, ConfigError, GanDistError, Problem

if TYPE_CHECKING:
    from gan_dist.artifacts.best import BestMeasurement, Ranking
    from gan_dist.config.load import ConfigBuilder
    from gan_dist.training.promotion import Promotion


def check(overrides: Sequence[str] | None) -> None:
    """Refuse settings that cannot change while a run goes on, without a look at any file."""
    from gan_dist.config import FREE_ON_RESUME

    given = _read_overrides(overrides or [])
    if given.problems:
        raise ConfigError([problem for _, problem in given.problems])
    if fixed := [key for key in given.values if key not in FREE_ON_RESUME]:
        able = ", ".join(sorted(FREE_ON_RESUME))
        raise ConfigError(
            f"{', '.join(fixed)} cannot change: a promoted trial goes on with what it was begun with",
            f"leave that out; these may change: {able}",
            keys=fixed,
        )


def _read_overrides(overrides: Sequence[str]) -> ConfigBuilder:
    from gan_dist.config.load import ConfigBuilder

    builder = ConfigBuilder("promote", "promote")
    for index, text in enumerate(full_keys(overrides)):
        builder.read_override(index, text)
    return builder


def full_keys(overrides: Sequence[str]) -> list[str]:
    """Return overrides in which `kimg=N` is `train.kimg=N`."""
    return [f"train.{one}" if one.startswith("kimg=") else one for one in overrides]


@dataclass
class Plan:
    """What a command is to do."""

    uri: str
    ranking: Ranking
    runs: list[Promotion] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    refused: dict[int, GanDistError] = field(default_factory=dict)
    """Why a trial is not promoted, by its number."""


def make_plan(
    uri: str, overrides: Sequence[str], top: int, optuna_storage: str | None, trust: Sequence[str]
) -> Plan:
    """Return the runs of the best trials; nothing is written.

    Raises:
        ConfigError: a run's settings are wrong, or leave it nothing to train.
        GanDistError: there is no such search, or a run cannot succeed (see `preflight.prepare`).
    """
    from gan_dist.artifacts.best import rank_runs
    from gan_dist.artifacts.search_folder import is_search, read_search
    from gan_dist.config import InitConfig, differing_keys, named_classes
    from gan_dist.core.import_path import require_trust
    from gan_dist.training.preflight import prepare
    from gan_dist.training.promotion import Promotion

    if not is_search(uri):
        what = f"{shorten(uri)} is a run, not a search"
        raise CheckpointError(what, "a run goes on by gan-dist train, with a larger train.kimg")
    identity, ranking = read_search(uri).id, rank_runs(uri)
    plan = Plan(uri, ranking, notes=[*ranking.warnings])
    problems: dict[Problem, int] = {}
    for best in _choose(plan, top, optuna_storage):
        try:
            before = load_run(_config_of(best), [])
            config = load_run(_config_of(best), _settings(uri, best, overrides))
        except ConfigError as error:
            problems |= {one: best.trial for one in error.problems if one not in problems}
            continue
        require_trust(named_classes(before), trust, shorten(best.run.uri))
        changes = differing_keys(before, config, frozenset({"name", "storage.path"}))
        one = Promotion(uri, identity, best, before.scale.workers, config, changes)
        if one.origin() is None:
            if one.checkpoint is None:
                plan.refused[one.trial] = one.without_checkpoint()
                continue
            if problem := one.problem():
                problems[problem] = one.trial
                continue
            # What the trial began with is in its checkpoint, and may be gone.
            config = config.model_copy(update={"init": InitConfig()})
        prepare(config)
        plan.runs.append(one)
    if problems:
        raise ConfigError(
            [
                replace(problem, where=": ".join(filter(None, (f"trial {trial}", problem.where))))
                for problem, trial in problems.items()
            ]
        )
    return plan


def _config_of(best: BestMeasurement) -> str:
    from gan_dist.core.storage import join
    from gan_dist.models.release import CONFIG

    return join(best.run.uri, CONFIG)


def _settings(uri: str, best: BestMeasurement, overrides: Sequence[str]) -> list[str]:
    """Return the overrides of a trial's configuration that make it that of its run."""
    from gan_dist.artifacts.best import split_uri
    from gan_dist.config.fields import override, valid_name

    parent, search = split_uri(uri)
    name = _read_overrides(overrides).values.get("name") or valid_name(search)
    settings = [override("storage", parent), *full_keys(overrides)]
    return [*settings, override("name", f"{name}-{best.trial:05d}")]


def _choose(plan: Plan, top: int, optuna_storage: str | None) -> list[BestMeasurement]:
    """Return the best trials that have not failed, and note what a user may not expect."""
    from optuna.trial import TrialState

    from gan_dist.config import load_config
    from gan_dist.core.storage import join
    from gan_dist.models.release import CONFIG
    from gan_dist.search.study import REASON
    from gan_dist.search.study_storage import read_study

    name = load_config(join(plan.uri, CONFIG)).name if optuna_storage else ""
    study = read_study(plan.uri, optuna_storage, name)
    if study is None:
        plan.notes.append(
            "the study is not in the search's folder, so a trial that has failed may be among these; "
            "--optuna-storage env:NAME reads it from a database"
        )
    failed = study.get_trials(deepcopy=False, states=[TrialState.FAIL]) if study else []
    reasons = {trial.number: str(trial.user_attrs.get(REASON, "")) for trial in failed}
    chosen: list[BestMeasurement] = []
    for best in plan.ranking.best:
        if len(chosen) == top:
            break
        if best.trial in reasons:
            reason = reasons[best.trial].partition("\n")[0]
            plan.notes.append(f"trial {best.trial} is passed over: it has failed ({reason})")
        else:
            chosen.append(best)
    if not chosen:
        raise CheckpointError(f"all trials of {shorten(plan.uri)} that have measured anything have failed")
    if len(chosen) < top:
        plan.notes.append(f"--top {top}: {len(chosen)} trials have a measurement, and are taken")
    return chosen
