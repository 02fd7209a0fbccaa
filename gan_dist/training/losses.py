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
    """`loss.name=nonsaturating`: Goodfellow et al. 2014, and the end of section 3."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """-E[log D(x)] - E[log(1 - D(G(z)))]; log 4 at D = 1/2.

        With label smoothing s the first term is the cross-entropy with a target of 1 - s, -E[(1 - s) log D(x)
        + s log(1 - D(x))], and the second is unchanged: Salimans et al. 2016, section 3.4.
        """
        smoothing = self.loss.label_smoothing
        real = (1 - smoothing) * logsigmoid(real_logits)
        if smoothing:
            real = real + smoothing * logsigmoid(-real_logits)
        return -real.mean() - logsigmoid(-fake_logits).mean()

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """-E[log D(G(z))]."""
        return -logsigmoid(fake_logits).mean()


class Minimax(NonSaturating):
    """`loss.name=minimax`: Goodfellow et al. 2014."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """E[log(1 - D(G(z)))], whose gradient vanishes as D(G(z)) goes to 0."""
        return logsigmoid(-fake_logits).mean()


class LeastSquares(Adversarial):
    """`loss.name=lsgan`: Mao et al. 2017."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """1/2 E[(D(x) - 1 + s)^2] + 1/2 E[D(G(z))^2], s being the label smoothing."""
        target = 1 - self.loss.label_smoothing
        return 0.5 * (real_logits - target).square().mean() + 0.5 * fake_logits.square().mean()

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """1/2 E[(D(G(z)) - 1)^2]."""
        return 0.5 * (fake_logits - 1).square().mean()

    def accuracy(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
        return _accuracy(real_logits, fake_logits, threshold=0.5)


class CriticLoss(Adversarial):
    """A loss whose generator raises the logits of its fakes."""

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """-E[D(G(z))]: Arjovsky et al. 2017, algorithm 1, and Miyato et al. 2018."""
        return -fake_logits.mean()


class Hinge(CriticLoss):
    """`loss.name=hinge`: Miyato et al. 2018, negated."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]."""
        return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()


class Wasserstein(CriticLoss):
    """`loss.name=wgan` and `loss.name=wgan-gp`: Arjovsky et al. 2017, algorithm 1, negated."""

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[D(G(z))] - E[D(x)], which is unbounded: clipping or a penalty has to limit its gradient."""
        return fake_logits.mean() - real_logits.mean()

    def accuracy(self, real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
        return _ranking(real_logits, fake_logits)


class RelativisticPairs(Adversarial):
    """`loss.name=rpgan`, x and z paired by index: Jolicoeur-Martineau 2018, relativistic GAN.

    Each network's loss is the other's with reals for fakes; the generator's does not saturate, unlike the
    negated loss of the discriminator. Logits of different shapes are a ValueError.
    """

    relativistic: ClassVar = True

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        """E[softplus(-(D(x) - D(G(z))))]: Huang et al. 2024 (R3GAN), negated."""
        return -logsigmoid(_margins(real_logits, fake_logits)).mean()

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        """E[softplus(-(D(G(z)) - D(x)))]; a ValueError without real logits."""
        if real_logits is None:
            raise ValueError("the generator's side of rpgan needs real logits, one for each fake")
        return -logsigmoid(-_margins(real_logits, fake_logits)).mean()

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
