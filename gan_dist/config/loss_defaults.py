"""Settings that come with each loss, from its paper or from DCGAN's; `load.py` sets them with `loss.name`."""

from __future__ import annotations

from gan_dist.core.import_path import is_import_path


def _settings(lr: float, betas: tuple[float, float], **others: object) -> dict[str, object]:
    """Return one loss's settings; `others` are those that DCGAN does not have, with `__` for the dot."""
    settings: dict[str, object] = {
        "optim.name": "adam",
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
    for rate in ("optim.g", "optim.d"):
        settings[f"{rate}.lr"], settings[f"{rate}.beta2_start"] = lr, None
        settings[f"{rate}.beta1"], settings[f"{rate}.beta2"] = betas
    return settings | {key.replace("__", "."): value for key, value in others.items()}


_DCGAN = _settings(2e-4, (0.5, 0.999))
"""Radford et al. 2016, section 4."""

LOSS_DEFAULTS: dict[str, dict[str, object]] = {
    "minimax": _DCGAN,
    "nonsaturating": _DCGAN,
    "lsgan": _DCGAN,
    # Arjovsky et al. 2017, algorithm 1. RMSprop's own decay of the squares is 0.99.
    "wgan": _settings(5e-5, (0.0, 0.99), optim__name="rmsprop", optim__d_steps=5, loss__clip=0.01),
    # Gulrajani et al. 2017, algorithm 1.
    "wgan-gp": _settings(1e-4, (0.0, 0.9), optim__d_steps=5, loss__gp=10.0),
    # Miyato et al. 2018, their residual networks.
    "hinge": _settings(2e-4, (0.0, 0.9), optim__d_steps=5),
    # Huang et al. 2024, CIFAR-10, where training begins.
    "rpgan": _settings(2e-4, (0.0, 0.9), loss__r1=0.05, loss__r2=0.05),
}
"""Values by dotted key, by `loss.name`. All losses set the same keys, so that changing the loss leaves
nothing of the one before."""


def loss_defaults(name: str) -> dict[str, object]:
    """Return the settings that come with a loss, DCGAN's with a user's own; none if there is no such loss."""
    return _DCGAN if is_import_path(name) else LOSS_DEFAULTS.get(name, {})
