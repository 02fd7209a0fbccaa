"""The verb `doctor`: parse, call, print."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.images import CONFIG_HELP, read_given
from gan_dist.cli.options import AsJson

if TYPE_CHECKING:
    from gan_dist.config import RunConfig
    from gan_dist.core.findings import Check, Finding
    from gan_dist.data.shards.manifest import Manifest

COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


def doctor(
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help=f"{CONFIG_HELP} What it needs is looked at too."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, e.g. storage=s3://b/runs.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1.0, max=86_400.0, help="Seconds after which a check is given up.")
    ] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong, before a run finds it.

    That is in this machine, the cluster in RAY_ADDRESS, the storage and a configuration. It starts no cluster
    and leaves nothing behind. The exit code is 0 without errors, warnings or not, and 2 with one.
    """
    from gan_dist.core.findings import examine

    found = examine(_checks(config, overrides or [], timeout))
    _show(found)
    if as_json:
        typer.echo(json.dumps({"checks": [asdict(finding) for finding in found]}))
    raise typer.Exit(2 if any(finding.level == "error" for finding in found) else 0)


def _checks(source: str | None, overrides: list[str], timeout_s: float) -> dict[str, tuple[Check, float]]:
    """Return the checks by name, each with its time limit in seconds."""
    # Libraries are imported here, before any check's time runs, and by one thread.
    from gan_dist.cluster.nodes import doctor_checks
    from gan_dist.cluster.nodes.head_probe import cluster_address
    from gan_dist.config import ScaleConfig
    from gan_dist.core.errors import GanDistError
    from gan_dist.core.findings import findings_of
    from gan_dist.core.storage import configure
    from gan_dist.doctor import checks as local

    checks: dict[str, Check] = {}
    scale, planned = ScaleConfig(), None
    if source:
        try:
            config, manifest = _load(source, overrides, timeout_s)
        except GanDistError as error:
            problems = list(findings_of("config", error.problems, "gan-dist refuses to begin it"))
            checks["config"] = lambda: problems
        else:
            scale = config.scale
            planned = doctor_checks.PlannedRun(scale, config.storage.path, config.data, config.search)
            configure(config.storage.options)
            checks = {
                "storage": lambda: local.storage_access(config.storage.path),
                "clock": lambda: local.clock(config.storage.path, config.data.path, timeout_s / 2),
                "data": lambda: local.preflight(config, manifest),
            }
    gpus = scale.gpus_per_worker if cluster_address() is None else 0.0
    checks = {
        "packages": local.packages,
        "gpus": lambda: local.gpus(gpus),
        "cores": local.cores,
        "memory": local.memory,
        "shm": local.shm,
        "threads": lambda: local.threads(scale.workers, scale.cpus_per_worker),
        "name": local.host_name,
        "ports": doctor_checks.ports,
        "token": doctor_checks.token,
        "cluster": lambda: doctor_checks.cluster(planned, timeout_s),
        **checks,
    }
    # A cluster is joined, and then its nodes are asked.
    return {name: (check, timeout_s * (2 if name == "cluster" else 1)) for name, check in checks.items()}


def _load(source: str, overrides: list[str], timeout_s: float) -> tuple[RunConfig, Manifest | None]:
    """Return a configuration as `train` or `tune` would have it, but with a shorter storage.timeout_s.

    Of images it also returns the sizes of their packed set.
    """
    given = read_given(source, overrides, timeout_s / 2)
    config = given.settings.config()
    if config.search is not None:
        from gan_dist.search.plan import plan_search

        scale = plan_search(given.settings).config.scale
        config = config.model_copy(update={"scale": scale})
    timeout = {"timeout_s": min(config.storage.timeout_s, timeout_s / 2)}
    return config.model_copy(update={"storage": config.storage.model_copy(update=timeout)}), given.manifest


def _show(found: Sequence[Finding]) -> None:
    from rich.text import Text

    from gan_dist.core.console import plain_console

    console = plain_console()
    for one in found:
        level = Text(f"{one.level:<8}", style=COLOURS[one.level])
        console.print(level.append(f"{one.name:<10}{one.what}", style="default"))
        for label, text in (("why", one.why), ("do", one.remedy)):
            if text:
                console.print(f"{'':<8}{label:<10}{text}")
    count = Counter(one.level for one in found)
    wrong = [f"{count[level]} {level}{'s' * (count[level] != 1)}" for level in ("error", "warning")]
    console.print(f"{', '.join(wrong)}, {count['ok']} ok")
