"""Where a user's files are, and how the commands that they go on with are written."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from gan_dist.core.errors import GanDistError

if TYPE_CHECKING:
    from gan_dist.config import RunConfig

CALLED_AS = "GAN_DIST_CALLED_AS"
"""The variable by which a job knows the command that submitted it, up to the verb."""


def absolute(uri: str) -> str:
    """Return a local path as an absolute one: workers have other working directories.

    A submitted job's working directory is a copy that Ray deletes, so there a relative path means the home.
    """
    if "://" in uri:
        return uri
    return str((Path.home() / "gan-dist" if _submitted() else Path.cwd()) / Path(uri).expanduser())


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return a run's configuration that means the same in workers, which have other working directories."""
    data = {"path": absolute(config.data.path), "disk_cache_dir": _on_node(config.data.disk_cache_dir)}
    return config.model_copy(
        update={
            "storage": config.storage.model_copy(update={"path": absolute(config.storage.path)}),
            "data": config.data.model_copy(update=data),
            "eval": config.eval.model_copy(update={"inception_weights": _weights(config)}),
            "search": None,
        }
    )


def as_overrides(config: RunConfig) -> list[str]:
    """Return the paths of a configuration as overrides of the one that it was made from."""
    weights = config.eval.inception_weights
    return [
        f"storage.path={config.storage.path}",
        f"data.path={config.data.path}",
        f"data.disk_cache_dir={config.data.disk_cache_dir}",
        *([f"eval.inception_weights={weights}"] if weights else []),
    ]


def _on_node(path: str) -> str:
    """Return a path of every node as an absolute one; in the home it stays, for nodes have their own."""
    return path if path.startswith("~") else absolute(path)


def _weights(config: RunConfig) -> str | None:
    """Return where Inception's weights are, if the configuration says it, or a variable by a relative path.

    Another path in the variable may be each node's own.
    """
    if config.eval.inception_weights:
        return absolute(config.eval.inception_weights)
    if config.eval.extractor != "inception":
        return None
    from gan_dist.evaluation.extractors.inception import VARIABLE  # brings torch

    told = os.environ.get(VARIABLE, "")
    return _on_node(told) if told and _on_node(told) != told else None


def short(uri: str) -> str:
    """Return a path below the working directory as a relative one."""
    return os.path.relpath(uri) if Path(uri).is_relative_to(Path.cwd()) else uri


def program(verb: str) -> list[str]:
    """Return how a user calls this verb again from where they called it."""
    if _submitted():
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


def _submitted() -> bool:
    """Tell whether this is the entrypoint of a job that was submitted to a cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def require_png(out: str) -> None:
    """Refuse the name of a picture that says another format than PNG, which is what is written.

    Raises:
        GanDistError: it does.
    """
    suffix = PurePath(out.partition("?")[0]).suffix
    if suffix.lower() not in ("", ".png"):
        raise GanDistError(f"--out {out}: pictures are written as PNG, not {suffix}", "end the name in .png")
