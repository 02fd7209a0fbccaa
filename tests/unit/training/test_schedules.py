"""Values that change within a run: at a moment of the clock, to the bits of a run that was given new ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gan_dist.config import RunConfig
from gan_dist.config.schedules import CHANGEABLE
from gan_dist.core.errors import ResumeError
from gan_dist.training.context import LocalContext
from gan_dist.training.schedule import rate_factor
from gan_dist.training.step import Step
from tests.unit.training.test_step import batches, fresh, settings
from tests.unit.training.test_training import assert_same_bits, config, run, tensors

ROUNDS = ["train.batch_size=8", "eval.every_kimg=1", "eval.samples=8"]
END, SWITCH = 0.064, 0.024
PENALISED = ["loss.gp=1", "loss.dragan=1", "loss.r1=1", "loss.r2=1"]
ADA = ["data.augment=ada", "data.augment_kimg=0.5"]
STYLED = ["model.name=stylegan2", "model.width=4", "model.settings.w_dim=8", "loss.path_length=2"]
CHANGES: dict[str, tuple[list[str], float, float]] = {
    **{f"optim.{network}.lr": ([], 2e-3, 1e-3) for network in "gd"},
    **{f"optim.{network}.beta1": ([], 0.5, 0.0) for network in "gd"},
    **{f"optim.{network}.beta2": ([], 0.999, 0.9) for network in "gd"},
    "optim.clip_norm": ([], 0.0, 0.01),
    "loss.label_smoothing": ([], 0.0, 0.1),
    "loss.instance_noise": ([], 0.1, 0.3),
    "loss.lecam": ([], 0.0, 0.3),
    "loss.lecam_decay": (["loss.lecam=0.3"], 0.9, 0.5),
    "loss.clip": ([], 0.0, 0.01),
    "ema.half_life_kimg": (["ema.ramp_up=1000"], 0.05, 0.01),
    **{f"loss.{key}": (PENALISED, 1.0, 3.0) for key in ("gp", "dragan", "r1", "r2")},
    "loss.path_length": ([*STYLED, "loss.path_length_every=1"], 2.0, 1.0),
    "data.augment_target": (ADA, 1.0, -1.0),
    "data.augment_kimg": ([*ADA, "data.augment_target=-1"], 0.5, 0.1),
    "data.augment_p": (["data.augment=ada"], 0.7, 0.1),
}
"""By key: what it needs, its first value and its second."""
TOGETHER = {
    "rates and more": ["loss.label_smoothing", "loss.lecam", *(key for key in CHANGES if key[:5] == "optim")],
    "penalties": ["loss.r1", "loss.gp", "ema.half_life_kimg"],
    "ada": ["data.augment_target", "data.augment_kimg"],
    "stylegan2": ["loss.path_length", "optim.g.lr"],
}


def overrides(*keys: str, changing: bool) -> list[str]:
    """Settings with the first values of some keys, which change at SWITCH or not."""
    needed = dict.fromkeys(each for key in keys for each in CHANGES[key][0])
    values = {
        key: f"{{0: {first}, {SWITCH}: {second}}}" if changing else f"{first}"
        for key, (_, first, second) in CHANGES.items()
        if key in keys
    }
    return [*needed, *(f"{key}={value}" for key, value in values.items())]


def test_each_key_that_may_change_has_its_case() -> None:
    assert CHANGES.keys() == {*CHANGEABLE}


@pytest.mark.parametrize("key", CHANGEABLE)
def test_a_key_that_may_change_acts_from_the_first_round_on_that_begins_at_its_moment(key: str) -> None:
    after: list[list[dict[str, torch.Tensor]]] = []
    for changing in (False, True):
        chosen = settings("train.batch_size=16", *overrides(key, changing=changing))
        state = fresh(chosen)
        step = Step(chosen, state, LocalContext("unused"))
        after.append([])
        for batch in batches(6):  # rounds begin at 0, 16, 32 images ...
            step.begin_round()
            step.average_over_ranks(step.discriminator_phase(batch) | step.generator_phase(batch), stop=False)
            step.update_average()
            parts = {
                f"{file}.{name}": at for file, part in state.tensors().items() for name, at in part.items()
            }
            after[-1].append({name: tensor.clone() for name, tensor in parts.items()})
    same = [all(torch.equal(a[name], b[name]) for name in a) for a, b in zip(*after, strict=True)]
    assert same[:2] == [True, True]
    assert not same[-1]


@pytest.mark.parametrize("case", TOGETHER)
def test_a_run_whose_values_change_has_the_bits_of_one_that_goes_on_with_new_ones(
    case: str, tmp_path: Path
) -> None:
    keys, length = TOGETHER[case], f"train.kimg={END}"
    whole = config(tmp_path / "whole", *ROUNDS, length, *overrides(*keys, changing=True))
    parts = config(tmp_path / "parts", *ROUNDS, length, *overrides(*keys, changing=True))
    first = config(tmp_path / "parts", *ROUNDS, f"train.kimg={SWITCH}", *overrides(*keys, changing=False))
    for one in (whole, first, parts):
        run(one)
    assert_same_bits(tensors(whole), tensors(parts))


def test_what_lies_ahead_may_change_and_what_was_trained_may_not(tmp_path: Path) -> None:
    def lr(value: str, kimg: float) -> RunConfig:
        return config(tmp_path, *ROUNDS, f"optim.g.lr={value}", f"train.kimg={kimg}")

    run(lr("{0: 2e-3, 0.016: 1e-3}", 0.024))
    for refused in ("2e-3", "{0: 2e-3, 0.016: 1e-4}", "{0: 2e-3, 0.016: 1e-3, 0.02: 1e-4}"):
        with pytest.raises(ResumeError, match=r"optim\.g\.lr was \{0: 0\.002, 0\.016: 0\.001\}, is now"):
            run(lr(refused, 0.032))
    assert run(lr("{0: 2e-3, 0.016: 1e-3, 0.024: 1e-4}", 0.032)).images == 32
    with pytest.raises(ResumeError):
        run(lr("{0: 2e-3, 0.016: 1e-3}", 0.04))


def test_the_schedule_of_the_whole_run_multiplies_what_changes() -> None:
    course = ["optim.schedule=cosine", "optim.decay_kimg=0.1", "optim.end_factor=0.1"]
    chosen = settings("train.batch_size=16", *course, *overrides("optim.d.lr", changing=True))
    state, rates = fresh(chosen), []
    step = Step(chosen, state, LocalContext("unused"))
    for batch in batches(3):  # rounds begin at 0, 16 and 32 images
        step.begin_round()
        factor = rate_factor(chosen.optim, state.images)
        step.discriminator_phase(batch)
        rates.append(state.optimizer_d.param_groups[0]["lr"] / factor)
    assert rates == pytest.approx([2e-3, 2e-3, 1e-3])
