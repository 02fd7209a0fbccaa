"""The verb `pack`: parse, call, print."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.options import AsJson, Backend, print_record
from gan_dist.cli.paths import absolute, command, shorten
from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.core.image_size import ImageSize
from gan_dist.core.storage.redaction import split_query

if TYPE_CHECKING:
    from gan_dist.data.packing.decode import Decoding
    from gan_dist.data.packing.plan import Plan
    from gan_dist.data.packing.sources.items import Source
    from gan_dist.data.shards.manifest import Manifest


def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A folder or prefix of images, ZIPs, tars, Parquet files or LMDBs; one of these; or "
            "torchvision://NAME.",
        ),
    ],
    dest: Annotated[
        str | None, typer.Argument(metavar="DEST", help="The folder or prefix to write the shards to.")
    ] = None,
    resolution: Annotated[
        str | None,
        typer.Option(
            "--resolution",
            "--size",
            metavar="SIZE",
            help="Size in pixels: the edge of a square, or WIDTHxHEIGHT, such as 512x384.",
        ),
    ] = None,
    fit: Annotated[
        str,
        typer.Option(
            help="Images of another aspect: crop (the largest centred part), pad (black borders, transparent "
            "with alpha), pad:COLOUR (pad:white, pad:ff8000) or stretch."
        ),
    ] = "crop",
    channels: Annotated[int, typer.Option(help="3 for colour, 1 for grey, 4 for colour and alpha.")] = 3,
    filter: Annotated[str, typer.Option(help="lanczos, bicubic, bilinear or box.")] = "lanczos",
    labels: Annotated[
        str | None, typer.Option(help="A CSV or JSONL file with path and label, instead of sub-folders.")
    ] = None,
    no_labels: Annotated[bool, typer.Option("--no-labels", help="Pack without labels.")] = False,
    image_column: Annotated[str | None, typer.Option(help="Parquet: the column of encoded images.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="Parquet and metadata files: the column of labels.")
    ] = None,
    root: Annotated[str, typer.Option(help="torchvision: the folder of its files, on every node.")] = "data",
    download: Annotated[bool, typer.Option("--download", help="torchvision: fetch what is missing.")] = False,
    split: Annotated[
        str | None, typer.Option(help="The split to pack, where SOURCE holds several; all mixes them.")
    ] = None,
    shard_mb: Annotated[float, typer.Option(help="Size of a shard in MiB.")] = 64.0,
    max_bad: Annotated[
        str,
        typer.Option(help="How many images may be unusable: a number or a percentage; cut tars need 100%."),
    ] = "1%",
    max_megapixels: Annotated[
        float | None,
        typer.Option(
            help="The largest picture to decode, which takes up to 20 bytes a pixel; 89 by default."
        ),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the set at DEST instead; SOURCE is left out.")
    ] = False,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="List SOURCE and show what would be made; write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Turn images into shards to train from. The same command again continues, --verify DEST checks."""
    decoding = check(
        dest, resolution, fit, channels, filter, shard_mb, max_bad, max_megapixels, verify=verify
    )
    if dest is None or decoding is None:  # with --verify
        _verify(absolute(source), as_json)
        return
    from gan_dist.data.packing.plan import (
        finished_set,
        make_plan,
        require_apart,
        require_few_bad,
        require_whole,
    )
    from gan_dist.data.packing.sources import open_source
    from gan_dist.data.packing.sources.items import SourceOptions
    from gan_dist.data.packing.task import remove_leftovers

    uri, dest = absolute(source), absolute(dest)
    require_apart(uri, dest)
    storage.require_bucket(dest)
    options = SourceOptions(
        labels=None if labels is None else absolute(labels),
        no_labels=no_labels,
        image_column=image_column,
        label_column=label_column,
        root=absolute(root),
        download=download,
        split=split,
    )
    images = open_source(uri, options)
    plan = make_plan(uri, images, decoding, shard_mb)
    for note in images.notes:
        typer.echo(note, err=True)
    require_whole(images.damaged, max_bad)
    require_few_bad(images.rejected, len(images.items) + len(images.rejected), max_bad)
    manifest, rate = finished_set(dest, plan), None
    warnings = [f"warning: {sentence}" for sentence in images.damaged]
    if dry_run:
        for warning in warnings:
            typer.echo(warning, err=True)
        _print_dry_run(dest, plan, images, as_json)
        return
    if manifest is None:
        manifest, rate = run_packing(images, dest, plan, max_bad)
    else:
        remove_leftovers(dest)
        check_it = command("pack", "--verify", shorten(dest))
        typer.echo(f"{storage.redact(dest)} is complete already; check it with\n  {check_it}")
    _print_result(dest, plan, manifest, rate)
    for warning in warnings:
        typer.echo(warning, err=True)
    typer.echo(f"train on it with\n  {command('train', *_train_arguments(dest, plan.size))}")
    if as_json:
        quarantined = int(manifest.settings["quarantined"])
        record = {**_record(dest, manifest), "quarantined": quarantined, "images_per_second": rate}
        typer.echo(json.dumps(record))


