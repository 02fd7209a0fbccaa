from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist import models
from gan_dist.config import ModelConfig
from gan_dist.core.image_size import ImageSize
from gan_dist.models import fastgan_discriminator, fastgan_generator, noise
from gan_dist.models.generator import ImageShape
from gan_dist.models.sizes import NetworkSize

Pair = tuple[fastgan_generator.Generator, fastgan_discriminator.Discriminator]


def built(resolution: int = 16, width: int = 4, channels: int = 2, **keys: Any) -> Pair:
    model = ModelConfig(name="fastgan", latent_dim=5, width=width, **keys)
    generator, discriminator = models.build(model, ImageShape(resolution, channels))
    assert isinstance(generator, fastgan_generator.Generator)
    assert isinstance(discriminator, fastgan_discriminator.Discriminator)
    return generator, discriminator


def shaken(**keys: Any) -> Pair:
    """Networks in float64 in which no weight and no scale of noise is near 0."""
    numbers = torch.Generator().manual_seed(0)
    pair = built(**keys)
    for network in pair:
        models.initialise(network, numbers)
        network.double()
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=numbers, dtype=torch.float64))
        models.update_spectral_norms(network)
    return pair


def images_and_draws(count: int = 4) -> tuple[Tensor, Tensor]:
    numbers = torch.Generator().manual_seed(1)
    images = torch.rand(count, 2, 16, 16, generator=numbers, dtype=torch.float64) * 2 - 1
    return images, torch.tensor([0.1, 0.3, 0.6, 0.8])[:count]


