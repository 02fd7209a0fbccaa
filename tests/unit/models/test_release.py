"""A run's generator by its folder alone, before and after its first measurement; where its end is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from gan_dist import models
from gan_dist.cli import app
from gan_dist.cli.train import train_run
from gan_dist.config import RunConfig, load_config, to_yaml
from gan_dist.core.errors import CheckpointError, ConfigError, GanDistError, StorageError
from gan_dist.core.storage.hashed_folder import read_folder, write_folder
from gan_dist.models import release
from gan_dist.models.generator import ImageShape
from gan_dist.training import checkpoint as states
from gan_dist.training.progress import RunResult
from gan_dist.training.state import new_state
from tests.support.releases import untrained


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    small = ["model.width=8", "model.max_width=16", "model.latent_dim=4"]
    return load_config("digits", ["name=run", f"storage={tmp_path}", *small])


def write_checkpoint(config: RunConfig, name: str, seed: int) -> Tensor:
    """Write a run's checkpoint, of which only the average has weights; returns an image that it makes."""
    seeded = config.model_copy(update={"seed": seed})
    state = new_state(
        seeded.model,
        seeded.optim,
        ImageShape(8, 1),
        torch.device("cpu"),
        seed=seeded.seed,
        channels_last=seeded.train.channels_last,
    )
    for weights in state.generator.parameters():
        weights.data.zero_()
    uri = f"{config.run_uri}/{name}"
    states.Snapshot(state).save(uri, to_yaml(config))
    return release.load(uri).sample(1)


def test_a_run_without_a_measurement_is_its_newest_whole_checkpoint(
    config: RunConfig, tmp_path: Path
) -> None:
    run = Path(config.run_uri)
    names = ["checkpoint_000000000064", "checkpoint_000000000064-9", "checkpoint_000000000064-10"]
    images = [write_checkpoint(config, name, seed) for seed, name in enumerate(names)]
    assert not torch.equal(images[0], images[1])
    (run / "checkpoint_notes").mkdir()  # a user's own
    assert torch.equal(release.load(run).sample(1), images[2])
    (run / names[2] / "manifest.json").unlink()
    assert torch.equal(release.load(str(run)).sample(1), images[1])
    shutil.copyfile(run / names[0] / "average.safetensors", run / names[1] / "average.safetensors")
    assert torch.equal(release.load(str(run)).sample(1), images[0])
    (run / names[0] / "shape.json").unlink()
    with pytest.raises(CheckpointError, match=f"{names[2]} is not a release or checkpoint"):
        release.load(str(run))
    # Once it has been measured, it is the best release that counts.
    untrained(tmp_path)
    assert release.load(str(run)).config.model.latent_dim != 4


