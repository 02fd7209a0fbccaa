"""Weights to begin with: what fits is taken, what does not is named, and the run's folder keeps them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from torch import nn

from gan_dist.config import InitConfig, load_config
from gan_dist.core.errors import CheckpointError, ConfigError, StorageError
from gan_dist.core.storage.hashed_folder import read_manifest
from gan_dist.models import Discriminator, dcgan, fastgan_discriminator, r3gan, resnet, stylegan2, transfer
from gan_dist.models.fit import compare
from gan_dist.models.sizes import NetworkSize
from gan_dist.training.state import TrainingState
from tests.support.crashes import every_crash
from tests.support.releases import rewrite
from tests.support.sources import best_release, checkpoint, config, state_of

VERSION_0_1 = Path(__file__).parents[2] / "data" / "version_0_1"


def init_of(source: object, **more: object) -> InitConfig:
    return InitConfig.model_validate({"from": str(source), **more})


def begun(root: Path, *overrides: str, classes: int = 10, channels: int = 1) -> TrainingState:
    """Return the state of a run that begins as its configuration says."""
    settings = config(root, *overrides)
    state = state_of(settings, classes, channels)
    transfer.load(settings.init, settings.model, state.networks(), settings.run_uri)
    return state


def differing(a: nn.Module, b: nn.Module, *but: str) -> list[str]:
    """Return the names of tensors that are not the same bits, without some."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    return [name for name in ours if name not in but and not torch.equal(ours[name], theirs[name])]


def check(root: Path, *overrides: str, classes: int = 10, channels: int = 1) -> Mapping[str, str]:
    settings = config(root, *overrides)
    state = state_of(settings.model_copy(update={"init": InitConfig()}), classes, channels)
    return transfer.check(
        settings.init, settings.model, state.generator, state.discriminator, settings.run_uri
    ).words


def test_a_checkpoint_gives_its_three_networks(tmp_path: Path) -> None:
    earlier = checkpoint(tmp_path / "source")
    state = begun(tmp_path, f"init.from={tmp_path / 'source'}")
    for name, network in state.networks().items():
        assert differing(network, earlier.networks()[name]) == []
    assert (state.images, state.augment.p) == (0, 0)
    assert state.optimizer_g.state_dict()["state"] == {}


@pytest.mark.parametrize("of_run", [True, False])
def test_a_release_gives_its_generator_twice(of_run: bool, tmp_path: Path) -> None:
    uri, earlier = best_release(tmp_path / "runs")
    source = uri if of_run else next(Path(uri).glob("best_*"))
    state = begun(tmp_path, f"init.from={source}")
    assert differing(state.generator, earlier.average) == differing(state.average, earlier.average) == []
    assert differing(state.discriminator, earlier.discriminator) == []


def test_only_the_networks_that_are_asked_for_are_taken(tmp_path: Path) -> None:
    earlier = checkpoint(tmp_path / "source")
    uri, _ = best_release(tmp_path / "runs")
    fresh = state_of(config(tmp_path))
    for source, average in ((tmp_path / "source", earlier.average), (uri, earlier.average)):
        state = begun(tmp_path, f"init.from={source}", "init.networks=[average]")
        assert differing(state.generator, fresh.generator) == []
        assert differing(state.discriminator, fresh.discriminator) == []
        assert differing(state.average, average) == []
    state = begun(tmp_path, f"init.from={tmp_path / 'source'}", "init.networks=[generator]")
    assert differing(state.generator, earlier.generator) == []
    assert differing(state.average, earlier.generator) == []  # begins as the generator
    assert differing(state.discriminator, fresh.discriminator) == []


def test_tensors_of_another_shape_stay_random_and_are_named(tmp_path: Path) -> None:
    earlier = checkpoint(tmp_path / "source", "model.conditional=true")
    given = [f"init.from={tmp_path / 'source'}", "model.conditional=true"]
    state = begun(tmp_path, *given, classes=5)
    fresh = state_of(config(tmp_path, *given), classes=5)
    assert differing(state.discriminator, fresh.discriminator)
    assert differing(state.discriminator, earlier.discriminator, "embed.weight") == []
    assert (
        differing(state.discriminator.get_submodule("embed"), fresh.discriminator.get_submodule("embed"))
        == []
    )
    words = check(tmp_path, *given, classes=5)
    assert words["init_discriminator"] == (
        "8 of 9 tensors, 94.9 % of its numbers; not embed.weight is 10x8 there and 5x8 here"
    )
    assert words["init_average"].startswith("9 of 13 tensors, 93.1 % of its numbers")
    whole = check(tmp_path, *given)
    assert whole["init_discriminator"] == "all 9 tensors"
    assert "init_model" not in whole
    counted = nn.Module()
    counted.register_buffer("number", torch.tensor(3))
    fit = compare(counted, save({"number": torch.tensor(0.5)}), "source", "generator.safetensors")
    assert fit.left == {"number": "a number there and a number of torch.int64 here"}
    narrower = check(tmp_path, given[0], "model.latent_dim=6")
    assert narrower["init_model"] == "latent_dim was 8, is 6; conditional was true, is false"


