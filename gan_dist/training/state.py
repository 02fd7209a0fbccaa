"""State of a run: networks, their average, optimizers, the clock, and what was measured."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from gan_dist import models
from gan_dist.config import ModelConfig, OptimConfig, RateConfig
from gan_dist.models import Discriminator, Generator
from gan_dist.models.generator import ImageShape
from gan_dist.training.early_stopping import DistanceHistory
from gan_dist.training.precision import memory_format


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
class LogitAverages:
    """Moving averages of the discriminator's mean logits over reals and over fakes (`loss.lecam`)."""

    real: float = 0.0
    fake: float = 0.0
    updates: int = 0
    """Updates that they average over."""

    def add(self, real: float, fake: float, decay: float) -> None:
        """Move the averages towards the mean logits of an update; the first update's are the averages."""
        decay = decay if self.updates else 0.0
        self.real = decay * self.real + (1 - decay) * real
        self.fake = decay * self.fake + (1 - decay) * fake
        self.updates += 1


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
    """Has the parameters that are trained; those of frozen stages are not among them."""
    images: int = 0
    """The clock: images that the discriminator has seen."""
    best: Best | None = None
    augment: AugmentStrength = field(default_factory=AugmentStrength)
    logits: LogitAverages = field(default_factory=LogitAverages)
    path_length: float = 0.0
    """Running mean of the lengths of the generator's paths; 0 without `loss.path_length`."""
    measured: DistanceHistory = field(default_factory=DistanceHistory)
    interval: OpenInterval = field(default_factory=OpenInterval)

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by the names that they have in `init.networks` and in files."""
        return {
            "generator": self.generator,
            "discriminator": self.discriminator,
            "average": self.average,
        }

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return every tensor, by file and name; the same storage, not a copy."""
        return {
            **{name: dict(network.state_dict()) for name, network in self.networks().items()},
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
    freeze_d: int = 0,
) -> TrainingState:
    """Return the state before the first image; the weights are a function of the seed.

    The first `freeze_d` stages of the discriminator are frozen, and its optimizer does not have them.

    Raises:
        ConfigError: the networks cannot be built for these images, or there are fewer stages.
    """
    generator, discriminator = models.build_initial(model, shape, seed)
    discriminator.freeze(freeze_d)
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
    trained = [weights for weights in network.parameters() if weights.requires_grad]
    if name == "rmsprop":
        return torch.optim.RMSprop(trained, lr=config.lr, alpha=config.beta2, foreach=True)
    return torch.optim.Adam(trained, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    state: Mapping[int, Mapping[str, Tensor]] = optimizer.state_dict()["state"]
    return {f"{index}.{name}": tensor for index, entry in state.items() for name, tensor in entry.items()}
