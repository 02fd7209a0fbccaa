"""What an audit compares: records, checkpoints, configuration, images, and stretches trained again."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from safetensors.torch import load as load_tensors

from gan_dist.artifacts import audit_log
from gan_dist.artifacts.audit_log import TENSORS, Entry, first_break, read_log, state_hash
from gan_dist.artifacts.records import read_records
from gan_dist.config import FREE_ON_RESUME, RunConfig, differing_keys, load_config, named_classes
from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, CheckpointError, DataError, GanDistError
from gan_dist.core.import_path import require_trust
from gan_dist.core.storage.hashed_folder import checkpoint_names, read_folder, read_manifest
from gan_dist.data.batches.loader import open_images
from gan_dist.data.shards.verify import find_damage
from gan_dist.models import transfer
from gan_dist.models.release import CONFIG
from gan_dist.training.progress import Progress
from gan_dist.training.replay import replay


@dataclass(frozen=True)
class Check:
    """The result of one comparison."""

    what: str
    """Subject, in a few words."""
    equal: bool | None
    """None where it could not be decided."""
    detail: str = ""
    images: int = 0
    """Images that were trained again for it."""


@dataclass(frozen=True)
class Stretch:
    """A part of a run between two entries of its log."""

    start: Entry | None
    """Its checkpoint is kept; None for the beginning of the run."""
    end: Entry

    @property
    def images(self) -> int:
        return self.end.images - (self.start.images if self.start else 0)


class Audit:
    """What is known of a run; each method yields the checks of one subject.

    Raises:
        CheckpointError: the run has no log or no checkpoint, or its log is damaged.
    """

    def __init__(self, run_uri: str, trust: Collection[str] = ()) -> None:
        self._uri, self._trust = run_uri, trust
        self.entries = read_log(run_uri)
        if not self.entries:
            raise CheckpointError(
                f"{storage.redact(run_uri)} has no {audit_log.LOG}, which runs of gan-dist 0.2 have",
                "give the folder of such a run, <storage>/<name>; for a release give that as --run RUN",
            )
        self._kept = set(checkpoint_names(run_uri))
        self._config = load_config(storage.join(run_uri, CONFIG))

    @property
    def images(self) -> int:
        """Images of the run so far."""
        return self.entries[-1].images

    def records(self) -> Iterator[Check]:
        """Compare the log with itself, and the figures in it with those in the run's records."""
        broken = first_break(self.entries)
        yield Check(
            audit_log.LOG, not broken, broken or f"{len(self.entries)} entries, each bound to the one before"
        )
        recorded: dict[int, dict[str, Any]] = {}
        for record in read_records(self._uri):
            if "checkpoint" in record:
                recorded[record["images"]] = record
        for entry in self.entries:
            record = recorded.get(entry.images, {})
            for name, value in entry.figures.items():
                if name in record and record[name] != value:
                    detail = f"{name} after {entry.images / 1000:g} kimg is {record[name]}, and was {value}"
                    yield Check("metrics.jsonl", False, detail)
                    return
        yield Check("metrics.jsonl", True, f"{len(recorded)} evaluations as they were logged")

    def checkpoints(self) -> Iterator[Check]:
        """Compare the files of the checkpoints that are kept with the log."""
        for entry in self.entries:
            if entry.checkpoint not in self._kept:
                continue
            try:
                uri = storage.join(self._uri, entry.checkpoint)
                read_folder(uri, ["checkpoint"])
                files = read_manifest(uri, ["checkpoint"]).files
                same = state_hash(files) == entry.state and files[CONFIG] == entry.config
                detail = "as logged" if same else "other weights, state or configuration than logged"
            except (CheckpointError, KeyError) as error:
                same, detail = False, str(error)
            yield Check(entry.checkpoint, same, detail)

    def configuration(self) -> Iterator[Check]:
        """Compare the run's configuration with that of its newest checkpoint."""
        newest = next((entry for entry in reversed(self.entries) if entry.checkpoint in self._kept), None)
        if newest is None:
            return
        earlier = load_config(storage.join(self._uri, newest.checkpoint, CONFIG))
        config = self._config.until(newest.images)
        differing = differing_keys(earlier.until(newest.images), config, FREE_ON_RESUME | {"data.path"})
        detail = "; ".join(f"{key} was {old}, is now {new}" for key, old, new in differing)
        yield Check(CONFIG, not differing, detail or f"as at {newest.images / 1000:g} kimg")

    def data(self) -> Iterator[Check]:
        """Compare the image set with the log, and its files with its manifest's checksums."""
        try:
            images = open_images(self._config.data.path)
            if images.manifest.fingerprint() != self.entries[-1].data:
                yield Check(
                    "images", False, f"{self._config.data.path} is another set than the run was trained with"
                )
                return
            damage = find_damage(images, range(len(images.group_rows)))
            detail = next(iter(damage.values()), f"{images.manifest.count:,} of {self._config.data.path}")
            yield Check("images", not damage, detail)
        except GanDistError as error:
            yield Check("images", None, str(error))

    def stretches(self) -> list[Stretch]:
        """Return the stretches that can be trained again, in their order."""
        pairs: list[tuple[Entry | None, Entry]] = [*pairwise(self.entries)]
        if not self.entries[0].previous:
            pairs.insert(0, (None, self.entries[0]))
        return [
            Stretch(start, end)
            for start, end in pairs
            if (start is None or start.checkpoint in self._kept) and self._config_of(end, start) is not None
        ]

    def before(self, images: int) -> Stretch:
        """Return the stretch that ends after `images` images, from the nearest checkpoint or from the start.

        Raises:
            CheckpointError: the log has no such entry.
        """
        end = next((entry for entry in self.entries if entry.images == images), None)
        if end is None:
            what = f"{storage.redact(self._uri)} has no checkpoint of {images / 1000:g} kimg in its log"
            raise CheckpointError(what, "give the run that made the release")
        earlier = [e for e in self.entries if e.images < images and e.checkpoint in self._kept]
        return Stretch(earlier[-1] if earlier else None, end)

    def replayed(self, stretch: Stretch, show: Callable[[Progress], None], *others: str) -> Iterator[Check]:
        """Train a stretch again, and compare its end and all that is measured in it with the log.

        `others` are folders that may have its configuration, beside those of the run.
        """
        start, end = stretch.start, stretch.end
        what = f"{(start.images if start else 0) / 1000:g} to {end.images / 1000:g} kimg"
        config = self._config_of(end, start, *others)
        if config is None:
            yield Check(what, None, f"no file has its configuration, whose sha256 is {end.config}")
            return
        require_trust(named_classes(config), self._trust, storage.redact(self._uri))
        if end.workers not in config.worker_counts:
            detail = f"{end.workers} workers were logged, and scale.workers allows {config.scale.workers}"
            yield Check(what, False, detail)
            return
        config = config.model_copy(
            update={"data": config.data.model_copy(update={"path": self._config.data.path})}
        )
        begin = start.checkpoint if start else transfer.FOLDER if config.init.source else None
        with tempfile.TemporaryDirectory(prefix="gan-dist-audit-") as folder:
            try:
                uri = begin and storage.join(self._uri, begin)
                found = replay(config, uri, end.images, end.workers, folder, show)
            except GanDistError as error:
                failed = False if isinstance(error, DataError) else None
                yield Check(what, failed, str(error))
                return
            again = {entry.images: entry for entry in found}
            last = again.get(end.images)
            if last is not None and last.state == end.state:
                detail = f"every bit of {len(TENSORS)} files of tensors, and the run's state"
                yield from self._figures(again, stretch, Check(what, True, detail, stretch.images))
                return
            differs = (
                self._difference(end, storage.join(folder, config.name, last.checkpoint)) if last else ""
            )
            there = self._elsewhere(end)
            detail = f"other bits{differs}{f'; not decided: {there}' if there else ''}"
            yield Check(what, None if there else False, detail, stretch.images)

    def _figures(self, again: dict[int, Entry], stretch: Stretch, equal: Check) -> Iterator[Check]:
        """Yield the check of a stretch, unless a figure measured again is another than the log's."""
        begins = stretch.start.images if stretch.start else 0
        for entry in self.entries:
            found = again.get(entry.images)
            if not begins < entry.images <= stretch.end.images or found is None or not found.figures:
                continue
            for name, value in entry.figures.items():
                if found.figures.get(name) != value:
                    at = f"{name} after {entry.images / 1000:g} kimg"
                    detail = f"{at} is {found.figures.get(name)}, and was logged as {value}"
                    yield Check(equal.what, False, detail, equal.images)
                    return
        yield equal

    def _config_of(self, end: Entry, start: Entry | None, *others: str) -> RunConfig | None:
        """Return the configuration with which a run reached an entry, if a file still has it.

        `others` are folders to look in beside the run's.
        """
        names = [one.checkpoint for one in (end, start) if one is not None and one.checkpoint in self._kept]
        for place in [*(storage.join(self._uri, name) for name in names), self._uri, *others]:
            file = storage.join(place, CONFIG)
            with suppress(AbsentError):
                if hashlib.sha256(storage.read_bytes(file)).hexdigest() == end.config:
                    return load_config(file)
        return None

    def _difference(self, end: Entry, again: str) -> str:
        """Return which tensor differs first and by how much, if the checkpoint is as it was logged."""
        logged = storage.join(self._uri, end.checkpoint)
        try:
            contents = [read_folder(uri, ["checkpoint"])[1] for uri in (again, logged)]
            files = read_manifest(logged, ["checkpoint"]).files
        except CheckpointError:
            return ""
        if state_hash(files) != end.state:
            return ""
        for file in TENSORS:
            ours, theirs = (load_tensors(content[f"{file}.safetensors"]) for content in contents)
            for name, tensor in theirs.items():
                if name not in ours or ours[name].shape != tensor.shape:
                    return f" from {name} of {file} on, which has another shape"
                if not torch.equal(tensor, ours[name]):
                    error = (tensor.double() - ours[name].double()).norm() / tensor.double().norm()
                    return f" from {name} of {file} on, which differs by {float(error):.2g} of its norm"
        return " of the run's state, not of its tensors"

    def _elsewhere(self, entry: Entry) -> str:
        """Return what is different here from where an entry was made, of what bits depend on."""
        device = torch.device("cuda" if self._config.scale.gpus_per_worker else "cpu")
        torch.set_num_threads(self._config.scale.threads)
        here = {**audit_log.code(), "machine": audit_log.machine(device)}
        there = {**entry.code, "machine": entry.machine}
        names = [name for name in here if here[name] != there.get(name)]
        return "; ".join(f"{name} was {there.get(name)} and is {here[name]}" for name in names)
