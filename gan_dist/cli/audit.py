"""The verb `audit`: parse, call, print."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.options import AsJson, Backend, Trust
from gan_dist.cli.paths import absolute

if TYPE_CHECKING:
    from gan_dist.training.audit_checks import Check

WORDS = {True: "equal", False: "NOT EQUAL", None: "not decided"}
EXIT_CODES = {True: 0, False: 1, None: 2}


def audit(
    source: Annotated[
        str, typer.Argument(metavar="RUN_OR_RELEASE", help="The folder of a run or of a release.")
    ],
    run: Annotated[str | None, typer.Option(metavar="RUN", help="The run that made a release.")] = None,
    segments: Annotated[int, typer.Option(min=1, help="Stretches of a run that are trained again.")] = 3,
    seed: Annotated[int, typer.Option(help="Which ones: the same number chooses the same.")] = 0,
    trust: Trust = None,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Train parts of a run again, and compare every bit.

    No cluster is needed. The exit code is 0 where all is equal, 1 where something is not, 2 where that could
    not be decided.
    """
    from gan_dist.training.audit import audit_release, audit_run, verdict
    from gan_dist.training.progress import ProgressLine

    checks: list[Check] = []
    with ProgressLine(every_s=10.0) as line:
        if run is None:
            found = audit_run(absolute(source), segments, seed, line.update, trust or ())
        else:
            found = audit_release(absolute(source), absolute(run), line.update, trust or ())
        for check in found:
            checks.append(check)
            line.restart()
            line.print(f"{WORDS[check.equal]:<12} {check.what}: {check.detail}")
    equal = verdict(checks)
    trained = sum(check.images for check in checks)
    typer.echo(f"{WORDS[equal]}: {len(checks)} checks, {trained / 1000:g} kimg trained again")
    if as_json:
        again = [check for check in checks if check.images]
        typer.echo(
            json.dumps(
                {
                    "equal": equal,
                    "segments": [{"kimg": c.what, "equal": c.equal, "detail": c.detail} for c in again],
                    "checks": [{"what": c.what, "equal": c.equal, "detail": c.detail} for c in checks],
                    "images_trained": trained,
                }
            )
        )
    raise typer.Exit(EXIT_CODES[equal])
