"""The parts of a configuration that say what the networks learn by: the loss, and how they are updated."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gan_dist.config.section import Beta, NotNegative, Positive, PositiveFloat, Section

SMOOTHED = ("minimax", "nonsaturating", "lsgan")
"""Losses that compare with labels."""


class LossConfig(Section):
    """The adversarial objective, and what is added to the discriminator's side of it.

    Where the loss becomes another one than before (a file's, over its defaults; an override's, over the file)
    the usual settings of that loss come with it (`optim`, `clip`, `gp`, `r1`, `r2`: its paper's, or DCGAN's);
    keys that are given there, or later, win. Naming the loss that it is already changes nothing.
    """

    name: Literal["minimax", "nonsaturating", "lsgan", "wgan", "wgan-gp", "hinge", "rpgan"] = "nonsaturating"
    """`minimax` is the original saturating game, `nonsaturating` the one that is used in practice;
    `rpgan` pairs reals with fakes (R3GAN)."""
    gp: NotNegative = 0.0
    """Weight of the penalty on gradients between reals and fakes that are not of norm 1 (WGAN-GP: 10)."""
    gp_sides: Literal["two", "one"] = "two"
    """`one` penalises only norms above 1."""
    dragan: NotNegative = 0.0
    """Weight of the same penalty around the reals (DRAGAN: 10)."""
    r1: NotNegative = 0.0
    """Weight gamma of gamma/2 times the squared norm of the gradient at reals, taken through augmentation."""
    r2: NotNegative = 0.0
    """Weight gamma of gamma/2 times the squared norm of the gradient at fakes, likewise."""
    penalty_every: Positive = 1
    """Discriminator updates for one with the penalties, which then count so many times."""
    clip: NotNegative = 0.0
    """Limit of the absolute value of the discriminator's weights (WGAN: 0.01); 0 for none."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """How far below 1 the target of reals is (`minimax`, `nonsaturating`, `lsgan`)."""
    instance_noise: NotNegative = 0.0
    """Standard deviation of noise added to all that the discriminator sees, at the start."""
    instance_noise_kimg: PositiveFloat = 100.0
    """Thousands of images over which that noise falls linearly to nothing."""

    @property
    def penalised(self) -> bool:
        """Whether gradients of the discriminator are part of its loss, so that it is differentiated twice."""
        return bool(self.gp or self.dragan or self.r1 or self.r2)


class RateConfig(Section):
    """One network's learning rate, and the optimizer's memory."""

    lr: PositiveFloat = 2e-4
    """Learning rate."""
    beta1: Beta = 0.5
    """Decay of the gradient's running mean (`adam`)."""
    beta2: Beta = 0.999
    """Decay of the squared gradient's running mean."""


class OptimConfig(Section):
    """How both networks are updated."""

    name: Literal["adam", "rmsprop"] = "adam"
    """The optimizer of both networks."""
    g: RateConfig = RateConfig()
    """The generator's learning rate."""
    d: RateConfig = RateConfig()
    """The discriminator's learning rate."""
    d_steps: Positive = 1
    """Discriminator updates, each on a batch of its own, for one generator update."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """How both learning rates fall to 0 over `decay_kimg`."""
    decay_kimg: PositiveFloat | None = None
    """Thousands of images after which a `linear` or `cosine` schedule has reached 0."""
    clip_norm: NotNegative = 0.0
    """Norm to which a network's gradient is cut down; 0 for none."""


def require_agreement(loss: LossConfig, optim: OptimConfig, kimg: float) -> None:
    """Refuse settings that contradict or lack one another.

    Args:
        loss: The objective.
        optim: How it is optimised.
        kimg: Thousands of images that the run takes.

    Raises:
        ValueError: names the keys, and what to set.
    """
    for penalty in ("gp", "dragan"):
        if loss.clip and (weight := getattr(loss, penalty)):
            raise ValueError(
                f"loss.clip={loss.clip:g} contradicts loss.{penalty}={weight:g}: both bound the "
                f"discriminator's slope, and clipped weights cannot give it norm 1; set one of them to 0"
            )
    if loss.label_smoothing and loss.name not in SMOOTHED:
        raise ValueError(
            f"loss.label_smoothing={loss.label_smoothing:g}: loss.name={loss.name} has no labels to "
            f"smooth; set it to 0, or use {', '.join(SMOOTHED)}"
        )
    if loss.name == "wgan-gp" and not loss.gp:
        raise ValueError("loss.gp=0: loss.name=wgan-gp is defined by its penalty; its authors use 10")
    if optim.schedule != "constant" and optim.decay_kimg is None:
        raise ValueError(
            f"optim.schedule={optim.schedule} needs optim.decay_kimg, the thousands of images in which "
            f"it falls to 0; for the whole run optim.decay_kimg={kimg:g}"
        )
