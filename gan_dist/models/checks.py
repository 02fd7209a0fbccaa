"""Checks of a user's own networks, before any worker starts: what training on N workers takes for granted."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_dist import models
from gan_dist.config import ModelConfig
from gan_dist.core.errors import ConfigError
from gan_dist.models.generator import ImageShape

UNITS = 2
"""Groups of images that the networks are tried on, whose logits may depend on one another."""
Wrong = tuple[str, str]
"""What is wrong with a user's code, and how to mend it."""


def check_networks(model: ModelConfig, shape: ImageShape, *, penalised: bool) -> None:
    """Try the networks of `model` on two groups of random numbers, in training mode on the CPU.

    `penalised` says whether the discriminator is differentiated twice, as gradient penalties need.

    Raises:
        ConfigError: two builds from one seed differ; images or logits have another shape or type than they
            should; a network draws random numbers when it is called; an output depends on other images of the
            batch, but for batch normalisation; a parameter gets no gradient; or the code itself fails.
    """
    named = f"model.name={model.name}"
    with explained("model.name", named):
        for what, remedy in filter(None, _problems(model, shape, penalised=penalised)):
            raise ConfigError(f"{named}: {what}", remedy, keys=("model.name",))


def _problems(model: ModelConfig, shape: ImageShape, *, penalised: bool) -> Iterator[Wrong | None]:
    first, second = (models.build_initial(model, shape, seed=0) for _ in range(2))
    for kind, a, b in zip(("generator", "discriminator"), first, second, strict=True):
        yield _build_problem(kind, a, b)
    latents, images, labels = _inputs(model, shape)
    trial = _Trial(*first, latents, images, labels, model.pack)
    yield trial.generator_problem()
    yield trial.discriminator_problem()
    yield trial.gradient_problem(penalised=penalised)


@contextmanager
def explained(key: str, named: str) -> Iterator[None]:
    """Turn what a user's code raises into a ConfigError with its place."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{named} failed when it was tried: {type(error).__name__}: {error}"
        raise ConfigError(f"{what} ({frame.filename}:{frame.lineno})", "mend it", keys=(key,)) from error


@dataclass(frozen=True)
class _Trial:
    """Two networks, and the inputs that they are tried on."""

    generator: models.Generator
    discriminator: models.Discriminator
    latents: Tensor
    images: Tensor
    labels: Tensor | None
    pack: int

    def generator_problem(self) -> Wrong | None:
        """Return what is wrong with the images that the generator makes, and how to mend it."""
        made = self.generator(self.latents, self.labels)
        if problem := _tensor_problem("the generator", made, tuple(self.images.shape)):
            return problem
        if not torch.equal(made, self._reseeded(self.generator, self.latents)):
            return _random("generator")
        return self._coupling("generator", self.generator, self.latents, 1)

    def discriminator_problem(self) -> Wrong | None:
        """Return what is wrong with the discriminator's logits, and how to mend it."""
        logits = self.discriminator(self.images, self.labels)
        if problem := _tensor_problem("the discriminator", logits, (len(self.images) // self.pack,)):
            return problem
        if not torch.equal(logits, self._reseeded(self.discriminator, self.images)):
            return _random("discriminator")
        return self._coupling("discriminator", self.discriminator, self.images, len(self.images) // UNITS)

    def gradient_problem(self, *, penalised: bool) -> Wrong | None:
        """Return which parameters training would not reach, and how to mend it."""
        images = self.images.clone().requires_grad_(penalised)
        loss = self.images.new_zeros(())
        if self.discriminator.reconstruction:
            logits, errors = self.discriminator(images, self.labels, self.images.new_zeros(len(images)))
            if problem := _tensor_problem("logits_and_errors", errors, tuple(logits.shape)):
                return problem
            loss = loss + errors.sum()
        else:
            logits = self.discriminator(images, self.labels)
        loss = loss + logits.square().sum()
        if penalised:
            try:
                (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
                loss = loss + gradient.square().sum()
                loss.backward()
            except RuntimeError as error:
                return (
                    f"the discriminator cannot be differentiated twice ({error})",
                    "use operations that can be, or set loss.gp, loss.dragan, loss.r1 and loss.r2 to 0",
                )
        else:
            loss.backward()
        if problem := _unreached("discriminator", self.discriminator):
            return problem
        self.discriminator.requires_grad_(False)
        self.discriminator(self.generator(self.latents, self.labels), self.labels).square().sum().backward()
        return _unreached("generator", self.generator)

    def _reseeded(self, network: nn.Module, inputs: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(1)
            outputs: Tensor = network(inputs, self.labels)
        return outputs

    def _coupling(self, kind: str, network: nn.Module, inputs: Tensor, together: int) -> Wrong | None:
        """Return whether the first outputs depend on the last of the inputs, `together` of which are one."""
        if models.uses_batch_statistics(network):
            return None
        other = torch.cat([inputs[:-together], -inputs[-together:]])
        before, after = (network(each, self.labels)[0] for each in (inputs, other))
        if torch.allclose(before, after, rtol=1e-4, atol=1e-6):
            return None
        what = f"the {kind}'s output for an image depends on other images of the batch"
        return (
            what,
            "use nn.BatchNorm2d, which is heeded, or a norm within an image: every worker sees other images",
        )


def _inputs(model: ModelConfig, shape: ImageShape) -> tuple[Tensor, Tensor, Tensor | None]:
    numbers, count = torch.Generator().manual_seed(0), UNITS * model.pack * model.group
    latents = torch.randn(count, model.latent_dim, generator=numbers)
    images = torch.rand(count, shape.channels, *shape.size, generator=numbers) * 2 - 1
    return latents, images, torch.arange(count) % shape.classes if model.conditional else None


def _build_problem(kind: str, network: nn.Module, again: nn.Module) -> Wrong | None:
    one, other = network.state_dict(), again.state_dict()
    different = [name for name in one if name not in other or not torch.equal(one[name], other[name])]
    if different or one.keys() != other.keys():
        what = f"two builds of the {kind} from one seed differ in {', '.join(different[:3])}"
        return what, "draw its weights from torch's own generator, or give it a `recipe`"
    return None


def _tensor_problem(who: str, returned: object, shape: tuple[int, ...]) -> Wrong | None:
    if not isinstance(returned, Tensor):
        return f"{who} returned a {type(returned).__name__}", f"return a tensor of shape {shape}"
    if tuple(returned.shape) != shape or not returned.is_floating_point():
        found = f"{tuple(returned.shape)} of {returned.dtype}"
        return f"{who} returned {found} for {shape[0]} inputs", f"return {shape} of a floating type"
    if not returned.isfinite().all():
        return f"{who} returned NaN or infinity", "begin with smaller weights"
    return None


def _random(kind: str) -> Wrong:
    return (
        f"the {kind} draws random numbers when it is called: such a run could not be continued exactly",
        "leave out dropout and noise, or make the noise a function of the input",
    )


def _unreached(kind: str, network: nn.Module) -> Wrong | None:
    names = [name for name, one in network.named_parameters() if one.requires_grad and one.grad is None]
    if not names:
        return None
    return (
        f"no gradient reaches {', '.join(names[:3])} of the {kind}",
        "use them in the forward pass, or leave them out",
    )
