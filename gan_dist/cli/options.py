"""Options, output and exit code that several verbs share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args

import typer

from gan_dist.core.storage import BACKENDS, StorageOptions, configure, options


def _set_backend(backend: str) -> str:
    if backend not in get_args(BACKENDS):
        raise typer.BadParameter(f"{backend!r} is neither {' nor '.join(get_args(BACKENDS))}.")
    configure(replace(options(), backend=backend))  # type: ignore[arg-type]  # checked above
    return backend


def with_backend(chosen: StorageOptions) -> StorageOptions:
    """Return a configuration's options with the backend that `--backend` has set."""
    backend = options().backend
    return chosen if backend == StorageOptions().backend else replace(chosen, backend=backend)


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Backend = Annotated[
    str,
    typer.Option("--backend", callback=_set_backend, help="What talks to object stores: pyarrow or s3fs."),
]
"""`storage.backend` of verbs without a configuration; the callback sets it."""

Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="PACKAGE.MODULE:CLASS",
        help="Code of its maker's own that it may import, if it names this; may be given several times.",
    ),
]
"""Import paths that `import_path.require_trust` lets pass."""

ReleaseSource = Annotated[
    str, typer.Argument(metavar="RELEASE", help="A release, a checkpoint, or a run's folder.")
]


def complete_config(incomplete: str) -> list[str]:
    """Return what a shell may complete to a CONFIG: presets, and files and folders."""
    from gan_dist.config import preset_names

    stem = incomplete.rpartition("/")[2]
    folder = incomplete.removesuffix(stem)
    with suppress(OSError, RuntimeError):
        beside = sorted(Path(folder or ".").expanduser().glob("*"))
        paths = [f"{folder}{path.name}{'/' * path.is_dir()}" for path in beside if path.name.startswith(stem)]
        return [name for name in preset_names() if name.startswith(incomplete)] + paths
    return []


def complete_key(incomplete: str) -> list[str]:
    """Return the keys of the configuration, each with its `=`, that a shell may complete."""
    from gan_dist.config.fields import leaves

    return [f"{key}=" for key in leaves() if key.startswith(incomplete)]


def print_warning(sentence: str) -> None:
    """Print a warning to standard error."""
    typer.echo(f"warning: {sentence}", err=True)


def print_record(record: Mapping[str, object], *, as_json: bool, prefix: str = "") -> None:
    """Print a line for each entry, and with --json the whole as JSON."""
    for key, value in record.items():
        typer.echo(f"{prefix}{key}: {value}")
    if as_json:
        typer.echo(json.dumps(record))
