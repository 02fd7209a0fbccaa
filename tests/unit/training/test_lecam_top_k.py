"""LeCam regularisation and top-k training: formulas, moving averages, the choice over the global batch."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gan_dist.config import LossConfig, RunConfig, load_config
from gan_dist.core.errors import ConfigError
from gan_dist.data.batches.loader import Batch
from gan_dist.models.generator import ImageShape
from gan_dist.training import checkpoint as states
from gan_dist.training import losses, top_k
from gan_dist.training.context import LocalContext
from gan_dist.training.lecam import lecam
from gan_dist.training.schedule import top_k_share
from gan_dist.training.state import LogitAverages, TrainingState, new_state
from gan_dist.training.step import Step
from tests.support.gloo import run_gloo

SMALL = [
    *("name=run", "storage=x", "data.resolution=8", "model.name=resnet", "model.spectral_norm=false"),
    *("model.width=4", "model.max_width=4", "model.latent_dim=4", "train.batch_size=8", "loss.name=hinge"),
    *("train.precision=fp32", "optim.d_steps=2", "data.augment=none"),
]


def config(*overrides: str) -> RunConfig:
    return load_config("digits", [*SMALL, *overrides])


def fresh(chosen: RunConfig) -> TrainingState:
    device = torch.device("cpu")
    shape = ImageShape(8, 1)
    state = new_state(chosen.model, chosen.optim, shape, device, seed=0, channels_last=False)
    state.generator.eval()  # batch normalisation by fixed statistics: nothing couples the images of a batch
    return state


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return list(torch.randint(0, 256, (count, 8, 1, 8, 8), dtype=torch.uint8, generator=generator))


# LeCam


def test_lecam_is_the_paper_s_formula_and_pulls_by_its_gradient() -> None:
    real = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([-1.0, 0.25, 3.0], dtype=torch.float64, requires_grad=True)
    value = lecam(real, fake, LogitAverages(real=0.8, fake=-0.6, updates=9))
    expected = np.mean((np.array([1, 2, -0.5]) + 0.6) ** 2) + np.mean((np.array([-1, 0.25, 3]) - 0.8) ** 2)
    assert value.item() == pytest.approx(expected, rel=1e-14)
    gradients = torch.autograd.grad(value, (real, fake))
    torch.testing.assert_close(gradients[0], 2 * (real.detach() + 0.6) / 3)
    torch.testing.assert_close(gradients[1], 2 * (fake.detach() - 0.8) / 3)


def test_averages_begin_with_the_first_update() -> None:
    averages = LogitAverages()
    for real, fake in ((2.0, -1.0), (4.0, 1.0), (0.0, 0.0)):
        averages.add(real, fake, 0.75)
    assert averages == LogitAverages(0.75 * (0.75 * 2 + 1), 0.75 * (0.75 * -1 + 0.25), 3)


def _averages(chosen: RunConfig, accumulate: int = 1, count: int = 2) -> list[dict[str, float]]:
    """Train some rounds; return the averages after each, and the generator's and discriminator's weights."""
    torch.set_num_threads(1)
    train = chosen.train.model_copy(update={"accumulate": accumulate})
    chosen = chosen.model_copy(update={"train": train})
    context, state = LocalContext("unused"), fresh(chosen)
    step, found = Step(chosen, state, context), []
    given = batches(2 * count)
    for number in range(count):
        for images in given[2 * number : 2 * number + 2]:
            batch = Batch(images.chunk(context.world_size)[context.rank], None)
            scalars = step.discriminator_phase(batch)
        step.average_over_ranks(scalars | step.generator_phase(batch), stop=False)
        weights = {
            name: float(
                torch.cat([p.detach().flatten() for p in network.parameters()]).double().square().sum()
            )
            for name, network in (("g", state.generator), ("d", state.discriminator))
        }
        found.append({**asdict(state.logits), **weights})
    return found


def test_the_averages_are_those_of_every_update_s_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config("loss.lecam=0.5", "loss.lecam_decay=0.5")
    seen: list[tuple[float, float]] = []
    judged = losses.Hinge.discriminator

    def note(loss: losses.Hinge, real: Tensor, fake: Tensor) -> Tensor:
        seen.append((float(real.detach().double().mean()), float(fake.detach().double().mean())))
        return judged(loss, real, fake)

    monkeypatch.setattr(losses.Hinge, "discriminator", note)
    found = _averages(chosen)
    expected = LogitAverages()
    for number, (real, fake) in enumerate(seen):
        expected.add(real, fake, 0.5)
        if number % 2:
            assert {k: found[number // 2][k] for k in ("real", "fake")} == pytest.approx(
                {"real": expected.real, "fake": expected.fake}
            )
    assert expected.updates == 4


def _of_ranks(cases: list[tuple[RunConfig, int]]) -> list[list[dict[str, float]]]:
    return [_averages(*case) for case in cases]


CASES = {
    "lecam": ["loss.lecam=0.5", "loss.lecam_decay=0.5"],
    "top-k": ["loss.top_k=0.4", "loss.top_k_decay=0.6", "loss.top_k_every_kimg=0.016"],
    "top-k of packs": [
        "loss.top_k=0.5",
        "loss.top_k_decay=0.1",
        "model.pack=2",
        "loss.top_k_every_kimg=0.016",
    ],
    "both": ["loss.lecam=0.5", "loss.top_k=0.3", "loss.top_k_decay=0.1", "loss.top_k_every_kimg=0.016"],
}


def test_two_workers_and_portions_train_as_the_whole_batch_does() -> None:
    configs = [config(*overrides) for overrides in CASES.values()]
    whole = [_averages(one) for one in configs]
    plain = _averages(config())
    assert all(one[-1]["g"] != plain[-1]["g"] for one in whole)
    portions = [_averages(one, 2) for one in configs]
    ranks = run_gloo(_of_ranks, 2, [(one, portion) for portion in (1, 2) for one in configs])
    for other in (portions, *(half for found in ranks for half in (found[:4], found[4:]))):
        for expected, found in zip(whole, other, strict=True):
            for one, two in zip(expected, found, strict=True):
                assert two == pytest.approx(one, rel=2e-5), (one, two)


def test_lecam_waits_for_its_start_while_the_averages_go_on() -> None:
    plain, begun = _averages(config()), _averages(config("loss.lecam=2"))
    waiting = _averages(config("loss.lecam=2", "loss.lecam_start_kimg=0.016"))
    assert waiting[0]["d"] == plain[0]["d"]
    assert begun[0]["d"] != plain[0]["d"]  # from the second update on
    assert waiting[1]["d"] != plain[1]["d"]
    assert waiting[0]["updates"] == 2
    assert plain[1]["updates"] == 0


def test_a_checkpoint_has_the_averages_and_one_without_them_is_as_before(tmp_path: Path) -> None:
    state = fresh(config())
    states.Snapshot(state).save(str(tmp_path / "plain"), "")
    assert b"logits" not in (tmp_path / "plain" / "state.json").read_bytes()
    state.logits = LogitAverages(0.1 + 0.2, -1 / 3, 7)
    states.Snapshot(state).save(str(tmp_path / "averaged"), "")
    for name, expected in (("averaged", state.logits), ("plain", LogitAverages())):
        loaded = fresh(config())
        states.load(loaded, str(tmp_path / name))
        assert loaded.logits == expected


# Top-k


class Rank(LocalContext):
    """One of several ranks, whose logits are known without a process group."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__("unused")
        self._place = rank, world_size

    @property
    def rank(self) -> int:
        return self._place[0]

    @property
    def world_size(self) -> int:
        return self._place[1]