def check(
    dest: str | None,
    resolution: str | None,
    fit: str,
    channels: int,
    filter: str,
    shard_mb: float,
    max_bad: str,
    max_megapixels: float | None,
    *,
    verify: bool,
) -> Decoding | None:
    """Return how images are decoded; None with `verify`. No file is looked at.

    Raises:
        DataError: arguments are missing, superfluous, or out of their range.
    """
    from gan_dist.data.packing.decode import PIXEL_LIMIT, Decoding
    from gan_dist.data.packing.plan import require_settings

    if verify:
        if dest is not None:
            raise DataError("--verify takes one folder", "call gan-dist pack --verify DEST")
        return None
    if not dest or resolution is None:
        missing = "--resolution" if dest else "DEST"
        raise DataError(f"{missing} is missing", "call gan-dist pack SOURCE DEST --resolution 64")
    pixels = PIXEL_LIMIT
    if max_megapixels is not None:
        pixels = int(max_megapixels * 10**6) if math.isfinite(max_megapixels) else 0  # which is refused
    decoding = Decoding(_read_size(resolution), channels, filter, pixels, fit)
    require_settings(decoding, shard_mb, max_bad)
    return decoding


def _read_size(text: str) -> int | str:
    """Return the size that `--resolution` names; its edges may be out of range."""
    if re.fullmatch(r"-?[0-9]{1,9}", text):
        return int(text)
    if re.fullmatch(r"[0-9]{1,9}x[0-9]{1,9}", text):
        return ImageSize.of(text).resolution
    raise DataError(
        f"--resolution must be the edge of a square in pixels, such as 64, or WIDTHxHEIGHT, such as 512x384, "
        f"not {text!r}"
    )


def _verify(uri: str, as_json: bool) -> None:
    from gan_dist.data.shards.verify import verify_set

    manifest = verify_set(uri)
    typer.echo(f"{storage.redact(uri)} is whole: {_size(manifest)}")
    if as_json:
        typer.echo(json.dumps(_record(uri, manifest)))


def _size(manifest: Manifest) -> str:
    from gan_dist.data.packing.sources.items import counted

    return f"{counted(manifest.count, 'image')} in {counted(len(manifest.shards), 'shard')}"


def _record(uri: str, manifest: Manifest) -> dict[str, object]:
    return {
        "dest": storage.redact(uri),
        "images": manifest.count,
        "shards": len(manifest.shards),
        "bytes": sum(shard.bytes for shard in manifest.shards),
    }


def _print_result(dest: str, plan: Plan, manifest: Manifest, rate: float | None) -> None:
    from gan_dist.data.packing.task import QUARANTINE

    speed = f", {rate:,.0f} images/s" if rate else ""
    typer.echo(f"{storage.redact(dest)}: {_size(manifest)}{speed}")
    if quarantined := int(manifest.settings["quarantined"]):
        typer.echo(f"  {quarantined:,} left out, listed with the reasons in {QUARANTINE}")
    if enlarged := int(manifest.settings["enlarged"]):
        typer.echo(f"  {enlarged:,} enlarged, being smaller than {plan.resolution} pixels")
    if dark := int(manifest.settings.get("dark", 0)):
        typer.echo(
            f"  {dark:,} nearly black, using at most 12 of 16 bits a sample: scale them to 16 bits, or"
        )
        typer.echo("    declare their depth (sBIT in PNG, MaxSampleValue in TIFF), and pack again")


def _train_arguments(dest: str, size: ImageSize) -> list[str]:
    from gan_dist.config.fields import override, valid_name

    name = valid_name(split_query(dest)[0].rstrip("/").rpartition("/")[2])
    resolution = trainable(size)
    resized = [] if resolution == size.resolution else [f"data.resolution={resolution}"]
    return ["shapes", override("name", name), override("data.path", shorten(dest)), *resized]


def trainable(size: ImageSize) -> int | str:
    """Return the resolution to train at where nobody says: of squares, the largest power of two within."""
    if size.height == size.width:
        return max(8, 1 << (size.height.bit_length() - 1))
    from gan_dist.models.sizes import possible_sizes  # brings torch

    return possible_sizes(size)[-1].resolution


def _print_dry_run(dest: str, plan: Plan, source: Source, as_json: bool) -> None:
    reasons = dict(Counter(rejection.reason for rejection in source.rejected).most_common(10))
    record = {
        "source": plan.source,
        "dest": storage.redact(dest),
        "images": plan.images,
        "classes": None if plan.classes is None else len(plan.classes),
        "resolution": plan.resolution,
        "channels": plan.channels,
        "fit": plan.fit,
        "filter": plan.filter,
        "shards": math.ceil(plan.images / plan.shard_items),
        "bytes": plan.images * plan.row_bytes,
        "quarantined": len(source.rejected),
    }
    print_record(record, as_json=False)
    for reason, count in reasons.items():
        typer.echo(f"  {count:,}: {reason}")
    typer.echo("a dry run decodes no image: which of them are damaged is found by the run")
    if as_json:
        typer.echo(json.dumps({**record, "reasons": reasons}))


def run_packing(source: Source, dest: str, plan: Plan, max_bad: str) -> tuple[Manifest, float]:
    """Pack on the cluster; return the set's manifest and the decoded images per second."""
    from gan_dist.cluster.connect import connect
    from gan_dist.core.console import CountProgress
    from gan_dist.data.packing.plan import PLAN
    from gan_dist.data.packing.ray_pack import pack as run
    from gan_dist.data.packing.sources.items import counted

    storage.require_writable(storage.join(dest, PLAN))
    with CountProgress(plan.images, "images") as progress:
        progress.print(f"packing {counted(plan.images, 'image')} of {plan.source}")
        with connect():
            manifest = run(source, dest, plan, max_bad, progress.update)
    return manifest, progress.rate
