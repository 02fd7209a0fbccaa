"""Checks of a user's own loss and augmentation, before any worker starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gan_dist.config import DataConfig, LossConfig
from gan_dist.core.errors import ConfigError
from gan_dist.models.checks import Wrong, explained
from gan_dist.training import augment, losses

LOGITS = 16
"""Logits of each kind that a loss is tried on."""
IMAGES = 4
"""Images that an augmentation is tried on."""


def check_loss(loss: LossConfig) -> None:
    """Try the loss of `loss.name` on random logits.

    Raises:
        ConfigError: there is no such loss, or its settings are refused; a loss is no scalar, is not finite,
            draws random numbers, has no gradient, or is not the mean of the losses of two halves of the
            logits, as two workers compute it; an accuracy is not in [0, 1]; or the code itself fails.
    """
    named = f"loss.name={loss.name}"
    adversarial = losses.build(loss)
    if loss.top_k < 1 and adversarial.relativistic:
        _refuse(
            "loss.name",
            f"loss.top_k={loss.top_k:g}: {named} compares each fake with a real of its own",
            "set loss.top_k=1, or another loss",
        )
    numbers = torch.Generator().manual_seed(0)
    # Wide enough for losses that are straight lines near 0.
    real, fake = 3 * torch.randn(2, LOGITS, dtype=torch.float64, generator=numbers)

    def of_generator(real: Tensor, fake: Tensor) -> Tensor:
        return adversarial.generator(fake, real.detach() if adversarial.relativistic else None)

    with explained("loss.name", named):
        for side, judge, reached in (
            ("discriminator", adversarial.discriminator, (True, True)),
            ("generator", of_generator, (False, True)),
        ):
            for what, remedy in _loss_problems(side, judge, real, fake, reached):
                _refuse("loss.name", f"{named}: {what}", remedy)
        accuracies = adversarial.accuracy(real, fake)
        if not all(isinstance(one, Tensor) and one.dim() == 0 and 0 <= one <= 1 for one in accuracies):
            what = f"{named}: accuracy returned {accuracies!r}"
            _refuse("loss.name", what, "return two scalars in [0, 1]")


def _loss_problems(
    side: str,
    judge: Callable[[Tensor, Tensor], Tensor],
    real: Tensor,
    fake: Tensor,
    reached: tuple[bool, bool],
) -> Iterator[Wrong]:
    """Yield what is wrong with one network's loss; `reached` says which logits must get a gradient."""
    inputs = [logits.clone().requires_grad_() for logits in (real, fake)]
    value = judge(*inputs)
    if not isinstance(value, Tensor) or value.dim() or not value.is_floating_point():
        found = f"{tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        yield f"the {side}'s loss of {LOGITS} logits is {found}", "return a scalar: the mean over the logits"
        return
    if not value.isfinite():
        yield f"the {side}'s loss is {value.item()} for logits around 0", "keep it finite"
    if not value.requires_grad:
        yield f"the {side}'s loss has no gradient", "compute it from the logits, without detach()"
        return
    gradients = torch.autograd.grad(value, inputs, allow_unused=True)
    for kind, gradient, needed in zip(("real", "fake"), gradients, reached, strict=True):
        if needed and (gradient is None or not gradient.any()):
            yield f"the {side}'s loss does not depend on the {kind} logits", "compute it from both"
        elif gradient is not None and not gradient.isfinite().all():
            yield f"the gradient of the {side}'s loss is not finite for logits around 0", "keep it finite"
    if not torch.equal(value, judge(real, fake)):
        yield f"the {side}'s loss of the same logits is another one each time", "draw no random numbers in it"
    halves = [judge(*pair) for pair in zip(real.chunk(2), fake.chunk(2), strict=True)]
    mean = torch.stack(halves).mean()
    if not torch.allclose(mean, value, rtol=1e-6, atol=1e-9):
        yield (
            f"the {side}'s loss of {LOGITS} logits is {value.item():.6g}, and the mean of its losses of two "
            f"halves of them {mean.item():.6g}, so that two workers would train otherwise than one",
            "let it be the mean over the logits, or over pairs of the same index",
        )


