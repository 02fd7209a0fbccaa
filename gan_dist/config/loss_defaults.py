"""Settings that come with each loss, from its paper or from DCGAN's; `load.py` sets them with `loss.name`."""

from __future__ import annotations

_ADVERSARIAL: dict[str, object] = {
    "optim.name": "adam",
    "optim.g.lr": 2e-4,
    "optim.d.lr": 2e-4,
    "optim.g.beta1": 0.5,
    "optim.d.beta1": 0.5,
    "optim.g.beta2": 0.999,
    "optim.d.beta2": 0.999,
    "optim.g.beta2_start": None,
    "optim.d.beta2_start": None,
    "optim.d_steps": 1,
    "loss.clip": 0.0,
    "loss.gp": 0.0,
    "loss.gp_sides": "two",
    "loss.dragan": 0.0,
    "loss.r1": 0.0,
    "loss.r2": 0.0,
    "loss.penalty_every": 1,
    "loss.penalty_end_factor": 1.0,
    "loss.label_smoothing": 0.0,
}
"""Radford et al. 2016, section 4."""


def _with(*, lr: float, betas: tuple[float, float] | None = None, **others: object) -> dict[str, object]:
    rates: dict[str, object] = {}
    for network in ("g", "d"):
        rates[f"optim.{network}.lr"] = lr
        if betas is not None:
            rates[f"optim.{network}.beta1"], rates[f"optim.{network}.beta2"] = betas
    return {**_ADVERSARIAL, **rates, **{key.replace("__", "."): value for key, value in others.items()}}


LOSS_DEFAULTS: dict[str, dict[str, object]] = {
    "minimax": _ADVERSARIAL,
    "nonsaturating": _ADVERSARIAL,
    "lsgan": _ADVERSARIAL,
    # Arjovsky et al. 2017, algorithm 1. RMSprop's own decay of the squares is 0.99.
    "wgan": _with(lr=5e-5, betas=(0.0, 0.99), optim__name="rmsprop", optim__d_steps=5, loss__clip=0.01),
    # Gulrajani et al. 2017, algorithm 1.
    "wgan-gp": _with(lr=1e-4, betas=(0.0, 0.9), optim__d_steps=5, loss__gp=10.0),
    # Miyato et al. 2018, their residual networks.
    "hinge": _with(lr=2e-4, betas=(0.0, 0.9), optim__d_steps=5),
    # Huang et al. 2024, CIFAR-10, where training begins.
    "rpgan": _with(lr=2e-4, betas=(0.0, 0.9), loss__r1=0.05, loss__r2=0.05),
}
"""Values by dotted key, by `loss.name`. All losses set the same keys, so that changing the loss leaves
nothing of the one before."""