@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=6),
    world=st.integers(1, 3),
    share=st.floats(0.01, 1),
)
def test_ranks_choose_the_k_largest_between_them_and_of_equals_the_first(
    logits: list[float], world: int, share: float
) -> None:
    everything = torch.tensor(logits).repeat(world)
    parts = everything.chunk(world)

    def gathered(out: list[Tensor], _: Tensor) -> None:
        for place, part in zip(out, parts, strict=True):
            place.copy_(part)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.distributed, "all_gather", gathered)
        choices = [top_k.choose(part, share, Rank(rank, world)) for rank, part in enumerate(parts)]
    k = max(1, math.ceil(share * len(everything) - 1e-6))
    order = sorted(range(len(everything)), key=lambda index: (-float(everything[index]), index))
    expected = [index in order[:k] for index in range(len(everything))]
    assert torch.cat([choice.chosen for choice in choices]).tolist() == expected
    # The mean of the ranks' losses is the mean over the k best, and so is its gradient.
    given_logits = everything.double().requires_grad_()
    pairs = zip(choices, given_logits.chunk(world), strict=True)
    of_ranks = [choice.loss(lambda best, _: -best.mean(), part) for choice, part in pairs]
    mean = torch.stack(of_ranks).mean()
    best = everything.double()[order[:k]]
    assert mean.item() == pytest.approx(-float(best.mean()), rel=1e-12, abs=1e-12)
    (gradient,) = torch.autograd.grad(mean, given_logits)
    torch.testing.assert_close(gradient, -torch.tensor(expected, dtype=torch.float64) / k)


def test_the_share_falls_with_the_clock_to_its_floor() -> None:
    loss = LossConfig(top_k=0.5, top_k_decay=0.8, top_k_every_kimg=2)
    shares = [top_k_share(loss, images) for images in (0, 1999, 2000, 4000, 6000, 8000, 10**9)]
    assert shares == pytest.approx([1, 1, 0.8, 0.64, 0.512, 0.5, 0.5])
    assert top_k_share(LossConfig(), 10**9) == 1


def test_top_k_of_pairs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"loss\.top_k=0\.5: loss\.name=rpgan compares each fake") as raised:
        config("loss.name=rpgan", "loss.top_k=0.5")
    assert raised.value.problems[0].keys == ("loss.top_k", "loss.name")
