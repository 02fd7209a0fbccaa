"""Features of a network that was never trained: always the same, and good enough to tell images apart."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from gan_dist.core.errors import DataError
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.extractors.random_features import RandomFeatures
from gan_dist.evaluation.metrics.distances import frechet_distance
from gan_dist.evaluation.metrics.moments import Moments
from tools.train_lenet import digits

pytestmark = pytest.mark.usefixtures("no_network")

CPU = torch.device("cpu")
HASH = "6ac5b6103c17f5009f877ffeed60da01db319db2eb6811919c0b93609a9bc99d"
"""Of the weights. Another one makes all `fd_random` of before incomparable."""


@pytest.fixture(scope="module")
def extractor() -> RandomFeatures:
    return RandomFeatures(CPU)


def test_interface(extractor: RandomFeatures) -> None:
    loaded = load_extractor("random", CPU)
    assert (loaded.name, loaded.metric, loaded.dim, loaded.classes) == ("random", "fd_random", 512, 0)
    assert loaded.resize == "bilinear-antialias 64"
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    features, logits = loaded(images)
    assert logits is None
    assert (features.shape, features.dtype) == ((3, 512), torch.float32)
    assert torch.equal(features, extractor(images).features)


def test_weights_are_golden(extractor: RandomFeatures) -> None:
    state = torch.get_rng_state()
    assert extractor.hash == RandomFeatures(CPU).hash == HASH
    assert torch.equal(torch.get_rng_state(), state)


def test_weights_are_the_same_on_a_cpu_without_vector_instructions() -> None:
    code = "import torch; from gan_dist.evaluation.extractors.random_features import *; "
    code += "print(torch.backends.cpu.get_cpu_capability(), RandomFeatures(torch.device('cpu')).hash)"
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": "default"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["DEFAULT", HASH]


def test_features_are_golden(extractor: RandomFeatures) -> None:
    images = (torch.arange(2 * 16 * 16) % 251).to(torch.uint8).view(2, 1, 16, 16)
    features = extractor(images).features[:, [0, 40, 100, 200, 511]]
    golden = [
        [0.05384250, 0.04828352, 0.37509999, 0.69167870, 0.0],
        [0.06841195, 0.05192946, 0.34845492, 0.66535145, 0.00120432],
    ]
    torch.testing.assert_close(features, torch.tensor(golden), rtol=1e-4, atol=1e-6)


def test_grey_is_colour_with_equal_channels(extractor: RandomFeatures) -> None:
    grey = digits()[0][:9]
    assert torch.equal(extractor(grey).features, extractor(grey.expand(-1, 3, -1, -1)).features)


def test_features_do_not_depend_on_the_batch(extractor: RandomFeatures) -> None:
    images = digits()[0][:50]
    parts = torch.cat([extractor(part).features for part in images.split(7)])
    torch.testing.assert_close(parts, extractor(images).features, rtol=1e-5, atol=1e-5)
    assert extractor(images[:0]).features.shape == (0, 512)


def test_noise_is_far_from_digits(extractor: RandomFeatures) -> None:
    """And so are digits of which some are missing, though not as far."""
    images, labels = digits()
    real, other, labels = images[0::2], images[1::2], labels[1::2]
    noise = torch.randint(0, 256, other.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    reference = Moments.of(extractor(real).features)

    def distance(of: torch.Tensor) -> float:
        return frechet_distance(Moments.of(extractor(of).features), reference)

    floor = distance(other)
    half, one = distance(other[labels < 5]), distance(other[labels < 1])
    assert 0 < floor < half / 2 < half < one < distance(noise)
    assert distance(noise) > 100 * floor


def test_other_images_are_refused(extractor: RandomFeatures) -> None:
    with pytest.raises(DataError, match=r"the random extractor .* not \(2, 2, 8, 8\)"):
        extractor(torch.zeros(2, 2, 8, 8, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"8x8 pixels or more, not 9x7; raise data\.resolution"):
        extractor(torch.zeros(2, 1, 9, 7, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"torch\.float32"):
        extractor(torch.zeros(2, 1, 8, 8))
