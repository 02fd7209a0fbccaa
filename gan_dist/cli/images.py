"""What `train`, `tune` and `doctor` are given: a configuration, or images to pack and a preset for them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import typer

from gan_dist.cli.paths import RECORDED, absolute, complete, find_machine, note_extractor, read_run, shorten
from gan_dist.core import storage
from gan_dist.core.errors import BusyError, ConfigError, GanDistError, StorageError
from gan_dist.core.image_size import ImageSize
from gan_dist.core.storage.filesystems import expand_home
from gan_dist.core.storage.redaction import split_query

if TYPE_CHECKING:
    from gan_dist.config.load import ConfigBuilder
    from gan_dist.data.packing.training_set import Beginning, Packing, TrainingSet, Wanted
    from gan_dist.data.shards.manifest import Manifest

PRESET, AUTO = "preset=", "auto"
YAML = (".yaml", ".yml")
CONFIG_HELP = "A preset's name, a YAML file's path or URI, or images: a folder, an archive, or their URI."


@dataclass(frozen=True)
class Given:
    """Settings with absolute paths, and the set that they are for where it is made from images."""

    settings: ConfigBuilder
    images: TrainingSet | None = None
    settings_for: Callable[[Manifest], ConfigBuilder] | None = None
    """Returns settings for the set as packing leaves it: without the images that cannot be used."""

    @property
    def manifest(self) -> Manifest | None:
        """The sizes of a set that may not be packed yet; None where a configuration names the set."""
        return self.images.manifest if self.images else None

    @property
    def needs_packing(self) -> bool:
        """Whether there are images that are not packed yet."""
        return self.images is not None and self.images.packing is not None

    def summary(self) -> dict[str, object]:
        """Return what a dry run says of images that are to be packed; nothing for others."""
        if self.images is None or self.images.packing is None:
            return {}
        plan, source = self.images.packing.plan, self.images.packing.source
        there = bool(storage.list_names(self.images.path))
        return {
            "source": plan.source,
            "packed_set": f"{storage.redact(self.images.path)}, {'begun' if there else 'not there yet'}",
            "to_pack": f"{plan.images} at {plan.size}x{plan.channels}, {plan.images * plan.row_bytes} bytes",
            "classes": None if plan.classes is None else len(plan.classes),
            "left_out": len(source.rejected),
        }


def read_given(
    source: str, overrides: Sequence[str], timeout_s: float = math.inf, *, repack: bool = False
) -> Given:
    """Return what the arguments CONFIG and KEY=VALUE ask for; images are listed, and nothing is written.

    A store is asked for the record of an earlier run for `timeout_s` seconds at most. `repack` packs images
    though they have been packed before.

    Raises:
        ConfigError: the settings are wrong, or `repack` is for a configuration.
        DataError: there are no usable images.
        StorageError: something cannot be read.
    """
    if is_images(source) or _were_images(source, overrides):
        given = _read_images(source, overrides, repack=repack)
    elif repack:
        raise ConfigError("--repack is for images, and this is a configuration", "leave it out")
    else:
        given = Given(read_run(source, overrides, timeout_s))
    note_extractor(given.settings)
    return given


def is_images(source: str) -> bool:
    """Return whether CONFIG is images: a folder, an archive, or a URI that is no YAML file's."""
    from gan_dist.config import preset_names
    from gan_dist.data.packing.sources.items import CONTAINER_SUFFIXES

    if source in preset_names():
        if Path(source).is_dir():
            typer.echo(f"note: {source} is the preset; the folder is ./{source}", err=True)
        return False
    suffix = PurePosixPath(split_query(source)[0]).suffix.lower()
    if suffix in YAML or not source:
        return False
    if "://" in source:
        return True
    path = expand_home(source)
    # Unlike Path's own, these take a name that no file can have.
    return os.path.isdir(path) or (os.path.exists(path) and suffix in CONTAINER_SUFFIXES)  # noqa: PTH110,PTH112


