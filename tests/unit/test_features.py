from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import interpolate

from gan_dist.assets.train_lenet import digits, held_out
from gan_dist.errors import CheckpointError, ConfigError, DataError
from gan_dist.metrics.features import LENET_PATH, LENET_SHA256, Digits, load_digits, load_extractor
from gan_dist.metrics.moments import Moments
from gan_dist.metrics.scores import frechet_distance

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def extractor() -> Digits:
    return load_digits(CPU)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return digits()[0]


def resized(images: torch.Tensor, edge: int) -> torch.Tensor:
    """Images uint8 (N, C, edge, edge) as a data set of that resolution holds them."""
    return interpolate(images.float(), (edge, edge), mode="bilinear", antialias=True).round().to(torch.uint8)


def test_interface(extractor: Digits, images: torch.Tensor) -> None:
    loaded = load_extractor("digits", CPU)
    features = loaded(images[:5])
    assert loaded.name == "digits"
    assert loaded.hash == LENET_SHA256 == hashlib.sha256(LENET_PATH.read_bytes()).hexdigest()
    assert features.shape == (5, loaded.dim)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert torch.equal(features, extractor(images[:5]))
    assert extractor.classify(images[:5]).shape == (5, 10)
    with pytest.raises(ConfigError, match=r"eval\.extractor=inception.*use digits"):
        load_extractor("inception", CPU)


def test_weights_are_small_and_say_where_they_come_from() -> None:
    assert LENET_PATH.stat().st_size < 400_000
    with safe_open(LENET_PATH, "pt") as file:
        about = json.loads(file.metadata()["about"])
    assert "UCI" in about["source"]
    assert about["licence_of_data"] == "CC BY 4.0"
    assert about["held_out_accuracy"] >= 0.97


@pytest.mark.parametrize("position", [0, 100, 100_000, -1])
def test_a_flipped_byte_is_refused(tmp_path: Path, position: int) -> None:
    content = bytearray(LENET_PATH.read_bytes())
    content[position] ^= 1
    path = tmp_path / "lenet.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"(?s)SHA-256.*{LENET_SHA256}.*install gan-dist again"):
        load_digits(CPU, path)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read .*absent"):
        load_digits(CPU, tmp_path / "absent")


@pytest.mark.parametrize("edge", [8, 16, 64])
def test_accuracy_on_digits_that_training_never_saw(extractor: Digits, edge: int) -> None:
    """The 360 digits of scikit-learn's copy whose index divides by 5 are held out."""
    images, labels = digits()
    test = held_out(len(images))
    assert int(test.sum()) == 360
    predicted = extractor.classify(resized(images[test], edge)).argmax(dim=1)
    assert (predicted == labels[test]).double().mean().item() >= 0.97


def test_features_do_not_depend_on_the_batch(extractor: Digits, images: torch.Tensor) -> None:
    whole = extractor(images[:200])
    for size in (1, 7, 64):
        parts = torch.cat([extractor(batch) for batch in torch.split(images[:200], size)])
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_three_channels_are_averaged_to_grey(extractor: Digits, images: torch.Tensor) -> None:
    grey = images[:9]
    torch.testing.assert_close(extractor(grey.expand(-1, 3, -1, -1)), extractor(grey), rtol=1e-5, atol=1e-5)
    stacked = images[:9].view(3, 3, 8, 8)
    mean = stacked.float().mean(1, keepdim=True).round().to(torch.uint8)
    torch.testing.assert_close(extractor(stacked), extractor(mean), rtol=0.05, atol=0.05)
    each = extractor.classify(stacked.reshape(9, 1, 8, 8))
    torch.testing.assert_close(each, extractor.classify(grey))


def test_detail_beyond_the_networks_resolution_is_averaged(extractor: Digits) -> None:
    """Resizing without antialiasing would see black or white stripes where there is grey."""
    stripes = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    stripes[..., 0::4] = stripes[..., 3::4] = 254
    features = extractor(stripes)
    grey = extractor(torch.full((1, 1, 64, 64), 127, dtype=torch.uint8))
    black = extractor(torch.zeros(1, 1, 64, 64, dtype=torch.uint8))
    assert (features - grey).norm() < 0.05 * (black - grey).norm()


def test_other_images_are_refused(extractor: Digits) -> None:
    with pytest.raises(DataError, match=r"not \(2, 4, 8, 8\)"):
        extractor(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"torch\.float32"):
        extractor(torch.zeros(2, 1, 8, 8))


def test_distance_of_two_fixed_halves_is_golden(extractor: Digits, images: torch.Tensor) -> None:
    """Even against odd indices; changes only with the weights, the resizing or the formula."""
    features = extractor(images)
    distance = frechet_distance(Moments.of(features[0::2]), Moments.of(features[1::2]))
    assert distance == pytest.approx(3.6006, rel=1e-3)


def test_distance_grows_with_the_damage(extractor: Digits, images: torch.Tensor) -> None:
    real = Moments.of(extractor(images))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)
    distances = [0.0]
    for deviation in (8, 16, 32, 64, 128):
        noisy = (images + deviation * noise).clamp(0, 255).round().to(torch.uint8)
        distances.append(frechet_distance(real, Moments.of(extractor(noisy))))
    assert distances == sorted(distances)
    uniform = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=generator)
    assert frechet_distance(real, Moments.of(extractor(uniform))) > distances[-1]
    labels = digits()[1]
    missing = [frechet_distance(real, Moments.of(extractor(images[labels < kept]))) for kept in (9, 5, 1)]
    assert missing == sorted(missing)
