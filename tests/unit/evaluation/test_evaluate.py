"""What an evaluation tells: distance, diversity, modes; the same from one rank and from two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gan_dist.config import RunConfig, load_config
from gan_dist.data.batches.loader import open_images, to_batch
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import write_set
from gan_dist.evaluation.extractors.digits import load_digits
from gan_dist.evaluation.metrics.class_scores import DigitModes
from gan_dist.training.context import LocalContext
from gan_dist.training.evaluator import Evaluator, Measurement
from tests.support.gloo import run_gloo

pytestmark = pytest.mark.usefixtures("no_network")

CPU = torch.device("cpu")


def settings(*overrides: str) -> RunConfig:
    return load_config(
        "digits", ["name=x", "data.resolution=16", "eval.samples=1797", "model.latent_dim=2", *overrides]
    )


def reals() -> tuple[Tensor, Tensor]:
    images = open_images("builtin://digits")
    parts = [to_batch(images.read_group(group), images, 16) for group in range(len(images.group_rows))]
    labels = [part.labels for part in parts if part.labels is not None]
    return torch.cat([part.images for part in parts]), torch.cat(labels)


class Remembering(nn.Module):
    """A generator that has learned the set by heart, or only `known` images of it."""

    def __init__(self, known: int | None = None) -> None:
        super().__init__()
        self.images, self.labels = reals()
        self.known = known or len(self.images)
        self.asked: list[Tensor] = []

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            self.asked.append(labels)
        # What is shown depends on the latents alone, so that ranks may take chunks in any order.
        index = (latents.double().sum(1).abs() * 1e6).long() % self.known
        return self.images[index].float() / 127.5 - 1


def measured(config: RunConfig, known: int | None) -> Measurement:
    torch.set_num_threads(1)
    images = open_images(config.data.path)
    return Evaluator(config, images, LocalContext("unused"))(Remembering(known))


def test_a_generator_that_knows_the_set_is_near_diverse_and_covers_all_modes() -> None:
    found = measured(settings(), None)
    assert found.distance < 10
    assert found.figures["diversity"] == pytest.approx(1, abs=0.02)
    assert found.figures["modes"] == 10


def test_a_collapsed_generator_is_told_by_all_three() -> None:
    found = measured(settings(), 1)
    assert found.distance > 100
    assert found.figures["diversity"] == pytest.approx(0, abs=1e-3)
    assert found.figures["modes"] == 1


def test_two_ranks_find_what_one_finds() -> None:
    one = measured(settings(), 50)
    for many in run_gloo(measured, 2, settings(), 50):
        assert many.distance == pytest.approx(one.distance, rel=1e-6)
        assert many.figures == pytest.approx(one.figures, rel=1e-6)


def test_classes_are_asked_for_as_often_as_the_set_has_them() -> None:
    config = settings("model.conditional=true", "eval.samples=20000")
    images = open_images(config.data.path)
    generator = Remembering()
    Evaluator(config, images, LocalContext("unused"))(generator)
    asked = torch.bincount(torch.cat(generator.asked), minlength=10) / 20000
    expected = torch.bincount(generator.labels, minlength=10) / len(generator.labels)
    assert (asked - expected).abs().max() < 0.01


def test_classes_that_are_rare_in_the_set_are_rarely_asked_for(tmp_path: Path) -> None:
    images, labels = reals()
    chosen = torch.cat([torch.arange(900), torch.arange(900, len(labels))[labels[900:] == 3]])
    rows = Rows(images[chosen].flatten(1).numpy(), labels[chosen].numpy())
    classes = tuple(map(str, range(10)))
    write_set(str(tmp_path), iter([rows]), group_rows=256, height=16, width=16, channels=1, classes=classes)
    generator = Remembering()
    config = settings("model.conditional=true", "eval.samples=5000", f"data.path={tmp_path}")
    Evaluator(config, open_images(config.data.path), LocalContext("unused"))(generator)
    asked = torch.bincount(torch.cat(generator.asked), minlength=10) / 5000
    expected = torch.bincount(labels[chosen], minlength=10) / len(chosen)
    assert expected.max() > 1.5 * expected.median()
    assert (asked - expected).abs().max() < 0.02


def test_modes_are_the_digits_of_the_channels() -> None:
    images, labels = reals()
    classifier = load_digits(CPU)
    sure = classifier.classify(images).argmax(1) == labels
    images, labels = images[sure], labels[sure]
    picks = torch.randint(0, len(images), (200, 3), generator=torch.Generator().manual_seed(0))
    stacked = images[picks, 0]
    modes = DigitModes(classifier, channels=3, device=CPU)
    for chunk in stacked.split(64):
        modes.update(chunk)
    numbers = labels[picks] @ torch.tensor([100, 10, 1])
    assert torch.equal(modes.sums, torch.bincount(numbers, minlength=1000))
    assert modes.hit == len(numbers.unique())


def test_the_divergence_is_that_of_the_shares() -> None:
    modes = DigitModes(load_digits(CPU), channels=1, device=CPU)
    modes.sums = torch.tensor([30, 10, 0, 0, 0, 0, 0, 0, 0, 0])
    expected = 0.75 * torch.tensor(7.5).log() + 0.25 * torch.tensor(2.5).log()
    assert modes.kl == pytest.approx(expected.item(), rel=1e-6)
    modes.sums = torch.full((10,), 7)
    assert modes.kl == pytest.approx(0, abs=1e-12)
    assert modes.hit == 10
