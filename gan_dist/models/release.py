"""A trained generator as a folder: written, found, verified, loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from shlex import quote
from typing import Any

import torch
from PIL.Image import Image
from pydantic import BaseModel, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from gan_dist import models
from gan_dist.config import ModelConfig, load_config
from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, CheckpointError, StorageError
from gan_dist.core.images import to_png
from gan_dist.core.import_path import require_trust
from gan_dist.core.json_text import Clock, parse_object
from gan_dist.core.storage import hub
from gan_dist.core.storage.hashed_folder import (
    MANIFEST,
    FileName,
    delete_folder,
    parse_file,
    read_folder,
    sorted_checkpoints,
    to_json,
    write_folder,
)
from gan_dist.models.generator import ImageShape, Release
from gan_dist.models.init import shapes_only
from gan_dist.models.mixture import MIXTURE, Mixture, MixtureFile, member_files

BEST = "best.json"
CONFIG = "config.yaml"
SEARCH = "search.json"
SHAPE = "shape.json"
WEIGHTS = "generator.safetensors"
DISCRIMINATOR = "discriminator.safetensors"
MEASURED = "metrics.json"
SAMPLES = "samples.png"
FILES = (WEIGHTS, CONFIG, SHAPE, MEASURED, SAMPLES)
"""Files that every release of a run has."""
KINDS = ("release", "checkpoint")
"""Folders that hold a generator."""


def to_safetensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Return tensors as a safetensors file."""
    return save_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


OTHER = "-1"
"""End of a best release's name where `best.json` points to another after the same number of images."""


def best_name(images: int) -> str:
    """Return the name of a run's best release after `images` images."""
    return f"best_{images:012d}"


def best_writer(
    run_uri: str,
    generator: nn.Module,
    *,
    discriminator: nn.Module | None = None,
    shape: ImageShape,
    config_yaml: str,
    record: Mapping[str, Any],
    metric: str,
    picture: Image,
) -> Callable[[], None]:
    """Return a call that writes a run's best generator as a release, and points `best.json` to it.

    The discriminator lies beside it, for runs that begin with both (`init.from`).

    The release has the weights of this moment, whenever it is written. A kill at any moment leaves
    `best.json` pointing to a whole release, the old one or the new. Where a run measures again what its best
    release has already, that stays as it is.
    """
    weights = to_safetensors(generator.state_dict())
    contents = {
        WEIGHTS: weights,
        **({} if discriminator is None else {DISCRIMINATOR: to_safetensors(discriminator.state_dict())}),
        CONFIG: config_yaml.encode(),
        SHAPE: to_json(asdict(shape)),
        MEASURED: to_json(dict(record)),
        SAMPLES: to_png(picture),
    }
    images, value = record["images"], record[metric]

    def write() -> None:
        pointed: dict[str, Any] = {}
        with suppress(CheckpointError, AbsentError):
            pointed = read_best(run_uri)
        name = best_name(images)
        if pointed.get("release") == name:
            if pointed["value"] == value and _has_weights(storage.join(run_uri, name), weights):
                return
            name += OTHER
        pointer = {"release": name, "images": images, "metric": metric, "value": value}
        write_folder(storage.join(run_uri, name), "release", contents.items())
        storage.write_bytes(storage.join(run_uri, BEST), to_json(pointer))

    return write


def delete_earlier(run_uri: str) -> None:
    """Delete the best releases of a run but the one that `best.json` names."""
    name = read_best(run_uri)["release"]
    for other in storage.list_names(run_uri):
        if other.startswith("best_") and other != name:
            delete_folder(storage.join(run_uri, other))


def _has_weights(uri: str, weights: bytes) -> bool:
    """Return whether there is a release that is whole and has these weights."""
    with suppress(CheckpointError):
        return read_folder(uri, ["release"])[1].get(WEIGHTS) == weights
    return False


class _Pointer(BaseModel):
    """The `best.json` of a run."""

    release: FileName
    images: Clock
    metric: str
    value: float


def read_best(run_uri: str) -> dict[str, Any]:
    """Return a run's `best.json`: `release`, `images`, `metric` and `value`.

    Raises:
        CheckpointError: it is damaged.
        StorageError: the run has none.
    """
    where = storage.join(run_uri, BEST)
    try:
        return _Pointer.model_validate_json(storage.read_bytes(where)).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise CheckpointError(
            f"{storage.redact(where)} is damaged ({what})", "restore it, or delete it"
        ) from None


