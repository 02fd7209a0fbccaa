"""Paths as a user gives and reads them, and the commands that a user runs next."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from gan_dist.core.errors import GanDistError
from gan_dist.core.storage.filesystems import expand_home
from gan_dist.core.storage.redaction import as_argument, split_query

if TYPE_CHECKING:
    from gan_dist.config import EvalConfig, RunConfig
    from gan_dist.config.load import ConfigBuilder

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


def read_run(source: str, overrides: Sequence[str]) -> ConfigBuilder:
    """Return what a configuration sets, with absolute paths, or raise a ConfigError."""
    from gan_dist.config.load import read_settings

    return with_absolute_paths(read_settings(source, overrides))


def with_absolute_paths(settings: ConfigBuilder) -> ConfigBuilder:
    """Return settings with absolute paths, or raise a ConfigError if they are no configuration."""
    config = settings.config()
    return settings.with_values(
        {
            "storage.path": absolute(config.storage.path),
            "data.path": absolute(config.data.path),
            "data.disk_cache_dir": _on_node(config.data.disk_cache_dir),
            "eval.inception_weights": _inception_weights(config.eval),
        }
    )


def _on_node(path: str) -> str:
    """Return a path on every node as an absolute one; `~` stays, since nodes have their own homes."""
    return path if path.startswith("~") else absolute(path)


def _inception_weights(evaluation: EvalConfig) -> str | None:
    if evaluation.inception_weights:
        return absolute(evaluation.inception_weights)
    if evaluation.extractor != "inception":
        return None
    from gan_dist.evaluation.extractors.inception import VARIABLE  # brings torch

    given = os.environ.get(VARIABLE, "")
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
