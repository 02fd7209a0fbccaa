"""The command line, a file a verb: parse, call, print."""

from __future__ import annotations

import atexit
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from gan_dist.cli import (
    audit,
    best,
    doctor,
    evaluate,
    export,
    pack,
    promote,
    publish,
    report,
    sample,
    serve,
    submit,
    train,
    tune,
)
from gan_dist.core import extras
from gan_dist.core.errors import ConfigError, GanDistError
from gan_dist.core.host import own_version
from gan_dist.core.interrupts import INTERRUPTED, ignore_interrupts, interruptible
from gan_dist.core.output import ignore_failing_output, output_error
from gan_dist.core.threads import abandoned

CONTINUED = ("train", "tune", "promote", "pack")
"""Verbs that go on where they were interrupted."""
HELP = "docs/troubleshooting.md"
"""The page that has an entry for each kind of error."""


class _Verbs(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            Path.cwd()
        except FileNotFoundError:
            what = "the working directory does not exist any more"
            raise GanDistError(what, "cd to one that does") from None
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            again = "; the same command again continues" if ctx.invoked_subcommand in CONTINUED else ""
            typer.echo(f"stopped{again}", err=True)
            raise typer.Exit(INTERRUPTED) from None


app = typer.Typer(
    name="gan-dist",
    cls=_Verbs,
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
app.command()(promote.promote)
app.command()(publish.publish)
app.command()(report.report)
app.command()(serve.serve)
app.command()(audit.audit)
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

    A user's error is printed as one message without a traceback; its exit code is 2 by default. Output that
    cannot be written changes neither.
    """
    ignore_failing_output()
    earlier = abandoned()
    with interruptible():
        try:
            code = _call(arguments)
            sys.stdout.flush()
            if (failed := output_error()) is not None:
                typer.echo(
                    f"gan-dist: a part of the output could not be written: {failed.strerror}", err=True
                )
            sys.stderr.flush()
        except KeyboardInterrupt:  # after the verb's end, or before its begin
            code = INTERRUPTED
    atexit.register(ignore_interrupts)
    if abandoned() - earlier:
        os._exit(code)
    sys.exit(code)


def _call(arguments: list[str] | None) -> int:
    """Run a verb and return its exit code; print a user's error."""
    try:
        try:
            app(arguments)
        except ModuleNotFoundError as error:
            raise extras.explain(error) or error from None
    except GanDistError as error:
        typer.echo(f"gan-dist: {error}{_entry(error)}", err=True)
        return error.exit_code
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        return ended.code
    return 0


def _entry(error: GanDistError) -> str:
    """Return a line with the place in the documentation that says more of an error's kind.

    A configuration's problems say all there is to say themselves.
    """
    kind = type(error)
    return "" if kind in (GanDistError, ConfigError) else f"\n{HELP}#{kind.__name__.lower()}"
