"""Adversarial objectives, each as its paper writes it; all are minimised.

Where a paper's D is a probability it is sigmoid(logit) here, so log D(x) = logsigmoid(logit) and
log(1 - D(x)) = logsigmoid(-logit): finite for every finite logit, and free of the cancellation in
1 - sigmoid. Elsewhere D is the logit itself. A mean over one worker's batch becomes the mean over the global
batch when DDP averages the gradients; this holds for all of them, the paired ones included.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, cast

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from gan_dist.config import LossConfig, Section
from gan_dist.config.settings import read_settings
from gan_dist.core.import_path import is_import_path, load_subclass


class Adversarial(ABC):
    """An adversarial loss, of both networks; a user's own too, as `loss.name=package.module:Class`.

    Logits are float (B,). Both losses are scalars to minimise, and means over the logits, or over the pairs
    of a real and a fake logit of the same index: so the mean of several workers' losses is the loss of all
    their images together.
    """

    Settings: ClassVar[type[Section]] = Section
    """Its keys of `loss.settings`, as a pydantic model whose fields all have defaults."""
    relativistic: ClassVar[bool] = False
    """Whether the generator's loss needs the real logits."""

    def __init__(self, loss: LossConfig, settings: Section) -> None:
        self.loss = loss
        self.settings: Any = settings
        """An object of `Settings`."""

    @abstractmethod
    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """Return the discriminator's loss."""

    @abstractmethod
    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """Return the generator's loss; the real logits, without gradients, are None unless `relativistic`."""

    def accuracy(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return the accuracies on reals and on fakes, float32 scalars in [0, 1] without a gradient.

        A real is correct above a threshold, a fake below it: 0, or 1/2 for `lsgan`, whatever the label
        smoothing. `wgan`, `wgan-gp` and `rpgan` do not change when a constant is added to all logits; both
        accuracies are then the share of the pairs (i, i) whose real has the larger logit.
        """
        return _accuracy(real_logits, fake_logits)


class NonSaturating(Adversarial):
    """`loss.name=nonsaturating`."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return discriminator_loss(real_logits, fake_logits, self.loss.label_smoothing)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return nonsaturating_generator_loss(fake_logits)


class Minimax(NonSaturating):
    """`loss.name=minimax`."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return minimax_generator_loss(fake_logits)


class LeastSquares(Adversarial):
    """`loss.name=lsgan`."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return lsgan_discriminator_loss(real_logits, fake_logits, self.loss.label_smoothing)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return lsgan_generator_loss(fake_logits)

    def accuracy(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
        return _accuracy(real_logits, fake_logits, threshold=0.5)


class Hinge(Adversarial):
    """`loss.name=hinge`."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return hinge_discriminator_loss(real_logits, fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return critic_generator_loss(fake_logits)


class Wasserstein(Adversarial):
    """`loss.name=wgan` and `loss.name=wgan-gp`."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return wgan_discriminator_loss(real_logits, fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return critic_generator_loss(fake_logits)

    def accuracy(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
        return _ranking(real_logits, fake_logits)


class RelativisticPairs(Adversarial):
    """`loss.name=rpgan`."""

    relativistic: ClassVar = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        return rpgan_discriminator_loss(real_logits, fake_logits)

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return rpgan_generator_loss(fake_logits, real_logits)

    def accuracy(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
        return _ranking(real_logits, fake_logits)


LOSSES: dict[str, type[Adversarial]] = {
    "minimax": Minimax,
    "nonsaturating": NonSaturating,
    "lsgan": LeastSquares,
    "wgan": Wasserstein,
    "wgan-gp": Wasserstein,
    "hinge": Hinge,
    "rpgan": RelativisticPairs,
}
"""The package's own losses by `loss.name`."""


def build(loss: LossConfig) -> Adversarial:
    """Return the objective of a configuration, with label smoothing and without penalties.

    Raises:
        ConfigError: there is no such loss, or its settings are refused.
    """
    named = f"loss.name={loss.name}"
    if is_import_path(loss.name):
        kind = cast(type[Adversarial], load_subclass("loss.name", loss.name, Adversarial))
    else:
        kind = LOSSES[loss.name]
    return kind(loss, read_settings(kind.Settings, loss.settings, "loss.settings", named))


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))]: Goodfellow et al. 2014, equation 1, negated; log 4 at D = 1/2.

    With `smoothing` s the first term is the cross-entropy with a target of 1 - s, -E[(1 - s) log D(x) +
    s log(1 - D(x))], and the second is unchanged: one-sided label smoothing, Salimans et al. 2016,
    section 3.4.
    """
    real = (1 - smoothing) * logsigmoid(real_logits)
    if smoothing:
        real = real + smoothing * logsigmoid(-real_logits)
    return -real.mean() - logsigmoid(-fake_logits).mean()


def minimax_generator_loss(fake_logits: Tensor) -> Tensor:
    """E[log(1 - D(G(z)))]: Goodfellow et al. 2014, equation 1.

    Its gradient vanishes as D(G(z)) goes to 0.
    """
    return logsigmoid(-fake_logits).mean()


def nonsaturating_generator_loss(fake_logits: Tensor) -> Tensor:
    """-E[log D(G(z))]: Goodfellow et al. 2014, end of section 3."""
    return -logsigmoid(fake_logits).mean()


def lsgan_discriminator_loss(real_logits: Tensor, fake_logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """1/2 E[(D(x) - 1 + s)^2] + 1/2 E[D(G(z))^2], s = `smoothing`: Mao et al. 2017, equation 9 at s = 0."""
    return 0.5 * (real_logits - (1 - smoothing)).square().mean() + 0.5 * fake_logits.square().mean()


def lsgan_generator_loss(fake_logits: Tensor) -> Tensor:
    """1/2 E[(D(G(z)) - 1)^2]: Mao et al. 2017, equation 9."""
    return 0.5 * (fake_logits - 1).square().mean()


def wgan_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[D(G(z))] - E[D(x)]: Arjovsky et al. 2017, algorithm 1, negated.

    It is unbounded: clipping or a penalty has to limit the critic's gradient.
    """
    return fake_logits.mean() - real_logits.mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]: Miyato et al. 2018, equation 16, negated."""
    return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()


def critic_generator_loss(fake_logits: Tensor) -> Tensor:
    """-E[D(G(z))]: Arjovsky et al. 2017, algorithm 1, and Miyato et al. 2018, equation 17."""
    return -fake_logits.mean()


def rpgan_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[softplus(-(D(x) - D(G(z))))], x and z paired by index; log 2 at D(x) = D(G(z)).

    Jolicoeur-Martineau 2018, relativistic GAN; Huang et al. 2024 (R3GAN), equation 2, negated.

    Raises:
        ValueError: when the two have different shapes.
    """
    return -logsigmoid(_margins(real_logits, fake_logits)).mean()


def rpgan_generator_loss(fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
    """E[softplus(-(D(G(z)) - D(x)))], x and z paired by index: the discriminator's loss, reals for fakes.

    Jolicoeur-Martineau 2018; it does not saturate, unlike the negated loss of the discriminator.

    Raises:
        ValueError: when real logits are missing, or the two have different shapes.
    """
    if real_logits is None:
        raise ValueError("the generator's side of rpgan needs real logits, one for each fake")
    return -logsigmoid(-_margins(real_logits, fake_logits)).mean()


def _margins(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    if real_logits.shape != fake_logits.shape:
        raise ValueError(
            f"pairs need as many real logits as fake ones; these are of shape {tuple(real_logits.shape)} and "
            f"{tuple(fake_logits.shape)}"
        )
    return real_logits - fake_logits


def _accuracy(real_logits: Tensor, fake_logits: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    return (real_logits > threshold).float().mean(), (fake_logits < threshold).float().mean()


def _ranking(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    share = (_margins(real_logits, fake_logits) > 0).float().mean()
    return share, share.clone()
