"""One trial of a search: a run inside the Tune actor that was placed for it."""

from __future__ import annotations

import gc
import math
import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from ray import tune

from gan_dist.artifacts.records import RecordReader
from gan_dist.cluster.prometheus import Gauges
from gan_dist.cluster.train import driver
from gan_dist.cluster.train.status import RunStatus
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.errors import CapacityError, GanDistError, OutageError, WorkerError
from gan_dist.core.memory import use_one_arena
from gan_dist.core.storage.outage import Patience
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.progress import Progress

END_S = 120.0
"""Seconds within which a trial that is asked to stop has written its checkpoint."""

Result = dict[str, Any]
"""A report to Tune: `images` and `value` of a measurement, and what else was `measured`; or `done`, and if it
failed with the `error`."""


class Trial(tune.Trainable):
    """The actor; Tune uses it for one trial after another.

    Its configuration is `run`, a run's configuration as JSON, `metric`, the name of the metric that is
    minimised, and perhaps `names` of other values that are reported. A step is a measurement. A run that was
    begun earlier goes on from its checkpoint, and its earlier measurements are reported again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        use_one_arena()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._run.end()
        self._begin(new_config)
        return True

    def step(self) -> Result:
        return self._run.next_result()

    def cleanup(self) -> None:
        self._run.end()

    def _begin(self, config: dict[str, Any]) -> None:
        run, names = RunConfig.model_validate(config["run"]), config.get("names", ())
        self._run = _TrialRun(run, config["metric"], names)


class _TrialRun:
    """A run in a thread of its own, which waits after each measurement until the next result is asked for."""

    def __init__(self, config: RunConfig, metric: str, names: Sequence[str] = ()) -> None:
        self.stop = threading.Event()
        self._config, self._metric, self._names = config, metric, names
        self._records = RecordReader(config.run_uri)
        self._reported = -1  # images of the last measurement
        self._results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        self._proceed = threading.Semaphore(0)
        self._waiting = False
        self._thread = threading.Thread(target=self._main, name="trial", daemon=True)
        self._thread.start()

    def next_result(self) -> Result:
        """Let the run proceed; return its next result, or raise its error if it may be tried again."""
        if self._waiting:
            self._waiting = False
            self._proceed.release()
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        self._waiting = not result["done"]
        return result

    def end(self) -> None:
        self.stop.set()
        self._proceed.release()
        self._thread.join(END_S)

    def report_new(self) -> None:
        """Report the measurements that were recorded since the last call; wait after each."""
        for record in [] if self.stop.is_set() else self._records.read_new():
            self.report(record)

    def report(self, record: Mapping[str, Any]) -> None:
        """Report a record that has a measurement, unless it was reported before; wait after it."""
        images, value = record["images"], record.get(self._metric, math.nan)
        if self._metric not in record or images <= self._reported or self.stop.is_set():
            return
        self._reported = images
        finite = value is not None and math.isfinite(value)
        measured = [record.get(name) for name in self._names]  # Tune flattens mappings
        result = {"images": images, "value": value if finite else None, "measured": measured}
        self._results.put({**result, "done": False})
        self._proceed.acquire()

    def _main(self) -> None:
        try:
            storage.configure(self._config.storage.options)
            self._run_through_outages()
            self._results.put({"done": True})
        except GanDistError as error:
            if isinstance(error, WorkerError) and not error.external:
                self._results.put(error)  # another attempt may succeed
            else:
                self._results.put({"done": True, "error": error})
        except BaseException as error:
            self._results.put(error)
        finally:
            release_memory()

    def _run_through_outages(self) -> None:
        """Run to the end; where a store does not answer, go on from the last checkpoint once it does."""
        patience = Patience(self._config.storage.max_outage_s, self.stop.is_set)
        while not self.stop.is_set():
            try:
                self.report_new()
                if not self.stop.is_set():  # an earlier measurement may be the reason to stop
                    self._run_once()
                self.report_new()
            except OutageError as error:
                patience.wait_or_raise(error, self._reported)
            else:
                return

    def _run_once(self) -> None:
        config = self._config
        if config.scale.workers > 1:
            driver.run(config, self._on_status, should_stop=self.stop.is_set)
        else:
            torch.set_num_threads(config.scale.threads)
            train(config, _TrialContext(self, config.run_uri, trial_device(config.scale.gpus_per_worker)))

    def _on_status(self, status: RunStatus) -> None:
        if status.progress is not None:
            with suppress(OutageError):  # what cannot be read now is reported later
                self.report_new()


def release_memory() -> None:
    """Free what a finished run used in the process and on its GPU, which other trials may share.

    Compiled code counts towards a limit of the process, beyond which nothing more is compiled.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def trial_device(gpus: float) -> str:
    """Return the device of a trial with so many GPUs; raise a CapacityError if torch cannot use one."""
    if not gpus or torch.cuda.is_available():
        return "cuda" if gpus else "cpu"
    # The driver lists GPUs also where it is too old for this torch.
    if torch.cuda.device_count():
        raise CapacityError(
            f"scale.gpus_per_worker={gpus:g}: there is a GPU, and torch {torch.__version__} cannot use it, "
            f"most likely because the driver is older than CUDA {torch.version.cuda} needs",
            "use a newer driver, or CPUs with scale.gpus_per_worker=0",
            keys=("scale.gpus_per_worker",),
        )
    return "cpu"


class _TrialContext(LocalContext):
    """The context of a trial of one worker: after each measurement the run waits."""

    def __init__(self, run: _TrialRun, run_uri: str, device: str) -> None:
        super().__init__(run_uri, device=torch.device(device), should_stop=run.stop.is_set)
        self._gauges = Gauges(run_uri, rank=0, device=self.device)
        self._run = run
        self._unsaved: list[Mapping[str, object]] = []

    def progress(self, progress: Progress) -> None:
        self._gauges.update(progress)

    def report(self, metrics: Mapping[str, object], checkpoint: str) -> None:
        super().report(metrics, checkpoint)
        self._unsaved.append(metrics)
        # A study must not know what the store, which may not answer, does not have.
        if checkpoint:
            for one in self._unsaved:
                self._run.report(one)
            self._unsaved.clear()
