from __future__ import annotations

import pytest
import torch
from torch import nn

from gan_dist.config import ModelConfig
from gan_dist.errors import ConfigError
from gan_dist.models import Discriminator, Generator, build, initialise

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
def article() -> tuple[Generator, Discriminator]:
    return build(ModelConfig(), resolution=64, channels=3)


def test_parameters_are_the_articles(article: tuple[Generator, Discriminator]) -> None:
    generator, discriminator = article
    assert [tuple(parameter.shape) for parameter in generator.parameters()] == GENERATOR_SHAPES
    assert [tuple(parameter.shape) for parameter in discriminator.parameters()] == DISCRIMINATOR_SHAPES
    assert parameters(generator) == 3_576_704
    assert parameters(discriminator) == 2_765_568


def test_layers_are_the_articles(article: tuple[Generator, Discriminator]) -> None:
    generator, discriminator = article
    stage = ["ConvTranspose2d", "BatchNorm2d", "ReLU"]
    assert [type(layer).__name__ for layer in generator.layers] == [*4 * stage, "ConvTranspose2d", "Tanh"]
    stage = ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    expected = ["Conv2d", "LeakyReLU", *3 * stage, "Conv2d"]
    assert [type(layer).__name__ for layer in discriminator.layers] == expected
    assert {layer.negative_slope for layer in discriminator.layers if isinstance(layer, nn.LeakyReLU)} == {
        0.2
    }


def test_feature_maps_are_the_articles(article: tuple[Generator, Discriminator]) -> None:
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


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_resolution_and_channel_count(resolution: int, channels: int) -> None:
    generator, discriminator = build(
        ModelConfig(latent_dim=7, width=2), resolution=resolution, channels=channels
    )
    initialise(generator, torch.Generator().manual_seed(0))
    images = generator(torch.randn(3, 7))
    assert images.shape == (3, channels, resolution, resolution)
    assert images.dtype == torch.float32
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)
    first, *_, last = discriminator.parameters()
    assert first.shape == (2, channels, 4, 4)
    assert last.shape == (1, 2 * resolution // 8, 4, 4)  # doubled at every halving down to 4x4


@pytest.mark.parametrize(
    ("resolution", "remedy"),
    [(48, "use 32 or 64"), (65, "use 64 or 128"), (8, "use 16"), (1, "use 16"), (17, "use 16 or 32")],
)
def test_impossible_resolution_names_the_possible_ones(resolution: int, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(ModelConfig(), resolution=resolution, channels=3)
    (problem,) = caught.value.problems
    assert problem.startswith(f"data.resolution={resolution}: model.name=dcgan ")
    assert problem.endswith(remedy)


def test_initial_weights_have_the_articles_distribution(article: tuple[Generator, Discriminator]) -> None:
    for seed, network in enumerate(article):
        initialise(network, torch.Generator().manual_seed(seed))
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


def test_initial_weights_are_a_function_of_the_seed() -> None:
    def state(seed: int, *, used: bool = False, channels_last: bool = False) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed + 1000 * used)
        network, _ = build(ModelConfig(latent_dim=8, width=4), resolution=32, channels=3)
        if used:
            network(torch.randn(4, 8))  # moves the running statistics
        if channels_last:
            network = network.to(memory_format=torch.channels_last)
        initialise(network, torch.Generator().manual_seed(seed))
        return network.state_dict()

    first = state(0)
    for other in (state(0, used=True), state(0, channels_last=True)):
        assert all(torch.equal(value, other[name]) for name, value in first.items())
    different = state(1)
    assert not any(torch.equal(first[name], different[name]) for name in first if name.endswith("0.weight"))


def test_layers_outside_the_recipe_are_refused() -> None:
    with pytest.raises(TypeError, match="Linear"):
        initialise(nn.Sequential(nn.Linear(2, 2)), torch.Generator())
