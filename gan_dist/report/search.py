"""What the page of a search says. Its study is read as it is: nothing is locked, nothing written."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.study import Study

from gan_dist.artifacts.best import BestRelease
from gan_dist.artifacts.search_folder import REPLICATES, goal, read_replicated, trial_folder
from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.storage import lock
from gan_dist.models.release import CONFIG, SEARCH
from gan_dist.report.blocks import Block, Commands, Facts, Note, Page, Section, Table, kimg, number
from gan_dist.report.effort import effort
from gan_dist.report.pictures import grids
from gan_dist.report.run import best_release, commands_of_best, released
from gan_dist.report.search_charts import importances, learning, parallel, progress
from gan_dist.report.series import finite, read_legible
from gan_dist.report.settings import settings
from gan_dist.report.trials import COMPLETE, FAILED, PRUNED, RUNNING, UNKNOWN, Trial, of_folders, of_study
from gan_dist.search.space import Space
from gan_dist.search.space.distributions import format_plain
from gan_dist.search.study import SPACE
from gan_dist.search.study_storage import read_study

ORDER = (COMPLETE, PRUNED, FAILED, RUNNING, UNKNOWN)


def search_page(uri: str, optuna_storage: str | None = None) -> Page:
    """Return the page of a search, whether it has ended, is running, or was killed.

    Args:
        uri: The search's folder.
        optuna_storage: The database that its study is in, if it is in one: a URL, or `env:NAME`.

    Raises:
        CheckpointError: its `search.json` is damaged or of another format, or its `replicates.json` damaged.
        ConfigError: this version cannot read its configuration.
        StorageError: something there cannot be read, or the database has no such study.
    """
    metric, _ = goal(uri)
    config = load_config(storage.join(uri, CONFIG))
    study = read_study(uri, optuna_storage, config.name)
    space = Space.from_json(
        _recorded(uri).get("space", {}) if study is None else study.user_attrs.get(SPACE, {})
    )
    keys = list(space.distributions)
    trials = of_folders(uri, metric, keys) if study is None else of_study(study, uri, metric)
    found, why = released(uri)
    best = _number_of_best(found, trials)
    first: list[Block] = [Facts([*_state(uri, metric, trials, found, best), *effort(config, trials)])]
    if study is None:
        first.append(Note(_WITHOUT_STUDY))
    samples = [] if best is None else grids(trial_folder(uri, best))
    sections = [
        Section("Search", first),
        Section("Space", [_space_table(space, trials, best)]),
        Section("Curves", _charts(study, space, metric, trials, best)),
        Section("The winner", [*best_release(found, why), *samples]),
        Section(f"All {len(trials)} trials", [_table(metric, keys, trials, best)]),
    ]
    if again := _again(uri, metric):
        sections.append(Section("The best with other seeds", again))
    sections += settings(config, frozenset(keys))
    sections.append(Section("Go on", [Commands(list(_commands(uri, config, found)))]))
    return Page(title=config.name, subtitle="a search", sections=sections)


_WITHOUT_STUDY = (
    "The study is not at hand, so how each trial ended is not known: trials are those that have a folder. "
    "Where it is in a database, --optuna-storage env:NAME reads it, if the variable NAME has its URL."
)


def _recorded(uri: str) -> dict[str, Any]:
    """Return a search's `search.json`; `goal` has seen that it is whole."""
    found: dict[str, Any] = json.loads(storage.read_bytes(storage.join(uri, SEARCH)))
    return found


def _number_of_best(found: BestRelease | None, trials: Sequence[Trial]) -> int | None:
    """Return the winner's number: that of the release, or where there is none that of the lowest value."""
    if found is not None:
        return found.trial
    best = min(trials, key=lambda trial: (trial.best, trial.number), default=None)
    return best.number if best is not None and best.curve else None


def _state(
    uri: str, metric: str, trials: Sequence[Trial], found: BestRelease | None, best: int | None
) -> Iterator[tuple[str, str]]:
    yield "folder", storage.redact(uri)
    yield "minimised", metric
    counts = Counter(trial.state for trial in trials)
    parts = " + ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    asked = _recorded(uri).get("trials")
    of_all = f"{len(trials)} of {asked} begun" if asked else f"{len(trials)} begun"
    yield "trials", of_all + (f" = {parts}" if parts else "")
    worker = lock.lock_holder(uri)
    if worker:
        yield "process", worker
    elif counts[RUNNING]:
        yield "process", "none: trials that are running in the study were interrupted"
    winner = next((trial for trial in trials if trial.number == best), None)
    if found is not None:
        yield "best", f"{metric} {number(found.value)} of trial {found.trial} after {kimg(found.images)}"
    elif winner is not None:
        yield "best", f"{metric} {number(winner.best)} of trial {best}, of which there is no whole release"


def _charts(
    study: Study | None, space: Space, metric: str, trials: Sequence[Trial], best: int | None
) -> list[Block]:
    if not any(trial.curve for trial in trials):
        return [Note("Nothing was measured yet.")]
    mattered = [] if study is None else importances(study)
    across = [] if study is None else [parallel(space, metric, trials)]
    return [progress(metric, trials), *mattered, learning(metric, trials, best), *across]


def _space_table(space: Space, trials: Sequence[Trial], best: int | None) -> Block:
    values: Mapping[str, Any] = next((trial.values for trial in trials if trial.number == best), {})
    rows = [
        [key, space.describe(key), format_plain(values[key]) if key in values else ""]
        for key in space.distributions
    ]
    return (
        Table(["key", "what it may be", "the winner's"], rows) if rows else Note("What varies is not known.")
    )


def _table(metric: str, keys: Sequence[str], trials: Sequence[Trial], best: int | None) -> Block:
    rows = []
    for trial in trials:
        state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        value = number(trial.best) if math.isfinite(trial.best) else ""
        values = [_short(trial.values[key]) if key in trial.values else "" for key in keys]
        folder = "/".join(storage.redact(trial.uri).partition("?")[0].rsplit("/", 2)[1:])
        rows.append([str(trial.number), state, value, f"{trial.images / 1000:g}", *values, folder])
    marked = next((place for place, trial in enumerate(trials) if trial.number == best), None)
    return Table(["trial", "state", metric, "kimg", *keys, "run"], rows, marked)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else format_plain(value)


def _again(uri: str, metric: str) -> list[Block]:
    """Return what runs of the best trials with other seeds came to, as far as there are any."""
    folder = storage.join(uri, REPLICATES)
    rows = []
    for name in storage.list_names(folder):
        if found := re.fullmatch(r"(\d+)-(\d+)", name):
            records, _ = read_legible(storage.join(folder, name))
            values = [value for record in records if (value := finite(record.get(metric))) is not None]
            images = records[-1]["images"] if records else 0
            lowest = number(min(values)) if values else ""
            rows.append([f"{int(found[1])}", found[2], lowest, f"{images / 1000:g}", f"{REPLICATES}/{name}"])
    blocks: list[Block] = []
    if again := read_replicated(uri):
        means = [
            [str(one.trial), number(one.mean), number(one.spread), ", ".join(map(number, one.values))]
            for one in again
        ]
        columns = ["trial", f"mean {metric}", "standard deviation", "values, the search's own first"]
        blocks.append(Table(columns, means, 0))
    if rows:
        blocks.append(Table(["trial", "repetition", metric, "kimg", "run"], rows))
    return blocks


def _commands(uri: str, config: RunConfig, found: BestRelease | None) -> Iterator[tuple[str, str]]:
    yield "continue it", "# the `gan-dist tune` command that began it, again"
    if found is not None:
        yield from commands_of_best(uri, config.name)
