from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch.nn.functional import interpolate

from gan_dist.core.errors import CheckpointError, ConfigError, DataError, NonFiniteError
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.extractors.digits import LENET_PATH, LENET_SHA256, Digits, load_digits
from gan_dist.evaluation.extractors.features import exact, require_finite
from gan_dist.evaluation.metrics.distances import frechet_distance
from gan_dist.evaluation.metrics.moments import Moments
from tools.train_lenet import digits, held_out

pytestmark = pytest.mark.usefixtures("no_network")

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
    features, logits = loaded(images[:5])
    assert (loaded.name, loaded.metric, loaded.classes) == ("digits", "fd_digits", 10)
    assert loaded.hash == LENET_SHA256 == hashlib.sha256(LENET_PATH.read_bytes()).hexdigest()
    assert features.shape == (5, loaded.dim)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert torch.equal(features, extractor(images[:5]).features)
    assert logits is not None
    assert logits.shape == (5, 10)
    assert torch.equal(logits, extractor.classify(images[:5]))


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
    whole = extractor(images[:200]).features
    for size in (1, 7, 64):
        parts = torch.cat([extractor(batch).features for batch in torch.split(images[:200], size)])
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_three_channels_are_averaged_to_grey(extractor: Digits, images: torch.Tensor) -> None:
    grey = images[:9]
    repeated = grey.expand(-1, 3, -1, -1)
    torch.testing.assert_close(extractor(repeated), extractor(grey), rtol=1e-5, atol=1e-5)
    stacked = images[:9].view(3, 3, 8, 8)
    mean = stacked.float().mean(1, keepdim=True).round().to(torch.uint8)
    torch.testing.assert_close(extractor(stacked).features, extractor(mean).features, rtol=0.05, atol=0.05)
    each = extractor.classify(stacked.reshape(9, 1, 8, 8))
    torch.testing.assert_close(each, extractor.classify(grey))


def test_detail_beyond_the_networks_resolution_is_averaged(extractor: Digits) -> None:
    """Resizing without antialiasing would see black or white stripes where there is grey."""
    stripes = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    stripes[..., 0::4] = stripes[..., 3::4] = 254
    features = extractor(stripes).features
    grey = extractor(torch.full((1, 1, 64, 64), 127, dtype=torch.uint8)).features
    black = extractor(torch.zeros(1, 1, 64, 64, dtype=torch.uint8)).features
    assert (features - grey).norm() < 0.05 * (black - grey).norm()


def test_other_images_are_refused(extractor: Digits) -> None:
    with pytest.raises(DataError, match=r"not \(2, 4, 8, 8\)"):
        extractor(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"torch\.float32"):
        extractor(torch.zeros(2, 1, 8, 8))


def test_distance_of_two_fixed_halves_is_golden(extractor: Digits, images: torch.Tensor) -> None:
    """Even against odd indices; changes only with the weights, the resizing or the formula."""
    features = extractor(images).features
    distance = frechet_distance(Moments.of(features[0::2]), Moments.of(features[1::2]))
    assert distance == pytest.approx(3.6006, rel=1e-3)


def test_distance_grows_with_the_damage(extractor: Digits, images: torch.Tensor) -> None:
    def moments(of: torch.Tensor) -> Moments:
        return Moments.of(extractor(of).features)

    real = moments(images)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images.shape, generator=generator)
    distances = [0.0]
    for deviation in (8, 16, 32, 64, 128):
        noisy = (images + deviation * noise).clamp(0, 255).round().to(torch.uint8)
        distances.append(frechet_distance(real, moments(noisy)))
    assert distances == sorted(distances)
    uniform = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=generator)
    assert frechet_distance(real, moments(uniform)) > distances[-1]
    labels = digits()[1]
    missing = [frechet_distance(real, moments(images[labels < kept])) for kept in (9, 5, 1)]
    assert missing == sorted(missing)


@pytest.mark.parametrize(
    ("name", "nearest"), [("inceptoin", "inception"), ("Digits", "digits"), ("fid", None), ("", None)]
)
def test_a_name_that_is_none_is_refused(name: str, nearest: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        load_extractor(name, CPU)
    problem = (
        f"eval.extractor={name}: there is no such extractor; use digits, inception, random, or a class of "
        "your own as package.module:Class"
    )
    assert str(caught.value) == problem + (f"; the nearest is {nearest}" if nearest else "")


def test_features_that_are_no_numbers_name_their_images() -> None:
    features = torch.zeros(256, 4)
    require_finite(features, "generated images 512 to 767")
    features[3, 1] = features[3, 2] = torch.inf
    with pytest.raises(NonFiniteError, match="of real images 0 to 255 hold infinity, in 1 of 256 images"):
        require_finite(features, "real images 0 to 255")
    features[200, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="generated images 512 to 767 hold NaN, in 2 of 256 images"):
        require_finite(features, "generated images 512 to 767")
    require_finite(torch.zeros(0, 4), "no images")


@pytest.mark.parametrize("name", ["digits", "random"])
def test_features_are_exact_whatever_training_allows(name: str, images: torch.Tensor) -> None:
    loaded = load_extractor(name, CPU)
    expected = loaded(images[:8])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loaded(images[:8])
    assert torch.equal(found.features, expected.features)


def test_exactness_ends_with_its_block() -> None:
    def settings() -> tuple[object, ...]:
        cudnn = torch.backends.cudnn
        return (
            torch.get_float32_matmul_precision(),
            cudnn.allow_tf32,
            cudnn.deterministic,
            cudnn.benchmark,
            torch.is_autocast_enabled("cpu"),
            torch.is_grad_enabled(),
        )

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        outside = settings()
        with exact(CPU):
            assert settings() == ("highest", False, True, False, False, False)
        assert settings() == outside
        assert outside[0] == "high"
    finally:
        torch.set_float32_matmul_precision(before)
