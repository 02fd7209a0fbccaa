"""Sections of the loss and of the optimizers, and the rules between them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gan_dist.config.section import (
    Beta,
    ConflictError,
    ImportPath,
    Kimg,
    NotNegative,
    Positive,
    PositiveFloat,
    Section,
    Setting,
)

SMOOTHED = ("minimax", "nonsaturating", "lsgan")
"""Losses that compare with labels."""


class LossConfig(Section):
    """The adversarial objective, and the penalties added to the discriminator's loss.

    A `name` other than the one before (in a file the default, in an override the file's) also sets the usual
    settings of that loss, from its paper or DCGAN's (`optim`, `clip`, `gp`, `r1`, `r2`). Keys that are given
    in the same place, or later, win. Naming the loss that is set already changes nothing.
    """

    name: Literal["minimax", "nonsaturating", "lsgan", "wgan", "wgan-gp", "hinge", "rpgan"] | ImportPath = (
        "nonsaturating"
    )
    """`minimax` is the original saturating game, `nonsaturating` the one that is used in practice;
    `rpgan` pairs reals with fakes (R3GAN). Or your own class, as `package.module:Class`."""
    settings: dict[str, Setting] = Field(default={})
    """Keys of that loss alone, such as `loss.settings.margin`; its class says which there are."""
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
    """Every how many discriminator updates the penalties are computed; they are multiplied by this number."""
    penalty_end_factor: NotNegative = 1.0
    """Share of the penalties' weights that is left at the end of `optim.schedule` (R3GAN: 0.1)."""
    path_length: NotNegative = 0.0
    """Weight of the generator's penalty on changes of its images, for a step in w, that differ from their
    running mean (`stylegan2`: 2)."""
    path_length_every: Positive = 4
    """Every how many generator updates it is computed; it is multiplied by this number."""
    clip: NotNegative = 0.0
    """Limit of the absolute value of the discriminator's weights (WGAN: 0.01); 0 for none."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """How far below 1 the target of reals is (`minimax`, `nonsaturating`, `lsgan`)."""
    instance_noise: NotNegative = 0.0
    """Standard deviation of noise added to all that the discriminator sees, at the start."""
    instance_noise_kimg: PositiveFloat = 100.0
    """Thousands of images over which that noise falls linearly to nothing."""
    lecam: NotNegative = 0.0
    """Weight of LeCam's regularisation, for sets of few images: the squared distances of the reals' logits to
    the moving average of the fakes', and of the fakes' to that of the reals'."""
    lecam_decay: Beta = 0.99
    """Decay of these averages at every update of the discriminator."""
    lecam_start_kimg: NotNegative = 0.0
    """Thousands of images before which that regularisation does not act; the averages begin at once."""
    top_k: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the fakes, those that the discriminator takes for the most real, from which the generator
    learns in the end (the paper of top-k training: 0.5); 1 is all. With `train.accumulate` all of a batch are
    judged once more, before the first portion is learnt from."""
    top_k_decay: Annotated[float, Field(gt=0, lt=1)] = 0.99
    """Factor by which that share falls, from 1 on, every `top_k_every_kimg`, down to `top_k`."""
    top_k_every_kimg: Kimg = 50.0
    """Thousands of images between two such falls (for the paper's epochs)."""

    @property
    def penalised(self) -> bool:
        """Whether gradients of the discriminator are part of its loss, so that it is differentiated twice."""
        return bool(self.gp or self.dragan or self.r1 or self.r2)

    @property
    def differentiated_twice(self) -> bool:
        """Whether a network is, which a compiled one cannot be."""
        return self.penalised or self.path_length > 0


class RateConfig(Section):
    """One network's learning rate, and the optimizer's memory."""

    lr: PositiveFloat = 2e-4
    """Learning rate."""
    beta1: Beta = 0.5
    """Decay of the gradient's running mean (`adam`)."""
    beta2: Beta = 0.999
    """Decay of the squared gradient's running mean."""
    beta2_start: Beta | None = None
    """That decay at the start, which becomes `beta2` by the end of `optim.schedule` (`adam`; R3GAN: 0.9 to
    0.99); `beta2` throughout when absent."""


class OptimConfig(Section):
    """The optimizers of both networks, and the schedule."""

    name: Literal["adam", "rmsprop"] = "adam"
    """The optimizer of both networks."""
    g: RateConfig = RateConfig()
    """The generator's learning rate."""
    d: RateConfig = RateConfig()
    """The discriminator's learning rate."""
    d_steps: Positive = 1
    """Discriminator updates, each on a batch of its own, for one generator update."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course from start to end over `decay_kimg` of both learning rates and, where they are set, of
    `loss.penalty_end_factor`, `beta2_start`, `data.augment_p` and `ema.half_life_start_kimg`."""
    decay_kimg: PositiveFloat | None = None
    """Thousands of images after which a `linear` or `cosine` schedule has reached its end."""
    end_factor: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of both learning rates that is left then (R3GAN: 0.25)."""
    clip_norm: NotNegative = 0.0
    """Norm to which a network's gradient is cut down; 0 for none."""


def require_agreement(
    loss: LossConfig, optim: OptimConfig, kimg: float, half_life_start_kimg: float | None
) -> None:
    """Raise a ConflictError if settings contradict or lack one another.

    `kimg` is the run's length, `half_life_start_kimg` the key of that name in `ema`.
    """
    for penalty in ("gp", "dragan"):
        if loss.clip and (weight := getattr(loss, penalty)):
            raise ConflictError(
                f"loss.clip={loss.clip:g} contradicts loss.{penalty}={weight:g}: both bound the "
                "discriminator's slope, and clipped weights cannot give it norm 1",
                "set one of them to 0",
                keys=("loss.clip", f"loss.{penalty}"),
            )
    if loss.label_smoothing and loss.name not in SMOOTHED:
        raise ConflictError(
            f"loss.label_smoothing={loss.label_smoothing:g}: loss.name={loss.name} has no labels to smooth",
            f"set it to 0, or use {', '.join(SMOOTHED)}",
            keys=("loss.label_smoothing", "loss.name"),
        )
    if loss.name == "wgan-gp" and not loss.gp:
        what = "loss.gp=0: loss.name=wgan-gp is defined by its penalty"
        raise ConflictError(what, "its authors use 10", keys=("loss.gp", "loss.name"))
    if loss.top_k < 1 and loss.name == "rpgan":
        raise ConflictError(
            f"loss.top_k={loss.top_k:g}: loss.name=rpgan compares each fake with a real of its own, so the "
            "fakes with the largest logits are not its best ones",
            "set loss.top_k=1, or another loss",
            keys=("loss.top_k", "loss.name"),
        )
    _require_schedule(loss, optim, kimg, half_life_start_kimg)


def _require_schedule(
    loss: LossConfig, optim: OptimConfig, kimg: float, half_life_start_kimg: float | None
) -> None:
    if optim.schedule == "constant":
        _require_no_end(loss, optim, half_life_start_kimg)
    elif optim.decay_kimg is None:
        raise ConflictError(
            f"optim.schedule={optim.schedule} needs optim.decay_kimg, the thousands of images in which "
            "it comes to its end",
            f"for the whole run optim.decay_kimg={kimg:g}",
            keys=("optim.schedule", "optim.decay_kimg"),
        )
    if loss.penalty_end_factor != 1 and not loss.penalised:
        raise ConflictError(
            f"loss.penalty_end_factor={loss.penalty_end_factor:g}: loss.gp, loss.dragan, loss.r1 and loss.r2 "
            "are 0, so there is no penalty that it could change",
            "set one of them, or loss.penalty_end_factor=1",
            keys=("loss.penalty_end_factor", "loss.gp", "loss.dragan", "loss.r1", "loss.r2"),
        )
    for network in ("g", "d"):
        start = getattr(optim, network).beta2_start
        if optim.name != "adam" and start is not None:
            raise ConflictError(
                f"optim.{network}.beta2_start={start:g}: only adam's decays are scheduled",
                f"set optim.{network}.beta2_start=null, or optim.name=adam instead of {optim.name}",
                keys=(f"optim.{network}.beta2_start", "optim.name"),
            )


def _require_no_end(loss: LossConfig, optim: OptimConfig, half_life_start_kimg: float | None) -> None:
    ends = {
        "optim.end_factor": (optim.end_factor, 0.0),
        "loss.penalty_end_factor": (loss.penalty_end_factor, 1.0),
        "optim.g.beta2_start": (optim.g.beta2_start, None),
        "optim.d.beta2_start": (optim.d.beta2_start, None),
        "ema.half_life_start_kimg": (half_life_start_kimg, None),
    }
    idle = {key: (value, none) for key, (value, none) in ends.items() if value != none}
    if idle:
        listed = ", ".join(f"{key}={value:g}" for key, (value, _) in idle.items())
        unset = {key: "null" if none is None else f"{none:g}" for key, (_, none) in idle.items()}
        without = " ".join(f"{key}={none}" for key, none in unset.items())
        what = f"{listed}: optim.schedule=constant has no end"
        remedy = f"set optim.schedule to linear or cosine, or {without}"
        raise ConflictError(what, remedy, keys=("optim.schedule", *idle))