def load(
    uri: str | os.PathLike[str], device: torch.device | str = "cpu", *, trust: str | Collection[str] = ()
) -> Release:
    """Return the generator of a release, of a checkpoint, or of a run.

    A run's is its best release or, before its first measurement, its newest checkpoint that is whole. Nothing
    is unpickled, and every file's hash is checked.

    Args:
        uri: Its folder, a local path or a URI; or a model repository, `hf://user/name` or
            `hf://user/name@revision`.
        device: Device of the generator and of the images that `sample` returns.
        trust: Import paths, `package.module:Class`, of networks of a user's own that may be imported. A
            release never chooses code: one of such networks is refused unless its `model.name` is here.

    Raises:
        CheckpointError: there is none of these, or it is damaged; an UntrustedCodeError if it needs code that
            is not in `trust`.
        ConfigError: a network of a user's own cannot be imported, or built for these images.
        StorageError: its store cannot be read, or its bucket does not exist.
        MissingPackageError: it is in a bucket or a model repository, whose extra is not installed.
    """
    uri, kind, contents = read_generator_folder(os.fspath(uri))
    config = load_config(storage.join(uri, CONFIG))
    require_trust({"model.name": config.model.name}, trust, storage.redact(uri))
    shape = parse_file(uri, contents, SHAPE, ImageShape.from_json)
    generator: nn.Module
    if MIXTURE in contents:
        generator = _mixture(uri, contents, shape, trust)
    else:
        weights = WEIGHTS if kind == "release" else "average.safetensors"
        generator = _network(uri, contents, (weights, CONFIG), config.model, shape)
    record = parse_file(uri, {MEASURED: b"{}", **contents}, MEASURED, parse_object)
    return Release(generator.eval().requires_grad_(False).to(device), config, shape, record)


def _network(
    uri: str, contents: Mapping[str, bytes], files: tuple[str, str], model: ModelConfig, shape: ImageShape
) -> nn.Module:
    """Return a generator of some weights; `files` are the names of these and of the configuration."""
    tensors = parse_file(uri, contents, files[0], load_tensors)
    try:
        with shapes_only():  # which needs no memory, whatever the configuration says
            models.build_generator(model, shape).load_state_dict(tensors, assign=True)
        generator = models.build_generator(model, shape)
        generator.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{uri} holds another network than its {files[1]} says: {error}") from None
    return generator


def _mixture(
    uri: str, contents: Mapping[str, bytes], shape: ImageShape, trust: str | Collection[str]
) -> Mixture:
    described = parse_file(uri, contents, MIXTURE, MixtureFile.model_validate_json)
    members, latent_dims = [], []
    for number in range(len(described.members)):
        files = member_files(number)
        model = load_config(storage.join(uri, files[1])).model
        require_trust({"model.name": model.name}, trust, storage.redact(uri))
        members.append(_network(uri, contents, files, model, shape))
        latent_dims.append(model.latent_dim)
    return Mixture(members, [member.weight for member in described.members], latent_dims)


def read_generator_folder(uri: str) -> tuple[str, str, dict[str, bytes]]:
    """Return the folder from which `load` would read, its kind (`release` or `checkpoint`) and its files.

    Of a model repository it is a local folder. Raises what `load` does.
    """
    if hub.is_hub(uri):
        folder = hub.download(uri, KINDS)
        try:
            return folder, *read_folder(folder, KINDS)
        except CheckpointError as error:
            raise type(error)([replace(one, where=uri) for one in error.problems]) from None
    return _read_best_of(uri) if storage.exists(storage.join(uri, BEST)) else _read(uri)


def _read_best_of(run_uri: str) -> tuple[str, str, dict[str, bytes]]:
    """Return the folder of a run's best release, its kind and its files."""
    named = ""
    try:
        named = str(read_best(run_uri)["release"])
        place = storage.join(run_uri, named)
        return place, *read_folder(place, ["release"])
    except CheckpointError as error:
        there = storage.list_names(run_uri)
        others = [name for name in there if name.startswith("best_") and name != named]
        others += sorted_checkpoints(there)[:1]
        if not others:
            raise
        (problem,) = error.problems
        usable = " or ".join(storage.redact(storage.join(run_uri, name)) for name in others)
        remedies = filter(None, [problem.remedy, f"what else there is of the run: {usable}"])
        raise CheckpointError(problem.what, "; ".join(remedies)) from None


def _read(uri: str) -> tuple[str, str, dict[str, bytes]]:
    """Return a folder that holds a generator, its kind and its files: `uri`, or a run's newest checkpoint."""
    places = [uri]
    if not storage.exists(storage.join(uri, MANIFEST)):
        there: list[str] = []
        with suppress(StorageError):  # a file: it has none
            there = storage.list_names(uri)
        places = [storage.join(uri, name) for name in sorted_checkpoints(there)]
        if not places:
            storage.require_bucket(uri)
            raise _no_generator(uri, there)
    errors = []
    for place in places:
        try:
            return place, *read_folder(place, KINDS)
        except CheckpointError as error:
            errors.append(error)
    raise errors[0]  # of several, that of the newest


def _no_generator(uri: str, there: Sequence[str]) -> CheckpointError:
    """Return the error of a folder with these names in it."""
    shown = storage.redact(uri)
    if SEARCH in there:
        what, remedy = "a search", f"copy its best release: gan-dist best {quote(shown)} --to DIR"
    elif CONFIG in there:
        what = "a run without a checkpoint so far"
        remedy = "wait for its first evaluation (eval.every_kimg), or interrupt it: both write one"
    else:
        what = f"not a release or checkpoint: it has no {MANIFEST}"
        remedy = "give the folder of one, or of a run, <storage>/<name>"
    return CheckpointError(f"{shown} is {what}", remedy)
