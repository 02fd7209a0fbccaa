"""R3GAN's networks against a slow transcription of the authors' description, by sums over taps and pixels.

Huang et al. 2024, section 4 (configuration E) and their published code; Fixup's scaling is in the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

from gan_dist import models
from gan_dist.config import ModelConfig
from gan_dist.models.generator import ImageShape

CLASSES, BLOCKS, GROUP = 3, 2, 16


def shifted(maps: Tensor, dim: int, by: int) -> Tensor:
    """`maps` with index i holding what was at i + by, and zeros where nothing was."""
    index = torch.arange(maps.shape[dim]) + by
    inside = (index >= 0) & (index < maps.shape[dim])
    shape = [-1 if axis == dim % 4 else 1 for axis in range(4)]
    return maps.index_select(dim, index.clamp(0, maps.shape[dim] - 1)) * inside.view(shape)


def upsampled(maps: Tensor) -> Tensor:
    """Bilinear: three quarters of the nearer pixel and a quarter of the other, along both axes."""
    for dim in (2, 3):
        pair = [0.75 * maps + 0.25 * shifted(maps, dim, by) for by in (-1, 1)]
        maps = torch.stack(pair, dim + 1).flatten(dim, dim + 1)
    return maps


def downsampled(maps: Tensor) -> Tensor:
    """Pixels 2i - 1 to 2i + 2 in the proportions 1, 3, 3, 1, along both axes."""
    for dim in (2, 3):
        total = sum(weight / 8 * shifted(maps, dim, by) for weight, by in ((1, -1), (3, 0), (3, 1), (1, 2)))
        assert isinstance(total, Tensor)
        maps = total.index_select(dim, torch.arange(0, maps.shape[dim], 2))
    return maps


def activated(maps: Tensor, bias: Tensor) -> Tensor:
    maps = maps + bias[:, None, None]
    return torch.where(maps > 0, maps, 0.2 * maps)


def pointwise(maps: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], maps)


def grouped(maps: Tensor, weight: Tensor) -> Tensor:
    """A 3x3 convolution within each group of channels, tap by tap."""
    parts = []
    for own, kernels in zip(maps.split(GROUP, 1), weight.split(GROUP, 0), strict=True):
        taps = [
            torch.einsum("oi,bihw->bohw", kernels[:, :, y, x], shifted(shifted(own, 2, y - 1), 3, x - 1))
            for y in range(3)
            for x in range(3)
        ]
        parts.append(torch.stack(taps).sum(0))
    return torch.cat(parts, 1)


def blocks(maps: Tensor, weights: Iterator[Tensor]) -> Tensor:
    for _ in range(BLOCKS):
        expand, first_bias, group, second_bias, contract = (next(weights) for _ in range(5))
        inner = activated(pointwise(maps, expand), first_bias)
        inner = activated(grouped(inner, group), second_bias)
        maps = maps + pointwise(inner, contract)
    return maps


def generated(latents: Tensor, labels: Tensor | None, named: dict[str, Tensor]) -> Tensor:
    if labels is not None:
        one_hot = torch.eye(CLASSES, dtype=latents.dtype)[labels]
        latents = torch.cat([latents, one_hot @ named["embed.weight"]], 1)
    weights = iter([value for name, value in named.items() if name != "embed.weight"])
    basis, linear = next(weights), next(weights)
    maps = blocks(basis[None] * (latents @ linear.T)[:, :, None, None], weights)
    for before, after in ((16, 16), (16, 8)):  # channels at 4x4, 8x8 and 16x16
        maps = maps if before == after else pointwise(maps, next(weights))
        maps = blocks(upsampled(maps), weights)
    return pointwise(maps, next(weights))


def judged(images: Tensor, labels: Tensor | None, named: dict[str, Tensor]) -> Tensor:
    weights = iter([value for name, value in named.items() if name != "embed.weight"])
    maps = blocks(pointwise(images, next(weights)), weights)
    for before, after in ((8, 16), (16, 16)):
        maps = downsampled(maps)
        maps = blocks(maps if before == after else pointwise(maps, next(weights)), weights)
    basis, linear = next(weights), next(weights)
    out = (maps * basis[:, 0]).sum((2, 3)) @ linear.T
    if labels is None:
        return out[:, 0]
    embedded = torch.eye(CLASSES, dtype=images.dtype)[labels] @ named["embed.weight"]
    return (out * embedded).sum(1)


def outputs_and_gradients(
    call: Callable[[Tensor], Tensor], given: Tensor, weights: list[Tensor]
) -> list[Tensor]:
    """Outputs, then gradients of the weights with the second derivatives that R1 and R2 need."""
    inputs = given.clone().requires_grad_()
    output = call(inputs)
    (slope,) = torch.autograd.grad(output.square().sum(), inputs, create_graph=True)
    return [output.detach(), *torch.autograd.grad(slope.square().sum() + output.sum(), weights)]


@pytest.mark.parametrize("conditional", [False, True])
def test_networks_and_their_gradients_are_the_published_ones(conditional: bool) -> None:
    model = ModelConfig(
        name="r3gan", latent_dim=5, width=8, max_width=16, blocks=BLOCKS, conditional=conditional
    )
    draw = torch.Generator().manual_seed(0)
    labels = torch.tensor([2, 0, 1]) if conditional else None
    latents = torch.randn(3, 5, generator=draw, dtype=torch.float64)
    images = torch.randn(3, 3, 16, 16, generator=draw, dtype=torch.float64)
    networks = models.build(model, ImageShape(16, 3, CLASSES))
    for network, given, reference in zip(networks, (latents, images), (generated, judged), strict=True):
        assert isinstance(network, models.Generator | models.Discriminator)
        models.initialise(network, draw)
        network.double()
        with torch.no_grad():
            for weight in network.parameters():  # otherwise blocks start as the identity
                weight.add_(0.1 * torch.randn(weight.shape, generator=draw, dtype=torch.float64))
        named = {name: value.detach().clone().requires_grad_() for name, value in network.named_parameters()}
        found = outputs_and_gradients(partial(network, labels=labels), given, list(network.parameters()))
        expected = outputs_and_gradients(
            partial(reference, labels=labels, named=named), given, list(named.values())
        )
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12 * float(theirs.abs().max()))
