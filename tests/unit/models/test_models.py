from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from gan_dist import models
from gan_dist.config import ModelConfig
from gan_dist.core.errors import ConfigError
from gan_dist.models import dcgan
from gan_dist.models.generator import ImageShape

# Radford et al. 2016, figure 1, as PyTorch's DCGAN tutorial has it: weights (in, out, 4, 4) of the transposed
# convolutions, (out, in, 4, 4) of the convolutions, and batch norm's gamma and beta between.
GENERATOR_SHAPES = [
    *[(100, 512, 4, 4), (512,), (512,)],
    *[(512, 256, 4, 4), (256,), (256,)],
    *[(256, 128, 4, 4), (128,), (128,)],
    *[(128, 64, 4, 4), (64,), (64,)],
    (64, 3, 4, 4),
]
DISCRIMINATOR_SHAPES = [
    (64, 3, 4, 4),
    *[(128, 64, 4, 4), (128,), (128,)],
    *[(256, 128, 4, 4), (256,), (256,)],
    *[(512, 256, 4, 4), (512,), (512,)],
    (1, 512, 4, 4),
]


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture(scope="module")
def article() -> tuple[dcgan.Generator, dcgan.Discriminator]:
    generator, discriminator = models.build(ModelConfig(), ImageShape(64, 3))
    assert isinstance(generator, dcgan.Generator)
    assert isinstance(discriminator, dcgan.Discriminator)
    return generator, discriminator


def test_parameters_are_the_articles(article: tuple[dcgan.Generator, dcgan.Discriminator]) -> None:
    generator, discriminator = article
    assert [tuple(parameter.shape) for parameter in generator.parameters()] == GENERATOR_SHAPES
    assert [tuple(parameter.shape) for parameter in discriminator.parameters()] == DISCRIMINATOR_SHAPES
    assert parameters(generator) == 3_576_704
    assert parameters(discriminator) == 2_765_568


def kind(layer: nn.Module) -> str:
    """Return torch's name of a layer, whoever has refined it."""
    return next(one.__name__ for one in type(layer).__mro__ if one.__module__.startswith("torch."))


def test_layers_are_the_articles(article: tuple[dcgan.Generator, dcgan.Discriminator]) -> None:
    generator, discriminator = article
    stage = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    kinds = [kind(layer) for layer in generator.layers]
    assert kinds == [*4 * stage, "ConvTranspose2d"]
    stage = ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    expected = ["Conv2d", "LeakyReLU", *3 * stage, "Conv2d"]
    assert [kind(layer) for layer in discriminator.layers] == expected
    slopes = {layer.negative_slope for layer in discriminator.layers if isinstance(layer, nn.LeakyReLU)}
    assert slopes == {0.2}
    latents = torch.randn(2, 100)
    assert torch.equal(generator(latents), generator.layers(latents[:, :, None, None]).tanh())


def test_feature_maps_are_the_articles(article: tuple[dcgan.Generator, dcgan.Discriminator]) -> None:
    generator, discriminator = article
    shapes: list[tuple[int, ...]] = []

    def record(module: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        del module, args
        shapes.append(tuple(output.shape[1:]))

    hooks = [
        layer.register_forward_hook(record)
        for network in article
        for layer in network.layers
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
    ]
    with torch.no_grad():
        discriminator(generator(torch.randn(2, 100)))
    for hook in hooks:
        hook.remove()
    assert shapes[:5] == [(512, 4, 4), (256, 8, 8), (128, 16, 16), (64, 32, 32), (3, 64, 64)]
    assert shapes[5:] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (1, 1, 1)]


