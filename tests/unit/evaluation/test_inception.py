"""FID's network, with random weights in its own's place: these cannot be downloaded where tests run."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from gan_dist.config.machine import INCEPTION_VARIABLE
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, ConfigError, DataError, StorageError
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.extractors.inception import (
    WEIGHTS_SHA256,
    WEIGHTS_URL,
    Inception,
    load_inception,
)
from tools.train_lenet import digits

CPU = torch.device("cpu")


pytestmark = pytest.mark.usefixtures("no_network")


class Untrained(FeatureExtractorInceptionV3):  # type: ignore[misc]
    """torch-fidelity's network as it is before it loads its weights."""

    def load_state_dict(self, state_dict: object) -> None: ...


def random_weights() -> dict[str, Tensor]:
    """Weights with which numbers neither vanish nor explode."""
    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    network = Untrained("untrained", ["2048"], feature_extractor_weights_path=empty)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for name, value in network.state_dict().items():
        if name.endswith("running_var"):
            weights[name] = 0.5 + torch.rand(value.shape, generator=generator)
        elif value.ndim > 1:
            std = math.sqrt(2 / value[0].numel())
            weights[name] = std * torch.randn(value.shape, generator=generator)
        elif not name.endswith("num_batches_tracked"):
            mean = 1.0 if name.endswith("bn.weight") else 0.0
            weights[name] = mean + 0.1 * torch.randn(value.shape, generator=generator)
    return weights  # without num_batches_tracked, like files from before PyTorch had it


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.save(random_weights(), path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def extractor(file: Path) -> Inception:
    return Inception(file.read_bytes(), CPU)


@pytest.fixture(scope="module")
def reference(file: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """torch-fidelity's own, which loads the file by itself."""
    network: Callable[[Tensor], tuple[Tensor, Tensor]] = FeatureExtractorInceptionV3(
        "reference", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(file)
    )
    return network


def images(count: int, channels: int, edge: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, edge, edge), dtype=torch.uint8, generator=generator)


def test_interface(extractor: Inception, sha256: str) -> None:
    assert (extractor.name, extractor.dim, extractor.classes) == ("inception", 2048, 1008)
    assert (extractor.layer, extractor.resize) == ("2048", "bilinear-tf1 299")
    assert extractor.hash == sha256
    features, logits = extractor(images(1, 3, 32))
    assert logits is not None
    assert (features.dtype, logits.dtype) == (torch.float32, torch.float32)
    assert not features.requires_grad
    assert extractor(images(0, 3, 32)).features.shape == (0, 2048)


def test_only_the_weights_of_fid_give_fid(
    extractor: Inception, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert extractor.metric == "fd_inception"
    monkeypatch.setattr("gan_dist.evaluation.extractors.inception.WEIGHTS_SHA256", extractor.hash)
    assert Inception(file.read_bytes(), CPU).metric == "fid"


@pytest.mark.parametrize("edge", [1, 8, 32, 299, 310])
def test_what_torch_fidelity_computes(
    extractor: Inception, reference: Callable[[Tensor], tuple[Tensor, Tensor]], edge: int
) -> None:
    batch = images(2, 3, edge)
    features, logits = reference(batch)
    found = extractor(batch)
    assert features.std() > 1e-3
    assert torch.equal(found.features, features)
    assert found.logits is not None
    assert torch.equal(found.logits, logits)


def test_grey_is_colour_with_equal_channels(
    extractor: Inception, reference: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> None:
    grey = digits()[0][:3]
    assert torch.equal(extractor(grey).features, reference(grey.repeat(1, 3, 1, 1))[0])


def test_a_large_batch_is_split(extractor: Inception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan_dist.evaluation.extractors.inception.CHUNK", 2)
    batch = images(5, 3, 8)
    features, logits = extractor(batch)
    assert logits is not None
    parts = [extractor(part) for part in batch.split(2)]
    assert torch.equal(features, torch.cat([part.features for part in parts]))
    assert logits.shape == (5, 1008)


def test_other_images_are_refused(extractor: Inception) -> None:
    with pytest.raises(DataError, match=r"the inception extractor .* not \(2, 4, 8, 8\); use images of"):
        extractor(torch.zeros(2, 4, 8, 8, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"torch\.float32"):
        extractor(torch.zeros(2, 3, 8, 8))


def test_weights_from_a_bucket(bucket: str, file: Path, sha256: str, extractor: Inception) -> None:
    uri = storage.join(bucket, "networks", "inception.pth")
    storage.write_bytes(uri, file.read_bytes())
    batch = images(1, 3, 16)
    found = load_inception(CPU, uri, sha256=sha256)
    assert torch.equal(found(batch).features, extractor(batch).features)


def test_weights_by_the_variable_unless_there_is_an_argument(
    file: Path, sha256: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INCEPTION_VARIABLE, str(file))
    assert load_inception(CPU, sha256=sha256).hash == sha256
    monkeypatch.setenv(INCEPTION_VARIABLE, str(file.with_name("absent.pth")))
    assert load_inception(CPU, str(file), sha256=sha256).hash == sha256


def test_a_missing_file_is_explained(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_extractor("inception", CPU)
    for part in (
        "eval.inception_weights",
        INCEPTION_VARIABLE,
        WEIGHTS_URL,
        WEIGHTS_SHA256,
        "eval.extractor=random",
    ):
        assert part in str(caught.value)
    absent = str(tmp_path / "absent.pth")
    with pytest.raises(StorageError, match=rf"absent\.pth does not exist; .*{WEIGHTS_URL}"):
        load_extractor("inception", CPU, inception_weights=absent)
    monkeypatch.setenv(INCEPTION_VARIABLE, absent)
    with pytest.raises(StorageError, match=r"absent\.pth does not exist"):
        load_extractor("inception", CPU)


def test_another_file_is_refused_before_it_is_parsed(
    file: Path, sha256: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was parsed"))
    with pytest.raises(CheckpointError, match=rf"SHA-256 {sha256} .* should have {WEIGHTS_SHA256}"):
        load_extractor("inception", CPU, inception_weights=str(file))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    tampered = tmp_path / "tampered.pth"
    tampered.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"tampered.pth has .* should have {sha256}: it is damaged"):
        load_inception(CPU, str(tampered), sha256=sha256)


class Harmful:
    """What an attacker would put into a pickle."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_file_is_never_run(zipped: bool, tmp_path: Path) -> None:
    """Not even if its hash is the one that is asked for."""
    marker, path = tmp_path / "harmed", tmp_path / "weights.pth"
    weights = {"fc.bias": torch.zeros(3), "harm": Harmful(marker)}
    torch.save(weights, path, _use_new_zipfile_serialization=zipped)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match=r"without running code from it \(UnpicklingError\)") as caught:
        load_inception(CPU, str(path), sha256=sha256)
    assert "weights_only" not in str(caught.value)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()  # the file would have done it


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"fc.bias": torch.zeros(3)}, "of another network"),
        ({1: torch.zeros(3)}, "no dictionary of tensors"),
        ([torch.zeros(3)], "no dictionary of tensors"),
        ({"fc.bias": "zeros"}, "no dictionary of tensors"),
    ],
)
def test_other_content_is_refused(content: object, problem: str) -> None:
    file = io.BytesIO()
    torch.save(content, file)
    with pytest.raises(CheckpointError, match=problem):
        Inception(file.getvalue(), CPU)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"PK\x03\x04 cut off"])
def test_what_is_no_file_of_pytorchs_is_refused(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="no file of tensors"):
        Inception(content, CPU)


def test_loading_draws_no_random_numbers(file: Path) -> None:
    state = torch.get_rng_state()
    Inception(file.read_bytes(), CPU)
    assert torch.equal(torch.get_rng_state(), state)
