"""The parts, each against its equation written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

from gan_dist import models
from gan_dist.config import ModelConfig
from gan_dist.models import dcgan, r3gan, resnet
from gan_dist.models.generator import ImageShape
from gan_dist.models.layers import ConditionalBatchNorm, SpectralNorm, spectral, update_spectral_norms
from gan_dist.models.sizes import NetworkSize


def largest_singular_value(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach().double().flatten(1), 2))


def initialised(network: models.Generator | models.Discriminator, seed: int = 0) -> Any:
    models.initialise(network, torch.Generator().manual_seed(seed))
    return network


def test_class_conditional_batch_norm_is_batch_norm_with_gathered_gains() -> None:
    torch.manual_seed(0)
    layer = ConditionalBatchNorm(5, classes=3)
    maps, labels = torch.randn(6, 5, 4, 4) * 2 + 1, torch.tensor([0, 1, 2, 2, 1, 0])
    plain = nn.BatchNorm2d(5)
    torch.testing.assert_close(layer(maps, labels), plain(maps))
    with torch.no_grad():
        layer.weight.normal_()
        layer.bias.normal_()
    normal = F.batch_norm(maps, None, None, training=True)
    expected = torch.stack(
        [
            layer.weight[label][:, None, None] * normal[row] + layer.bias[label][:, None, None]
            for row, label in enumerate(labels)
        ]
    )
    torch.testing.assert_close(layer(maps, labels), expected)


def test_spectral_norm_is_torchs() -> None:
    torch.manual_seed(0)
    ours = spectral(nn.Conv2d(3, 5, 3, bias=False))
    theirs = spectral_norm(nn.Conv2d(3, 5, 3, bias=False))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())
    images = torch.randn(2, 3, 6, 6)
    for _ in range(3):
        update_spectral_norms(ours)
        torch.testing.assert_close(ours(images), theirs(images))
    update_spectral_norms(ours)
    ours(images).square().sum().backward()
    theirs(images).square().sum().backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.grad is not None
        torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_spectral_norm_is_float32_under_autocast() -> None:
    layer = spectral(nn.Linear(4, 3))
    weight = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, weight)


def test_an_advanced_weight_is_the_same_in_all_passes_of_an_update() -> None:
    torch.manual_seed(0)
    layer = spectral(nn.Linear(4, 3, bias=False))
    weight, v = (
        layer.state_dict()[f"parametrizations.weight.{name}"].clone() for name in ("original", "0._v")
    )
    for _ in range(3):
        update_spectral_norms(layer)
        u = F.normalize(weight @ v, dim=0)
        v = F.normalize(weight.T @ u, dim=0)
        for _ in range(2):
            torch.testing.assert_close(layer.weight, weight / (u @ weight @ v))


@pytest.mark.parametrize("name", ["dcgan", "resnet"])
def test_every_weight_of_a_normalised_discriminator_has_spectral_norm_one(name: Any) -> None:
    config = ModelConfig(
        name=name, width=4, max_width=8, conditional=True, spectral_norm=True, attention=name == "resnet"
    )
    _, discriminator = models.build(config, ImageShape(16, 3, 4))
    initialised(discriminator)
    for _ in range(60):
        update_spectral_norms(discriminator)
    weights = 0
    for layer in discriminator.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear | nn.Embedding):
            assert isinstance(layer.weight, Tensor)
            assert largest_singular_value(layer.weight) == pytest.approx(1, abs=0.01)
            weights += 1
    assert weights == sum(isinstance(layer, SpectralNorm) for layer in discriminator.modules())
    assert weights == {"dcgan": 3 + 1, "resnet": 2 * 3 + 2 + 4 + 2}[str(name)]


def test_spectral_norm_is_resnets_default_and_dcgans_choice() -> None:
    for options, expected in (
        ({"name": "resnet"}, True),
        ({"name": "resnet", "spectral_norm": False}, False),
        ({"name": "dcgan"}, False),
        ({"name": "dcgan", "spectral_norm": True}, True),
    ):
        config = ModelConfig.model_validate({"width": 2, **options})
        generator, discriminator = models.build(config, ImageShape(8, 1))
        assert any(isinstance(module, SpectralNorm) for module in discriminator.modules()) == expected
        assert not any(isinstance(module, SpectralNorm) for module in generator.modules())


def test_projection_is_equation_3_for_dcgan() -> None:
    plain = initialised(dcgan.Discriminator(NetworkSize(width=4, resolution=16, channels=1)))
    network = initialised(dcgan.Discriminator(NetworkSize(width=4, resolution=16, channels=1, classes=3)))
    images, labels = torch.randn(5, 1, 16, 16), torch.tensor([0, 1, 2, 1, 0])
    for each in (plain, network):
        each.eval()
    features = plain.layers[:-1](images).sum((2, 3))
    expected = plain(images) + torch.einsum("bf,bf->b", features, network.embed.weight[labels])
    torch.testing.assert_close(network(images, labels), expected)


def test_projection_is_equation_3_for_resnet() -> None:
    network = initialised(
        resnet.Discriminator(NetworkSize(width=4, resolution=16, channels=1, classes=3), spectral_norm=False)
    )
    images, labels = torch.randn(5, 1, 16, 16), torch.tensor([0, 1, 2, 1, 0])
    features = network.blocks(images).relu().sum((2, 3))
    expected = F.linear(features, network.out.weight)[:, 0] + network.out.bias
    expected = expected + (features * network.embed.weight[labels]).sum(1)
    torch.testing.assert_close(network(images, labels), expected)


def test_projection_is_equation_3_for_the_earlier_r3gan() -> None:
    size = NetworkSize(width=8, resolution=8, channels=1, classes=3)
    network = initialised(r3gan.Discriminator(size, variant=r3gan.TANH))
    images, labels = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 2, 1, 0])
    features = (network.layers(images) * network.basis.weight[:, 0]).sum((2, 3))
    expected = features @ network.out.weight[0] + (features * network.embed.weight[labels]).sum(1)
    torch.testing.assert_close(network(images, labels), expected)


def test_self_attention_starts_as_the_identity() -> None:
    layer = resnet.SelfAttention(16)
    maps = torch.randn(2, 16, 4, 4)
    assert torch.equal(layer(maps), maps)


def test_self_attention_is_the_articles_sum_over_positions() -> None:
    torch.manual_seed(0)
    layer = resnet.SelfAttention(16)
    nn.init.constant_(layer.scale, 0.7)
    maps = torch.randn(2, 16, 3, 3)
    flat = maps.flatten(2)
    query, key, value, out = (
        each.weight[:, :, 0, 0] for each in (layer.query, layer.key, layer.value, layer.out)
    )
    expected = torch.empty_like(flat)
    for image, columns in enumerate(flat):
        for position in range(9):
            scores = torch.stack([(key @ columns[:, i]) @ (query @ columns[:, position]) for i in range(9)])
            mixed = sum(share * (value @ columns[:, i]) for i, share in enumerate(scores.softmax(0)))
            expected[image, :, position] = columns[:, position] + 0.7 * (out @ mixed)
    torch.testing.assert_close(layer(maps).flatten(2), expected)


def test_resnet_has_the_widths_of_table_4() -> None:
    with torch.device("meta"):
        generator = resnet.Generator(128, NetworkSize(width=64, max_width=1024, resolution=128, channels=3))
        discriminator = resnet.Discriminator(
            NetworkSize(width=64, max_width=1024, resolution=128, channels=3), spectral_norm=False
        )
    made = [
        block.conv1.weight.shape[:2] for block in generator.blocks if isinstance(block, resnet.GeneratorBlock)
    ]
    assert generator.start.out_features == 4 * 4 * 1024
    assert made == [(1024, 1024), (512, 1024), (256, 512), (128, 256), (64, 128)]
    judged = [
        (tuple(block.conv2.weight.shape[:2]), block.halve)
        for block in discriminator.blocks
        if isinstance(block, resnet.DiscriminatorBlock)
    ]
    halving = [
        ((64, 64), True),
        ((128, 64), True),
        ((256, 128), True),
        ((512, 256), True),
        ((1024, 512), True),
    ]
    assert judged == [*halving, ((1024, 1024), False)]


@pytest.mark.parametrize(("resolution", "edge"), [(16, 4), (32, 8), (64, 16)])
def test_attention_is_at_a_quarter_of_the_resolution(resolution: int, edge: int) -> None:
    config = ModelConfig(name="resnet", latent_dim=4, width=2, attention=True)
    seen: list[int] = []
    for network in models.build(config, ImageShape(resolution, 1)):
        for module in network.modules():
            if isinstance(module, resnet.SelfAttention):
                module.register_forward_hook(lambda *args: seen.append(args[2].shape[-1]))
        network(
            torch.randn(2, 4)
            if isinstance(network, models.Generator)
            else torch.randn(2, 1, *2 * [resolution])
        )
    assert seen == [edge, edge]


def test_resnet_blocks_are_their_articles() -> None:
    torch.manual_seed(0)
    maps = torch.randn(2, 3, 8, 8)
    first = resnet.DiscriminatorBlock(3, 5, halve=True, spectral_norm=False, first=True)
    later = resnet.DiscriminatorBlock(3, 5, halve=True, spectral_norm=False)
    for block, head in ((first, maps), (later, maps.relu())):
        inner = block.conv2(block.conv1(head).relu())
        torch.testing.assert_close(block(maps), F.avg_pool2d(block.shortcut(maps) + inner, 2))
    same = resnet.DiscriminatorBlock(3, 3, halve=False, spectral_norm=False)
    torch.testing.assert_close(same(maps), maps + same.conv2(same.conv1(maps.relu()).relu()))
    up = resnet.GeneratorBlock(3, 5, classes=0)
    wide = maps.repeat_interleave(2, 2).repeat_interleave(2, 3)
    inner = up.conv1(up.norm1(maps).relu().repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(up(maps, None), up.shortcut(wide) + up.conv2(up.norm2(inner).relu()))


def test_resnet_starts_with_xaviers_variance() -> None:
    discriminator = initialised(
        resnet.Discriminator(
            NetworkSize(width=32, max_width=64, resolution=16, channels=3), spectral_norm=False
        )
    )
    block = discriminator.blocks[1]
    for layer, gain, fans in ((block.conv1, 2, 32 * 9 + 32 * 9), (block.shortcut, 1, 32 + 64)):
        assert layer.weight.var().item() == pytest.approx(gain * 2 / fans, rel=0.1)
        assert (layer.bias == 0).all()
