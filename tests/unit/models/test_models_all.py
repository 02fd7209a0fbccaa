"""What holds for every architecture."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from gan_dist import models
from gan_dist.config import ModelConfig
from gan_dist.models import Discriminator, Generator
from gan_dist.models.base import ProjectionDiscriminator
from gan_dist.models.generator import ImageShape
from gan_dist.models.release import to_safetensors

CLASSES = 3
VARIANTS: dict[str, dict[str, Any]] = {
    "dcgan": {"name": "dcgan"},
    "dcgan-sn": {"name": "dcgan", "spectral_norm": True},
    "resnet": {"name": "resnet"},
    "resnet-attention": {"name": "resnet", "attention": True},
    "resnet-plain": {"name": "resnet", "spectral_norm": False, "attention": True},
    "r3gan": {"name": "r3gan", "blocks": 2},
    "r3gan-tanh": {"name": "r3gan", "blocks": 2, "variant": "tanh"},
    "stylegan2": {"name": "stylegan2", "stddev_group": 1, "settings": {"w_dim": 8, "mapping_layers": 2}},
    "fastgan": {"name": "fastgan", "settings": {"reconstruction": 0}},  # decoders: test_models_fastgan.py
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)
every_conditioning = pytest.mark.parametrize("conditional", [False, True])


def networks(
    variant: str, *, resolution: int = 16, conditional: bool = False, packed: int = 1, seed: int | None = 0
) -> tuple[Generator, Discriminator]:
    config = ModelConfig(
        latent_dim=6, width=4, max_width=8, conditional=conditional, pack=packed, **VARIANTS[variant]
    )
    pair = models.build(config, ImageShape(resolution, 2, CLASSES))
    if seed is not None:
        for network in pair:
            models.initialise(network, torch.Generator().manual_seed(seed))
    return pair


def shaken(network: nn.Module) -> nn.Module:
    """`network` without weights that are exactly 0, where branches would not be reached."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    models.update_spectral_norms(network)
    return network


