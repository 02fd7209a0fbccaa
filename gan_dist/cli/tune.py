"""The verb `tune`: parse, call, print."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.images import CONFIG_HELP, packed, read_given
from gan_dist.cli.options import AsJson, complete_config, complete_key, print_warning
from gan_dist.cli.paths import command
from gan_dist.cli.search_summary import Outcome, cost, print_plan, print_result, redact_argument
from gan_dist.core.errors import GanDistError, extended
from gan_dist.core.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from gan_dist.search.plan import Plan


def tune(
    config: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG",
            help=f"{CONFIG_HELP} It needs a section search.",
            autocompletion=complete_config,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Settings, e.g. search.trials=100.", autocompletion=complete_key
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show the search and its first configuration; do nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Search for better settings; the same command again continues it."""
    given = overrides or []
    images = read_given(config, given)
    from gan_dist.artifacts.trackers.checks import require_trackers

    # It brings torch, and a typo need not wait for that.
    from gan_dist.search.plan import beginnings, pinned, plan_search, with_objectives
    from gan_dist.search.start import prepared
    from gan_dist.training.preflight import require_sources, summarise

    plan = plan_search(images.settings)
    require_trackers(plan.config.log.to, print_warning, ask=not dry_run)
    summary = summarise(plan.config, images.manifest)
    plan = with_objectives(plan, summary.metric, summary.scores, summary.more_scores)
    for trial in plan.with_own_code():
        summarise(trial, images.manifest)
    require_sources(beginnings(plan), plan.config.data, images.manifest)
    prepared(pinned(plan), summary.metric)
    if dry_run:
        print_plan(plan, summary, images.summary(), as_json=as_json)
        return
    from gan_dist.core.console import LiveConsole
    from gan_dist.core.storage.lock import folder_lock

    with packed(images) as settings:
        plan = with_objectives(plan_search(settings), summary.metric, summary.scores, summary.more_scores)
        with folder_lock(plan.uri, LiveConsole().print):
            plan = prepared(pinned(plan), summary.metric)
            outcome = _run(plan, summary.metric, [config, *given])
    print_result(plan, outcome, summary.metric, [config, *given], as_json=as_json)
    if outcome.interrupted:
        raise typer.Exit(INTERRUPTED)


def _run(plan: Plan, metric: str, arguments: list[str]) -> Outcome:
    """Run the rest of a search; `arguments` are those of the command that continues it."""
    from gan_dist.search.budget import Ledger
    from gan_dist.search.display import SearchView
    from gan_dist.search.outlook import Outlook
    from gan_dist.search.start import begin
    from gan_dist.search.study import SearchStudy
    from gan_dist.search.study_storage import study_storage
    from gan_dist.search.tracking import SearchTracking
    from gan_dist.training.preflight import total_images

    owner = begin(plan, metric)
    database = study_storage(plan.uri, plan.search.optuna_storage)
    length = total_images(plan.config.train, plan.config.optim)
    study = SearchStudy(database, plan.config.name, plan.space, plan.search, plan.grace, length, owner)
    ledger = Ledger(plan.uri, plan.search.budget, study.images)
    outlook = Outlook(plan, study, ledger, length, metric)
    if not study.unfinished and not plan.search.replicates:
        return Outcome(study, outlook, interrupted=False, reached=None)
    if reached := ledger.reached(study.images):
        return Outcome(study, outlook, interrupted=False, reached=reached)
    from gan_dist.cluster.tune import driver
    from gan_dist.cluster.tune.spending import Spending

    scale = plan.config.scale
    gpus = scale.workers * scale.gpus_per_worker
    spending = Spending(ledger, lambda: study.images, gpus, plan.search.prices)
    most = plan.search.most_trials
    costs = outlook.text() if study.trials() else cost(plan, length)
    with (
        SearchView(study, most, length, metric, outlook=outlook.text) as view,
        SearchTracking(plan, study, view.warn) as tracking,
    ):

        def on_change() -> None:
            view.update()
            tracking.update()

        left = (
            f"{study.unfinished:g} trials to go"
            if math.isfinite(most)
            else "trials until the budget is spent"
        )
        view.print(
            "; ".join([f"searching {', '.join(plan.space.distributions)}: {left}", *filter(None, [costs])])
        )
        if plan.search.scheduler != "none" and plan.grace >= length:
            first = f"{length / 1000:g} kimg (eval.every_kimg={plan.config.eval.every_kimg:g})"
            view.print(f"no trial is stopped early: the first measurement is that at its end, {first}")
        try:
            finished = driver.run(plan, study, metric, on_change, spending)
            tracking.end(finished=finished)
        except KeyboardInterrupt:
            finished = False
        except GanDistError as error:
            again = command("tune", *map(redact_argument, arguments))
            raise extended(
                error, f"trials that have not ended are kept; continue it with\n  {again}"
            ) from None
        finally:
            ledger.close()
    interrupted = not finished or (study.unfinished > 0 and spending.reached is None)
    return Outcome(study, outlook, interrupted, spending.reached if finished else None)
