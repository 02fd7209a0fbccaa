"""Checkpoints of a run's state: safetensors and JSON, with a manifest of hashes written last."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import NamedTuple

import torch
from pydantic import BaseModel, Field
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, CheckpointError, ResumeError
from gan_dist.core.json_text import Clock, parse_json
from gan_dist.core.storage.hashed_folder import (
    File,
    Hashes,
    checkpoint_names,
    delete_folder,
    is_whole,
    read_folder,
    sorted_checkpoints,
    to_json,
    write_folder,
)
from gan_dist.models.release import CONFIG, SHAPE, to_safetensors
from gan_dist.training.early_stopping import DistanceHistory
from gan_dist.training.state import AugmentStrength, Best, LogitAverages, OpenInterval, TrainingState

STATE = "state.json"
FEWEST = 2
"""Checkpoints that are kept whatever `train.keep` says: the newest may turn out to be damaged."""


def checkpoint_name(images: int, taken: list[str]) -> str:
    """Return a name for a checkpoint at `images` that is not in `taken`."""
    plain = f"checkpoint_{images:012d}"
    names = [plain] + [f"{plain}-{attempt}" for attempt in range(1, len(taken) + 2)]
    return next(name for name in names if name not in taken)


def newest_images(run_uri: str) -> int:
    """Return the images seen at a run's newest checkpoint, by its name; 0 without a checkpoint."""
    return max(map(images_of, checkpoint_names(run_uri)), default=0)


def images_of(name: str) -> int:
    """Return the images seen at a checkpoint, by its name."""
    return int(name[11:23])


class _Record(BaseModel):
    """The `state.json` of a checkpoint."""

    images: Clock
    best: Best | None
    augment: AugmentStrength
    measured: DistanceHistory
    interval: OpenInterval = Field(default_factory=OpenInterval)
    """Version 0.1 had none."""
    logits: LogitAverages = Field(default_factory=LogitAverages)
    """Only where `loss.lecam` has averages."""
    path_length: float = 0.0
    """Absent in version 0.2, and without `loss.path_length`."""


