from __future__ import annotations

import math
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from gan_dist.models import init, noise, stylegan2
from gan_dist.models import stylegan2_layers as layers
from gan_dist.models.sizes import NetworkSize

Module = TypeVar("Module", bound=nn.Module)


def size(resolution: int = 8, width: int = 3, classes: int = 0) -> NetworkSize:
    return NetworkSize(resolution=resolution, channels=2, width=width, max_width=4, classes=classes)


def drawn(module: Module, *, shaken: float = 0.3) -> Module:
    """A network or layer with initial weights, none of which is exactly 0 if it is shaken."""
    generator = torch.Generator().manual_seed(0)
    init.apply(module, layers.RECIPE, generator)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(shaken * torch.randn(parameter.shape, generator=generator))
    return module


def make_latents(count: int, *shape: int) -> Tensor:
    """Latents amid the steps that count for noise, so that a small change changes no noise."""
    given = torch.randn(count, *(shape or (5,)), generator=torch.Generator().manual_seed(1))
    return (given / noise.LATENT_STEP).round() * noise.LATENT_STEP


def small_generator(**options: Any) -> stylegan2.Generator:
    return drawn(stylegan2.Generator(5, size(**options), w_dim=6, mapping_layers=2))


@pytest.mark.parametrize(("mapping_layers", "parameters"), [(2, 28_794_124), (8, 30_370_060)])
def test_configuration_f_has_the_published_number_of_parameters(mapping_layers: int, parameters: int) -> None:
    """Logs of the authors' PyTorch program print 28,794,124 with two mapping layers, each of which has
    512 x 513, and 29,012,513 for the discriminator."""
    published = NetworkSize(resolution=1024, channels=3, width=32, max_width=512)
    with torch.device("meta"):
        generator = stylegan2.Generator(512, published, mapping_layers=mapping_layers)
        discriminator = stylegan2.Discriminator(published)
    assert sum(p.numel() for p in generator.parameters()) == parameters
    assert sum(p.numel() for p in discriminator.parameters()) == 29_012_513
    assert generator.styles == 18
    assert not dict(generator.named_buffers(remove_duplicate=False)).keys() & generator.state_dict().keys()


def test_equalised_layers_preserve_the_variance_and_have_rates_of_their_own() -> None:
    generator = torch.Generator().manual_seed(5)
    vectors = torch.randn(500, 300, generator=generator)
    for multiplier, bias in ((1.0, 0.0), (0.01, 2.0)):
        linear = drawn(layers.Linear(300, 200, lr_multiplier=multiplier, bias=bias), shaken=0)
        assert linear.weight.std().item() == pytest.approx(1 / multiplier, rel=0.02)
        outputs = linear(vectors)
        assert outputs.mean().item() == pytest.approx(bias, abs=0.1)
        assert outputs.std().item() == pytest.approx(1, rel=0.05)
        # A step of Adam changes each weight by its rate: the output changes by multiplier / sqrt(inputs).
        with torch.no_grad():
            linear.weight.add_(1.0)
            changed = linear(vectors) - outputs
        expected = (multiplier / math.sqrt(300) * vectors.sum(1, keepdim=True)).expand_as(changed)
        torch.testing.assert_close(changed, expected, rtol=1e-3, atol=1e-3)
    conv = drawn(layers.Conv2d(50, 40, 3, bias=False), shaken=0)
    maps = torch.randn(4, 50, 20, 20, generator=generator)
    assert conv(maps)[..., 1:-1, 1:-1].std().item() == pytest.approx(1, rel=0.05)


def upsampled(maps: Tensor) -> Tensor:
    """Maps (C, H, W) with a zero after every number of a row and a column, but the last."""
    wide = maps.new_zeros(maps.shape[0], 2 * maps.shape[1] - 1, 2 * maps.shape[2] - 1)
    wide[:, ::2, ::2] = maps
    return wide


