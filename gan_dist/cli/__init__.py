"""The verbs, a file each. Each imports its room only when it is called, so that help comes at once."""

from __future__ import annotations

import sys

import typer

from gan_dist.cli import bench, best, doctor, evaluate, export, pack, report, sample, submit, train, tune
from gan_dist.errors import GanDistError

app = typer.Typer(
    name="gan-dist",
    help="Train GANs on your own images, on a laptop or across a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(train.train)
app.command()(sample.sample)
app.command()(export.export)
app.command()(pack.pack)
app.command()(evaluate.evaluate)
app.command()(best.best)
app.command()(report.report)
app.command()(tune.tune)
app.command(context_settings={"allow_interspersed_args": False})(submit.submit)
app.command()(doctor.doctor)
app.command()(bench.bench)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's error is one message and exit code 2, without a traceback."""
    try:
        app(arguments)
    except GanDistError as error:
        typer.echo(f"gan-dist: {error}", err=True)
        sys.exit(error.exit_code)
