"""Runs that begin with another's weights: the same bits whatever becomes of the source, and frozen stages."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.errors import ResumeError
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.data.batches.loader import Batch
from gan_dist.models import transfer
from gan_dist.training import checkpoint as states
from gan_dist.training.audit import audit_run, verdict
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.preflight import prepare, require_same_run
from gan_dist.training.progress import Progress
from gan_dist.training.state import TrainingState
from gan_dist.training.step import Step
from tests.support.gloo import run_gloo
from tests.support.sources import checkpoint, config, state_of


def run(settings: RunConfig, **hooks: object) -> None:
    torch.set_num_threads(1)
    train(settings, LocalContext(settings.run_uri, **hooks))  # type: ignore[arg-type]


def ended(settings: RunConfig) -> dict[str, torch.Tensor]:
    """Return every tensor of a run's newest checkpoint."""
    state = state_of(settings)
    states.load(state, storage.join(settings.run_uri, checkpoint_names(settings.run_uri)[0]))
    return {f"{file}.{key}": value for file, part in state.tensors().items() for key, value in part.items()}


def assert_same_bits(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [key for key in a if not torch.equal(a[key], b[key])] == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """An uninterrupted run from a checkpoint that lies beside its folder."""
    root = tmp_path_factory.mktemp("whole")
    checkpoint(root / "source")
    settings = config(root, f"init.from={root / 'source'}", "init.freeze_d=1", "train.keep=9")
    run(settings)
    return settings


class Killed(BaseException):
    """The process is dead."""


def at(images: int) -> Callable[[Progress], None]:
    def kill(progress: Progress) -> None:
        if progress.images >= images:
            raise Killed

    return kill


@pytest.mark.parametrize("images", [32, 96])
def test_a_run_killed_and_without_its_source_goes_on_to_the_same_bits(
    images: int, whole: RunConfig, tmp_path: Path
) -> None:
    checkpoint(tmp_path / "source")
    settings = config(tmp_path, f"init.from={tmp_path / 'source'}", "init.freeze_d=1", "train.keep=9")
    with pytest.raises(Killed):
        run(settings, on_progress=at(images))
    assert [*checkpoint_names(settings.run_uri)] == (["checkpoint_000000000064"] if images == 96 else [])
    shutil.rmtree(tmp_path / "source")
    if images == 32:
        checkpoint(tmp_path / "source", "seed=8")
    assert prepare(settings) is None
    run(settings)
    assert_same_bits(ended(settings), ended(whole))


def test_a_run_whose_checkpoints_are_damaged_begins_anew_with_the_same_weights(
    whole: RunConfig, tmp_path: Path
) -> None:
    shutil.copytree(whole.run_uri, tmp_path / "run")
    for name in checkpoint_names(str(tmp_path / "run")):
        (tmp_path / "run" / name / "state.json").write_text("{}")
    settings = whole.model_copy(update={"storage": whole.storage.model_copy(update={"path": str(tmp_path)})})
    run(settings)
    assert_same_bits(ended(settings), ended(whole))


def test_the_resolved_configuration_has_the_hash(whole: RunConfig, tmp_path: Path) -> None:
    sha256 = transfer.read_source(whole.init).sha256
    for name in (".", checkpoint_names(whole.run_uri)[0]):
        assert load_config(f"{whole.run_uri}/{name}/config.yaml").init.sha256 == sha256
    pinned = whole.init.model_copy(update={"sha256": sha256})
    require_same_run(whole.model_copy(update={"init": pinned}), whole.run_uri)
    for changed in (
        {"sha256": "0" * 64},
        {"freeze_d": 0},
        {"source": str(tmp_path)},
        {"networks": ("generator",)},
    ):
        init = whole.init.model_copy(update=changed)
        with pytest.raises(ResumeError, match="another configuration: init") as caught:
            prepare(whole.model_copy(update={"init": init}))
        assert len(caught.value.problems[0].keys) == 1


def test_an_audit_trains_the_beginning_again_without_the_source(whole: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(whole.run_uri, tmp_path / "run")
    settings = load_config(str(tmp_path / "run/config.yaml"))
    source = Path(str(settings.init.source))
    moved = source.rename(source.with_name("moved"))
    try:
        checks = [*audit_run(str(tmp_path / "run"), 9, 0, lambda _: None)]
    finally:
        moved.rename(source)
    assert verdict(checks) is True, checks
    assert [check.what for check in checks if check.images] == ["0 to 0.064 kimg", "0.064 to 0.128 kimg"]


NETWORKS = {
    "batch norm": ["model.name=dcgan", "loss.name=nonsaturating"],
    "clipped": ["model.name=dcgan", "loss.name=wgan", "loss.clip=0.001"],
    "spectral norm": ["model.name=resnet", "model.spectral_norm=true", "loss.name=hinge", "loss.r1=1"],
    "penalties": ["model.name=r3gan", "model.width=8", "loss.name=rpgan", "data.augment=ada"],
}


@pytest.mark.parametrize("case", NETWORKS)
def test_what_is_frozen_stays_to_the_bit_and_the_rest_is_trained(case: str, tmp_path: Path) -> None:
    earlier = checkpoint(tmp_path / "source", *NETWORKS[case])
    given = [f"init.from={tmp_path / 'source'}", "init.freeze_d=1", *NETWORKS[case]]
    settings = config(tmp_path, *given, "train.kimg=0.096", "optim.d_steps=1", "eval.every_kimg=1")
    run(settings)
    state = state_of(settings)
    frozen = {name for name, p in state.discriminator.named_parameters() if not p.requires_grad}
    states.load(state, storage.join(settings.run_uri, checkpoint_names(settings.run_uri)[0]))
    before, after = earlier.discriminator.state_dict(), state.discriminator.state_dict()
    modules = {name.rpartition(".")[0] for name in frozen}
    kept = {name for name in after if name.rpartition(".")[0] in modules or name in frozen}
    assert [name for name in kept if not torch.equal(after[name], before[name])] == []
    trained = {name for name, p in state.discriminator.named_parameters() if p.requires_grad}
    same = [name for name in trained if torch.equal(after[name], before[name])]
    assert [name for name in same if after[name].any()] == []
    indices = {key.split(".")[0] for key in state.tensors()["optimizer_d"]}
    assert len(indices) == len(trained)


def test_running_statistics_and_sigmas_of_frozen_layers_stay(tmp_path: Path) -> None:
    given = ["init.from=x", "init.freeze_d=2", "model.spectral_norm=true", "loss.name=hinge"]
    settings = config(tmp_path, *given)
    state = state_of(settings)
    before = {name: tensor.clone() for name, tensor in state.discriminator.state_dict().items()}
    take_steps(settings, state)
    after = state.discriminator.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    head = "layers.5.parametrizations.weight"  # with one output, whose direction is always 1
    assert changed == {f"{head}.original", f"{head}.0._v"}


def take_steps(settings: RunConfig, state: TrainingState) -> TrainingState:
    """Take two steps on this rank's part of batches of 16 images."""
    context = LocalContext("unused")
    step = Step(settings, state, context)
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        images = torch.randint(0, 256, (32, 1, 16, 16), dtype=torch.uint8, generator=generator)
        batch = Batch(images.chunk(context.world_size)[context.rank], None)
        scalars = step.discriminator_phase(batch) | step.generator_phase(batch)
        step.average_over_ranks(scalars, stop=False)
        step.update_average()
    return state


def weights_after_steps(*runs: RunConfig) -> list[dict[str, torch.Tensor]]:
    """Return the discriminator's tensors after two steps of each run; called on every rank."""
    torch.set_num_threads(1)
    found = []
    for settings in runs:
        state = state_of(settings)
        for network in (state.generator, state.discriminator):
            for layer in network.modules():
                if isinstance(layer, torch.nn.BatchNorm2d):
                    layer.eval()  # nothing couples the images of a batch
        tensors = take_steps(settings, state).discriminator.state_dict()
        found.append({name: tensor.clone() for name, tensor in tensors.items()})
    return found


def test_two_workers_train_what_is_not_frozen_as_one_does(tmp_path: Path) -> None:
    given = ["init.from=x", "init.freeze_d=1"]
    runs = [config(tmp_path, *given, *NETWORKS[case]) for case in ("spectral norm", "penalties", "clipped")]
    alone = weights_after_steps(*runs)
    both = run_gloo(weights_after_steps, 2, *runs)
    for number, settings in enumerate(runs):
        begun = state_of(settings).discriminator
        start, frozen = begun.state_dict(), {n for n, p in begun.named_parameters() if not p.requires_grad}
        for name, expected in alone[number].items():
            first, second = (found[number][name] for found in both)
            assert torch.equal(first, second), name
            if name in frozen:
                assert torch.equal(first, start[name]), name
            elif expected.is_floating_point() and (moved := (expected - start[name]).norm()) > 0:
                assert (first - expected).norm() <= 3e-2 * moved, name


def test_a_release_of_a_run_is_a_source_with_its_discriminator(whole: RunConfig, tmp_path: Path) -> None:
    shutil.copytree(whole.run_uri, tmp_path / "earlier")
    said: list[str] = []
    settings = config(tmp_path, f"init.from={tmp_path / 'earlier'}")
    assert prepare(settings, note=said.append) is None
    assert [line.partition(":")[0] for line in said] == [
        "init",
        "init_discriminator",
        "init_generator",
        "init_average",
    ]
    assert all(line.partition(": ")[2].startswith("all ") for line in said[1:3])