def filtered(maps: Tensor) -> Tensor:
    """Maps (C, H, W) filtered by (1, 3, 3, 1) / 8 in both directions, one channel at a time."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=maps.dtype) / 8
    kernel = torch.outer(row, row)[None, None]
    return torch.cat([F.conv2d(channel[None, None], kernel)[0] for channel in maps])


@pytest.mark.parametrize("up", [False, True])
def test_a_styled_convolution_is_that_of_each_images_own_weights(up: bool) -> None:
    """A slow reference by equations 1 and 3 of the paper: weights for each image."""
    conv = drawn(layers.StyledConv(3, 4, 6, layer=7, up=up)).double()
    generator = torch.Generator().manual_seed(2)
    maps = torch.randn(5, 3, 4, 4, generator=generator, dtype=torch.float64)
    w = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    seeds = noise.seeds(make_latents(5))
    found = conv(maps, w, seeds)
    edge = 8 if up else 4
    numbers = noise.normal(seeds, 7, edge, edge).double()
    for image in range(5):
        style = conv.affine.weight @ w[image] / math.sqrt(6) + conv.affine.bias
        weight = conv.weight / math.sqrt(3 * 9) * style[None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:
            # A transposed convolution: zeros between the pixels, and the kernel turned around.
            wide = F.conv2d(F.pad(upsampled(maps[image]), [2] * 4)[None], weight.flip(2, 3))[0]
            result = 4 * filtered(F.pad(wide, [1] * 4))
        else:
            result = F.conv2d(maps[image][None], weight, padding=1)[0]
        assert conv.strength is not None
        result = result + conv.strength * numbers[image] + conv.bias[:, None, None]
        result = torch.where(result > 0, result, 0.2 * result) * math.sqrt(2)
        torch.testing.assert_close(found[image], result)


def test_the_filter_halves_and_doubles_as_convolutions_in_the_discriminator_do() -> None:
    maps = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    doubled = layers.Filter().up(maps)
    for image, of_image in zip(maps, doubled, strict=True):
        wide = F.pad(upsampled(image), [2, 2, 2, 2])
        torch.testing.assert_close(of_image, 4 * filtered(wide))
    conv = drawn(layers.Conv2d(3, 5, 3, halve=True))
    shortcut = drawn(layers.Conv2d(3, 5, 1, halve=True, bias=False))
    smooth = torch.stack([filtered(F.pad(image, [2] * 4)) for image in maps])
    assert conv.bias is not None
    inner = F.conv2d(smooth, conv.weight / math.sqrt(27), stride=2) + conv.bias[:, None, None]
    torch.testing.assert_close(conv(maps), torch.where(inner > 0, inner, 0.2 * inner) * math.sqrt(2))
    smooth = torch.stack([filtered(F.pad(image, [1] * 4)) for image in maps])[..., ::2, ::2]
    torch.testing.assert_close(shortcut(maps), F.conv2d(smooth, shortcut.weight / math.sqrt(3)))


def test_the_images_are_the_sum_of_the_colours_of_all_resolutions() -> None:
    network = small_generator(resolution=16)
    latents = make_latents(3)
    w, seeds = network.map(latents, None), noise.seeds(latents)
    maps, images = network.start(3), torch.zeros(3, 2, 2, 2)
    inputs = iter(range(network.styles))
    for stage, colours in enumerate(network.colours):
        for conv in (
            network.convolutions[2 * stage - 1 : 2 * stage + 1] if stage else network.convolutions[:1]
        ):
            maps = conv(maps, w[:, next(inputs)], seeds)
        doubled = network.filter.up(images) if stage else 0
        # The colours share w with the next convolution; the last ones have their own.
        images = doubled + colours(maps, w[:, 2 * stage + 1])
    assert next(inputs) == network.styles - 1
    torch.testing.assert_close(network(latents), images)
    assert images.abs().max() > 1  # there is no tanh


def test_latents_for_each_layer_are_the_styles_of_these_layers() -> None:
    network = small_generator()
    latents, others = make_latents(3), make_latents(6)[3:]
    alike = latents[:, None].expand(-1, network.styles, -1)
    torch.testing.assert_close(network(alike), network(latents))
    for crossover in range(1, network.styles + 1):
        mixed = alike.clone()
        mixed[:, crossover:] = others[:, None]
        w = network.map(mixed, None)
        torch.testing.assert_close(w[:, :crossover], network.map(latents, None)[:, :crossover])
        torch.testing.assert_close(w[:, crossover:], network.map(others, None)[:, crossover:])
        apart = (network(mixed) - network(latents)).abs().max()
        assert bool(apart > 1e-3) == (crossover < network.styles)


def test_an_image_does_not_depend_on_the_others() -> None:
    network = small_generator()
    latents = make_latents(8)
    images = network(latents)
    others = make_latents(16)[8:].clone()
    others[3] = latents[3]
    assert torch.equal(network(others)[3], images[3])
    torch.testing.assert_close(network(latents[:3]), images[:3])


def test_the_class_and_z_are_scaled_alike_before_the_mapping_network() -> None:
    network = small_generator(classes=3)
    latents, labels = make_latents(4), torch.tensor([0, 2, 1, 2])
    with torch.no_grad():
        before = network.mapping(latents, labels)
        torch.testing.assert_close(network.mapping(3 * latents, labels), before)
        assert network.mapping.embed is not None
        network.mapping.embed.weight *= 5
        torch.testing.assert_close(network.mapping(latents, labels), before)
    mixed = latents[:, None].expand(-1, network.styles, -1)
    torch.testing.assert_close(network(mixed, labels), network(latents, labels))


def test_the_generator_can_be_differentiated_twice() -> None:
    network = small_generator().double()
    latents = make_latents(2).double().requires_grad_()
    assert gradcheck(network, (latents,))
    direction = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    parameters = dict(network.named_parameters())
    sizes = [parameter.numel() for parameter in parameters.values()]

    def length(weights: Tensor) -> Tensor:
        """A penalty such as that on path lengths, as a function of all weights."""
        parts = zip(parameters.items(), weights.split(sizes), strict=True)
        given = {name: part.view_as(parameter) for (name, parameter), part in parts}
        images = torch.func.functional_call(network, given, (latents,))
        (gradient,) = torch.autograd.grad((images * direction).sum(), latents, create_graph=True)
        return gradient.square().sum()

    weights = nn.utils.parameters_to_vector(parameters.values()).detach().requires_grad_()
    assert gradcheck(length, (weights,), fast_mode=True, rtol=1e-4)
    assert gradgradcheck(network, (latents,), fast_mode=True)


def test_the_discriminator_can_be_differentiated_twice() -> None:
    network = drawn(stylegan2.Discriminator(size(), stddev_group=2)).double()
    images = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    images.requires_grad_()
    assert gradcheck(network, (images,))
    assert gradgradcheck(network, (images,), fast_mode=True)


def test_the_deviation_is_over_groups_of_consecutive_images() -> None:
    maps = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    found = layers.append_deviation(maps, 3)
    assert torch.equal(found[:, :3], maps)
    for group in (slice(0, 3), slice(3, 6)):
        numbers = maps[group].double().numpy().std(0).mean()
        torch.testing.assert_close(found[group, 3], torch.full((3, 4, 4), float(numbers)))
    torch.testing.assert_close(layers.append_deviation(maps[3:], 3), found[3:])
    with pytest.raises(ValueError, match="6 images do not divide into groups of 4"):
        layers.append_deviation(maps, 4)


def test_logits_depend_on_the_group_alone() -> None:
    network = drawn(stylegan2.Discriminator(size(), stddev_group=2))
    images = torch.randn(6, 2, 8, 8, generator=torch.Generator().manual_seed(3))
    logits = network(images)
    torch.testing.assert_close(network(images[2:4]), logits[2:4])
    assert not torch.allclose(network(images[1:3])[0], logits[1], atol=1e-4)
    single = drawn(stylegan2.Discriminator(size(), stddev_group=1))
    torch.testing.assert_close(single(images[1:2]), single(images)[1:2])
