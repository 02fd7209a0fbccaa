"""A trial of a search as a run of its own, which goes on from the trial's newest checkpoint."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from shlex import quote
from statistics import median

from pydantic import BaseModel, ConfigDict, ValidationError

from gan_dist.artifacts.audit_log import LOG
from gan_dist.artifacts.best import BestMeasurement
from gan_dist.artifacts.records import METRICS, read_valid_records
from gan_dist.artifacts.search_folder import ORIGIN
from gan_dist.config import RunConfig, to_yaml
from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, CheckpointError, Problem, ResumeError
from gan_dist.core.json_text import Clock
from gan_dist.core.storage.hashed_folder import checkpoint_names, copy_folder, is_whole, to_json
from gan_dist.models import transfer
from gan_dist.models.release import BEST, CONFIG, SEARCH, read_best
from gan_dist.training import checkpoint as states
from gan_dist.training.preflight import total_images

RATES = 5
"""Records at the end of a trial whose median rate of images counts."""
_OTHER_NAME = "give the runs another name (name=...) or folder (storage=...)"


class Origin(BaseModel):
    """The `promoted.json` of a run: what it goes on from."""

    model_config = ConfigDict(frozen=True)

    search: str
    """Identity of the search, as its `search.json` has it, or else its folder."""
    folder: str
    """The search's folder when the run was begun."""
    trial: int
    checkpoint: str
    images: Clock
    """Images of the checkpoint."""


