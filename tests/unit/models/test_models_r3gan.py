from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist import models
from gan_dist.config import ModelConfig, load_config
from gan_dist.models import r3gan
from gan_dist.models.generator import ImageShape
from gan_dist.models.sizes import NetworkSize


def drawn(network: models.Generator | models.Discriminator) -> nn.Module:
    models.initialise(network, torch.Generator().manual_seed(0))
    return network


def test_a_block_is_two_biased_activations_between_three_convolutions() -> None:
    torch.manual_seed(0)
    block = r3gan.Block(8, depth=4)
    maps = torch.randn(2, 8, 5, 5)
    assert (block.group.groups, block.group.in_channels) == (1, 16)
    inner = maps
    for layer, padding in ((block.expand, 0), (block.group, 1)):
        assert layer.bias is not None
        nn.init.normal_(layer.bias)
        inner = F.conv2d(inner, layer.weight, padding=padding) + layer.bias[:, None, None]
        inner = torch.where(inner > 0, inner, 0.2 * inner)
    torch.testing.assert_close(block(maps), maps + F.conv2d(inner, block.contract.weight))


def test_convolutions_have_groups_of_sixteen() -> None:
    network = r3gan.Generator(4, NetworkSize(width=20, max_width=50, resolution=16, channels=3))
    blocks = [module for module in network.modules() if isinstance(module, r3gan.Block)]
    assert [block.contract.out_channels for block in blocks] == [56, 56, 40, 40, 24, 24]  # multiples of 8
    assert {block.group.weight.shape[1] for block in blocks} == {16}


def test_resampling_is_bilinear_and_can_be_differentiated_twice() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    up, down = r3gan.Resampling(up=True).double(), r3gan.Resampling(up=False).double()
    inside = (..., slice(1, -1), slice(1, -1))
    doubled = F.interpolate(maps, scale_factor=2.0, mode="bilinear")
    halved = F.interpolate(maps, scale_factor=0.5, mode="bilinear", antialias=True)
    torch.testing.assert_close(up(maps)[inside], doubled[inside])
    torch.testing.assert_close(down(maps)[inside], halved[inside])
    small = maps.detach()[:1, :1, :4, :4].requires_grad_()
    for resample in (up, down):
        assert torch.autograd.gradgradcheck(lambda x, f=resample: f(x).pow(3), (small,))
    assert not up.state_dict()


def test_the_first_maps_are_a_basis_times_a_linear_function_of_z() -> None:
    network = r3gan.Generator(5, NetworkSize(width=8, resolution=8, channels=3, classes=3))
    drawn(network)
    latents, labels = torch.randn(4, 5), torch.tensor([0, 2, 1, 0])
    assert network.embed is not None
    z = torch.cat([latents, network.embed.weight[labels]], 1)
    factors = z @ network.basis.linear.weight.T
    expected = factors[:, :, None, None] * network.basis.maps[None]
    torch.testing.assert_close(network.basis(z), expected)
    images = network.out(network.layers(expected))
    torch.testing.assert_close(network(latents, labels), images)
    network.tanh = True
    torch.testing.assert_close(network(latents, labels), images.tanh())


def test_blocks_start_as_the_identity_with_scaled_weights() -> None:
    network = r3gan.Discriminator(NetworkSize(width=64, max_width=64, resolution=16, channels=3), blocks=2)
    drawn(network)
    blocks = [module for module in network.modules() if isinstance(module, r3gan.Block)]
    assert len(blocks) == 6
    gain = (2 / 1.04) ** 0.5 * 6**-0.25
    for block in blocks:
        maps = torch.randn(2, 64, 4, 4)
        assert torch.equal(block(maps), maps)
        assert block.expand.weight.std().item() == pytest.approx(gain / 64**0.5, rel=0.1)
        assert block.group.weight.std().item() == pytest.approx(gain / (16 * 9) ** 0.5, rel=0.1)
        for layer in (block.expand, block.group):
            assert layer.bias is not None
            assert not layer.bias.any()


@pytest.mark.parametrize("resolution", [16, 64])
@pytest.mark.parametrize("blocks", [1, 3])
def test_activations_start_at_scale_one_through_the_depth(resolution: int, blocks: int) -> None:
    config = ModelConfig(name="r3gan", latent_dim=32, width=16, max_width=32, blocks=blocks)
    scales: list[float] = []

    def record(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        del module, args
        scales.append(output.square().mean().sqrt().item())

    torch.manual_seed(0)
    # Smooth images, as natural ones are: averaging takes most of white noise away.
    images = F.interpolate(torch.randn(16, 3, 4, 4), size=2 * [resolution], mode="bicubic")
    inputs = (torch.randn(16, 32), images)
    for network, given in zip(models.build(config, ImageShape(resolution, 3)), inputs, strict=True):
        drawn(network)  # type: ignore[arg-type]
        for module in network.modules():
            if isinstance(module, r3gan.Block | r3gan.Basis):
                module.register_forward_hook(record)
        with torch.no_grad():
            network(given)
        assert all(0.3 < scale < 2 for scale in scales), scales
        scales.clear()


STAGES = {
    "cifar10": 4 * [768],
    "ffhq64": [*4 * [768], 384],
    "ffhq256": [*4 * [768], 384, 192, 96],
    "imagenet64": 5 * [1536],
}
"""Channels at 4x4 and each doubling: the presets in the authors' `train.py`."""


@pytest.mark.parametrize("preset", STAGES)
def test_presets_have_the_published_stages(preset: str) -> None:
    model = load_config(preset).model
    classes = {"cifar10": 10, "imagenet64": 1000}.get(preset, 0)
    with torch.device("meta"):
        generator, discriminator = models.build(model, ImageShape(2 << len(STAGES[preset]), 3, classes))
    for network in (generator, discriminator):
        blocks = [module for module in network.modules() if isinstance(module, r3gan.Block)]
        widths = [block.contract.out_channels for block in blocks]
        assert (widths if network is generator else widths[::-1]) == [w for w in STAGES[preset] for _ in "12"]
        cardinalities = {2 * width // 16 for width in STAGES[preset]} if preset != "imagenet64" else {96}
        assert {block.group.groups for block in blocks} == cardinalities
    if classes:
        assert generator.get_parameter("embed.weight").shape == (classes, 64)
        assert discriminator.get_parameter("out.weight").shape == (STAGES[preset][0], STAGES[preset][0])


def test_sizes_are_the_articles() -> None:
    for width, resolution, expected in ((96, 256, 23.06), (384, 64, 22.43), (768, 32, 20.73)):
        config = ModelConfig(name="r3gan", latent_dim=64, width=width, max_width=768, blocks=2)
        with torch.device("meta"):
            generator, discriminator = models.build(config, ImageShape(resolution, 3))
        counts = [sum(p.numel() for p in network.parameters()) for network in (generator, discriminator)]
        assert counts[0] / 1e6 == pytest.approx(expected, abs=0.01)
        assert counts[1] / 1e6 == pytest.approx(expected - 0.05, abs=0.01)
