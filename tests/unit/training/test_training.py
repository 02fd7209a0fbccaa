"""The loop in plain processes: resumed bit for bit, equal on one worker and two, honest about damage."""

from __future__ import annotations

import json
import logging
import math
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

import gan_dist
from gan_dist.artifacts.records import read_records
from gan_dist.cli.train import train_run
from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.errors import (
    CapacityError,
    DataError,
    NonFiniteError,
    ResumeError,
    StorageError,
    WorkerError,
)
from gan_dist.core.images import image_grid
from gan_dist.core.storage import StorageOptions, outage
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.data.batches.loader import (
    Batch,
    batches,
    choose_reader,
    make_order,
    open_configured,
    open_images,
    to_batch,
)
from gan_dist.data.batches.readers import InMemoryReader
from gan_dist.data.builtin import DIGITS
from gan_dist.search.plan import make_plan
from gan_dist.search.start import begin
from gan_dist.training import checkpoint as states
from gan_dist.training import loop, recorder
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.preflight import prepare, without_damage
from gan_dist.training.progress import Progress, RunResult
from gan_dist.training.state import TrainingState, new_state
from gan_dist.training.step import Step
from tests.extractors import Slow
from tests.support.faults import proxy
from tests.support.gloo import run_gloo
from tests.support.releases import rewrite
from tests.support.sources import fresh

SMALL = [
    *("data.resolution=16", "model.name=dcgan", "model.max_width=null", "loss.name=nonsaturating"),
    *("model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64", "data.cache=memory"),
]


def config(storage_path: Path | str, *overrides: str) -> RunConfig:
    settings = [f"storage={storage_path}", "name=run", *SMALL, "eval.every_kimg=0.32", "train.kimg=0.64"]
    return load_config("digits", [*settings, *overrides])


def run(settings: RunConfig, **hooks: object) -> RunResult:
    torch.set_num_threads(1)
    uri = settings.run_uri
    return train(settings, LocalContext(uri, **hooks))  # type: ignore[arg-type]


def run_on_ranks(*settings: RunConfig) -> None:
    """Train one configuration after another in one worker group; called on every rank."""
    for one in settings:
        run(one)


def tensors(settings: RunConfig) -> dict[str, torch.Tensor]:
    """Return every tensor of a run's newest checkpoint."""
    run_uri = settings.run_uri
    state = fresh(settings)
    states.load(state, storage.join(run_uri, checkpoint_names(run_uri)[0]))
    return {f"{file}.{key}": value for file, part in state.tensors().items() for key, value in part.items()}


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    different = [key for key in a if not torch.equal(a[key], b[key])]
    assert not different


def timeless(records: list[dict[str, object]]) -> list[dict[str, object]]:
    timed = ("time", "images_per_second", "s_per_kimg", "wait_share", "peak_memory_gib")
    return [{k: v for k, v in r.items() if k not in timed} for r in records]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """An uninterrupted run, whose folder no test changes."""
    settings = config(tmp_path_factory.mktemp("whole"))
    run(settings)
    return settings


