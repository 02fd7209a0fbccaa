"""The report of a search."""

from __future__ import annotations

import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna.study import Study

from gan_dist.artifacts.best import BestRelease, split_uri
from gan_dist.artifacts.search_folder import (
    REPLICATES,
    TRIALS,
    SearchInfo,
    read_replicated,
    read_search,
    trial_folder,
)
from gan_dist.config import flatten, load_config
from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, CheckpointError
from gan_dist.core.json_text import parse_object
from gan_dist.core.storage import lock
from gan_dist.models.release import CONFIG, SEARCH
from gan_dist.report.blocks import (
    Block,
    Commands,
    Facts,
    Headline,
    Note,
    Page,
    Section,
    Table,
    kimg,
    number,
)
from gan_dist.report.charts import fronts, importances, learning, progress, slices
from gan_dist.report.forecasts import forecasts
from gan_dist.report.lineage_charts import lineage_blocks
from gan_dist.report.run import find_release, release_blocks, release_commands, run_grids
from gan_dist.report.series import finite, read_sorted
from gan_dist.report.settings import settings
from gan_dist.report.trials import ENDED, State, Trial, cost, folder_trials, full_length, study_trials
from gan_dist.search.outlook import FORECAST
from gan_dist.search.space import Space
from gan_dist.search.space.distributions import format_plain
from gan_dist.search.study import SPACE
from gan_dist.search.study_storage import JOURNAL, read_study


def search_page(uri: str, optuna_storage: str | None = None) -> Page:
    """Return the report of a search that has ended, is running, or was killed.

    The study is only read, from the database `optuna_storage` (a URL, or `env:NAME`) if it is in one.

    Raises:
        CheckpointError: its `search.json` is damaged or of another format, or its `replicates.json` damaged.
        ConfigError: this version cannot read its configuration.
        StorageError: a file of the search cannot be read, or the database has no such study.
    """
    info = read_search(uri)
    metric, config = info.metric, load_config(storage.join(uri, CONFIG))
    study = read_study(uri, optuna_storage, config.name)
    try:
        space = Space.from_json(info.space if study is None else study.user_attrs.get(SPACE, {}))
    except ValueError as error:
        file = storage.join(uri, SEARCH if study is None else JOURNAL)
        raise CheckpointError(
            f"{storage.redact(file)} is damaged ({error})", "restore a copy of it"
        ) from None
    keys = list(space.distributions)
    goals = info.objectives
    if study is None:
        trials = folder_trials(uri, metric, keys, goals)
    else:
        trials = study_trials(study, uri, metric, goals)
    lengths = {trial.number: full_length(config.train, config.optim, trial.values) for trial in trials}
    found, reason = find_release(uri)
    best = _best_number(found, trials)
    facts = [*_state(uri, info, trials, found, best), *cost(config.scale, trials, lengths)]
    headline = Headline(list(_headline(info, trials, found, best)), _share(info, trials))
    first: list[Block] = [headline]
    if study is None:
        first.append(Note(_WITHOUT_STUDY))
    samples: list[Block] = []
    if best is not None:
        folder = trial_folder(uri, best) if found is None else found.run
        samples = run_grids(folder, read_sorted(folder)[0])
    commands = [("continue it", "# the `gan-dist tune` command that began it, again")]
    if found is not None:
        commands += release_commands(uri, config.name)
        longer = f"train.kimg={10 * config.train.kimg:g}"
        promote = shlex.join(["gan-dist", "promote", storage.redact(uri), longer])
        commands.append(("train the best three further", promote))
    forecast = _read_forecast(uri)
    outlook = [Section("Forecast", blocks)] if (blocks := forecasts(forecast)) else []
    branch = None if found is None else split_uri(found.run)[1]
    tree = [] if study is None else lineage_blocks(study.get_trials(deepcopy=False), metric, branch)
    descent = [Section("Lineages", tree)] if tree else []
    sections = [
        Section("Search", first),
        Section("Curves", _charts(metric, trials, best)),
        *descent,
        *outlook,
        Section("The winner", [*samples, *release_blocks(found, reason)]),
        Section("Space", [_space_table(space, trials, best), *_keys(study, space, metric, trials, best)]),
        Section(f"All {len(trials)} trials", [_table(metric, keys, trials, best)]),
    ]
    if goals is not None and any(trial.point for trial in trials):
        sections.insert(1, Section("The front", fronts(goals, trials)))
    sections.append(Section("Facts", [Facts(facts)]))
    if replicas := _replicas(uri, metric):
        sections.append(Section("The best with other seeds", replicas))
    sections += settings(flatten(config), frozenset(keys))
    sections.append(Section("Go on", [Commands(commands)]))
    all_done = _share(info, trials) == 1 or bool(forecast.get("came"))
    ended = all_done and lock.lock_holder(uri) is None
    return Page(title=config.name, subtitle="a search", sections=sections, ended=ended)


_WITHOUT_STUDY = (
    "The study is not at hand, so how each trial ended is not known: trials are those that have a folder. "
    "Where it is in a database, --optuna-storage env:NAME reads it, if the variable NAME has its URL."
)


def _best_number(found: BestRelease | None, trials: Sequence[Trial]) -> int | None:
    if found is not None:
        return found.trial
    best = min(trials, key=lambda trial: (trial.best, trial.number), default=None)
    return best.number if best is not None and best.curve else None


