"""The command line, a file a verb: parse, call, print."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from gan_dist.cli import best, doctor, evaluate, export, pack, report, sample, submit, train, tune
from gan_dist.core.errors import GanDistError
from gan_dist.core.host import own_version
from gan_dist.core.threads import abandoned_threads

app = typer.Typer(
    name="gan-dist",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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


@app.command(hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def bench() -> None:
    """Point to the benchmarks, which are not in the installed package."""
    raise GanDistError("the benchmarks need a checkout of the project", "there, python -m benchmarks NAME")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gan-dist {own_version()}")
        raise typer.Exit


@app.callback()
def program(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Train GANs on your own images, on a laptop or across a Ray cluster."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and end the process.

    A user's error is printed as one message without a traceback; its exit code is 2 by default.
    """
    code, earlier = 0, abandoned_threads()
    try:
        app(arguments)
    except GanDistError as error:
        typer.echo(f"gan-dist: {error}", err=True)
        code = error.exit_code
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        code = ended.code
    if abandoned_threads() - earlier:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