@dataclass(frozen=True)
class Promotion:
    """A trial, and the run that goes on from it."""

    search_uri: str
    search_id: str
    """Identity of the search; empty where it has none."""
    best: BestMeasurement
    """The trial's best measurement."""
    trial_workers: int
    """Workers that the trial had."""
    config: RunConfig
    """Configuration of the run."""
    changes: Sequence[tuple[str, str, str]]
    """Keys that differ from the trial's, with its value and the run's; name and folder are left out."""
    until: float = math.inf
    """Images beyond which the trial's checkpoints and releases do not count."""

    @property
    def trial(self) -> int:
        """Number of the trial."""
        return self.best.trial

    @property
    def trial_uri(self) -> str:
        """The trial's folder."""
        return self.best.run.uri

    @property
    def total(self) -> int:
        """Length of the run in images."""
        return total_images(self.config.train, self.config.optim)

    @cached_property
    def checkpoint(self) -> str | None:
        """Name of the trial's newest checkpoint that is whole by its files' sizes; None without one."""
        names = checkpoint_names(self.trial_uri)
        whole = (name for name in names if is_whole(storage.join(self.trial_uri, name), "checkpoint"))
        return next(whole, None)

    @property
    def images_per_second(self) -> float | None:
        """An estimate: the trial's last recorded rate, times the ratio of the workers; None without one."""
        rates = [record.get("images_per_second") for record in self.best.run.records]
        known = [float(rate) for rate in rates if isinstance(rate, int | float) and rate > 0]
        if not known:
            return None
        return median(known[-RATES:]) * self.config.scale.workers / self.trial_workers

    def problem(self) -> Problem | None:
        """Return why the run would not train at all; None if it would."""
        if self.checkpoint is not None and (images := states.images_of(self.checkpoint)) >= self.total:
            kimg = self.config.train.kimg
            what = f"{images / 1000:g} kimg are trained, so train.kimg={kimg:g} leaves nothing to train"
            return Problem(what, f"give more, such as train.kimg={2 * images / 1000:g}", ("train.kimg",))
        evaluation = self.config.eval
        if key := states.read_history(self.trial_uri).ended_by(evaluation, self.config.ema):
            value = getattr(evaluation, key.removeprefix("eval."))
            what = f"it has ended by {key}={value:g}, by which its run would end at once"
            return Problem(what, f"set {key}=null", (key,))
        return None

    def origin(self) -> Origin | None:
        """Return what the run's folder was begun from; None where it is not there, or not complete yet.

        Raises:
            CheckpointError: its `promoted.json` is damaged.
            ResumeError: the folder is that of another run, or of a search.
        """
        uri, names = self.config.run_uri, storage.list_names(self.config.run_uri)
        if ORIGIN not in names:
            if kind := "search" if SEARCH in names else "run" if {CONFIG, METRICS} & {*names} else "":
                what = f"{storage.redact(uri)} is a {kind} that was not promoted from trial {self.trial}"
                raise ResumeError(what, _OTHER_NAME, keys=("name",))
            return None
        file = storage.join(uri, ORIGIN)
        try:
            found = Origin.model_validate_json(storage.read_bytes(file))
        except ValidationError as error:
            what = f"{storage.redact(file)} is damaged ({error.errors()[0]['msg']})"
            raise CheckpointError(what, f"restore it, or {_OTHER_NAME}") from None
        if (found.search, found.trial) != (self._search, self.trial):
            what = f"{storage.redact(uri)} goes on from trial {found.trial} of another search, {found.folder}"
            raise ResumeError(what, _OTHER_NAME, keys=("name",))
        return found if CONFIG in names else None

    def begin(self, warn: Callable[[str], None]) -> Origin:
        """Begin the run's folder with what the trial has, unless that was done before.

        These are its newest checkpoint that is whole, its records, samples, audit log, best release and
        initial weights (`init.from`). The trial's folder is only read. The configuration is written last:
        after a kill at any moment the next call completes the rest. `warn` is called with a sentence for
        whatever is damaged.

        Raises:
            CheckpointError: the trial has no checkpoint that is whole.
            ResumeError: see `origin`.
            StorageError: a file cannot be read or written.
        """
        if (found := self.origin()) is not None:
            return found
        origin = self._copy_checkpoint(warn)
        self._copy_records(warn)
        self._copy_weights(warn)
        storage.write_bytes(storage.join(self.config.run_uri, CONFIG), to_yaml(self.config).encode())
        return origin

    @property
    def _search(self) -> str:
        return self.search_id or storage.redact(self.search_uri)

    def _copy_checkpoint(self, warn: Callable[[str], None]) -> Origin:
        damaged = ""
        names = checkpoint_names(self.trial_uri)
        for name in (name for name in names if states.images_of(name) <= self.until):
            origin = Origin(
                search=self._search,
                folder=storage.redact(self.search_uri),
                trial=self.trial,
                checkpoint=name,
                images=states.images_of(name),
            )
            # First, so that another search finds the folder taken.
            content = to_json(origin.model_dump())
            storage.write_bytes(storage.join(self.config.run_uri, ORIGIN), content)
            try:
                self._copy_folder(name, "checkpoint")
            except CheckpointError as error:
                damaged = damaged or str(error)
                continue
            if damaged:
                kimg = f"{origin.images / 1000:g} kimg"
                warn(f"{damaged}; {self.config.name} goes on from the checkpoint before it, of {kimg}")
            return origin
        storage.delete_file(storage.join(self.config.run_uri, ORIGIN))
        raise self.without_checkpoint(damaged)

    def without_checkpoint(self, damaged: str = "") -> CheckpointError:
        """Return the error of a trial that has no checkpoint to go on from."""
        what = f"trial {self.trial} has no checkpoint that is whole, and is not promoted"
        config = quote(storage.redact(storage.join(self.trial_uri, CONFIG)))
        remedy = f"train it from the start: gan-dist train {config} name={self.config.name} storage=..."
        return CheckpointError(f"{what}: {damaged}" if damaged else what, remedy)

    def _copy_records(self, warn: Callable[[str], None]) -> None:
        trial, run = self.trial_uri, self.config.run_uri
        with suppress(AbsentError):
            records, damaged = read_valid_records(trial)
            if damaged:
                warn(f"{storage.redact(trial)}/{METRICS} has damaged lines, which are not copied")
            lines = "".join(json.dumps(record) + "\n" for record in records)
            storage.write_bytes(storage.join(run, METRICS), lines.encode())
        with suppress(AbsentError):
            storage.write_bytes(storage.join(run, LOG), storage.read_bytes(storage.join(trial, LOG)))
        if storage.list_names(samples := storage.join(trial, "samples")):
            storage.copy_tree(samples, storage.join(run, "samples"))

    def _copy_weights(self, warn: Callable[[str], None]) -> None:
        if transfer.FOLDER in storage.list_names(self.trial_uri):
            try:
                self._copy_folder(transfer.FOLDER, transfer.KIND)
            except CheckpointError as error:
                warn(f"{error}; {self.config.name} has no copy of the weights that the trial began with")
        with suppress(AbsentError):
            best = read_best(self.trial_uri)
            if int(best["images"]) > self.until:
                return
            try:
                self._copy_folder(str(best["release"]), "release")
            except CheckpointError as error:
                warn(f"{error}; {self.config.name} has no release until it measures a better value")
                return
            content = storage.read_bytes(storage.join(self.trial_uri, BEST))
            storage.write_bytes(storage.join(self.config.run_uri, BEST), content)

    def _copy_folder(self, name: str, kind: str) -> None:
        copy_folder(storage.join(self.trial_uri, name), kind, storage.join(self.config.run_uri, name))