@pytest.fixture(scope="module")
def first_half(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run that has ended after half as many images, whose folder no test changes."""
    settings = config(tmp_path_factory.mktemp("half"), "train.kimg=0.32")
    run(settings)
    return settings


@pytest.fixture
def finished(whole: RunConfig, tmp_path: Path) -> Path:
    """A copy of the uninterrupted run, in the test's own folder; returns the copy."""
    return Path(shutil.copytree(whole.run_uri, tmp_path / "run"))


@pytest.fixture
def begun(first_half: RunConfig, tmp_path: Path) -> Path:
    """A copy of the run that has ended half-way, in the test's own folder; returns the copy."""
    return Path(shutil.copytree(first_half.run_uri, tmp_path / "run"))


@pytest.mark.usefixtures("begun")
def test_a_run_extended_from_its_end_has_the_bits_of_an_uninterrupted_one(
    whole: RunConfig, tmp_path: Path
) -> None:
    parts = config(tmp_path)
    assert run(parts).images == 640
    assert_same_bits(tensors(whole), tensors(parts))
    assert timeless(read_records(whole.run_uri)) == timeless(read_records(parts.run_uri))


def test_a_run_stopped_between_evaluations_has_the_bits_of_an_uninterrupted_one(
    whole: RunConfig, tmp_path: Path
) -> None:
    parts = config(tmp_path)
    steps: list[Progress] = []
    outcome = run(parts, on_progress=steps.append, should_stop=lambda: len(steps) == 4)
    assert (outcome.finished, outcome.images) == (False, 5 * 32)
    assert run(parts).finished
    assert_same_bits(tensors(whole), tensors(parts))


COSINE = ["optim.schedule=cosine", "optim.decay_kimg=0.5"]
RESUMED = {
    "lsgan": ["loss.name=lsgan"],
    "wgan": ["loss.name=wgan", "train.kimg=0.64"],
    "wgan-gp": ["loss.name=wgan-gp", "train.kimg=0.64"],
    "minimax": ["loss.name=minimax"],
    "hinge": ["loss.name=hinge", "model.name=resnet", "model.spectral_norm=true", "optim.d_steps=1"],
    "rpgan": ["loss.name=rpgan", "model.name=r3gan", "model.width=8", "data.mirror=true"],
    "stylegan2": [
        *("model.name=stylegan2", "model.width=4", "model.settings.w_dim=8", "loss.r1=1"),
        *("loss.penalty_every=2", "loss.path_length=2", "loss.path_length_every=2"),
    ],
    "fastgan": ["loss.name=hinge", "model.name=fastgan", "model.conditional=true", "optim.d_steps=1"],
    "lazy, conditional": ["loss.r1=1", "loss.penalty_every=3", "model.conditional=true"],
    "ada": ["data.augment=ada", "data.augment_kimg=0.5", "model.pack=2"],
    "all that has a clock": [
        *("data.augment=diffaugment", "loss.instance_noise=0.1", "loss.instance_noise_kimg=0.5"),
        *("optim.schedule=linear", "optim.decay_kimg=0.7", "train.accumulate=2", "loss.dragan=1"),
        *("optim.end_factor=0.2", "loss.penalty_end_factor=0.1", "optim.g.beta2_start=0.5"),
    ],
    "a pipeline": ["data.augment={ada: [geom, filter, noise, cutout]}", "data.augment_kimg=0.5"],
    "lecam, top-k": ["loss.lecam=0.3", "loss.top_k=0.5", "loss.top_k_every_kimg=0.01", "optim.d_steps=2"],
    "a given probability": ["data.augment=ada", "data.augment_p=0.7", *COSINE],
}


@pytest.mark.parametrize("case", RESUMED)
def test_whatever_the_loss_a_stopped_run_has_the_bits_of_an_uninterrupted_one(
    case: str, tmp_path: Path
) -> None:
    overrides = ["eval.every_kimg=10", "train.kimg=0.384", *RESUMED[case]]
    whole, parts = config(tmp_path / "whole", *overrides), config(tmp_path / "parts", *overrides)
    run(whole)
    steps: list[Progress] = []
    run(parts, on_progress=steps.append, should_stop=lambda: len(steps) == 2)
    assert 0 < steps[-1].images < steps[-1].total_images
    assert run(parts).finished
    assert_same_bits(tensors(whole), tensors(parts))


def test_a_run_begun_before_a_key_existed_goes_on(whole: RunConfig, begun: Path, tmp_path: Path) -> None:
    parts = config(tmp_path)
    file = begun / "config.yaml"
    new = ("augment_p:", "penalty_end_factor:", "beta2_start:", "end_factor:")
    lines = file.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.strip().startswith(new)]
    assert len(lines) - len(kept) == 5
    file.write_text("".join(kept))
    assert run(parts).finished
    assert_same_bits(tensors(whole), tensors(parts))


def test_workers_resume_to_the_same_bits_also_with_a_loss_and_an_augmentation_of_ones_own(
    tmp_path: Path,
) -> None:
    """Two numbers have one sum in either order; of three the order of an all-reduce decides."""
    own = ["loss.name=tests.own_losses:Margin", "data.augment=tests.own_losses:Darken", "train.kimg=0.192"]
    own += ["loss.settings.margin=0.5", "data.augment_kimg=0.15", "scale.workers=3", "train.batch_size=24"]
    whole, parts = config(tmp_path / "whole", *own), config(tmp_path / "parts", *own)
    first = config(tmp_path / "parts", *own, "train.kimg=0.12")
    run_gloo(run_on_ranks, 3, whole, first, parts)
    assert_same_bits(tensors(whole), tensors(parts))


def test_what_a_killed_run_wrote_after_its_checkpoint_is_written_once(begun: Path, tmp_path: Path) -> None:
    with (begun / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"images": 9999, "kimg": 9.999}) + "\n" + '{"images": 99')
    run(config(tmp_path))
    assert [record["images"] for record in read_records(str(begun))] == [320, 640]


class _Replaced(LocalContext):
    """A process that others have replaced while it trained."""

    def before_writing(self) -> None:
        raise WorkerError("others have taken over")


def test_a_process_that_others_have_replaced_writes_neither_records_nor_pictures(
    finished: Path, tmp_path: Path
) -> None:
    # As if it had looked for a checkpoint before the others wrote their newest.
    shutil.rmtree(finished / "checkpoint_000000000640")
    before = contents(finished)
    longer = config(tmp_path, "train.kimg=0.96")
    with pytest.raises(WorkerError, match="taken over"):
        train(longer, _Replaced(longer.run_uri))
    assert contents(finished) == before


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _live_state(settings: RunConfig) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """Return this rank's own weights and running statistics after three rounds."""
    torch.set_num_threads(1)
    context = LocalContext("unused")
    state = fresh(settings)
    step = Step(settings, state, context)
    generator = torch.Generator().manual_seed(context.rank)
    for _ in range(3):
        batch = Batch(torch.randint(0, 256, (16, 1, 16, 16), dtype=torch.uint8, generator=generator), None)
        step.average_over_ranks(step.discriminator_phase(batch) | step.generator_phase(batch), stop=False)
        step.update_average()
    return [tensor.numpy() for part in state.tensors().values() for tensor in part.values()]