def _were_images(source: str, overrides: Sequence[str]) -> bool:
    """Return whether a run began with images at a path where there is nothing now."""
    from gan_dist.config import preset_names
    from gan_dist.data.packing.training_set import Wanted, kept_plan

    if source in ("", *preset_names()) or source.endswith(YAML) or os.path.exists(expand_home(source)):  # noqa: PTH110
        return False
    try:
        uri = _uri(source)
        run = _beginning(_settings(uri, AUTO, {}, overrides))
        return kept_plan(uri, run, Wanted()) is not None
    except GanDistError:
        return False


def _uri(source: str) -> str:
    """Return the source in one spelling, so that the same folder is the same source."""
    if "://" in source:
        return source.rstrip("/")
    path = absolute(source)
    return os.path.realpath(path) if ".." in path.split("/") else os.path.normpath(path)


def _read_images(source: str, overrides: Sequence[str], *, repack: bool) -> Given:
    from gan_dist.config.auto import memory_resolution
    from gan_dist.data.packing.training_set import find_training_set

    uri = _uri(source)
    preset = next((one.removeprefix(PRESET) for one in reversed(overrides) if one.startswith(PRESET)), AUTO)
    first = _settings(uri, preset, {}, overrides)
    _require_readable(first)
    run = _beginning(first)
    gpus, gpu_bytes = _gpus(first)
    largest = memory_resolution(gpus=gpus, gpu_bytes=gpu_bytes)
    asked = _wanted(first)
    images = find_training_set(uri, run, asked, largest, repack=repack)
    if repack and not images.packing:
        raise ConfigError("--repack is for images, and this is a packed set", "leave it out")

    def settings_for(manifest: Manifest) -> ConfigBuilder:
        values = _auto_values(manifest, run, asked, (gpus, gpu_bytes)) if preset == AUTO else {}
        settings = _settings(uri, preset, values, overrides)
        return complete(settings.with_values({"data.path": images.path}))

    for note in images.notes:
        typer.echo(f"note: {note}", err=True)
    return Given(settings_for(images.manifest), images, settings_for)


def _wanted(settings: ConfigBuilder) -> Wanted:
    """Return what the settings, which `_require_readable` has seen, ask of the packed images."""
    from gan_dist.config import DataConfig
    from gan_dist.data.packing.training_set import Wanted

    values = {key: settings.values.get(f"data.{key}") for key in Wanted._fields}
    given = {key: value for key, value in values.items() if value is not None}
    data = DataConfig.model_validate({"path": "", **given})
    return Wanted(**{key: getattr(data, key) for key in given})


def _settings(uri: str, preset: str, values: Mapping[str, object], overrides: Sequence[str]) -> ConfigBuilder:
    """Return what a preset, or `values` in its place, and overrides set for images."""
    from gan_dist.config.load import ConfigBuilder, read_settings
    from gan_dist.config.yaml12 import dump
    from gan_dist.data.packing.training_set import source_name

    given = [one for one in overrides if not one.startswith(PRESET)]
    if preset != AUTO:
        settings = read_settings(preset, given)
        settings.stem = source_name(uri)
        return settings
    settings = ConfigBuilder(f"{PRESET}{AUTO}", source_name(uri))
    settings.read_file(dump(dict(values)))
    for index, text in enumerate(given):
        settings.read_override(index, text)
    return settings


def _require_readable(settings: ConfigBuilder) -> None:
    """Refuse, before images are listed, values that are wrong whatever the images are.

    Raises:
        ConfigError: a key is unknown, or its value is not one that it can have.
    """
    if "data.path" in settings.values and settings.origins["data.path"].layer:
        raise ConfigError(
            "data.path is the packed set that is made from the images", "leave it out", keys=("data.path",)
        )
    try:
        settings.with_values({"data.path": "builtin://shapes"}).config()
    except ConfigError as error:
        # Rules between keys are for the values that go with the images.
        if wrong := [problem for problem in error.problems if len(problem.keys) < 2]:
            raise ConfigError(wrong) from None


