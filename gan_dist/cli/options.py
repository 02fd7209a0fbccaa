"""What several verbs share: options and an exit code."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, get_args

import typer

from gan_dist.core.storage import BACKENDS, configure, options

INTERRUPTED = 130
"""The exit code of a verb that was asked to stop, as a shell has it for SIGINT."""


def _reached(backend: str) -> str:
    if backend not in get_args(BACKENDS):
        raise typer.BadParameter(f"{backend!r} is neither {' nor '.join(get_args(BACKENDS))}.")
    configure(replace(options(), backend=backend))  # type: ignore[arg-type]  # just looked at
    return backend


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Backend = Annotated[
    str, typer.Option("--backend", callback=_reached, help="What talks to object stores: pyarrow or s3fs.")
]
"""For verbs without a configuration, in which `storage.backend` would say it; the callback sets it."""