def test_ranks_stay_equal_to_the_last_bit_running_statistics_included(tmp_path: Path) -> None:
    first, second = run_gloo(_live_state, 2, config(tmp_path))
    assert len(first) > 40
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def _poisoned_step(settings: RunConfig, phase: str) -> tuple[str, bool]:
    """Take a step in which rank 1's part of the gradients of one network is not finite."""
    torch.set_num_threads(1)
    context = LocalContext("unused")
    state = fresh(settings)
    step = Step(settings, state, context)
    batch = Batch(torch.zeros(16, 1, 16, 16, dtype=torch.uint8), None)
    if phase == "generator":
        step.discriminator_phase(batch)
    network = getattr(state, phase)
    before = {k: v.clone() for k, v in network.named_parameters()}
    if context.rank == 1:
        state.generator.register_forward_hook(lambda *call: call[-1] * float("nan"))
    try:
        step.discriminator_phase(batch) if phase == "discriminator" else step.generator_phase(batch)
    except NonFiniteError as error:
        return str(error), all(torch.equal(before[k], v) for k, v in network.named_parameters())
    return "no error", False


@pytest.mark.parametrize(("phase", "images"), [("discriminator", 0), ("generator", 32)])
def test_one_rank_with_a_non_finite_gradient_stops_all_before_the_update(
    tmp_path: Path, phase: str, images: int
) -> None:
    for message, unchanged in run_gloo(_poisoned_step, 2, config(tmp_path), phase):
        assert message.startswith(f"the {phase}'s gradient is nan after {images} images")
        assert unchanged


def test_a_round_is_d_steps_batches_then_the_generator_on_the_last_then_the_average(tmp_path: Path) -> None:
    settings = config(
        tmp_path, "optim.d_steps=3", "train.kimg=0.288", "eval.every_kimg=10", "loss.name=rpgan", "loss.r1=1"
    )
    run(settings)
    images = open_configured(settings.data)
    reader = choose_reader(images, settings.data.cache, with_ray=False)
    order = make_order(settings.data, images, seed=settings.seed, batch_size=settings.train.batch_size)
    rows = batches(order, reader, rank=0, world_size=1, start=0, stop=288)
    given = [to_batch(some, images, 16) for some in rows]
    assert len(given) == 9
    state = fresh(settings)
    step = Step(settings, state, LocalContext("unused"))
    for start in range(0, 9, 3):
        for batch in given[start : start + 3]:
            of_d = step.discriminator_phase(batch)
        step.average_over_ranks(of_d | step.generator_phase(given[start + 2]), stop=False)
        step.update_average()
    by_hand = {f"{file}.{key}": v for file, part in state.tensors().items() for key, v in part.items()}
    assert_same_bits(tensors(settings), by_hand)


def test_records_tell_of_both_networks(whole: RunConfig) -> None:
    record, found, new = read_records(whole.run_uri)[-1], tensors(whole), fresh(whole)
    for name, file, network in (
        ("d", "discriminator", new.discriminator),
        ("g", "generator", new.generator),
    ):
        weights = [found[f"{file}.{key}"].flatten() for key, _ in network.named_parameters()]
        assert record[f"weight_norm_{name}"] == pytest.approx(torch.cat(weights).norm().item(), rel=1e-5)
        assert float(str(record[f"grad_norm_{name}"])) > 0
    for side in ("real", "fake"):
        assert 0 <= float(str(record[f"{side}_accuracy"])) <= 1
    assert {"diversity", "modes", "loss_d", "loss_g"} <= record.keys()


def test_records_between_evaluations_have_the_means_since_the_last_multiple(tmp_path: Path) -> None:
    by_round, sparse = (config(tmp_path / every, f"log.every_kimg={every}") for every in ("0.001", "0.128"))
    outcome = run(by_round)
    run(sparse)
    rounds = {record["images"]: record for record in read_records(by_round.run_uri)}
    records = read_records(sparse.run_uri)
    assert list(rounds) == [*range(32, 641, 32)]
    assert [record["images"] for record in records] == [128, 256, 320, 384, 512, 640]
    assert [record["images"] for record in records if "fd_digits" in record] == [320, 640]
    # The intervals' times are those of the whole.
    seconds = sum(32 / record["images_per_second"] for record in rounds.values())
    assert 640 / seconds == pytest.approx(outcome.images_per_second)
    for record in records:
        since = (record["images"] - 1) // 128 * 128
        for key in ("loss_d", "loss_g", "real_accuracy", "grad_norm_d", "grad_norm_g"):
            mean = np.mean([rounds[images][key] for images in range(since + 32, record["images"] + 1, 32)])
            assert record[key] == pytest.approx(mean)
        assert record["weight_norm_g"] == rounds[record["images"]]["weight_norm_g"]
        assert record["s_per_kimg"] == pytest.approx(1000 / record["images_per_second"])
        assert 0 <= record["wait_share"] <= 1
        assert 0.05 < record["peak_memory_gib"] < 64


