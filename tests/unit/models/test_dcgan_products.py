"""Convolutions as matrix products: what torch's own give, in bfloat16, values and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gan_dist.models import dcgan
from gan_dist.models.dcgan import Conv4x4, ConvTranspose4x4


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


def layer_and_maps(*, up: bool, channels_last: bool) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    layer: nn.Module = ConvTranspose4x4(24, 16) if up else Conv4x4(24, 16)
    maps = torch.randn(6, 24, *((2, 3) if up else (4, 6)))
    if channels_last:
        layer.to(memory_format=torch.channels_last)
        maps = maps.contiguous(memory_format=torch.channels_last)
    return layer, maps


@pytest.mark.parametrize("up", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_products_are_the_convolution(up: bool, channels_last: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, maps = layer_and_maps(up=up, channels_last=channels_last)
    taken: list[str] = []
    for name in ("_Down", "_Up"):
        function = getattr(dcgan, name)
        monkeypatch.setattr(function, "apply", _noted(function.apply, name, taken))
    results = []
    for autocast in (False, True):
        layer.zero_grad()
        given = maps.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
            made = layer(given)
        # As in the networks, what comes out is changed in place.
        nn.functional.leaky_relu(made, 0.2, inplace=True).float().square().sum().backward()
        assert given.grad is not None
        gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        results.append((made.detach(), given.grad, *gradients))
    assert taken == ["_Up" if up else "_Down"]
    assert results[1][0].dtype == torch.bfloat16
    assert results[1][0].is_contiguous(memory_format=torch.channels_last) or up
    for exact, rounded in zip(*results, strict=True):
        assert exact.shape == rounded.shape
        assert 0 < error(rounded, exact) < 0.01


def _noted(apply: object, name: str, taken: list[str]) -> object:
    def call(*arguments: object) -> object:
        taken.append(name)
        return apply(*arguments)  # type: ignore[operator]

    return call


@pytest.mark.parametrize("up", [True, False])
def test_frozen_weights_get_no_gradient_and_maps_do(up: bool) -> None:
    layer, maps = layer_and_maps(up=up, channels_last=True)
    layer.requires_grad_(False)
    maps.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(maps).float().sum().backward()
    assert maps.grad is not None
    assert all(p.grad is None for p in layer.parameters())


@pytest.mark.parametrize("up", [True, False])
def test_a_second_derivative_is_refused_rather_than_wrong(up: bool) -> None:
    layer, maps = layer_and_maps(up=up, channels_last=True)
    maps.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = layer(maps).float().square().sum()
    (slope,) = torch.autograd.grad(total, maps, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.square().sum().backward()


@pytest.mark.parametrize("positions", [(8, 8), (4, 4)])
def test_large_maps_and_float32_are_torchs_own(
    positions: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dcgan._Up, "apply", None)
    layer = ConvTranspose4x4(8, 4)
    maps = torch.randn(2, 8, *positions)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=positions == (8, 8)):
        made = layer(maps)
        expected = nn.functional.conv_transpose2d(maps, layer.weight, stride=2, padding=1)
    assert torch.equal(made, expected)