def test_the_hash_is_that_of_sha256sum(tmp_path: Path) -> None:
    checkpoint(tmp_path / "source")
    names = " ".join(f"{role}.safetensors" for role in transfer.ROLES)
    command = f"sha256sum {names} | sha256sum"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path / "source", capture_output=True, text=True, check=True
    )
    assert transfer.read_source(init_of(tmp_path / "source")).sha256 == done.stdout.split()[0]
    only = transfer.read_source(init_of(tmp_path / "source", networks=["generator"]))
    assert only.sha256 == done.stdout.split()[0]
    assert [*only.weights] == ["generator"]


@pytest.mark.parametrize("gone", [True, False])
def test_a_run_that_has_its_copy_does_not_read_the_source_again(gone: bool, tmp_path: Path) -> None:
    earlier = checkpoint(tmp_path / "source")
    settings = config(tmp_path, f"init.from={tmp_path / 'source'}")
    kept = transfer.keep(settings.init, settings.run_uri)
    assert kept.sha256 == transfer.read_source(settings.init).sha256
    shutil.rmtree(tmp_path / "source")
    if not gone:
        checkpoint(tmp_path / "source", "seed=8")
    assert transfer.keep(settings.init, settings.run_uri) == kept
    for init in (settings.init, kept):
        state = state_of(settings)
        transfer.load(init, settings.model, state.networks(), settings.run_uri)
        assert differing(state.generator, earlier.generator) == []


def test_a_crash_at_any_moment_leaves_a_whole_copy_or_none(tmp_path: Path) -> None:
    earlier = checkpoint(tmp_path / "source")
    checkpoint(tmp_path / "other", "seed=8")
    first, second = (init_of(tmp_path / name) for name in ("other", "source"))
    (tmp_path / "run").mkdir()
    transfer.keep(first, str(tmp_path / "run"))
    settings = config(tmp_path)
    for folder, _ in every_crash(tmp_path / "run", lambda run: transfer.keep(second, str(run))):
        kept = transfer.keep(second, str(folder))
        state = state_of(settings)
        transfer.load(kept, settings.model, state.networks(), str(folder))
        assert differing(state.generator, earlier.generator) == []


def test_a_copy_of_another_source_is_replaced(tmp_path: Path) -> None:
    checkpoint(tmp_path / "source")
    other = checkpoint(tmp_path / "other", "seed=8")
    first, second = (config(tmp_path, f"init.from={tmp_path / name}") for name in ("source", "other"))
    run = first.run_uri
    assert transfer.keep(first.init, run).sha256 != transfer.keep(second.init, run).sha256
    state = state_of(second)
    transfer.load(second.init, second.model, state.networks(), run)
    assert differing(state.average, other.average) == []
    asked = second.init.model_copy(update={"networks": ("generator",)})
    transfer.keep(asked, run)
    files = read_manifest(f"{run}/{transfer.FOLDER}", [transfer.KIND]).files
    assert [name for name in files if name.endswith(".safetensors")] == ["generator.safetensors"]


def test_a_source_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "source")
    pinned = transfer.read_source(init_of(tmp_path / "source")).sha256
    assert transfer.read_source(init_of(tmp_path / "source", sha256=pinned)).sha256 == pinned
    rewrite(
        tmp_path / "source", "average.safetensors", (tmp_path / "source/generator.safetensors").read_bytes()
    )
    with pytest.raises(CheckpointError, match=f"init.sha256 is {pinned}: they have changed") as caught:
        transfer.keep(init_of(tmp_path / "source", sha256=pinned), str(tmp_path / "run"))
    assert caught.value.problems[0].keys == ("init.from", "init.sha256")
    assert not (tmp_path / "run").exists()


def refusal(root: Path, *overrides: str, channels: int = 1) -> str:
    with pytest.raises((CheckpointError, ConfigError, StorageError)) as caught:
        check(root, *overrides, channels=channels)
    return str(caught.value)