def test_records_tell_of_a_given_probability(tmp_path: Path) -> None:
    settings = config(tmp_path, "data.augment=ada", "data.augment_p=0.6", "log.every_kimg=0.001", *COSINE)
    run(settings)
    shares = [(1 - math.cos(math.pi * 0.32 / 0.5)) / 2, 1]
    found = [record["augment_p"] for record in read_records(settings.run_uri) if "fd_digits" in record]
    assert found == pytest.approx([0.6 * share for share in shares])


@pytest.mark.parametrize(
    ("setting", "keys"),
    [
        ("train.accumulate=2", ["= 32 images", "computes 16 at a time", "with train.accumulate=4, "]),
        (
            "train.accumulate=16",
            ["computes 2 at a time", "with a model.width below 4 or a train.batch_size "],
        ),
    ],
)
def test_a_step_that_memory_does_not_hold_names_what_makes_it_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str, keys: list[str]
) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def made(*given: Any, **options: Any) -> TrainingState:
        state = new_state(*given, **options)
        state.discriminator.register_forward_hook(exhausted)
        return state

    monkeypatch.setattr(loop, "new_state", made)
    with pytest.raises(CapacityError, match="does not hold a step") as caught:
        run(config(tmp_path, setting))
    for words in [*keys, "Tried to allocate 2.00 GiB"]:
        assert words in str(caught.value)


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_a_damaged_checkpoint_is_passed_over_and_named(
    whole: RunConfig, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken = config(tmp_path)
    damage(finished / "checkpoint_000000000640" / "optimizer_d.safetensors")
    with caplog.at_level(logging.WARNING, "gan_dist"):
        run(broken)
    assert "checkpoint_000000000640/optimizer_d.safetensors is damaged" in caplog.text
    assert "goes on from an earlier checkpoint" in caplog.text
    # The damaged one is left for whoever wants to look at it; the new one stands beside it.
    assert (finished / "checkpoint_000000000640").exists()
    assert checkpoint_names(str(finished))[0] == "checkpoint_000000000640-1"
    assert_same_bits(tensors(whole), tensors(broken))


def test_damaged_records_are_named_and_left_as_they_are(
    whole: RunConfig, begun: Path, tmp_path: Path
) -> None:
    file = begun / "metrics.jsonl"
    first, *others = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join([first, bytes(40), *others]))
    damaged = file.read_bytes()
    with pytest.raises(StorageError, match=r"run/metrics\.jsonl is damaged in line 2; delete what"):
        run(config(tmp_path))
    assert file.read_bytes() == damaged
    file.write_bytes(b"\n".join([first, *others]))
    run(config(tmp_path))
    assert_same_bits(tensors(whole), tensors(config(tmp_path)))


def test_a_store_that_does_not_answer_is_no_damage(bucket: str, s3_url: str, first_half: RunConfig) -> None:
    storage.copy_tree(first_half.run_uri, f"{bucket}/run")
    state = fresh(first_half)
    with proxy(s3_url, seed=0) as store:
        run_uri = f"{bucket}/run?endpoint_override=127.0.0.1:{store.port}&scheme=http"
        assert len(checkpoint_names(run_uri)) == 1
        listing = store.counts.total()
        storage.configure(StorageOptions(timeout_s=3.0))
        store.faults.planned = ["pass"] * listing + ["unavailable"] * 1000
        with pytest.raises(StorageError, match=r"checkpoint_\d+/\S* could not be used within 3 s"):
            states.load_latest(state, run_uri)
        store.faults.planned = []
        storage.configure(StorageOptions())
        assert states.load_latest(state, run_uri).damaged == {}
    assert state.images == 320