@pytest.mark.parametrize("resolution", [8, 16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_resolution_and_channel_count(resolution: int, channels: int) -> None:
    generator, discriminator = models.build(
        ModelConfig(latent_dim=7, width=2), ImageShape(resolution, channels)
    )
    models.initialise(generator, torch.Generator().manual_seed(0))
    images = generator(torch.randn(3, 7))
    assert images.shape == (3, channels, resolution, resolution)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)
    first, *_, last = discriminator.parameters()
    assert first.shape == (2, channels, 4, 4)
    assert last.shape == (1, 2 * resolution // 8, 4, 4)  # doubled at every halving down to 4x4


def test_max_width_is_never_exceeded() -> None:
    config = ModelConfig(latent_dim=5, width=4, max_width=12)
    generator, discriminator = models.build(config, ImageShape(64, 3))
    made = [tuple(parameter.shape[:2]) for parameter in generator.parameters() if parameter.ndim == 4]
    judged = [tuple(parameter.shape[:2]) for parameter in discriminator.parameters() if parameter.ndim == 4]
    assert made == [(5, 12), (12, 12), (12, 8), (8, 4), (4, 3)]
    assert judged == [(4, 3), (8, 4), (12, 8), (12, 12), (1, 12)]


def test_initial_weights_have_the_articles_distribution(
    article: tuple[dcgan.Generator, dcgan.Discriminator],
) -> None:
    networks: tuple[models.Generator | models.Discriminator, ...] = article
    for seed, network in enumerate(networks):
        models.initialise(network, torch.Generator().manual_seed(seed))
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                mean, count = 0.0, layer.weight.numel()
                assert layer.bias is None
            elif isinstance(layer, nn.BatchNorm2d):
                mean, count = 1.0, layer.weight.numel()
                assert (layer.bias == 0).all()
            else:
                continue
            # Five standard errors of a mean and of a standard deviation.
            assert layer.weight.mean().item() == pytest.approx(mean, abs=5 * 0.02 / count**0.5)
            assert layer.weight.std().item() == pytest.approx(0.02, abs=5 * 0.02 / (2 * count) ** 0.5)


def test_initial_weights_are_these_numbers_in_this_order() -> None:
    """Releases before the other architectures drew them so."""
    for network in models.build(ModelConfig(latent_dim=6, width=4), ImageShape(16, 3)):
        models.initialise(network, torch.Generator().manual_seed(5))
        numbers = torch.Generator().manual_seed(5)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                assert (parameter == 0).all()
            else:
                mean = 0.0 if parameter.ndim == 4 else 1.0
                expected = torch.normal(mean, 0.02, parameter.shape, generator=numbers)
                assert torch.equal(parameter, expected), name


@pytest.mark.parametrize("name", ["dcgan", "resnet", "r3gan"])
@pytest.mark.parametrize(
    ("resolution", "remedy"),
    [
        (50, "50 is no multiple of 8; use 48 or 56"),
        (65, "65 is no multiple of 16; use 64 or 80"),
        (4, "the longer one has 8 at least; use 8"),
        (1, "the longer one has 8 at least; use 8"),
        ("640x480", "480 is no multiple of 128; use 640x512 or 512x384"),
        ("30x2", "2 is no multiple of 4; use 14x2"),
    ],
)
def test_impossible_resolution_names_the_possible_ones(name: Any, resolution: int | str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        models.build(ModelConfig(name=name), ImageShape(resolution, 3))
    assert tuple(map(str, caught.value.problems)) == (
        f"data.resolution={resolution}: model.name={name} doubles both edges of maps, whose longer edge has "
        f"4 to 7 pixels, and {remedy}",
    )


@pytest.mark.parametrize(
    ("options", "resolution", "problem"),
    [
        (
            {"conditional": True},
            32,
            "model.conditional=true needs a labelled set, and data.path has no labels; use "
            "model.conditional=false, or pack the set with labels",
        ),
        (
            {"attention": True},
            32,
            "model.attention=true: model.name=dcgan has no self-attention; use model.name=resnet, or false",
        ),
        (
            {"name": "resnet", "attention": True},
            8,
            "model.attention=true: at data.resolution=8 there are no feature maps of a quarter of it; use "
            "data.resolution=16, or model.attention=false",
        ),
        (
            {"name": "resnet", "blocks": 2},
            32,
            "model.blocks=2: model.name=resnet has one at every resolution; use model.name=r3gan, or 1",
        ),
        (
            {"name": "dcgan", "stddev_group": 4},
            32,
            "model.stddev_group=4: model.name=dcgan has no minibatch standard deviation; use "
            "model.name=stylegan2, or 1",
        ),
        (
            {"name": "r3gan", "spectral_norm": True},
            32,
            "model.spectral_norm=true: model.name=r3gan has no spectral normalisation; use model.name=dcgan "
            "or model.name=resnet or model.name=fastgan, or false",
        ),
    ],
)
def test_impossible_options_name_the_remedy(options: Any, resolution: int, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        models.build(ModelConfig(**options), ImageShape(resolution, 3))
    assert tuple(map(str, caught.value.problems)) == (problem,)


def test_all_problems_are_told_at_once() -> None:
    config = ModelConfig(conditional=True, attention=True, blocks=3)
    with pytest.raises(ConfigError) as caught:
        models.build(config, ImageShape(50, 3))
    assert [str(problem).split("=")[0] for problem in caught.value.problems] == [
        "data.resolution",
        "model.conditional",
        "model.attention",
        "model.blocks",
    ]


def test_layers_outside_the_recipe_are_refused() -> None:
    generator, _ = models.build(ModelConfig(width=2), ImageShape(8, 1))
    generator.extra = nn.LayerNorm(2)
    with pytest.raises(TypeError, match="LayerNorm"):
        models.initialise(generator, torch.Generator())