def inputs(batch: int, resolution: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(batch, 6, generator=generator)
    images = torch.rand(batch, 2, resolution, resolution, generator=generator) * 2 - 1
    return latents, images, torch.arange(batch) % CLASSES


@pytest.mark.parametrize("variant", ["dcgan", "resnet", "r3gan", "fastgan"])
@pytest.mark.parametrize("resolution", [8, 16, 32, 64])
@every_conditioning
@pytest.mark.parametrize("packed", [1, 2])
def test_shapes_types_and_ranges(variant: str, resolution: int, conditional: bool, packed: int) -> None:
    generator, discriminator = networks(
        variant, resolution=resolution, conditional=conditional, packed=packed
    )
    latents, _, labels = inputs(4)
    images = generator(latents, labels if conditional else None)
    assert images.shape == (4, 2, resolution, resolution)
    assert images.dtype == torch.float32
    assert (images.abs().max() <= 1) or not generator.tanh
    logits = discriminator(images, labels if conditional else None)
    assert logits.shape == (4 // packed,)
    assert logits.dtype == torch.float32
    classes = CLASSES if conditional else 0
    assert (generator.latent_dim, generator.resolution, generator.channels) == (6, resolution, 2)
    assert (discriminator.resolution, discriminator.channels, discriminator.pack) == (resolution, 2, packed)
    assert generator.classes == discriminator.classes == classes


@pytest.mark.parametrize("name", models.ARCHITECTURES)
@pytest.mark.parametrize("resolution", ["16x8", "8x12", "6x14", "10x10"])
def test_images_need_not_be_square(name: Any, resolution: str) -> None:
    shape = ImageShape(resolution, 4, CLASSES)
    model = ModelConfig(name=name, latent_dim=6, width=4, max_width=8, conditional=True, pack=2)
    generator, discriminator = models.build_initial(model, shape, seed=0)
    latents, _, labels = inputs(8)
    images = generator(latents, labels)
    assert images.shape == (8, 4, *shape.size)
    assert discriminator(images, labels).shape == (4,)


@every_variant
@every_conditioning
def test_every_parameter_has_a_gradient(variant: str, conditional: bool) -> None:
    generator, discriminator = networks(variant, conditional=conditional)
    latents, _, labels = inputs(6)
    shaken(discriminator)(shaken(generator)(latents, labels), labels).sum().backward()
    for network in (generator, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name


@every_variant
@every_conditioning
def test_a_penalty_on_the_gradient_reaches_every_weight(variant: str, conditional: bool) -> None:
    _, discriminator = networks(variant, conditional=conditional)
    _, images, labels = inputs(6)
    images.requires_grad_()
    logits = shaken(discriminator)(images, labels)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    gradient.square().sum().backward()
    for name, parameter in discriminator.named_parameters():
        if parameter.ndim > 1:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


@every_variant
@pytest.mark.parametrize("packed", [1, 2])
def test_a_penaltys_gradient_is_that_of_finite_differences(variant: str, packed: int) -> None:
    _, discriminator = networks(variant, conditional=True, packed=packed)
    shaken(discriminator).double().eval()
    _, images, labels = inputs(4)
    images = images.double().requires_grad_()
    parameters = list(discriminator.parameters())
    generator = torch.Generator().manual_seed(3)
    direction = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]

    def penalty() -> Tensor:
        logits = discriminator(images, labels)
        (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        return gradient.square().sum()

    def moved(step: float) -> float:
        with torch.no_grad():
            for parameter, along in zip(parameters, direction, strict=True):
                parameter.add_(along, alpha=step)
        return penalty().item()

    penalty().backward()
    slope = sum(
        (p.grad * d).sum().item() for p, d in zip(parameters, direction, strict=True) if p.grad is not None
    )
    step = 1e-7
    ahead, behind = moved(step), moved(-2 * step)
    assert slope == pytest.approx((ahead - behind) / (2 * step), rel=1e-5)


@every_variant
def test_labels_matter_to_conditional_networks_alone(variant: str) -> None:
    latents, images, labels = inputs(6)
    for network, given in zip(networks(variant, conditional=True), (latents, images), strict=True):
        shaken(network).eval()
        first, second = network(given, labels), network(given, (labels + 1) % CLASSES)
        assert ((first - second).flatten(1 if first.ndim > 1 else 0).abs() > 1e-5).any()
        with pytest.raises(ValueError, match="needs labels"):
            network(given)
    for network, given in zip(networks(variant), (latents, images), strict=True):
        network.eval()
        assert torch.equal(network(given), network(given, labels))


@every_variant
@every_conditioning
def test_initial_weights_are_a_function_of_the_seed(variant: str, conditional: bool) -> None:
    def states(seed: int, *, used: bool = False, channels_last: bool = False) -> dict[str, Tensor]:
        torch.manual_seed(seed + 1000 * used)
        pair = networks(variant, conditional=conditional, seed=None)
        latents, _, labels = inputs(3)
        if used:
            pair[1](pair[0](latents, labels), labels)  # moves statistics and singular vectors
        for network in pair:
            if channels_last:
                network.to(memory_format=torch.channels_last)
            models.initialise(network, torch.Generator().manual_seed(seed))
        return {f"{side}.{k}": v for side, n in enumerate(pair) for k, v in n.state_dict().items()}

    first = states(0)
    for other in (states(0, used=True), states(0, channels_last=True)):
        assert all(torch.equal(value, other[name]) for name, value in first.items())
    different = states(1)
    drawn = [name for name, value in first.items() if value.numel() > 1 and value.float().std() > 0]
    assert len(drawn) > 8
    assert not any(torch.equal(first[name], different[name]) for name in drawn)


@every_variant
@every_conditioning
def test_memory_format_does_not_change_results(variant: str, conditional: bool) -> None:
    generator, discriminator = networks(variant, conditional=conditional, packed=2)
    latents, images, labels = inputs(4)
    generator.eval()
    discriminator.eval()
    made, logits = generator(latents, labels), discriminator(images, labels)
    for network in (generator, discriminator):
        network.to(memory_format=torch.channels_last)
    again = discriminator(images.to(memory_format=torch.channels_last), labels)
    torch.testing.assert_close(generator(latents, labels), made, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-5)


@every_variant
@every_conditioning
def test_mixed_precision_gives_float32_near_the_full_ones(variant: str, conditional: bool) -> None:
    generator, discriminator = networks(variant, conditional=conditional)
    generator.eval()
    discriminator.eval()
    latents, images, labels = inputs(4)
    made, logits = generator(latents, labels), discriminator(images, labels)
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_logits = generator(latents, labels), discriminator(images, labels)
    assert rough.dtype == rough_logits.dtype == torch.float32
    assert not torch.equal(rough, made)
    torch.testing.assert_close(rough, made, rtol=0, atol=0.05 * max(1, made.abs().max().item()))
    torch.testing.assert_close(rough_logits, logits, rtol=0.05, atol=0.05 * logits.abs().max().item())
    # Eight bits would leave the last layers' results multiples of a 256th of their size.
    assert not torch.equal(rough_logits, rough_logits.bfloat16().float())


@every_variant
def test_states_go_through_safetensors(variant: str) -> None:
    for network, other in zip(
        networks(variant, conditional=True), networks(variant, conditional=True, seed=1), strict=True
    ):
        shaken(network)
        other.load_state_dict(load_tensors(to_safetensors(network.state_dict())))
        assert all(torch.equal(a, b) for a, b in zip(network.buffers(), other.buffers(), strict=True))
        latents, images, labels = inputs(4)
        given = latents if isinstance(network, Generator) else images
        assert torch.equal(network.eval()(given, labels), other.eval()(given, labels))


@every_variant
def test_networks_can_be_sized_without_memory(variant: str) -> None:
    with torch.device("meta"):
        sized = networks(variant, conditional=True, seed=None)
    for network, real in zip(sized, networks(variant, conditional=True), strict=True):
        assert [p.shape for p in network.parameters()] == [p.shape for p in real.parameters()]


@every_variant
def test_coupled_is_whether_images_influence_one_another(variant: str) -> None:
    latents, images, labels = inputs(4)
    for network, given in zip(networks(variant, conditional=True), (latents, images), strict=True):
        shaken(network).eval()
        assert not models.uses_batch_statistics(network)
        torch.testing.assert_close(network(given, labels)[:2], network(given[:2], labels[:2]))
        network.train()
        apart = (network(given, labels)[:2] - network(given[:2], labels[:2])).abs().max()
        assert models.uses_batch_statistics(network) == (apart > 1e-3)
    expected = {
        "dcgan": (True, True),
        "resnet": (True, False),
        "r3gan": (False, False),
        "stylegan2": (False, False),
        "fastgan": (True, True),
    }
    pair = networks(variant)
    assert tuple(map(models.uses_batch_statistics, pair)) == expected[variant.split("-")[0]]


@every_variant
def test_packs_are_consecutive_images_side_by_side(variant: str) -> None:
    _, discriminator = networks(variant, conditional=True, packed=3)
    shaken(discriminator).eval()
    _, images, labels = inputs(6)
    assert isinstance(discriminator, ProjectionDiscriminator)
    logits = discriminator(images, labels)
    side_by_side = torch.stack([torch.cat([*images[:3]]), torch.cat([*images[3:]])])
    with torch.no_grad():
        plain, features = discriminator.logits_and_features(discriminator.feature_maps(side_by_side))
        assert discriminator.embed is not None
        table = discriminator.embed.weight
        embedded = torch.stack([table[labels[:3]].sum(0), table[labels[3:]].sum(0)])
        torch.testing.assert_close(logits.detach(), plain + (embedded * features).sum(1))
    with pytest.raises(ValueError, match="4 images cannot be judged in packs of 3"):
        discriminator(images[:4], labels[:4])


def test_batch_norm_can_be_synchronised_and_then_initialised() -> None:
    for variant in ("dcgan", "resnet"):
        for conditional in (False, True):
            generator, _ = networks(variant, conditional=conditional)
            expected = generator.state_dict()
            converted = nn.SyncBatchNorm.convert_sync_batchnorm(generator)
            assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
            models.initialise(converted, torch.Generator().manual_seed(0))
            found = converted.state_dict()
            assert all(torch.equal(value, found[name]) for name, value in expected.items())