def test_a_run_without_a_whole_checkpoint_says_that_it_begins_anew(
    whole: RunConfig, begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(begun / "checkpoint_000000000320" / "state.json")
    with caplog.at_level(logging.WARNING, "gan_dist"):
        run(config(tmp_path))
    assert "state.json is damaged" in caplog.text
    assert "the run begins anew" in caplog.text
    assert_same_bits(tensors(whole), tensors(config(tmp_path)))


def test_only_the_newest_checkpoints_and_the_best_release_are_kept(tmp_path: Path) -> None:
    # At this rate the generator gets worse first.
    run(config(tmp_path, "eval.every_kimg=0.064", "train.kimg=0.256", "optim.g.lr=2e-2"))
    folder = tmp_path / "run"
    kept = [f"checkpoint_{images:012d}" for images in (256, 192, 128)]
    assert checkpoint_names(str(folder)) == kept
    best = json.loads((folder / "best.json").read_text())
    records = read_records(str(folder))
    values = [(record["fd_digits"], record["images"]) for record in records]
    assert len(records) == 4
    assert min(values) == (best["value"], best["images"])
    assert min(values) != values[-1]
    assert [entry.name for entry in folder.glob("best_*")] == [best["release"]]


@pytest.mark.usefixtures("finished")
def test_another_configuration_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    before = contents(tmp_path)
    with pytest.raises(ResumeError, match=r"optim\.g\.lr was 0\.0002, is now 0\.001") as caught:
        run(config(tmp_path, "optim.g.lr=1e-3", "train.kimg=5"))
    assert "train.kimg" not in str(caught.value)
    assert contents(tmp_path) == before


def test_the_folder_of_a_search_is_refused_though_its_configuration_is_the_same(tmp_path: Path) -> None:
    search = make_plan("search-digits", [f"storage={tmp_path}", *SMALL])
    begin(search, "fd_digits")
    with pytest.raises(ResumeError, match=r"search-digits is a search, not a run; .*another name"):
        prepare(search.config)


@pytest.mark.usefixtures("finished")
def test_a_finished_run_is_left_alone(tmp_path: Path) -> None:
    before = contents(tmp_path)
    assert run(config(tmp_path)).finished
    assert contents(tmp_path) == before


def test_the_best_generator_loads_in_three_lines(whole: RunConfig) -> None:
    release = gan_dist.load(whole.run_uri)
    images = release.sample(5, seed=3)
    assert images.shape == (5, 1, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal(images[:2], release.sample(2, seed=3))
    newest = storage.join(whole.run_uri, checkpoint_names(whole.run_uri)[0])
    assert gan_dist.load(newest).sample(1).shape == (1, 1, 16, 16)


PATIENT = ["train.kimg=3", "eval.every_kimg=0.128", "eval.patience=2", "ema.half_life_kimg=0.01"]


def test_a_run_without_progress_ends_early_and_stays_ended(tmp_path: Path) -> None:
    still = [*PATIENT, "train.kimg=1", "optim.g.lr=1e-12", "optim.d.lr=1e-12"]
    settings = config(tmp_path, *still)
    outcome = run(settings)
    assert outcome.finished
    assert outcome.ended_by == "eval.patience"
    # The average is settled after 0.2 kimg: two evaluations before, then twice the patience.
    first = 256
    assert outcome.images == first + 3 * 128
    again = run(settings)
    assert (again.finished, again.ended_by, again.images) == (True, "eval.patience", outcome.images)
    more = run(config(tmp_path, *still, "eval.patience=null"))
    assert more.images == 1024
    assert more.ended_by is None


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole, parts = config(tmp_path / "whole", *PATIENT), config(tmp_path / "parts", *PATIENT)
    outcome = run(whole)
    assert outcome.ended_by == "eval.patience"
    run(config(tmp_path / "parts", *PATIENT, "train.kimg=0.3"))
    assert run(parts).images == outcome.images
    assert_same_bits(tensors(whole), tensors(parts))


TARGETED = ["train.kimg=0.512", "eval.every_kimg=0.128"]


def test_workers_end_at_the_second_evaluation_that_reaches_its_target(tmp_path: Path) -> None:
    placed = [*TARGETED, "scale.workers=2"]
    whole, parts = (config(tmp_path / name, *placed, "eval.target=1e9") for name in ("whole", "parts"))
    # Its end comes between two evaluations: the one there is not due, and does not count.
    first = config(tmp_path / "parts", *placed, "eval.target=1e9", "train.kimg=0.192")
    run_gloo(run_on_ranks, 2, whole, first)
    assert checkpoint_names(first.run_uri)[0] == "checkpoint_000000000192"
    run_gloo(run_on_ranks, 2, parts)
    for one in (whole, parts):
        assert checkpoint_names(one.run_uri)[0] == "checkpoint_000000000256"
    assert_same_bits(tensors(whole), tensors(parts))


@pytest.mark.parametrize("after", ["eval.target=1e-9", "eval.target=null"])
def test_a_run_that_reached_its_target_stays_ended_and_goes_on_with_a_lower_one(
    after: str, tmp_path: Path
) -> None:
    ended = run(config(tmp_path, *TARGETED, "eval.target=1e9"))
    assert (ended.images, ended.finished, ended.ended_by) == (256, True, "eval.target")
    before = contents(tmp_path / "run")
    again = run(config(tmp_path, *TARGETED, "eval.target=1e9"))
    assert (again.images, again.finished, again.ended_by) == (256, True, "eval.target")
    assert contents(tmp_path / "run") == before
    more = run(config(tmp_path, *TARGETED, after))
    assert (more.images, more.finished, more.ended_by) == (512, True, None)
    whole = config(tmp_path / "whole", *TARGETED)
    run(whole)
    assert_same_bits(tensors(config(tmp_path)), tensors(whole))


def test_a_run_that_reaches_its_target_says_so_and_how_it_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(tmp_path, "eval.target=6.5")
    ended = RunResult(256, finished=True, images_per_second=None, value=6.0, ended_by="eval.target")
    monkeypatch.setattr("gan_dist.cluster.train.driver.run", lambda *_: ended)
    assert train_run(settings, ["digits", "eval.target=6.5"])["ended_by"] == "eval.target"
    *_, reason, _, command = capsys.readouterr().out.splitlines()
    assert reason == "ended early: two evaluations, one after another, were at or below eval.target=6.5"
    assert command.endswith("train digits eval.target=null")


BY_TIME = ["eval.every_kimg=10", "train.checkpoint_every_s=100", "log.every_kimg=0.096"]


class _Clock(SimpleNamespace):
    """A module `time` in which every question takes `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.now, self.seconds = 0.0, seconds

    def perf_counter(self) -> float:
        self.now += self.seconds
        return self.now


class _Killed(LocalContext):
    """A process that dies as soon as it has taken the step to `at` images."""

    at = 0

    def progress(self, progress: Progress) -> None:
        if progress.images == self.at:
            raise KeyboardInterrupt


def train_by_clock(settings: RunConfig, at: int) -> list[str]:
    """Train until the step to `at` images; on ranks but 0 time stands still. Return the checkpoints seen."""
    torch.set_num_threads(1)
    context = _Killed(settings.run_uri)
    context.at = at
    clock = _Clock(15.0 if context.rank == 0 else 0.0)
    with patch.object(recorder, "time", clock), suppress(KeyboardInterrupt):
        train(settings, context)
    if dist.is_initialized():
        dist.barrier()
    return checkpoint_names(settings.run_uri)


def test_workers_killed_between_evaluations_go_on_from_a_checkpoint_by_time_to_the_same_bits(
    tmp_path: Path,
) -> None:
    placed = [*BY_TIME, "scale.workers=2"]
    whole = config(tmp_path / "whole", *placed, "train.checkpoint_every_s=null")
    parts = config(tmp_path / "parts", *placed)
    run_gloo(run_on_ranks, 2, whole)
    for names in run_gloo(train_by_clock, 2, parts, 416):
        assert len(names) == 3
        assert all(0 < int(name[11:]) < 416 for name in names)
    run_gloo(run_on_ranks, 2, parts)
    assert_same_bits(tensors(whole), tensors(parts))
    # A clock leaves no trace in records, and neither does a kill within an interval.
    assert [record["images"] for record in read_records(parts.run_uri)] == [*range(96, 640, 96), 640]
    assert timeless(read_records(whole.run_uri)) == timeless(read_records(parts.run_uri))


def test_evaluations_and_checkpoints_by_time_are_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["train.keep=100", "train.kimg=0.96", "train.checkpoint_every_s=100"]
    written = {}
    for every in (None, 15.0, 1000.0):
        monkeypatch.setattr(recorder, "time", _Clock(every or 0.0))
        settings = config(tmp_path / str(every), *overrides)
        run(settings)
        written[every] = [int(name[11:]) for name in reversed(checkpoint_names(settings.run_uri))]
    assert written[None] == [320, 640, 960]
    assert {320, 640, 960} < set(written[15.0]) < set(written[1000.0])
    assert written[1000.0] == [*range(32, 961, 32)]
    assert_same_bits(tensors(config(tmp_path / "None")), tensors(config(tmp_path / "1000.0")))


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_checkpoints_are_kept_as_asked_for_and_two_at_least(keep: int, tmp_path: Path) -> None:
    settings = config(tmp_path, "eval.every_kimg=0.064", "train.kimg=0.256", f"train.keep={keep}")
    run(settings)
    kept = [f"checkpoint_{images:012d}" for images in (256, 192, 128)]
    assert checkpoint_names(settings.run_uri) == kept[: max(2, keep)]
    assert run(config(tmp_path, "train.kimg=0.32", "train.keep=5", "eval.every_kimg=0.064")).finished
    assert len(checkpoint_names(settings.run_uri)) == max(2, keep) + 1


def test_training_goes_on_while_a_checkpoint_of_its_moment_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = config(tmp_path / "whole", *BY_TIME, "train.checkpoint_every_s=null")
    parts = config(tmp_path / "parts", *BY_TIME)
    run(whole)
    went_on, save = threading.Event(), states.Snapshot.save
    began: list[int] = []

    def slow(snapshot: states.Snapshot, *given: Any) -> None:
        began.append(snapshot.images)
        assert went_on.wait(60)
        save(snapshot, *given)

    def killed(progress: Progress) -> None:
        if began and progress.images == began[0] + 96:
            went_on.set()
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
        patched.setattr(states.Snapshot, "save", slow)
        patched.setattr(recorder, "time", _Clock(15.0))
        run(parts, on_progress=killed)
    assert checkpoint_names(parts.run_uri) == [f"checkpoint_{began[0]:012d}"]
    run(parts)
    assert_same_bits(tensors(whole), tensors(parts))
    assert timeless(read_records(whole.run_uri)) == timeless(read_records(parts.run_uri))


def test_a_checkpoint_that_cannot_be_uploaded_ends_the_run_and_the_one_before_stays(
    bucket: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(s3_url, seed=0) as store:
        uri = f"{bucket}?endpoint_override=127.0.0.1:{store.port}&scheme=http"
        run(config(uri, "train.kimg=0.32"))
        monkeypatch.setattr(recorder, "time", _Clock(15.0))
        steps: list[Progress] = []

        def progress(step: Progress) -> None:
            steps.append(step)
            store.faults.planned_for = "/optimizer_g.safetensors"
            store.faults.planned = ["unavailable"] * 1000

        longer = config(uri, *BY_TIME, "train.kimg=100", "storage.timeout_s=5", "storage.max_outage_s=3")
        said = r"(?s)checkpoint_\d+/optimizer_g.* could not be used within 5 s.* not answered for 3 s; "
        with pytest.raises(
            StorageError, match=f"{said}the last checkpoint, at 0.32 kimg, is whole"
        ) as caught:
            run(longer, on_progress=progress)
        assert 320 < steps[-1].images < 100_000
        assert "what was trained since is lost: " in str(caught.value)
        store.faults.planned = []
        state = fresh(longer)
        assert (
            states.load_latest(state, longer.run_uri).damaged == {}
        )  # what has no manifest is no checkpoint
        assert state.images == 320


def test_a_run_trains_on_while_its_store_is_away_and_leaves_what_it_would_have_left(
    bucket: str,
    s3_url: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured = ["eval.every_kimg=0.064", "log.every_kimg=0.032", "storage.timeout_s=3"]
    whole = config(tmp_path, *measured)
    run(whole)
    monkeypatch.setattr(outage, "PAUSE_S", 1.0)
    monkeypatch.setattr(recorder, "time", _Clock(15.0))  # a checkpoint is due at every seventh step or so
    during: list[tuple[int, float | None]] = []
    with proxy(s3_url, seed=0) as store:
        uri = f"{bucket}?endpoint_override=127.0.0.1:{store.port}&scheme=http"

        def progress(step: Progress) -> None:
            store.faults.reset = 1.0 if 192 <= step.images < 512 else 0.0
            if store.faults.reset:
                during.append((step.images, step.value))

        parts = config(uri, *measured)
        result = run(parts, on_progress=progress)
        assert result.finished
        # It has trained, and measured, while the store was away.
        assert during[-1][0] == 480
        assert len({value for _, value in during}) >= 4
        assert [line for line in caplog.messages if "the run's store fails at" in line]
        assert_same_bits(tensors(whole), tensors(parts))
        assert timeless(read_records(whole.run_uri)) == timeless(read_records(parts.run_uri))
        for name in ("samples", "best.json"):
            places = [storage.join(one.run_uri, name) for one in (whole, parts)]
            left = [storage.list_names(at) if name == "samples" else storage.read_text(at) for at in places]
            assert left[0] == left[1]


def test_a_run_measured_by_another_extractor_is_refused(begun: Path, tmp_path: Path) -> None:
    folder = begun / checkpoint_names(str(begun))[0]
    state = json.loads((folder / "state.json").read_text())
    state["measured"]["extractor"] = "0" * 64
    rewrite(folder, "state.json", (json.dumps(state) + "\n").encode())
    with pytest.raises(ResumeError, match=r"measured by an extractor with SHA-256 000.*e0ad31e8"):
        run(config(tmp_path))


def test_the_clock_counts_every_discriminator_batch(tmp_path: Path) -> None:
    outcome = run(config(tmp_path, "optim.d_steps=3", "train.kimg=0.5", "eval.every_kimg=0.5"))
    assert outcome.images == 6 * 96


def test_the_stream_read_directly_trains_to_the_same_bits_as_memory(whole: RunConfig, tmp_path: Path) -> None:
    assert whole.data.cache == "memory"
    stream = config(tmp_path, "data.cache=stream")
    run(stream)
    assert_same_bits(tensors(whole), tensors(stream))


def test_samples_are_written_at_the_start_and_at_every_evaluation(begun: Path, tmp_path: Path) -> None:
    settings, folder = config(tmp_path), begun / "samples"
    first = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    run(settings)
    names = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert sorted(names) == ["fakes_000000.320.png", "fakes_000000.640.png", "fakes_init.png", "reals.png"]
    assert first.items() <= names.items()
    # The first 64 images that the run reads, in grey, twelve pixels of the grid's edge apart from its frame.
    images = open_configured(settings.data)
    order = make_order(settings.data, images, seed=settings.seed, batch_size=32)
    rows = batches(order, InMemoryReader(images), rank=0, world_size=1, start=0, stop=64)
    expected = image_grid(torch.cat([to_batch(part, images, 16).images for part in rows]))
    assert Image.open(folder / "reals.png").tobytes() == expected.tobytes()


def test_samples_show_what_the_same_latents_have_become(tmp_path: Path) -> None:
    # Networks without running statistics, which do not learn.
    run(config(tmp_path, "model.name=r3gan", "optim.g.lr=1e-12", "optim.d.lr=1e-12"))
    names = (tmp_path / "run" / "samples").glob("fakes_*")
    first, *others = (np.asarray(Image.open(file), int) for file in names)
    assert first.std() > 5
    assert len(others) == 2
    assert all(np.abs(first - other).max() <= 1 for other in others)


class _Stopwatch(LocalContext):
    """Knows when a run's first step began and its last one ended."""

    began = ended = 0.0
    seen = 0

    def before_writing(self) -> None:
        self.began = self.began or time.perf_counter()

    def progress(self, progress: Progress) -> None:
        if progress.images > self.seen:
            self.seen, self.ended = progress.images, time.perf_counter()


def test_speed_is_that_of_training_without_its_evaluations(tmp_path: Path) -> None:
    settings = config(
        tmp_path,
        "data.path=builtin://shapes?count=64&resolution=16",
        "eval.extractor=tests.extractors:Slow",
        "eval.every_kimg=0.16",
    )
    torch.set_num_threads(1)
    watch = _Stopwatch(settings.run_uri)
    outcome = train(settings, watch)
    assert outcome.images_per_second is not None
    evaluated_s = 3 * Slow.WAIT_S  # the fourth comes after the last step
    assert 640 / outcome.images_per_second <= watch.ended - watch.began - evaluated_s


def test_a_run_that_is_told_to_stop_by_what_it_measured_takes_no_further_step(tmp_path: Path) -> None:
    settings = config(tmp_path)
    # As a search does it, whose scheduler answers to a report.
    outcome = run(settings, should_stop=lambda: (tmp_path / "run" / "best.json").exists())
    assert (outcome.images, outcome.finished) == (320, False)
    assert checkpoint_names(settings.run_uri) == ["checkpoint_000000000320"]


def test_reference_statistics_do_not_depend_on_the_number_of_workers(tmp_path: Path) -> None:
    one = _reference(config(tmp_path))
    for mean, second in run_gloo(_reference, 2, config(tmp_path)):
        np.testing.assert_allclose(mean, one[0], rtol=1e-10)
        np.testing.assert_allclose(second, one[1], rtol=1e-8, atol=1e-6)


def _reference(settings: RunConfig) -> tuple[np.ndarray[Any, np.dtype[np.float64]], ...]:
    from gan_dist.training.evaluator import Evaluator

    images = open_images(settings.data.path)
    reference = Evaluator(settings, images, LocalContext("unused"))._reference
    assert reference is not None
    moments = reference.moments
    return moments.mean.numpy(), moments.m2.numpy()


def test_state_has_nothing_that_a_checkpoint_lacks() -> None:
    """A field added to the state must be saved, or resuming would lose it."""
    fields = set(TrainingState.__dataclass_fields__)
    saved = {"generator", "discriminator", "average", "optimizer_g", "optimizer_d", "shape"}
    saved |= {"images", "best", "augment", "measured", "interval", "logits", "path_length"}
    assert fields == saved
    assert not dist.is_initialized()


def _damaged_digits(folder: Path) -> str:
    """Return a copy of the digits in whose fourth row group a byte is flipped."""
    shutil.copytree(DIGITS, folder)
    shard = folder / "shard-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[int(3.5 * len(content) / 15)] ^= 1
    shard.write_bytes(content)
    return str(folder)


def test_damage_stops_a_run_and_is_named(tmp_path: Path) -> None:
    path = _damaged_digits(tmp_path / "digits")
    for cache in ("memory", "stream"):
        with pytest.raises(DataError, match=r"shard shard-00000.parquet, row group 3, of .* is damaged"):
            run(config(tmp_path / cache, f"data.path={path}", f"data.cache={cache}"))


def test_damage_can_be_left_out_and_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = config(tmp_path, f"data.path={_damaged_digits(tmp_path / 'digits')}", "data.verify=quarantine")
    with caplog.at_level(logging.WARNING, "gan_dist"):
        assert run(settings).finished
    assert caplog.text.count("left out: shard shard-00000.parquet, row group 3") == 1
    assert [record["quarantined"] for record in read_records(settings.run_uri)] == [128, 128]


def test_all_workers_leave_out_the_same(tmp_path: Path) -> None:
    path = _damaged_digits(tmp_path / "digits")
    settings = config(tmp_path, f"data.path={path}", "data.verify=quarantine")
    for groups in run_gloo(_usable_groups, 2, settings):
        assert groups == (128,) * 13 + (5,)


def _usable_groups(settings: RunConfig) -> tuple[int, ...]:
    images, left_out = without_damage(settings.data, open_images(settings.data.path), LocalContext("unused"))
    assert left_out == 128
    return images.group_rows
