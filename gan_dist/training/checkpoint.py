"""Everything a run is, and its checkpoints: safetensors and JSON, with a manifest of hashes written last."""

from __future__ import annotations

import copy
import json
from collections.abc import Container, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from gan_dist import models
from gan_dist.config import RateConfig, RunConfig
from gan_dist.core import rng, storage
from gan_dist.core.errors import CheckpointError
from gan_dist.core.storage.hashed_folder import checkpoint_names, read_folder, to_json, write_folder
from gan_dist.models.generator import ImageShape
from gan_dist.models.release import CONFIG, SHAPE, to_safetensors
from gan_dist.training.precision import memory_format

STATE = "state.json"
KEEP = 3
"""Checkpoints of a run that are kept: the newest, and two to fall back on."""


@dataclass(frozen=True)
class Best:
    """The best measurement so far, and where on the clock it was."""

    value: float
    images: int


@dataclass
class AugmentStrength:
    """How often `data.augment=ada` changes an image, and the signs that its next adjustment goes by.

    With `data.augment_p` the clock says how often, and this stays at 0.
    """

    p: float = 0.0
    signs: float = 0.0
    """Sum over rounds of r_t (see `ada.adjusted`), since the last adjustment."""
    rounds: int = 0


@dataclass
class Measured:
    """What evaluations have found so far: what the end of a run is decided from."""

    extractor: str = ""
    """SHA-256 of the extractor; distances of another are not comparable."""
    spread: float | None = None
    """Relative standard deviation of the distance over sets of latents, once it has been measured."""
    values: list[tuple[int, float]] = field(default_factory=list)
    """Images seen and the distance then, oldest first."""


@dataclass
class TrainingState:
    """A run at one moment. What is not here is a pure function of the configuration and `images`."""

    shape: ImageShape
    generator: nn.Module
    discriminator: nn.Module
    average: nn.Module
    """The generator's exponential moving average: what is evaluated and released."""
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    images: int = 0
    """The clock: images that the discriminator has seen."""
    best: Best | None = None
    augment: AugmentStrength = field(default_factory=AugmentStrength)
    measured: Measured = field(default_factory=Measured)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return every tensor, by file and name; the same storage, not a copy."""
        return {
            "generator": dict(self.generator.state_dict()),
            "discriminator": dict(self.discriminator.state_dict()),
            "average": dict(self.average.state_dict()),
            "optimizer_g": _optimizer_tensors(self.optimizer_g),
            "optimizer_d": _optimizer_tensors(self.optimizer_d),
        }


def new_state(config: RunConfig, shape: ImageShape, device: torch.device) -> TrainingState:
    """Return the state before the first image; the weights are a function of the seed."""
    generator, discriminator = models.build(config.model, shape)
    models.initialise(generator, rng.generator(config.seed, "generator"))
    models.initialise(discriminator, rng.generator(config.seed, "discriminator"))
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    layout = memory_format(channels_last=config.train.channels_last)
    for network in (generator, discriminator, average):
        network.to(device).to(memory_format=layout)
    return TrainingState(
        shape=shape,
        generator=generator,
        discriminator=discriminator,
        average=average,
        optimizer_g=_optimizer(generator, config.optim.name, config.optim.g),
        optimizer_d=_optimizer(discriminator, config.optim.name, config.optim.d),
    )


def _optimizer(network: nn.Module, name: str, config: RateConfig) -> torch.optim.Optimizer:
    if name == "rmsprop":
        return torch.optim.RMSprop(network.parameters(), lr=config.lr, alpha=config.beta2, foreach=True)
    return torch.optim.Adam(
        network.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), fused=True
    )


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: Mapping[int, Mapping[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, entry in state.items() for name, tensor in entry.items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    entries: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        weight = weights[int(index)]
        # Fused updates read a weight and its averages side by side: all must have the same layout.
        laid_out = torch.empty_like(weight).copy_(tensor) if tensor.shape == weight.shape else tensor
        entries.setdefault(int(index), {})[name] = laid_out
    # Learning rates and the like come from the configuration, not from the file.
    optimizer.load_state_dict({**optimizer.state_dict(), "state": entries})


def checkpoint_name(images: int, taken: list[str]) -> str:
    """Return the name for a checkpoint at `images` that no entry of `taken` has."""
    plain = f"checkpoint_{images:012d}"
    names = [plain] + [f"{plain}-{attempt}" for attempt in range(1, len(taken) + 2)]
    return next(name for name in names if name not in taken)


def newest_images(run_uri: str) -> int:
    """Return the clock of a run's newest checkpoint, by its name; 0 where there is none."""
    return max((int(name[11:23]) for name in checkpoint_names(run_uri)), default=0)


def save(state: TrainingState, uri: str, config_yaml: str) -> None:
    """Write a checkpoint; its manifest, without which it counts for nothing, last."""
    best = None if state.best is None else asdict(state.best)
    record = {
        "images": state.images,
        "best": best,
        "augment": asdict(state.augment),
        "measured": asdict(state.measured),
    }
    contents = {f"{name}.safetensors": to_safetensors(tensors) for name, tensors in state.tensors().items()}
    contents |= {STATE: to_json(record), SHAPE: to_json(asdict(state.shape)), CONFIG: config_yaml.encode()}
    write_folder(uri, "checkpoint", contents)


def load(state: TrainingState, uri: str) -> None:
    """Fill `state` from a checkpoint, bit for bit.

    Raises:
        CheckpointError: it is missing, damaged or made for other networks; `state` is then unchanged.
    """
    _, contents = read_folder(uri, ["checkpoint"])
    record: dict[str, Any] = json.loads(contents[STATE])
    tensors = {name: load_tensors(contents[f"{name}.safetensors"]) for name in state.tensors()}
    for name in ("generator", "discriminator", "average"):
        network: nn.Module = getattr(state, name)
        expected = {key: value.shape for key, value in network.state_dict().items()}
        if {key: value.shape for key, value in tensors[name].items()} != expected:
            raise CheckpointError(f"{uri}/{name}.safetensors holds another network than the configuration's")
    for name in ("generator", "discriminator", "average"):
        getattr(state, name).load_state_dict(tensors[name])
    _load_optimizer(state.optimizer_g, tensors["optimizer_g"])
    _load_optimizer(state.optimizer_d, tensors["optimizer_d"])
    state.images = record["images"]
    state.best = None if record["best"] is None else Best(**record["best"])
    state.augment = AugmentStrength(**record["augment"])
    measured = record["measured"]
    state.measured = Measured(**measured | {"values": [tuple(pair) for pair in measured["values"]]})


def load_latest(state: TrainingState, run_uri: str) -> list[str]:
    """Fill `state` from the newest checkpoint of a run that is whole; leave it as it is where there is none.

    Returns:
        One sentence for each newer checkpoint that had to be passed over.
    """
    damaged = []
    for name in checkpoint_names(run_uri):
        try:
            load(state, storage.join(run_uri, name))
        except CheckpointError as error:
            damaged.append(str(error))
        else:
            return [f"{error}; the run goes on from an earlier checkpoint" for error in damaged]
    return [f"{error}; there is no earlier one, so the run begins anew" for error in damaged]


def prune(run_uri: str, among: Container[str] | None = None) -> None:
    """Delete all but the newest checkpoints of a run; where `among` is given, of these names only."""
    for name in checkpoint_names(run_uri)[KEEP:]:
        if among is None or name in among:
            storage.delete_tree(storage.join(run_uri, name))
