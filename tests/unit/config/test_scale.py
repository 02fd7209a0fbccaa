"""Which numbers of workers a run may have, and that its images are the same with any of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_dist.artifacts.records import read_records
from gan_dist.config import load_config
from gan_dist.config.scale import ScaleConfig, worker_counts
from gan_dist.config.section import ConflictError
from gan_dist.core.errors import ConfigError
from tests.support.gloo import run_gloo
from tests.support.sources import fresh
from tests.unit.training.test_training import config, run_on_ranks, tensors


def counts(
    workers: int, least: int | None, batch: int, accumulate: int = 1, pack: int = 1, group: int = 1
) -> tuple[int, ...]:
    return worker_counts(ScaleConfig(workers=workers, min_workers=least), batch, accumulate, pack, group)


def test_they_divide_the_batch_between_the_least_and_the_most() -> None:
    assert counts(8, 1, 64) == (8, 4, 2, 1)
    assert counts(8, 2, 64) == (8, 4, 2)
    assert counts(6, 1, 60) == (6, 5, 4, 3, 2, 1)
    assert counts(8, None, 64) == counts(8, 8, 64) == (8,)
    assert counts(6, 1, 60, accumulate=5) == (6, 4, 3, 2, 1)
    assert counts(4, 1, 16, accumulate=2, pack=2) == (4, 2, 1)
    assert counts(6, 1, 48, pack=2, group=4) == (6, 3, 2, 1)


def test_a_portion_that_is_not_whole_groups_is_refused() -> None:
    arithmetic = "times train.accumulate=1 times model.pack=2 times model.stddev_group=4: 20 / 16 = 1.25"
    with pytest.raises(ConflictError, match=arithmetic) as refused:
        counts(2, None, 20, pack=2, group=4)
    assert refused.value.problem.keys[-1] == "model.stddev_group"
    assert refused.value.problem.remedy == "use 32"
    styled = ["model.name=stylegan2", "model.settings.w_dim=8"]
    with pytest.raises(ConfigError, match=r"model\.stddev_group=4: 36 / 8"):
        load_config("digits", [*styled, "train.batch_size=36"])
    assert load_config("digits", [*styled, "train.batch_size=36", "model.stddev_group=2"]).model.group == 2
    assert load_config("digits").model.group == 1


@given(data=st.data(), workers=st.integers(1, 64), accumulate=st.integers(1, 4), pack=st.integers(1, 4))
def test_every_one_of_them_can_share_a_batch(
    data: st.DataObject, workers: int, accumulate: int, pack: int
) -> None:
    batch = workers * accumulate * pack * data.draw(st.integers(1, 8))
    least = data.draw(st.integers(1, workers + 1))
    try:
        possible = counts(workers, least, batch, accumulate, pack)
    except ValueError:
        assert least > workers or batch % (least * accumulate * pack)
        return
    assert possible[0] == workers
    assert possible[-1] == least
    for count in range(least, workers + 1):
        assert (count in possible) == (batch % (count * accumulate * pack) == 0)


@pytest.mark.slow
def test_a_run_that_loses_a_worker_goes_on_as_if_it_had_never_had_it(tmp_path: Path) -> None:
    """Of networks without batch statistics only the rounding of sums differs."""
    network = [
        "model.name=r3gan",
        "model.variant=tanh",
        "model.width=4",
        "loss.name=rpgan",
        "loss.r1=0.1",
        "loss.r2=0.1",
    ]
    network += ["eval.every_kimg=0.16"]
    alone = config(tmp_path / "alone", *network, "train.kimg=0.32")
    fewer = [
        config(tmp_path / "fewer", *network, f"scale.workers={workers}", f"train.kimg={kimg}")
        for workers, kimg in ((2, 0.16), (1, 0.32))
    ]
    run_gloo(run_on_ranks, 2, fewer[0])
    run_gloo(run_on_ranks, 1, alone, fewer[1])
    ended = tensors(alone), tensors(fewer[-1])
    begun = fresh(alone).tensors()
    moved = apart = 0.0
    for part_name in ("generator", "discriminator"):
        for key, weight in begun[part_name].items():
            one, other = (its[f"{part_name}.{key}"] for its in ended)
            moved += float((one - weight).square().sum())
            apart += float((one - other).square().sum())
    assert apart < 1e-4 * moved
    records = read_records(alone.run_uri), read_records(fewer[-1].run_uri)
    for record, same in zip(*records, strict=True):
        assert record["images"] == same["images"]
        assert record["loss_d"] == pytest.approx(same["loss_d"], rel=1e-3)