def check_augmentation(data: DataConfig, shape: tuple[int, int, int], *, twice: bool) -> None:
    """Try the augmentation of `data.augment` on random images of a shape (C, H, W).

    Args:
        data: Its name and its settings.
        shape: That of the images.
        twice: Whether the discriminator's gradient passes through it, so that it is differentiated twice.

    Raises:
        ConfigError: there is no such augmentation, or its settings are refused; it returns another shape or
            type, or what is not finite; it draws random numbers of its own, or changes an image by other
            images; no gradient reaches the images, or not twice where it must; or the code itself fails.
    """
    named = f"data.augment={data.augment}"
    augmentation = augment.build(data)
    if data.augment_p is not None and not augmentation.adaptive:
        _refuse(
            "data.augment",
            f"data.augment_p={data.augment_p:g}: {named} does not heed a probability",
            "set data.augment_p=null, or let its class have `adaptive = True`",
        )
    with explained("data.augment", named):
        columns = augmentation.columns(shape)
        if type(columns) is not int or columns < 1:
            _refuse(
                "data.augment",
                f"{named}: columns returned {columns!r}",
                "return a whole number of at least 1",
            )
        numbers = torch.Generator().manual_seed(0)
        images = torch.rand(IMAGES, *shape, generator=numbers) * 2 - 1
        draws = torch.rand(IMAGES, columns, generator=numbers)

        def apply(images: Tensor, draws: Tensor) -> Tensor:
            return augmentation(images, draws, 0.7)

        problems = [
            _result_problem(images, apply(images.clone(), draws.clone())),
            _dependence_problem(apply, images, draws),
            _gradient_problem(apply, images, draws, twice=twice),
        ]
        for problem in filter(None, problems):
            _refuse("data.augment", f"{named}: {problem[0]}", problem[1])


def _result_problem(images: Tensor, returned: object) -> Wrong | None:
    if not isinstance(returned, Tensor):
        return f"it returned a {type(returned).__name__}", "return images"
    if returned.shape != images.shape or returned.dtype != images.dtype:
        found = f"{tuple(returned.shape)} of {returned.dtype}"
        return (
            f"it returned {found} of images {tuple(images.shape)} of {images.dtype}",
            "return the same shape and type",
        )
    if not returned.isfinite().all():
        return "it returned NaN or infinity", "keep images finite"
    return None


def _dependence_problem(
    apply: Callable[[Tensor, Tensor], Tensor], images: Tensor, draws: Tensor
) -> Wrong | None:
    """Return whether the result depends on anything but an image and its own row of draws."""
    state = torch.get_rng_state()
    first, again = apply(images, draws), apply(images, draws)
    if not torch.equal(first, again) or not torch.equal(state, torch.get_rng_state()):
        return (
            "it draws random numbers of its own: such a run could not be continued exactly",
            "take what it needs from its draws, of which `columns` says how many there are",
        )
    half = len(images) // 2
    others = torch.cat([images[:half], -images[half:] / 2]), torch.cat([draws[:half], 1 - draws[half:]])
    for found in (apply(images[:half], draws[:half]), apply(*others)[:half]):
        if not torch.allclose(found, first[:half], rtol=1e-4, atol=1e-5):
            return (
                "its result for an image depends on the other images of the batch",
                "change each image by its own row of draws alone: every worker sees other images",
            )
    return None


def _gradient_problem(
    apply: Callable[[Tensor, Tensor], Tensor], images: Tensor, draws: Tensor, *, twice: bool
) -> Wrong | None:
    inputs = images.clone().requires_grad_()
    augmented = apply(inputs, draws)
    gradient = None
    if augmented.requires_grad:
        # Cubed, since the second derivative of a linear map alone is zero.
        (gradient,) = torch.autograd.grad(
            augmented.pow(3).sum(), inputs, create_graph=True, allow_unused=True
        )
    if gradient is None or not gradient.any():
        return (
            "no gradient reaches the images, so that the generator would learn nothing",
            "use differentiable operations of torch, without detach() or numpy",
        )
    if not gradient.isfinite().all():
        return "the gradient with respect to the images is not finite", "keep it finite"
    if not twice:
        return None
    try:
        torch.autograd.grad(gradient.square().sum(), inputs)
    except RuntimeError as error:
        return (
            f"it cannot be differentiated twice ({error}), as loss.r1 and loss.r2 need",
            "use operations that can be, or set loss.r1 and loss.r2 to 0",
        )
    return None


def _refuse(key: str, what: str, remedy: str) -> None:
    raise ConfigError(what, remedy, keys=(key,))
