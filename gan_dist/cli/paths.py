"""Paths as a user gives and reads them, and the commands that a user runs next."""

from __future__ import annotations

import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import typer

from gan_dist.core.errors import GanDistError
from gan_dist.core.storage.filesystems import expand_home, open_uri
from gan_dist.core.storage.redaction import as_argument, split_query

if TYPE_CHECKING:
    from gan_dist.config import EvalConfig, RunConfig
    from gan_dist.config.load import ConfigBuilder
    from gan_dist.config.machine import Machine

RECORDED = "config.yaml"
"""File with a run's configuration in its folder, as `models/release.py` has it, which brings torch."""
NO_FID = (
    "note: distances are by `random` features, not FID; for FID set eval.inception_weights, or "
    "GAN_DIST_INCEPTION_WEIGHTS, to Inception's weights (eval.extractor=inception says where they are)"
)
CALLED_AS = "GAN_DIST_CALLED_AS"
"""Environment variable of a job with the command that submitted it, up to the verb."""


def absolute(uri: str) -> str:
    """Return a local path as an absolute one, since workers have other working directories.

    Ray deletes the working directory of a submitted job, so there a relative path is one in `~/gan-dist`.
    """
    if "://" in uri:
        return uri
    path = str((expand_home("~/gan-dist") if _is_submitted() else Path.cwd()) / expand_home(uri))
    if path != path.encode(errors="replace").decode():
        raise GanDistError(f"{path!a}: this name is not UTF-8, as names in configurations are", "rename it")
    return path


def load_run(source: str, overrides: Sequence[str]) -> RunConfig:
    """Return a configuration with absolute paths, or raise a ConfigError."""
    return read_run(source, overrides).config()


def read_run(source: str, overrides: Sequence[str], timeout_s: float = math.inf) -> ConfigBuilder:
    """Return what a configuration sets, as `complete` does, or raise a ConfigError."""
    from gan_dist.config.load import read_settings

    return complete(read_settings(source, overrides), timeout_s)


def complete(settings: ConfigBuilder, timeout_s: float = math.inf) -> ConfigBuilder:
    """Return settings with absolute paths, or raise a ConfigError if they are no configuration.

    Keys that are `auto` will be what they were when the run was begun, which is looked up for `timeout_s`
    seconds at most, or else what suits the cluster in RAY_ADDRESS or this machine.
    """
    recorded = {**settings.recorded, **_recorded(settings, timeout_s)}
    settings = replace(settings, machine=cache(find_machine), recorded=recorded)
    config = settings.config()
    warm_start = config.search and config.search.warm_start
    open_uri(config.storage.path)  # a dry run refuses what a run would
    return settings.with_values(
        {
            "storage.path": absolute(config.storage.path),
            "data.path": absolute(config.data.path),
            "data.disk_cache_dir": _on_node(config.data.disk_cache_dir),
            "eval.inception_weights": _inception_weights(config.eval),
            **({"init.from": absolute(config.init.source)} if config.init.source else {}),
            **({"search.warm_start": absolute(warm_start)} if warm_start else {}),
        }
    )


def note_extractor(settings: ConfigBuilder) -> None:
    """Say so if an extractor that is `auto` gives no FID, unless the run has been begun with it."""
    chosen = "eval.extractor" in settings.open_keys() - settings.recorded.keys()
    if chosen and settings.config().eval.extractor == "random":
        typer.echo(NO_FID, err=True)


def find_machine() -> Machine:
    """Return the cluster in RAY_ADDRESS or that this process is connected to, or else this machine."""
    if "ray" not in sys.modules and os.environ.get("RAY_ADDRESS", "local") in ("", "local"):
        from gan_dist.config.machine import this_machine

        return this_machine()
    from gan_dist.cluster import connect

    return connect.find_machine()


def _recorded(settings: ConfigBuilder, timeout_s: float) -> dict[str, object]:
    """Return the values that an earlier process of the run recorded; none if that cannot be read."""
    from gan_dist.config.earlier import EARLIER
    from gan_dist.config.load import read_settings

    draft = settings.draft() if settings.open_keys() or EARLIER.keys() - settings.values.keys() else None
    if draft is None:
        return {}
    from gan_dist.core import storage

    options = draft.storage.options
    storage.configure(replace(options, timeout_s=min(options.timeout_s, timeout_s)))
    # `train` says later what is wrong with the storage or the file.
    with suppress(GanDistError):
        uri = storage.join(absolute(draft.storage.path), draft.name, RECORDED)
        if storage.exists(uri):
            return read_settings(uri).record()
    return {}


def _on_node(path: str) -> str:
    """Return a path on every node as an absolute one; `~` stays, since nodes have their own homes."""
    return path if path.startswith("~") else absolute(path)


def _inception_weights(evaluation: EvalConfig) -> str | None:
    if evaluation.inception_weights:
        return absolute(evaluation.inception_weights)
    if evaluation.extractor != "inception":
        return None
    from gan_dist.config.machine import INCEPTION_VARIABLE

    given = os.environ.get(INCEPTION_VARIABLE, "")
    # An absolute path in the variable may be each node's own.
    return _on_node(given) if given and _on_node(given) != given else None


def shorten(uri: str) -> str:
    """Return a path below the working directory as a relative one, for a command's argument."""
    return as_argument(os.path.relpath(uri)) if Path(uri).is_relative_to(Path.cwd()) else uri


def command(verb: str, *arguments: str) -> str:
    """Return the shell command for a verb, in the form in which the user called this program."""
    program = _program(verb)
    words = map(_escape_for_ray, arguments) if program[0] == "ray" else arguments
    return shlex.join([*program, *words])


def _escape_for_ray(argument: str) -> str:
    # `ray job submit` joins words for a shell as Windows does: "" around what has spaces, \ before a quote.
    special = r"[$`\\]" if re.search(r"\s", argument) else r"[^\w@%+=:,./\"-]"
    return re.sub(special, r"\\\g<0>", argument)


def _program(verb: str) -> list[str]:
    if _is_submitted():
        if called_as := os.environ.get(CALLED_AS):
            return [*shlex.split(called_as), verb]
        return ["ray", "job", "submit", "--working-dir", ".", "--", "python", f"jobs/{verb}.py"]
    script = Path(sys.argv[0])
    if script.resolve().parent.name == "jobs":
        return ["python", os.path.relpath(script.with_name(f"{verb}.py"))]
    if script.name == "__main__.py":
        return ["python", "-m", "gan_dist", verb]
    known = shutil.which("gan-dist")
    on_path = known is not None and Path(known).resolve() == script.resolve()
    return ["gan-dist" if on_path else os.path.relpath(script), verb]


def _is_submitted() -> bool:
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def require_png(out: str) -> None:
    """Raise a GanDistError if the suffix of a picture is not that of PNG."""
    suffix = PurePath(split_query(out)[0]).suffix
    if suffix.lower() not in ("", ".png"):
        raise GanDistError(f"--out {out}: pictures are written as PNG, not {suffix}", "end the name in .png")