@pytest.mark.parametrize(("resolution", "width"), [(256, 32), (512, 16), (1024, 8)])
def test_channels_are_those_of_the_authors_code(resolution: int, width: int) -> None:
    table = {4: 1024, 8: 512, 16: 256, 32: 128, 64: 128, 128: 64, 256: 32, 512: 16, 1024: 8}
    with torch.device("meta"):
        generator, discriminator = built(resolution, width, channels=3)
    found = {4: generator.start.out_features // 32}
    blocks: Any = generator.blocks
    for power, block in enumerate(blocks, start=3):
        found[1 << power] = block.convs[0].conv.out_channels // 2
        assert len(block.convs) == (2 if power % 2 else 1)
        assert all((conv.noise is not None) == (power % 2 == 1) for conv in block.convs)
    assert found == {edge: table[edge] for edge in table if edge <= resolution}
    pairs = {64: 4, 128: 8, 256: 16, 512: 32}
    assert fastgan_generator.excited(resolution) == {e: by for e, by in pairs.items() if e <= resolution}
    blocks = discriminator.blocks
    halving = [block.main[0][0] for block in blocks]
    assert [conv.in_channels for conv in halving] == [16, 32, 64, 128, 256]  # from 256x256 to 8x8
    assert (halving[-1].out_channels, discriminator.head.out_channels) == (512, 1024)
    assert len(discriminator.stem) == {256: 2, 512: 1, 1024: 2}[resolution]
    decoders: Any = (discriminator.decode_whole, discriminator.decode_quarter)
    for decoder, given in zip(decoders, (512, 256), strict=True):
        assert [conv.in_channels for conv in decoder.convs] == [given, 128, 64, 64]


@pytest.mark.parametrize("resolution", [8, 16, 32, 64, 128])
def test_every_size_makes_judges_and_reconstructs_images(resolution: int) -> None:
    generator, discriminator = built(resolution, width=2, max_width=16)
    made = generator(torch.randn(3, 5))
    assert made.shape == (3, 2, resolution, resolution)
    logits, errors = discriminator(made, None, torch.rand(3))
    assert logits.shape == errors.shape == (3,)
    assert logits.dtype == errors.dtype == torch.float32


def test_excitation_is_equation_1() -> None:
    torch.manual_seed(0)
    layer = fastgan_generator.Excitation(3, 5).double()
    lower = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    maps = torch.randn(2, 5, 16, 16, dtype=torch.float64)
    expected = torch.empty_like(maps)
    for image in range(2):
        pooled = torch.stack(
            [
                lower[image, :, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].mean((1, 2))
                for y in range(4)
                for x in range(4)
            ]
        )
        hidden = torch.stack(
            [sum(layer.squeeze.weight[c, :, i // 4, i % 4] @ pooled[i] for i in range(16)) for c in range(5)]  # type: ignore[misc]
        )
        hidden = torch.where(hidden > 0, hidden, 0.2 * hidden)
        gates = 1 / (1 + (-(layer.excite.weight[:, :, 0, 0] @ hidden)).exp())
        expected[image] = maps[image] * gates[:, None, None]
    torch.testing.assert_close(layer(lower, maps), expected)


def test_noise_is_that_of_the_latent_and_starts_at_nothing() -> None:
    generator, _ = built()
    models.initialise(generator, torch.Generator().manual_seed(0))
    layers = [module for module in generator.modules() if isinstance(module, fastgan_generator.Noise)]
    assert [layer.scale.item() for layer in layers] == [0, 0]
    assert len({layer.layer for layer in layers}) == 2
    latents, maps = torch.randn(3, 5), torch.zeros(3, 2, 8, 8)
    nn.init.constant_(layers[0].scale, 0.5)
    drawn = noise.normal(noise.seeds(latents), layers[0].layer, 8, 8)
    torch.testing.assert_close(layers[0](maps, noise.seeds(latents)), 0.5 * drawn.expand(3, 2, 8, 8))
    generator.eval()
    torch.testing.assert_close(generator(latents)[1:], generator(latents[1:]))


def test_errors_are_pixels_of_the_image_and_of_a_quarter() -> None:
    _, discriminator = shaken()
    discriminator.eval()
    images, draws = images_and_draws()
    _, errors = discriminator(images, None, draws)
    before, last = (maps for maps in discriminator._maps(images))
    assert (before.shape[2], last.shape[2]) == (8, 4)
    for index, (top, left) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):  # a quarter each
        whole = discriminator.decode_whole(last[index : index + 1])[0]
        part = before[index : index + 1, :, 4 * top : 4 * top + 4, 4 * left : 4 * left + 4]
        quarter = discriminator.decode_quarter(part)[0]
        assert (whole.shape, quarter.shape) == ((2, 16, 16), (2, 8, 8))
        wanted = images[index, :, 8 * top : 8 * top + 8, 8 * left : 8 * left + 8]
        expected = (whole - images[index]).abs().mean() + (quarter - wanted).abs().mean()
        torch.testing.assert_close(errors[index], expected)


def test_large_images_are_compared_by_their_averages() -> None:
    found, images = torch.zeros(1, 1, 2, 2), torch.arange(16.0).view(1, 1, 4, 4)
    expected = F.interpolate(images, scale_factor=0.5, mode="area").abs().mean()
    assert fastgan_discriminator._error(found, images) == expected == 7.5


@pytest.mark.parametrize("training", [False, True])
def test_gradients_are_those_of_finite_differences(training: bool) -> None:
    """In float64, by batch and by running statistics; those of the logits can be differentiated again."""
    generator, discriminator = shaken()
    generator.train(training)
    discriminator.train(training)
    images, draws = images_and_draws()
    latents = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    images.requires_grad_()
    freeze_statistics(generator, discriminator)

    def made(z: Tensor) -> Tensor:
        # Noise is a step function of the latent, whose derivative is 0 where it has one.
        return generator.synthesise(z.detach() + (z - z.detach()), None)

    assert torch.autograd.gradcheck(made, (latents,), fast_mode=True, eps=1e-9, atol=1e-4)
    assert torch.autograd.gradcheck(lambda x: discriminator(x, None, draws), (images,), fast_mode=True)
    assert torch.autograd.gradgradcheck(discriminator, (images,), fast_mode=True)
    for network, call in (
        (generator, lambda: generator(latents).sin().sum()),
        (discriminator, lambda: sum(part.sin().sum() for part in discriminator(images, None, draws))),
    ):
        require_slope(network, call)


def freeze_statistics(*networks: nn.Module) -> None:
    for network in networks:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0  # otherwise each call would move them


def require_slope(network: nn.Module, call: Any) -> None:
    """Compare the slope of `call()` along a random direction of the weights with a difference."""
    network.zero_grad()
    call().backward()
    parameters, numbers = list(network.parameters()), torch.Generator().manual_seed(2)
    directions = [torch.randn(p.shape, generator=numbers, dtype=torch.float64) for p in parameters]
    slope = torch.zeros((), dtype=torch.float64)
    for parameter, direction in zip(parameters, directions, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.any()
        slope += (parameter.grad * direction).sum()

    def moved(step: float) -> float:
        with torch.no_grad():
            for parameter, direction in zip(parameters, directions, strict=True):
                parameter.add_(direction, alpha=step)
            return float(call())

    ahead, behind = moved(1e-7), moved(-2e-7)
    assert slope.item() == pytest.approx((ahead - behind) / 2e-7, rel=1e-4, abs=1e-6)


def test_without_a_weight_nothing_is_reconstructed() -> None:
    _, discriminator = built(settings={"reconstruction": 0})
    assert not any("decode" in name for name, _ in discriminator.named_parameters())


def test_reconstructions_of_oblong_images_have_their_aspect() -> None:
    size = NetworkSize(resolution=64, channels=4, width=4, max_width=8, oblong=ImageSize(48, 64))
    discriminator = fastgan_discriminator.Discriminator(size)
    images = torch.rand(2, 4, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    logits, errors = discriminator.logits_and_errors(images, None, torch.tensor([0.1, 0.9]))
    assert logits.shape == errors.shape == (2,)
    assert discriminator.decode_whole(discriminator.feature_maps(images)).shape == (2, 4, 48, 64)