def test_of_a_damaged_best_the_rest_of_the_run_is_named(config: RunConfig, tmp_path: Path) -> None:
    run = Path(config.run_uri)
    write_checkpoint(config, "checkpoint_000000000064", 0)
    whole = Path(untrained(tmp_path)) / json.loads((run / "best.json").read_text())["release"]
    (whole / "generator.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"safetensors is damaged.*: {run}/checkpoint_0+64$"):
        release.load(str(run))
    for damaged in ("{", "[]", '{"release": "best_000000000001"}'):
        (run / "best.json").write_text(damaged)
        with pytest.raises(CheckpointError, match=rf"best\.json is damaged.*: {whole} or .*_0+64$"):
            release.load(str(run))


def test_a_search_and_a_run_that_has_only_begun_say_what_to_do(tmp_path: Path) -> None:
    for name, told in (("config.yaml", "without a checkpoint so far"), ("search.json", "gan-dist best")):
        (tmp_path / name).touch()
        with pytest.raises(CheckpointError, match=told):
            release.load(str(tmp_path))


def test_a_place_without_any_of_these_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file", tmp_path / "nowhere"):
        with pytest.raises(CheckpointError, match="is not a release or checkpoint: it has no manifest"):
            release.load(str(place))


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", "{}", "[" * 10_000),
        '{"release": "best_1", "images": 1, "metric": "fid", "value": null}',
        '{"release": "../best_1", "images": 1, "metric": "fid", "value": 1.0}',
        '{"release": "best_1", "images": 1e99, "metric": "fid", "value": 1.0}',
    ],
)
def test_a_damaged_pointer_to_the_best_is_told(text: str, tmp_path: Path) -> None:
    run = untrained(tmp_path)
    Path(run, "best.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"run/best\.json is damaged \(.*; restore it, or delete it"):
        release.load(run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("shape.json", b"{"),
        ("shape.json", b'{"resolution": -8, "channels": 1}'),
        ("shape.json", b'{"resolution": 8, "channels": 1e99}'),
        ("shape.json", b'{"resolution": 8, "channels": 1, "classes": 99999999999999999999}'),
        ("metrics.json", b"[]"),
        ("metrics.json", b"[" * 10_000),
        ("metrics.json", b'{"name": "\\ud800"}'),
        ("generator.safetensors", b"\x80\x04 a pickle"),
        ("generator.safetensors", (2**60).to_bytes(8, "little") + b"{}"),
    ],
)
def test_a_release_whose_files_hold_something_else_is_refused(
    name: str, content: bytes, tmp_path: Path
) -> None:
    """Their hashes are right: somebody made them."""
    run = untrained(tmp_path)
    uri = str(next(Path(run).glob("best_*")))
    _, contents = read_folder(uri, ["release"])
    write_folder(uri, "release", {**contents, name: content}.items())
    for place in (uri, run):
        with pytest.raises(CheckpointError, match=rf"{name} holds something else than it should \("):
            release.load(place)


@pytest.mark.parametrize("key", ["width", "max_width", "latent_dim", "blocks"])
def test_a_network_larger_than_any_is_refused_by_its_key(key: str) -> None:
    model = load_config("digits", [f"model.{key}={10**30}"]).model
    with pytest.raises(ConfigError, match=f"model.{key}=10{'0' * 29}: no network is that large"):
        models.build(model, ImageShape(8, 1))


@pytest.mark.parametrize("name", ["shape.json", "generator.safetensors"])
def test_a_release_whose_manifest_lacks_a_file_is_refused(name: str, tmp_path: Path) -> None:
    uri = str(next(Path(untrained(tmp_path)).glob("best_*")))
    _, contents = read_folder(uri, ["release"])
    del contents[name]
    write_folder(uri, "release", contents.items())
    with pytest.raises(CheckpointError, match=f"lists no {name}"):
        release.load(uri)


def test_a_network_far_larger_than_its_weights_takes_no_memory(tmp_path: Path) -> None:
    uri = str(next(Path(untrained(tmp_path)).glob("best_*")))
    _, contents = read_folder(uri, ["release"])
    config = contents["config.yaml"].replace(b"latent_dim: 32", b"latent_dim: 1000000")
    assert config != contents["config.yaml"]
    write_folder(uri, "release", {**contents, "config.yaml": config}.items())
    with pytest.raises(CheckpointError, match="holds another network"):
        release.load(uri)


def test_a_missing_bucket_is_told_from_one_without_any_of_these(bucket: str) -> None:
    with pytest.raises(CheckpointError, match="is not a release or checkpoint"):
        release.load(f"{bucket}/runs/faces")
    with pytest.raises(StorageError, match="the bucket does not exist; create it, or correct its name"):
        release.load("s3://nowhere-to-be-found/runs/faces")


@pytest.mark.parametrize("arguments", [["sample", "--n", "4"], ["evaluate", "--samples", "64"]])
def test_verbs_take_the_folder_of_a_run_that_was_interrupted_early(
    arguments: list[str], config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(config, "checkpoint_000000000064", 0)
    verb, *options = arguments
    result = CliRunner().invoke(app, [verb, "run", *options], catch_exceptions=False)
    assert result.exit_code == 0


@pytest.mark.parametrize(("name", "written"), [("b.jpg", False), ("b.PNG", True), ("b", True)])
def test_a_picture_is_what_its_name_says(
    name: str, written: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = untrained(tmp_path)
    result = CliRunner().invoke(app, ["sample", source, "--n", "4", "--out", name])
    assert Path(name).exists() == written
    if not written:
        assert isinstance(result.exception, GanDistError)
        assert "--out b.jpg: pictures are written as PNG, not .jpg" in str(result.exception)


def test_samples_are_told_of_where_there_are_any(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped = RunResult(64, finished=False, images_per_second=None, value=None)
    monkeypatch.setattr("gan_dist.cluster.train.driver.run", lambda *_: stopped)
    train_run(config, ["digits"])
    assert "  samples" not in capsys.readouterr().out
    Path(config.run_uri, "samples").mkdir(parents=True)
    train_run(config, ["digits"])
    assert f"  samples     {config.run_uri}/samples" in capsys.readouterr().out
