"""State of a run, and its checkpoints: safetensors and JSON, with a manifest of hashes written last."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from gan_dist import models
from gan_dist.config import ModelConfig, OptimConfig, RateConfig
from gan_dist.core import rng, storage
from gan_dist.core.errors import AbsentError, CheckpointError
from gan_dist.core.storage.hashed_folder import checkpoint_names, read_folder, to_json, write_folder
from gan_dist.models import Discriminator, Generator
from gan_dist.models.generator import ImageShape
from gan_dist.models.release import CONFIG, SHAPE, to_safetensors
from gan_dist.training.early_stopping import DistanceHistory
from gan_dist.training.precision import memory_format

STATE = "state.json"


@dataclass(frozen=True)
class Best:
    """The lowest distance so far, and the images seen then."""

    value: float
    images: int


@dataclass
class AugmentStrength:
    """State of ADA's controller: the probability of each transform, and the signs for its next adjustment.

    With `data.augment_p` the probability is a function of the images seen, and this stays at 0.
    """

    p: float = 0.0
    signs: float = 0.0
    """Sum over rounds of r_t (see `ada.adjusted`), since the last adjustment."""
    rounds: int = 0


@dataclass
class OpenInterval:
    """Sums of the scalars of the rounds since the last multiple of `log.every_kimg`."""

    rounds: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    def add(self, scalars: Mapping[str, float]) -> None:
        """Add the scalars of a round."""
        self.rounds += 1
        self.sums = {name: self.sums.get(name, 0.0) + value for name, value in scalars.items()}

    def means(self) -> dict[str, float]:
        """Return the means over the rounds, by the scalars' names."""
        return {name: value / self.rounds for name, value in self.sums.items()}


@dataclass
class TrainingState:
    """State of a run; all else is a pure function of the configuration and `images`."""

    shape: ImageShape
    generator: Generator
    discriminator: Discriminator
    average: Generator
    """The generator's exponential moving average, which is evaluated and released."""
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    images: int = 0
    """The clock: images that the discriminator has seen."""
    best: Best | None = None
    augment: AugmentStrength = field(default_factory=AugmentStrength)
    measured: DistanceHistory = field(default_factory=DistanceHistory)
    interval: OpenInterval = field(default_factory=OpenInterval)

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return every tensor, by file and name; the same storage, not a copy."""
        return {
            "generator": dict(self.generator.state_dict()),
            "discriminator": dict(self.discriminator.state_dict()),
            "average": dict(self.average.state_dict()),
            "optimizer_g": _optimizer_tensors(self.optimizer_g),
            "optimizer_d": _optimizer_tensors(self.optimizer_d),
        }


def new_state(
    model: ModelConfig,
    optim: OptimConfig,
    shape: ImageShape,
    device: torch.device,
    *,
    seed: int,
    channels_last: bool,
) -> TrainingState:
    """Return the state before the first image; the weights are a function of the seed."""
    generator, discriminator = models.build(model, shape)
    models.initialise(generator, rng.generator(seed, "generator"))
    models.initialise(discriminator, rng.generator(seed, "discriminator"))
    average = copy.deepcopy(generator).eval().requires_grad_(False)
    layout = memory_format(channels_last=channels_last)
    for network in (generator, discriminator, average):
        network.to(device).to(memory_format=layout)
    return TrainingState(
        shape=shape,
        generator=generator,
        discriminator=discriminator,
        average=average,
        optimizer_g=_optimizer(generator, optim.name, optim.g),
        optimizer_d=_optimizer(discriminator, optim.name, optim.d),
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
    """Return a name for a checkpoint at `images` that is not in `taken`."""
    plain = f"checkpoint_{images:012d}"
    names = [plain] + [f"{plain}-{attempt}" for attempt in range(1, len(taken) + 2)]
    return next(name for name in names if name not in taken)


def newest_images(run_uri: str) -> int:
    """Return the images seen at a run's newest checkpoint, by its name; 0 without a checkpoint."""
    return max((int(name[11:23]) for name in checkpoint_names(run_uri)), default=0)


class Snapshot:
    """A copy of a state in the process's memory, which can be written while training changes the state."""

    def __init__(self, state: TrainingState) -> None:
        self.images = state.images
        self._tensors = {
            file: {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
            for file, tensors in state.tensors().items()
        }
        record = {
            "images": state.images,
            "best": state.best and asdict(state.best),
            "augment": asdict(state.augment),
            "measured": asdict(state.measured),
            "interval": asdict(state.interval),
        }
        self._texts = {STATE: to_json(record), SHAPE: to_json(asdict(state.shape))}

    def save(self, uri: str, config_yaml: str) -> None:
        """Write a checkpoint; its manifest, which makes it valid, is written last."""
        write_folder(uri, "checkpoint", self._contents(config_yaml))

    def _contents(self, config_yaml: str) -> Iterator[tuple[str, bytes]]:
        # One file at a time, so that no more than one is in memory twice.
        for file, tensors in self._tensors.items():
            yield f"{file}.safetensors", to_safetensors(tensors)
        yield from self._texts.items()
        yield CONFIG, config_yaml.encode()


def load(state: TrainingState, uri: str) -> None:
    """Fill `state` from a checkpoint, bit for bit.

    Raises:
        CheckpointError: it is missing, damaged or of other networks; `state` is then unchanged.
    """
    _, contents = read_folder(uri, ["checkpoint"])
    record: dict[str, Any] = json.loads(contents[STATE])
    tensors = {name: load_tensors(contents[f"{name}.safetensors"]) for name in state.tensors()}
    networks = {name: getattr(state, name) for name in ("generator", "discriminator", "average")}
    for name, network in networks.items():
        expected = {key: value.shape for key, value in network.state_dict().items()}
        if {key: value.shape for key, value in tensors[name].items()} != expected:
            raise CheckpointError(f"{uri}/{name}.safetensors holds another network than the configuration's")
    for name, network in networks.items():
        network.load_state_dict(tensors[name])
    _load_optimizer(state.optimizer_g, tensors["optimizer_g"])
    _load_optimizer(state.optimizer_d, tensors["optimizer_d"])
    state.images = record["images"]
    state.best = None if record["best"] is None else Best(**record["best"])
    state.augment = AugmentStrength(**record["augment"])
    state.measured = _history(record)
    state.interval = OpenInterval(**record.get("interval", {}))  # version 0.1 had none


def _history(record: Mapping[str, Any]) -> DistanceHistory:
    measured = record["measured"]
    return DistanceHistory(**measured | {"values": [tuple(pair) for pair in measured["values"]]})


def read_history(run_uri: str) -> DistanceHistory:
    """Return the distances of a run's evaluations by its newest checkpoint that has them; else none."""
    for name in checkpoint_names(run_uri):
        with suppress(AbsentError, LookupError, TypeError, ValueError):
            return _history(json.loads(storage.read_bytes(storage.join(run_uri, name, STATE))))
    return DistanceHistory()


def load_latest(state: TrainingState, run_uri: str) -> list[str]:
    """Fill `state` from the newest valid checkpoint of a run; without one, leave it unchanged.

    Returns:
        One sentence for each newer checkpoint that is damaged.
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


def prune(run_uri: str, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints of a run."""
    for name in checkpoint_names(run_uri)[keep:]:
        storage.delete_tree(storage.join(run_uri, name))
