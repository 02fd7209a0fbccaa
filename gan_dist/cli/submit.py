"""The verb `submit`: parse, call, print."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import shlex
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gan_dist.cli import best, evaluate, export, pack, promotion, report, sample
from gan_dist.cli.images import is_images
from gan_dist.cli.options import AsJson, print_record
from gan_dist.cli.paths import CALLED_AS
from gan_dist.cli.train import require_configuration, with_aliases
from gan_dist.core.errors import GanDistError, closest
from gan_dist.core.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from gan_dist.cluster.jobs.archive import Upload
    from gan_dist.cluster.jobs.client import JobClient, JobDetails

CHECKS: dict[str, Callable[..., object]] = {
    "best": best.check,
    "evaluate": evaluate.check,
    "export": export.check,
    "pack": pack.check,
    "promote": promotion.check,
    "report": report.check,
    "sample": sample.check,
}
"""Checks of the verbs' arguments; those of train, tune and doctor concern the configuration."""


def submit(
    context: typer.Context,
    verb: Annotated[
        str, typer.Argument(metavar="VERB", help="train, tune, pack, evaluate, best or another.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGUMENTS", help="The verb's own, as without submit.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="http://HEAD:8265; RAY_API_SERVER_ADDRESS and RAY_ADDRESS win, as with ray job."),
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow the log.")] = False,
    entrypoint_num_cpus: Annotated[
        float,
        typer.Option(
            min=0,
            max=1_000_000,
            help="CPUs reserved for the job's own process, which may then leave the head.",
        ),
    ] = 0.0,
    entrypoint_resources: Annotated[
        str | None, typer.Option(metavar="JSON", help="Other resources reserved for it.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show what would be submitted; contact nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a verb as a job on a cluster. It has the files of this folder; options come before the verb."""
    from gan_dist.artifacts.trackers.checks import SECRETS, VARIABLES
    from gan_dist.cluster.jobs.archive import collect_files, require_no_secrets, write_zip
    from gan_dist.cluster.jobs.client import ADDRESSES, JobClient, parse_resources
    from gan_dist.cluster.shadows import require_no_shadows
    from gan_dist.core.storage.redaction import secrets_here

    given = arguments or []
    known = secrets_here()
    named = [(f"argument {number} of {verb}", text) for number, text in enumerate(given, 1)]
    trackers = {name: os.environ[name] for name in VARIABLES if name in os.environ}
    require_no_secrets([*named, ("--address", address or ""), *trackers.items()], known)
    given, wanted, values = _check_arguments(getattr(context.find_root().command, "commands"), verb, given)  # noqa: B009
    require_no_secrets(values, known)
    resubmit = ["gan-dist", "submit"]
    resubmit += ["--address", address] if address else []
    resubmit += ["--entrypoint-num-cpus", f"{entrypoint_num_cpus:g}"] if entrypoint_num_cpus else []
    resubmit += ["--entrypoint-resources", entrypoint_resources] if entrypoint_resources else []
    command = shlex.join(["python", "-m", "gan_dist", verb, *given])
    resources = {} if entrypoint_resources is None else parse_resources(entrypoint_resources)
    upload = collect_files(Path.cwd(), wanted)
    require_no_shadows(Path.cwd(), upload.files)
    if dry_run:
        _print_dry_run(command, upload, as_json=as_json)
        return
    if address and (winning := next((name for name in ADDRESSES if os.environ.get(name)), None)):
        typer.echo(f"note: {winning} is set and wins over --address, as for all of Ray's clients", err=True)
    if trackers and (here := [name for name in SECRETS if name in os.environ]):
        typer.echo(
            f"note: the job does not get {', '.join(here)}, which all who may list jobs would see; to log to "
            "a tracker, the nodes need it before `ray start`",
            err=True,
        )
    client = JobClient(address)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder, "working_dir.zip")
        write_zip(upload, archive, known)
        variables = {CALLED_AS: shlex.join(resubmit), **trackers}
        on_retry = partial(typer.echo, err=True)
        job = client.submit(command, archive, variables, entrypoint_num_cpus, resources, on_retry)
    _print_job(client, job, upload, [*resubmit, verb, *given])
    result = None if no_wait else _follow(client, job)
    code = 0 if no_wait else INTERRUPTED if result is None else _exit_code(result)
    if as_json:
        record = {"job": job, "address": client.url, "dashboard": client.dashboard(job)}
        came = {"status": result and result.status, "exit_code": result and result.driver_exit_code}
        typer.echo(json.dumps({**record, **came}))
    raise typer.Exit(code)


def _check_arguments(
    verbs: dict[str, Any], verb: str, arguments: list[str]
) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Check a verb's arguments; return them as in the job, the files it needs, and the named values."""
    from gan_dist.config import flatten, load_config

    names = [name for name, command in verbs.items() if name != "submit" and not command.hidden]
    if verb not in names:
        near = closest(verb, names)
        remedy = f"there are {', '.join(names)}" + (f"; the nearest is {near}" if near else "")
        raise GanDistError(f"there is no verb {verb} to submit", remedy)
    parsed = verbs[verb].make_context(f"gan-dist submit {verb}", list(arguments)).params
    if check := CHECKS.get(verb):
        check(**{name: parsed[name] for name in inspect.signature(check).parameters})
    source, overrides = parsed.get("config"), list(parsed.get("overrides") or [])
    if verb == "train" and not parsed["schema"]:
        source, overrides = with_aliases(source, overrides, parsed["data"], parsed["outdir"])
        require_configuration(source)
    if source is None or "://" in source:
        return arguments, [], []
    path = _path_in_job(source)
    if path is not None and is_images(source):
        raise GanDistError(
            f"{source} is images on this machine, which a job does not get",
            "put them into a bucket, or where every node sees them, and give that URI or absolute path",
        )
    if path is None:
        return arguments, [], []
    config = load_config(source, overrides)
    if verb == "tune":
        from gan_dist.search.plan import make_plan

        make_plan(source, overrides)
    changed = [path if argument == source else argument for argument in arguments]
    values = [(f"{key} of {source}", str(value)) for key, value in flatten(config).items()]
    return changed, [path] if Path(path).exists() else [], values


def _path_in_job(source: str) -> str | None:
    """Return a preset's name, or a configuration's path in the working directory; None if it is outside."""
    from gan_dist.config import preset_names

    here, path = Path.cwd().resolve(), Path(source)
    if source in preset_names():
        return source
    if path.resolve().is_relative_to(here):
        return path.resolve().relative_to(here).as_posix()
    if path.is_absolute():
        typer.echo(f"note: {source} is not in this folder, so it is read where the job runs", err=True)
        return None
    raise GanDistError(
        f"{source} is not in the working directory {here}, which is all that a job gets",
        "submit from a folder that holds it, or put it into a bucket",
    )


def _print_dry_run(command: str, upload: Upload, *, as_json: bool) -> None:
    from gan_dist.cluster.jobs.client import GRACEFUL_STOP

    for name in sorted(upload.files):
        typer.echo(name)
    sizes = {"files": len(upload.files), "bytes": upload.bytes}
    print_record({"entrypoint": command, "variables": GRACEFUL_STOP, **sizes}, as_json=as_json, prefix="# ")


def _print_job(client: JobClient, job: str, upload: Upload, command: list[str]) -> None:
    sizes = f"{len(upload.files)} files, {upload.bytes / 1024**2:.1f} MiB"
    typer.echo(f"submitted {job} to {client.url}: {sizes}")
    typer.echo(f"  dashboard  {client.dashboard(job)}")
    typer.echo(f"  log        {_ray(client, 'logs', '--follow', job)}")
    typer.echo(f"  stop       {_ray(client, 'stop', job)}")
    typer.echo(f"  continue   {shlex.join(command)}")


def _ray(client: JobClient, verb: str, *words: str) -> str:
    return shlex.join(["ray", "job", verb, "--address", client.url, *words])


def _follow(client: JobClient, job: str) -> JobDetails | None:
    """Show a job's log until it ends, and return its result; None if the user stops watching."""
    try:
        asyncio.run(client.follow(job, lambda text: typer.echo(text, nl=False)))
    except KeyboardInterrupt:
        typer.echo(f"\n{job} goes on; follow it with\n  {_ray(client, 'logs', '--follow', job)}", err=True)
        typer.echo(f"stop it with\n  {_ray(client, 'stop', job)}", err=True)
        return None
    result = client.result(job)
    why = f": {result.message or ''}" if result.status == "FAILED" and result.driver_exit_code is None else ""
    typer.echo(f"{job} {result.status.lower()}{why}", err=True)
    return result


def _exit_code(result: JobDetails) -> int:
    if result.status == "SUCCEEDED":
        return 0
    if result.status == "STOPPED":
        return INTERRUPTED
    return result.driver_exit_code or 1
