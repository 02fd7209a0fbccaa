"""Options that several verbs share."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from gan_dist.storage import BACKENDS, StorageOptions, configure


def _reached(backend: str) -> str:
    if backend not in get_args(BACKENDS):
        raise typer.BadParameter(f"{backend!r} is neither {' nor '.join(get_args(BACKENDS))}.")
    configure(StorageOptions(backend=backend))  # type: ignore[arg-type]  # just looked at
    return backend


Backend = Annotated[
    str, typer.Option("--backend", callback=_reached, help="What talks to object stores: pyarrow or s3fs.")
]
"""For verbs without a configuration, in which `storage.backend` would say it; set for this process at once."""
