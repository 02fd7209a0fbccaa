"""A process that dies, or a machine that loses power, while it packs or writes to a bucket."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gan_dist
from gan_dist.config import load_config, to_yaml
from gan_dist.core import storage
from gan_dist.core.errors import DamagedDataError
from gan_dist.core.images import image_grid
from gan_dist.data.packing.decode import Decoding
from gan_dist.data.packing.plan import finished_set, make_plan
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.items import SourceOptions
from gan_dist.data.shards.manifest import MANIFEST
from gan_dist.data.shards.shard_set import ShardSet
from gan_dist.data.shards.verify import verify_set
from gan_dist.models import release
from gan_dist.search import study_storage
from gan_dist.training import checkpoint
from tests.chaos.conftest import Chaos
from tests.support.crashes import Died, every_crash
from tests.support.inputs import RUN, fresh_state, write_run
from tests.support.packing import pack_here, save_photos
from tests.unit.core.test_storage import use


def test_a_crash_at_any_moment_of_packing_leaves_no_set_or_the_whole_one(
    chaos: Chaos, tmp_path: Path
) -> None:
    photos = save_photos(tmp_path / "photos", chaos.rounds(4, 24))
    (photos / "cat" / "damaged.png").write_bytes(b"")
    source = open_source(str(photos), SourceOptions())
    plan = make_plan("photos", source, Decoding(8), 1 / 2048)
    whole = pack_here(source, str(tmp_path / "whole"), plan)
    (prepared := tmp_path / "set").mkdir()
    seen = Counter[str]()
    for folder, crashed in every_crash(prepared, lambda folder: pack_here(source, str(folder), plan)):
        if MANIFEST in storage.list_names(str(folder)):
            assert verify_set(str(folder)) == whole
            seen["whole"] += 1
        else:
            with pytest.raises(DamagedDataError, match="holds no image set"):
                ShardSet(str(folder))
            assert finished_set(str(folder), plan) is None
            seen["none"] += 1
        seen["crashes"] += crashed
        # The same command again goes on, and leaves nothing of the crash.
        assert pack_here(source, str(folder), plan) == whole
        left = set(storage.list_names(str(folder))) - set(storage.list_names(str(tmp_path / "whole")))
        assert left == set()
    assert seen["whole"] > 2
    chaos.keep(shards=len(whole.shards), **seen)


class Mortal:
    """The storage of a process that dies before its write or deletion numbered `moment`, from 0."""

    def __init__(self, patch: pytest.MonkeyPatch, moment: int) -> None:
        self.calls, self._moment = 0, moment
        for name in ("write_bytes", "delete_file", "delete_tree"):
            patch.setattr(storage, name, self._mortal(getattr(storage, name)))

    def _mortal(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def mortal(*arguments: Any) -> Any:
            if self.calls >= self._moment:
                raise Died
            self.calls += 1
            return call(*arguments)

        return mortal


def dies(moment: int, work: Callable[[], object]) -> bool:
    """Return whether a process that does some work dies at a moment of its writing."""
    with pytest.MonkeyPatch.context() as patch:
        Mortal(patch, moment)
        try:
            work()
        except Died:
            return True
    return False


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with a checkpoint and a best release after 128 images, and little else."""
    folder = tmp_path_factory.mktemp("trained")
    write_run(folder)
    for other in ("samples", "tensorboard"):
        shutil.rmtree(folder / "run" / other)
    return folder / "run"


def test_a_death_between_two_objects_leaves_the_old_or_the_new(
    chaos: Chaos, bucket: str, backend: str, trained: Path, tmp_path: Path
) -> None:
    """Of a run's checkpoints and of its best release, whose manifests and pointer come last."""
    use(backend)
    old, new = fresh_state(tmp_path), fresh_state(tmp_path)
    for state in (old, new):
        checkpoint.load_latest(state, str(trained))
    new.images = 192
    with torch.no_grad():
        for weight in (*new.generator.parameters(), *new.average.parameters()):
            weight.add_(1.0)
    before = release.read_best(str(trained))
    config = to_yaml(load_config("digits", [f"storage={tmp_path}", *RUN]))

    def work(uri: str) -> None:
        checkpoint.Snapshot(new).save(storage.join(uri, "checkpoint_000000000192"), config)
        checkpoint.prune(uri, 1)
        record = {"images": 192, before["metric"]: before["value"] / 2}
        grid = image_grid(torch.zeros(4, 1, 16, 16, dtype=torch.uint8))
        release.best_writer(
            uri,
            new.average,
            shape=new.shape,
            config_yaml=config,
            record=record,
            metric=before["metric"],
            picture=grid,
        )()
        release.delete_earlier(uri)

    moments = 18
    chosen = sorted(chaos.random.sample(range(moments), chaos.rounds(1, moments)))
    seen = Counter[str]()
    for moment in chosen:
        uri = storage.join(bucket, f"{moment}")
        storage.copy_tree(str(trained), uri)
        assert dies(moment, lambda uri=uri: work(uri)), "the work has fewer moments"  # type: ignore[misc]
        state = fresh_state(tmp_path)
        assert checkpoint.load_latest(state, uri).damaged == {}
        wanted = {128: old, 192: new}[state.images]
        for file, tensors in wanted.tensors().items():
            found = state.tensors()[file]
            assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
        best = release.read_best(uri)
        average = {128: old, 192: new}[best["images"]].average.state_dict()
        loaded = gan_dist.load(uri).generator.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in average.items())
        seen[f"{state.images} and {best['images']}"] += 1
        work(uri)
        assert release.read_best(uri)["images"] == 192
    chaos.keep(deaths=len(chosen), **seen)


def test_a_death_between_two_parts_of_a_bucket_journal_loses_no_record(
    chaos: Chaos, bucket: str, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(backend)
    monkeypatch.setattr(study_storage, "PART_BYTES", 100)
    deaths = chaos.rounds(3, 20)
    for number in range(deaths):
        uri, moment = storage.join(bucket, f"{number}"), chaos.random.randrange(12)
        acknowledged = list[dict[str, Any]]()

        def append(uri: str = uri, acknowledged: list[dict[str, Any]] = acknowledged) -> None:
            journal = study_storage._BucketJournal(uri)
            for n in range(12):
                logs = [{"op_code": n, "text": "x" * 10 * n}] * (1 + n % 3)
                journal.append_logs(logs)
                acknowledged.extend(logs)

        assert dies(moment, append)
        assert list(study_storage._BucketJournal(uri).read_logs(0)) == acknowledged
    chaos.keep(deaths=deaths)