class Snapshot:
    """A copy of a state in the process's memory, which can be written while training changes the state."""

    def __init__(self, state: TrainingState) -> None:
        self.images = state.images
        self._tensors = {
            file: {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            for file, tensors in state.tensors().items()
        }
        record: dict[str, object] = {
            "images": state.images,
            "best": state.best and asdict(state.best),
            "augment": asdict(state.augment),
            "measured": asdict(state.measured),
            "interval": asdict(state.interval),
        }
        if state.logits.updates:  # no others than before, so that an audit finds the same bytes
            record["logits"] = asdict(state.logits)
        if state.path_length:
            record["path_length"] = state.path_length
        self._texts = {STATE: to_json(record), SHAPE: to_json(asdict(state.shape))}

    def save(self, uri: str, config_yaml: str, last: Callable[[Hashes], File] | None = None) -> None:
        """Write a checkpoint; its manifest, which makes it valid, is written last. For `last` see there."""
        write_folder(uri, "checkpoint", self._contents(config_yaml), last)

    def _contents(self, config_yaml: str) -> Iterator[File]:
        # One file at a time, so that no more than one is in memory twice.
        for file, tensors in self._tensors.items():
            yield f"{file}.safetensors", to_safetensors(tensors)
        yield from self._texts.items()
        yield CONFIG, config_yaml.encode()


def load(state: TrainingState, uri: str, check: Callable[[str], None] = lambda _: None) -> None:
    """Fill `state` from a checkpoint, bit for bit; after an error it is unchanged.

    `check` is called with `uri` once its files are known to be whole.

    Raises:
        CheckpointError: it is missing or damaged.
        ResumeError: its networks differ from those of `state`; or what `check` raises.
    """
    _, contents = read_folder(uri, ["checkpoint"])
    check(uri)
    try:
        record = _Record.model_validate(parse_json(contents[STATE]))
        tensors = {name: load_tensors(contents[f"{name}.safetensors"]) for name in state.tensors()}
        networks = state.networks()
        for name, network in networks.items():
            _require_same_network(f"{uri}/{name}.safetensors", network.state_dict(), tensors[name])
        optimizers = {
            name: _optimizer_state(getattr(state, name), tensors[name])
            for name in ("optimizer_g", "optimizer_d")
        }
    except (
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        SafetensorError,
    ) as error:
        what = f"{uri} does not hold the state of a run ({type(error).__name__}: {error})"
        raise CheckpointError(what) from None
    for name, network in networks.items():
        network.load_state_dict(tensors[name])
    for name, optimizer_state in optimizers.items():
        optimizer = getattr(state, name)
        # Learning rates and the like come from the configuration, not from the file.
        optimizer.load_state_dict({**optimizer.state_dict(), "state": optimizer_state})
    state.images, state.best, state.augment = record.images, record.best, record.augment
    state.measured, state.interval, state.logits = record.measured, record.interval, record.logits
    state.path_length = record.path_length


def _optimizer_state(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]
) -> dict[int, dict[str, Tensor]]:
    """Return the `state` of an optimizer's `state_dict` from the tensors of `_optimizer_tensors`."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        weight = weights[int(index)]
        if tensor.dim() and tensor.shape != weight.shape:
            raise ValueError(f"{key} is {tuple(tensor.shape)}, of a weight that is {tuple(weight.shape)}")
        # Fused updates read a weight and its averages side by side: all must have the same layout.
        laid_out = torch.empty_like(weight).copy_(tensor) if tensor.dim() else tensor
        entries.setdefault(int(index), {})[name] = laid_out
    return entries


def _require_same_network(file: str, own: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Raise a ResumeError that names the first tensor by which two networks differ."""
    for name in [*own, *(name for name in found if name not in own)]:
        there, here = (
            f"{tuple(one[name].shape)} of {one[name].dtype}" if name in one else "absent"
            for one in (found, own)
        )
        if there != here:
            raise ResumeError(
                f"{file} holds another network than the configuration's: {name} is {there} in the file and "
                f"{here} here",
                "give the run another name (name=...), or move the checkpoint away",
            )


def read_history(run_uri: str) -> DistanceHistory:
    """Return the distances of a run's evaluations by its newest checkpoint that has them; else none."""
    for name in checkpoint_names(run_uri):
        with suppress(AbsentError, ValueError):
            content = storage.read_bytes(storage.join(run_uri, name, STATE))
            return _Record.model_validate(parse_json(content)).measured
    return DistanceHistory()


class Loaded(NamedTuple):
    """What a run goes on from."""

    uri: str
    """Its newest checkpoint that is whole; empty without one."""
    damaged: Mapping[str, str]
    """A sentence for each newer checkpoint that is damaged, by its name."""


def load_latest(state: TrainingState, run_uri: str, check: Callable[[str], None] = lambda _: None) -> Loaded:
    """Fill `state` from the newest valid checkpoint of a run; without one, leave it unchanged.

    `check` is called with a checkpoint's folder, whose files are whole, before it is loaded.

    Raises:
        ResumeError: the newest one is of other networks; or what `check` raises.
    """
    damaged: dict[str, str] = {}
    loaded, follows = "", "there is no earlier one, so the run begins anew"
    for name in checkpoint_names(run_uri):
        uri = storage.join(run_uri, name)
        try:
            load(state, uri, check)
        except CheckpointError as error:
            damaged[name] = str(error)
        else:
            loaded, follows = uri, "the run goes on from an earlier checkpoint"
            break
    return Loaded(loaded, {name: f"{text}; {follows}" for name, text in damaged.items()})


def prune(run_uri: str, keep: int, damaged: Container[str] = ()) -> None:
    """Delete all but the `keep` newest checkpoints of a run that are whole, two at least.

    Those that are known to be damaged, and those without all their files, do not count.
    """
    whole = 0
    for name in sorted_checkpoints(storage.list_names(run_uri)):
        uri = storage.join(run_uri, name)
        if whole >= max(FEWEST, keep):
            delete_folder(uri)
        elif name not in damaged and is_whole(uri, "checkpoint"):
            whole += 1
