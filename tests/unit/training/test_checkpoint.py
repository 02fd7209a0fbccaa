"""A run's folder after a crash at every moment of its writing, and checkpoints that are not this run's."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import gan_dist
from gan_dist.artifacts.best import find_best
from gan_dist.artifacts.publish import copy_release
from gan_dist.artifacts.records import RecordWriter, read_records
from gan_dist.config import RunConfig, load_config, to_yaml
from gan_dist.core.errors import CheckpointError, ResumeError
from gan_dist.core.images import image_grid
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.models import release
from gan_dist.training import checkpoint as states
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.state import TrainingState
from tests.support.crashes import every_crash
from tests.support.releases import rewrite
from tests.support.sources import fresh

SMALL = [
    *("data.resolution=16", "model.name=dcgan", "model.max_width=null", "loss.name=nonsaturating"),
    *("model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64", "data.cache=memory"),
    *("eval.every_kimg=0.064", "train.kimg=0.128", "train.checkpoint_every_s=null", "train.keep=2"),
]


def config(storage_path: Path, *overrides: str) -> RunConfig:
    return load_config("digits", [f"storage={storage_path}", "name=run", *SMALL, *overrides])


def run(settings: RunConfig) -> None:
    torch.set_num_threads(1)
    train(settings, LocalContext(settings.run_uri))


def assert_same_tensors(a: TrainingState, b: TrainingState) -> None:
    for file, tensors in a.tensors().items():
        others = b.tensors()[file]
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with checkpoints after 64 and 128 images, and a best release."""
    settings = config(tmp_path_factory.mktemp("trained"))
    run(settings)
    return Path(settings.run_uri)


def changed(trained: Path) -> TrainingState:
    """Return the run's state after 128 images with 64 more on its clock, and other weights."""
    state = fresh(config(trained.parent))
    assert states.load_latest(state, str(trained)).damaged == {}
    state.images += 64
    with torch.no_grad():
        for network in (state.generator, state.average):
            for weight in network.parameters():
                weight.add_(1.0)
    return state


def test_a_crash_at_any_moment_of_a_save_leaves_the_old_checkpoint_or_the_new_one(trained: Path) -> None:
    settings = config(trained.parent)
    old, new = fresh(settings), changed(trained)
    states.load_latest(old, str(trained))
    snapshot, config_yaml = states.Snapshot(new), to_yaml(settings)

    def save(folder: Path) -> None:
        snapshot.save(str(folder / "checkpoint_000000000192"), config_yaml)
        states.prune(str(folder), 2)

    crashes, seen = 0, set()
    for folder, crashed in every_crash(trained, save):
        state = fresh(settings)
        assert states.load_latest(state, str(folder)).damaged == {}
        assert_same_tensors(state, {128: old, 192: new}[state.images])
        seen.add(state.images)
        crashes += crashed
        assert len(checkpoint_names(str(folder))) >= 2
        assert crashed or state.images == 192
        # The next save is not hindered by what the crash left.
        save(folder)
        assert checkpoint_names(str(folder)) == ["checkpoint_000000000192", "checkpoint_000000000128"]
    assert seen == {128, 192}
    assert crashes > 80


@pytest.mark.parametrize("again", [False, True])
def test_a_crash_at_any_moment_leaves_the_best_release_as_it_was_or_the_new_one(
    again: bool, trained: Path
) -> None:
    """With `again` a run that lost its checkpoint measures after as many images, and finds another value."""
    state, before = changed(trained), release.read_best(str(trained))
    record = {"images": before["images"] if again else 192, before["metric"]: before["value"] / 2}

    def write(folder: Path) -> None:
        release.best_writer(
            str(folder),
            state.average,
            shape=state.shape,
            config_yaml=to_yaml(config(trained.parent)),
            record=record,
            metric=before["metric"],
            picture=image_grid(torch.zeros(4, 1, 16, 16, dtype=torch.uint8)),
        )()
        release.delete_earlier(str(folder))

    old = gan_dist.load(str(trained)).generator.state_dict()
    values = []
    for folder, _ in every_crash(trained, write):
        value = release.read_best(str(folder))["value"]
        found = gan_dist.load(str(folder)).generator.state_dict()
        weights = {before["value"]: old, record[before["metric"]]: state.average.state_dict()}[value]
        assert all(torch.equal(tensor, weights[name]) for name, tensor in found.items())
        assert find_best(str(folder)).value == value
        values.append(value)
    assert set(values) == {before["value"], record[before["metric"]]}


