"""A user's own extractor, by its import path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gan_dist.core.errors import ConfigError
from gan_dist.evaluation.extractors import load_extractor
from tests.extractors import Classifier, Means

pytestmark = pytest.mark.usefixtures("no_network")

CPU = torch.device("cpu")
IMAGES = torch.arange(2 * 3 * 4 * 4, dtype=torch.uint8).view(2, 3, 4, 4)


def test_what_is_required_is_enough() -> None:
    loaded = load_extractor("tests.extractors:Means", CPU)
    assert (loaded.name, loaded.metric, loaded.dim, loaded.classes) == ("means", "fd_means", 2, 0)
    assert (loaded.hash, loaded.layer, loaded.resize) == (Means.hash, "output", "own")
    features, logits = loaded(IMAGES)
    assert logits is None
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, torch.tensor([[23.5, 14.0], [71.5, 14.0]]))


def test_a_module_with_logits_and_a_name() -> None:
    loaded = load_extractor("tests.extractors:Classifier", CPU)
    assert (loaded.name, loaded.metric, loaded.dim, loaded.classes) == ("tiny-net", "fd_tiny-net", 1, 3)
    assert (loaded.hash, loaded.layer, loaded.resize) == (Classifier.hash, "norm", "none")
    features, logits = loaded(IMAGES[:1])
    assert logits is not None
    assert (features.shape, logits.shape) == ((1, 1), (1, 3))
    assert not features.requires_grad


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (
            "no_such.module:Class",
            "failed (No module named 'no_such'); install no_such on every machine",
        ),
        ("tests.extractors:Absent", "tests.extractors has no class Absent; correct the name"),
        ("tests.extractors:NUMBER", "NUMBER is no class, but int; correct the name"),
        ("tests.extractors:Greedy", "Greedy cannot be called with the device alone (missing a required arg"),
        (":Means", "is no import path; write it as package.module:Class"),
        ("tests.extractors:", "is no import path"),
        (".extractors:Means", "is no import path"),
    ],
)
def test_what_cannot_be_made_is_refused(path: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_extractor(path, CPU)
    assert f"eval.extractor={path}" in str(caught.value)
    assert problem in str(caught.value)


def test_a_module_that_ends_the_process_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where modules are looked for too
    (tmp_path / "ends_the_process.py").write_text("raise SystemExit(3)")
    with pytest.raises(ConfigError, match=r"importing ends_the_process failed \(SystemExit: 3"):
        load_extractor("ends_the_process:Class", CPU)


def test_all_that_it_lacks_is_said_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_extractor("tests.extractors:Nameless", CPU)
    problems = list(map(str, caught.value.problems))
    assert all(problem.startswith("eval.extractor=tests.extractors:Nameless: ") for problem in problems)
    for problem, part in zip(
        problems,
        ("`dim` is None", "`hash` is None", "cannot be called", "`classes` is -1", "`name` is 'inception'"),
        strict=True,
    ):
        assert part in problem


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Wide", "(2, 2) of torch.float64"),
        ("Whole", "(2, 2) of torch.int64"),
        ("Listing", "a list"),
    ],
)
def test_what_it_returns_is_looked_at(name: str, found: str) -> None:
    loaded = load_extractor(f"tests.extractors:{name}", CPU)
    with pytest.raises(ConfigError) as caught:
        loaded(IMAGES)
    problem = f"eval.extractor=tests.extractors:{name} returned {found} as features of 2 images; its `dim` is"
    assert str(caught.value).startswith(problem)


def test_images_that_are_no_bytes_are_refused() -> None:
    loaded = load_extractor("tests.extractors:Means", CPU)
    images: Tensor = IMAGES.float()
    with pytest.raises(TypeError, match=r"images are torch\.float32"):
        loaded(images)