def test_what_cannot_be_begun_with_is_refused(tmp_path: Path) -> None:
    checkpoint(tmp_path / "source")
    given = f"init.from={tmp_path / 'source'}"
    assert refusal(tmp_path, f"init.from={tmp_path / 'nothing'}") == (
        f"init.from: {tmp_path / 'nothing'} is not a release or checkpoint: it has no manifest.json; give "
        "the folder of one, or of a run, <storage>/<name>"
    )
    assert refusal(tmp_path, given, "model.name=r3gan", "model.width=8") == (
        f"{tmp_path / 'source'} has networks of model.name=dcgan, and this run of model.name=r3gan; 0 of 88 "
        "tensors fit; use its settings of model, or give another init.from"
    )
    wider = refusal(tmp_path, given, "model.width=8", "model.latent_dim=4")
    assert wider.startswith(
        f"no weights of {tmp_path / 'source'} fit these networks (model.latent_dim was 8, is 4; model.width "
        "was 4, is 8); "
    )
    assert "; 5 of 34 tensors fit: average layers.1.num_batches_tracked, average layers.4." in wider
    assert refusal(tmp_path, given, "init.freeze_d=3") == (
        "init.freeze_d=3: this discriminator has 2 stages to freeze; use 2 or less, as a rule half of them"
    )
    assert "keeps layers.0.weight of the discriminator, and what is taken of" in refusal(
        tmp_path, given, "init.freeze_d=1", "init.networks=[generator]"
    )
    assert "they would stay random" in refusal(tmp_path, given, "init.freeze_d=1", channels=3)
    rewrite(tmp_path / "source", "generator.safetensors", b"no tensors")
    assert "generator.safetensors holds something else than it should" in refusal(tmp_path, given)


def test_a_release_without_a_discriminator_is_refused_where_one_is_asked_for(tmp_path: Path) -> None:
    uri, earlier = best_release(tmp_path / "runs", discriminator=False)
    said = refusal(tmp_path, f"init.from={uri}", "init.networks=[generator,discriminator]")
    folder = next(Path(uri).glob("best_*"))
    assert said == (
        f"init.networks asks for the discriminator, and the release {folder} has none; write it with one: "
        f"gan-dist best RUN --with-discriminator --to {folder}; or give a checkpoint, which has all three, "
        "or leave init.networks out"
    )
    state = begun(tmp_path, f"init.from={uri}")
    assert differing(state.generator, earlier.average) == []
    assert differing(state.discriminator, state_of(config(tmp_path)).discriminator) == []


def test_runs_and_releases_of_version_0_1_are_sources() -> None:
    run = VERSION_0_1 / "run"
    of_run, of_checkpoint = (
        transfer.read_source(init_of(path)) for path in (run, run / "checkpoint_000000000640")
    )
    assert [*of_run.weights] == ["generator"]
    assert [*of_checkpoint.weights] == [*transfer.ROLES]
    assert of_run.uri.startswith(str(run / "best_"))


SIZE = NetworkSize(resolution=16, channels=1, width=8)
STAGES: dict[str, tuple[Callable[[], Discriminator], int]] = {
    "dcgan": (lambda: dcgan.Discriminator(SIZE, spectral_norm=True), 2),
    "resnet": (lambda: resnet.Discriminator(SIZE, attention=True), 3),
    "r3gan": (lambda: r3gan.Discriminator(SIZE), 3),
    "stylegan2": (lambda: stylegan2.Discriminator(SIZE), 2),
    "fastgan": (lambda: fastgan_discriminator.Discriminator(SIZE, reconstruction=0), 2),
}


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_the_discriminator_from_the_image_side_on(name: str) -> None:
    build, count = STAGES[name]
    discriminator = build()
    stages = discriminator.stages()
    assert len(stages) == count
    named = {weights: name for name, weights in discriminator.named_parameters()}
    of_stages = [[named[weights] for weights in stage.parameters()] for stage in stages]
    assert len({*chain(*of_stages)}) == len([*chain(*of_stages)]) > 0
    for frozen in range(1, count + 1):
        discriminator.freeze(frozen)
        discriminator.zero_grad()
        images = torch.randn(4, 1, 16, 16, requires_grad=True)
        discriminator(images).sum().backward()
        # All that is between the image and the layers that are trained is frozen.
        still = {name for name, weights in discriminator.named_parameters() if not weights.requires_grad}
        assert still == {*chain(*of_stages[:frozen])}
        assert images.grad is not None
    trained = [weights for weights in discriminator.parameters() if weights.requires_grad]
    assert trained
    assert all(weights.grad is not None for weights in trained)


def test_settings_without_a_source_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("digits", ["init.freeze_d=2", "init.networks=[generator]"])
    assert "init.networks and init.freeze_d concern the weights of init.from, which is not set" in str(
        caught.value
    )