def test_the_same_measurement_again_leaves_the_best_release_as_it_is(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    shutil.rmtree(folder / checkpoint_names(str(folder))[0])
    best = {file.name: file.stat().st_mtime_ns for file in folder.glob("best_*/*")}
    assert best
    run(config(tmp_path))
    assert {file.name: file.stat().st_mtime_ns for file in folder.glob("best_*/*")} == best


def test_a_crash_at_any_moment_leaves_every_record_that_was_written(trained: Path) -> None:
    before = read_records(str(trained))

    def write(folder: Path) -> None:
        records = RecordWriter(str(folder), 128, tensorboard=False)
        for images in (160, 192):
            records.add({"images": images, "loss_d": 0.5})
            records.write()()
        records.close()

    for folder, crashed in every_crash(trained, write):
        found = read_records(str(folder))
        assert found[: len(before)] == before
        assert [record["images"] for record in found[len(before) :]] in ([], [160], [160, 192])
        assert crashed or len(found) == len(before) + 2
        RecordWriter(str(folder), 128, tensorboard=False).close()
        assert read_records(str(folder)) == before


def test_a_crash_at_any_moment_leaves_a_copied_release_as_it_was_or_the_new_one(
    trained: Path, tmp_path: Path
) -> None:
    found = find_best(str(trained))
    prepared = tmp_path / "prepared" / "release"
    copy_release(found, str(prepared))
    old = {"images": -1}
    rewrite(prepared, "metrics.json", json.dumps(old).encode())
    (prepared / "mine.txt").write_text("mine")
    new = json.loads(found.contents["metrics.json"])
    seen = []
    for folder, _ in every_crash(prepared, lambda folder: copy_release(found, str(folder))):
        seen.append(gan_dist.load(str(folder)).record)
        assert seen[-1] in (old, new)
        assert (folder / "mine.txt").read_text() == "mine"
        copy_release(found, str(folder))
        assert gan_dist.load(str(folder)).record == new
        assert [entry.name for entry in folder.parent.iterdir()] == ["release"]
    assert old in seen
    assert new in seen


def test_a_checkpoint_that_is_damaged_or_incomplete_is_not_counted_among_those_that_are_kept(
    trained: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    weights = folder / "checkpoint_000000000128" / "average.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    (folder / "checkpoint_000000000096").mkdir()
    (folder / "checkpoint_000000000096" / "state.json").write_text("{}")
    run(config(tmp_path))  # 128 again, and no more
    there = sorted(entry.name for entry in folder.glob("checkpoint_*"))
    assert there == [f"checkpoint_000000000{name}" for name in ("064", "096", "128", "128-1")]
    run(config(tmp_path, "train.kimg=0.192"))
    assert checkpoint_names(str(folder)) == ["checkpoint_000000000192", "checkpoint_000000000128-1"]


def test_a_run_whose_last_checkpoint_has_no_manifest_has_not_finished(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained, folder)
    (folder / "checkpoint_000000000128" / "manifest.json").unlink()
    assert states.newest_images(str(folder)) == 64
    run(config(tmp_path))
    a, b = fresh(config(tmp_path)), fresh(config(tmp_path))
    states.load_latest(a, str(folder))
    states.load_latest(b, str(trained))
    assert a.images == b.images == 128
    assert_same_tensors(a, b)


def test_a_checkpoint_of_another_run_is_refused_by_what_differs(trained: Path, tmp_path: Path) -> None:
    newest = "checkpoint_000000000192"
    other = config(tmp_path / "other", "train.kimg=0.192", "optim.d.lr=3e-3")
    run(other)
    shutil.copytree(trained, tmp_path / "run")
    shutil.copytree(Path(other.run_uri, newest), tmp_path / "run" / newest)
    rate = config(tmp_path).optim.d.lr
    with pytest.raises(
        ResumeError, match=rf"{newest} belongs to .* optim\.d\.lr was 0\.003, is now {rate:g}"
    ):
        run(config(tmp_path, "train.kimg=0.256"))
    # The same configuration by what it says, but other networks.
    wider = config(tmp_path / "wider", "train.kimg=0.192", "model.width=8")
    run(wider)
    shutil.copytree(Path(wider.run_uri, newest), tmp_path / "run" / newest, dirs_exist_ok=True)
    rewrite(tmp_path / "run" / newest, "config.yaml", (trained / "config.yaml").read_bytes())
    with pytest.raises(ResumeError, match=r"generator\.safetensors holds another network .*: \S+ is \("):
        run(config(tmp_path, "train.kimg=0.256"))


def _safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(16)


HOSTILE = {
    "optimizer_g.safetensors": [
        b"\x80\x04\x95 a pickle that nobody opens",
        (1 << 62).to_bytes(8, "little") + b"{}",
        _safetensors(b'{"0.step": {"dtype": "F32", "shape": [1], "data_offsets": [0, 99999999]}}'),
        _safetensors(b'{"999.exp_avg": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
        _safetensors(b'{"0.exp_avg": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
        _safetensors(b'{"step": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}'),
    ],
    "state.json": [
        *(b"", b"[]", b"{}", b'{"images": 1e400}', b"[" * 100_000, b'{"images": 1, "best": 2}'),
        b'{"images": -1, "best": null, "augment": {}, "measured": {}}',
        b'{"images": 1, "best": null, "augment": {"p": "much"}, "measured": {}}',
    ],
}


@pytest.mark.parametrize(("name", "content"), [(name, one) for name, all in HOSTILE.items() for one in all])
def test_a_checkpoint_whose_files_are_of_another_kind_is_damaged_and_changes_nothing(
    name: str, content: bytes, trained: Path, tmp_path: Path
) -> None:
    newest = tmp_path / "checkpoint_000000000128"
    shutil.copytree(trained / newest.name, newest)
    rewrite(newest, name, content)
    state = fresh(config(tmp_path))
    before = copy.deepcopy(state)
    with pytest.raises(CheckpointError, match=r"checkpoint_000000000128 does not hold the state of a run \("):
        states.load(state, str(newest))
    assert state.images == 0
    assert_same_tensors(state, before)


@pytest.mark.parametrize(
    ("manifest", "what"),
    [
        ({"files": {"../../state.json": "0" * 64}}, "is damaged"),
        ({"files": {"/etc/passwd": "0" * 64}}, "is damaged"),
        ({"files": {"state.json": "0"}}, "is damaged"),
        ({"files": [], "sizes": {}}, "is damaged"),
        ({"sizes": {"state.json": 1}}, r"state\.json is damaged: \S+ bytes instead of 1"),
        ({"files": {"pipe": "0" * 64}}, "is not complete: pipe is missing"),
        ({"format": 2}, "is a checkpoint of format 2"),
    ],
)
def test_a_manifest_leads_to_files_of_its_folder_alone(
    manifest: dict[str, object], what: str, trained: Path, tmp_path: Path
) -> None:
    newest = tmp_path / "checkpoint_000000000128"
    shutil.copytree(trained / newest.name, newest)
    os.mkfifo(newest / "pipe")
    told = json.loads((newest / "manifest.json").read_text())
    (newest / "manifest.json").write_text(json.dumps(told | manifest))
    with pytest.raises(CheckpointError, match=what):
        gan_dist.load(str(newest))
