"""The option --mixture of the verb `best`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from gan_dist.cli.paths import absolute, command, shorten
from gan_dist.core import extras
from gan_dist.core.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from gan_dist.artifacts.best import BestRelease
    from gan_dist.evaluation.mixture import FoundMixture
    from gan_dist.evaluation.tasks import Request


def mix(
    source: str, to: str, most: int, prefer: str | None, seed: int, trust: list[str], *, as_json: bool
) -> None:
    """Write a mixture of at most `most` generators of a search into the folder `to`, and print what it is.

    Raises:
        GanDistError: `source` is no search, has too few releases, or needs code that is not in `trust`; or
            what `find_mixture` and `write_mixture` raise.
    """
    extras.require("train", "best --mixture")
    from gan_dist.artifacts.mixture import find_candidates, write_mixture
    from gan_dist.artifacts.publish import require_free
    from gan_dist.core import storage
    from gan_dist.core.console import CountProgress
    from gan_dist.core.import_path import require_trust
    from gan_dist.evaluation.mixture import find_mixture

    uri, folder = absolute(source), absolute(to)
    candidates, warnings = find_candidates(uri, prefer)
    require_free(folder)
    storage.require_writable(storage.join(folder, "manifest.json"))
    for warning in warnings:
        typer.echo(f"warning: {warning}", err=True)
    request = _request(candidates[0], seed, trust)
    require_trust({"eval.extractor": request.extractor}, trust, shorten(candidates[0].release))
    with CountProgress(0, "images") as progress:
        try:
            found = find_mixture(request, [one.release for one in candidates], most, progress.update)
        except KeyboardInterrupt:
            typer.echo("stopped; nothing was written", err=True)
            raise typer.Exit(INTERRUPTED) from None
    members = [(candidates[number], weight) for number, weight in found.weights.items()]
    distances = ("held_out", "single", "chosen", "real")
    judged = {name: getattr(found, name) for name in distances}
    written = write_mixture(folder, found.release, members, {**judged, "seed": seed}, found.figures)
    where = f"{shorten(folder)}{'' if written else ', where it was already'}"
    _print(found, members, where)
    for verb in ("sample", "evaluate"):
        typer.echo(f"  {command(verb, shorten(folder))}")
    if as_json:
        listed = [{"trial": one.trial, "weight": weight, "release": one.release} for one, weight in members]
        typer.echo(json.dumps({"dir": folder, "members": listed, **judged, **found.figures}))


def _request(best: BestRelease, seed: int, trust: list[str]) -> Request:
    """Return what the generators are compared with: the set, extractor and samples of the best one's run."""
    from gan_dist.cli.options import with_backend
    from gan_dist.evaluation.tasks import Request

    config = best.config
    weights = config.eval.inception_weights
    return Request(
        source=best.release,
        data=absolute(config.data.path),
        metrics=(),
        samples=config.eval.samples,
        repeats=1,
        extractor=config.eval.extractor,
        inception_weights=weights and absolute(weights),
        seed=seed,
        storage=with_backend(config.storage.options),
        trust=tuple(trust),
    )


def _print(found: FoundMixture, members: list[tuple[BestRelease, float]], where: str) -> None:
    metric = found.figures["metric"]
    typer.echo(
        f"{metric} {found.held_out:.6g} of a mixture of {len(members)}, from the half of the real images "
        f"that had no part in its choice; {found.single:.6g} of the best release alone, {found.real:.6g} "
        "between the halves"
    )
    for one, weight in members:
        typer.echo(f"  {weight:4.0%} trial {one.trial}, after {one.images / 1000:g} kimg")
    if found.held_out >= found.single:
        typer.echo("warning: the best release alone is as near: gan-dist best without --mixture", err=True)
    typer.echo(f"  release  {where}")
    typer.echo("go on with")