def _state(
    uri: str, info: SearchInfo, trials: Sequence[Trial], found: BestRelease | None, best: int | None
) -> Iterator[tuple[str, str]]:
    yield "folder", storage.redact(uri)
    if info.objectives is not None:
        goals = [*info.objectives.modes.items(), *filter(None, [("", info.objectives.describe_bounds())])]
        yield "objectives", "; ".join(f"{name} {goal}".strip() for name, goal in goals)
    else:
        yield "minimised", info.metric
    counts = Counter(trial.state for trial in trials)
    sums = " + ".join(f"{counts[state]} {state}" for state in State if counts[state])
    of_all = f"{len(trials)} of {info.trials} begun" if info.trials else f"{len(trials)} begun"
    yield "trials", of_all + (f" = {sums}" if sums else "")
    if holder := lock.lock_holder(uri):
        yield "process", holder
    elif counts[State.RUNNING]:
        yield "process", "none: trials that are running in the study were interrupted"
    winner = next((trial for trial in trials if trial.number == best), None)
    if found is not None:
        yield "best", f"{found.metric} {number(found.value)} of trial {best} after {kimg(found.images)}"
    elif winner is not None:
        value = number(winner.best)
        yield "best", f"{info.metric} {value} of trial {best}, of which there is no whole release"


def _headline(
    info: SearchInfo, trials: Sequence[Trial], found: BestRelease | None, best: int | None
) -> Iterator[tuple[str, str, str]]:
    winner = next((trial for trial in trials if trial.number == best), None)
    if found is not None or winner is not None:
        value = found.value if found else winner.best if winner else math.nan
        yield f"best {found.metric if found else info.metric}", f"{value:.4g}", f"trial {best}"
    counts = Counter(trial.state for trial in trials)
    ended = sum(counts[state] for state in ENDED)
    yield "trials ended", f"{ended} of {info.trials}" if info.trials else f"{ended}", f"{len(trials)} begun"
    yield "stopped early", f"{counts[State.PRUNED]}", f"{counts[State.FAILED]} failed"
    yield "trained", kimg(sum(trial.images for trial in trials)), "by all trials"


def _share(info: SearchInfo, trials: Sequence[Trial]) -> float | None:
    """Return the share of a search's trials that have ended."""
    return min(1.0, sum(trial.state in ENDED for trial in trials) / info.trials) if info.trials else None


def _charts(metric: str, trials: Sequence[Trial], best: int | None) -> list[Block]:
    if not any(trial.curve for trial in trials):
        return [Note("Nothing was measured yet.")]
    return [learning(metric, trials, best), progress(metric, trials)]


def _keys(
    study: Study | None, space: Space, metric: str, trials: Sequence[Trial], best: int | None
) -> list[Block]:
    if study is None or not any(trial.curve for trial in trials):
        return []
    return [*importances(study), *slices(space, metric, trials, best)]


def _read_forecast(uri: str) -> Mapping[str, Any]:
    """Return the forecasts of a search; none where it has none, or its file is damaged."""
    try:
        return parse_object(storage.read_bytes(storage.join(uri, FORECAST)))
    except (AbsentError, ValueError):
        return {}


def _space_table(space: Space, trials: Sequence[Trial], best: int | None) -> Block:
    values: Mapping[str, Any] = next((trial.values for trial in trials if trial.number == best), {})
    rows = [
        [key, space.describe(key), format_plain(values[key]) if key in values else ""]
        for key in space.distributions
    ]
    if not rows:
        return Note("What varies is not known.")
    return Table(["key", "what it may be", "the winner's"], rows)


def _table(metric: str, keys: Sequence[str], trials: Sequence[Trial], best: int | None) -> Block:
    rows = []
    for trial in trials:
        state = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        value = number(trial.best) if math.isfinite(trial.best) else ""
        values = [_short(trial.values[key]) if key in trial.values else "" for key in keys]
        folder = f"{TRIALS}/{trial.number:05d}"
        rows.append([str(trial.number), state, value, f"{trial.images / 1000:g}", *values, folder])
    marked = next((place for place, trial in enumerate(trials) if trial.number == best), None)
    return Table(["trial", "state", metric, "kimg", *keys, "run"], rows, marked)


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else format_plain(value)


def _replicas(uri: str, metric: str) -> list[Block]:
    folder = storage.join(uri, REPLICATES)
    rows = []
    for name in storage.list_names(folder):
        if found := re.fullmatch(r"(\d+)-(\d+)", name):
            records, _ = read_sorted(storage.join(folder, name))
            values = [value for record in records if (value := finite(record.get(metric))) is not None]
            images = records[-1]["images"] if records else 0
            lowest = number(min(values)) if values else ""
            rows.append([f"{int(found[1])}", found[2], lowest, f"{images / 1000:g}", f"{REPLICATES}/{name}"])
    blocks: list[Block] = []
    if replicated := read_replicated(uri):
        means = [
            [str(one.trial), number(one.mean), number(one.std), ", ".join(map(number, one.values))]
            for one in replicated
        ]
        columns = ["trial", f"mean {metric}", "standard deviation", "values, the search's own first"]
        blocks.append(Table(columns, means, 0))
    if rows:
        blocks.append(Table(["trial", "repetition", metric, "kimg", "run"], rows))
    return blocks