def _beginning(settings: ConfigBuilder) -> Beginning:
    """Return where the run is kept, and what it began with."""
    from gan_dist.config import StorageConfig, load_config
    from gan_dist.data.packing.training_set import Beginning

    values = {key: value for key, value in settings.values.items() if key.startswith("storage.")}
    store = StorageConfig.model_validate({key.partition(".")[2]: value for key, value in values.items()})
    storage.configure(store.options)
    path, name = absolute(store.path), str(settings.values.get("name", settings.stem))
    recorded = storage.join(path, name, RECORDED)
    return Beginning(path, name, load_config(recorded) if storage.exists(recorded) else None)


def _gpus(settings: ConfigBuilder) -> tuple[int, int | None]:
    """Return how many GPUs the run has, and the bytes of the smallest if they are known."""
    from gan_dist.config.machine import resolve

    machine, values = find_machine(), settings.known_values()
    found: dict[str, Any] = values | resolve(values, machine, trial=False)
    return math.ceil(found["scale.workers"] * found["scale.gpus_per_worker"]), machine.gpu_bytes


def _auto_values(
    manifest: Manifest, run: Beginning, wanted: Wanted, gpus: tuple[int, int | None]
) -> dict[str, object]:
    """Return the settings of `preset=auto`; a run keeps those that it began with where they matter."""
    from gan_dist.cli.pack import trainable
    from gan_dist.config import FREE_ON_RESUME, flatten
    from gan_dist.config.auto import auto_preset

    resolution = wanted.resolution or trainable(manifest.size)
    edge = math.isqrt(ImageSize.of(resolution).area)
    values = auto_preset(resolution=edge, images=manifest.count, gpus=gpus[0], gpu_bytes=gpus[1])
    if resolution != manifest.size.resolution and wanted.resolution is None:
        values["data.resolution"] = resolution
    recorded = flatten(run.config) if run.config else {}
    return {
        key: value if key in FREE_ON_RESUME else recorded.get(key, value) for key, value in values.items()
    }


@contextmanager
def packed(given: Given) -> Iterator[ConfigBuilder]:
    """Pack images that are not packed yet, and yield the settings; training goes on with the same Ray."""
    images = given.images
    if images is None or images.packing is None or given.settings_for is None:
        yield given.settings
        return
    from gan_dist.cluster.connect import connect_for
    from gan_dist.cluster.nodes.node_checks import check_nodes
    from gan_dist.core.storage.lock import folder_lock
    from gan_dist.data.builtin import PREFIX
    from gan_dist.data.packing.training_set import require_space, write_listing

    require_space(images.path, images.packing.plan)
    storage.require_bucket(images.path)
    config = given.settings.config()
    with connect_for(config.scale, warn=False):
        check_nodes(config.run_uri, PREFIX)
        try:
            with folder_lock(images.path, lambda text: typer.echo(text, err=True)):
                write_listing(images.path, images.packing.source)
                manifest = _pack(images.path, images.packing)
        except BusyError as error:
            raise BusyError(error.problems[0].what, "let that end, and the same command goes on") from None
        except StorageError:
            require_space(images.path, images.packing.plan)  # says so where the disk is full now
            raise
        yield given.settings_for(manifest)


def _pack(path: str, packing: Packing) -> Manifest:
    from gan_dist.cli.pack import run_packing
    from gan_dist.data.packing.training_set import MAX_BAD

    manifest, _ = run_packing(packing.source, path, packing.plan, MAX_BAD)
    typer.echo(f"packed {manifest.count:,} images at {manifest.size} in {shorten(path)}", err=True)
    for setting, words in (("quarantined", "left out"), ("enlarged", "enlarged")):
        if count := int(manifest.settings[setting]):
            typer.echo(f"  {count:,} {words}", err=True)
    return manifest
