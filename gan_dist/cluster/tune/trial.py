"""One trial of a search: a run inside the Tune actor that was placed for it."""

from __future__ import annotations

import gc
import queue
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from ray import tune

from gan_dist.artifacts import records
from gan_dist.cluster.prometheus import Gauges
from gan_dist.cluster.train import driver
from gan_dist.cluster.train.status import RunStatus
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.errors import CapacityError, GanDistError, StorageError, WorkerError
from gan_dist.core.memory import use_one_arena
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.progress import Progress

END_S = 120.0
"""Seconds within which a trial that is told to stop has written its checkpoint."""

Result = dict[str, Any]
"""What Tune is told: `images` and `value` of a measurement; or `done`, with the reason if it `failed`."""


class Trial(tune.Trainable):
    """The actor; Tune uses it for one trial after another.

    Its configuration is `run`, a run's configuration as JSON, and `metric`, the name of what is minimised. A
    step is a measurement. A run that is begun already goes on from its checkpoint, and its earlier
    measurements are told again.
    """

    def setup(self, config: dict[str, Any]) -> None:
        use_one_arena()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._running.end()
        self._begin(new_config)
        return True

    def step(self) -> Result:
        return self._running.next()

    def cleanup(self) -> None:
        self._running.end()

    def _begin(self, config: dict[str, Any]) -> None:
        self._running = _Running(RunConfig.model_validate(config["run"]), config["metric"])


class _Running:
    """A run in a thread, which after each measurement waits to be told to go on."""

    def __init__(self, config: RunConfig, metric: str) -> None:
        self.stop = threading.Event()
        self.metric = metric
        self._config = config
        self._results: queue.SimpleQueue[Result | BaseException] = queue.SimpleQueue()
        self._go = threading.Semaphore(0)
        self._told = 0
        self._waiting = False
        self._thread = threading.Thread(target=self._main, name="trial", daemon=True)
        self._thread.start()

    def next(self) -> Result:
        """Let it go on, and return what it tells next.

        Raises whatever ended it that another try may mend.
        """
        if self._waiting:
            self._waiting = False
            self._go.release()
        result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        self._waiting = not result["done"]
        return result

    def end(self) -> None:
        """Let it write a checkpoint and end."""
        self.stop.set()
        self._go.release()
        self._thread.join(END_S)

    def tell_new(self) -> None:
        """Tell the measurements in the run's records that have not been told; wait after each."""
        uri = self._config.run_uri
        if not storage.exists(storage.join(uri, records.METRICS)):
            return
        measured = [record for record in records.read_records(uri) if self.metric in record]
        for record in measured[self._told :]:
            self._told += 1
            if self.stop.is_set():
                return
            self._results.put({"images": record["images"], "value": record[self.metric], "done": False})
            self._go.acquire()

    def _main(self) -> None:
        config = self._config
        try:
            storage.configure(config.storage.options)
            self.tell_new()
            if self.stop.is_set():
                return
            if config.scale.workers > 1:
                driver.run(config, self._on_status, should_stop=self.stop.is_set)
            else:
                torch.set_num_threads(config.scale.threads)
                train(config, _TrialContext(self, config))
            self.tell_new()
            self._results.put({"done": True})
        except (StorageError, WorkerError) as error:
            self._results.put(error)  # another try may mend it
        except GanDistError as error:
            self._results.put({"done": True, "failed": f"{type(error).__name__}: {error}"})
        except BaseException as error:
            self._results.put(error)
        finally:
            leave_nothing()

    def _on_status(self, status: RunStatus) -> None:
        if status.progress is not None and not self.stop.is_set():
            self.tell_new()


def leave_nothing() -> None:
    """Give back what a finished run held of the process and of its GPU, which others may share.

    Compiled code counts towards a limit of the process, beyond which nothing more is compiled.
    """
    if "torch._dynamo" in sys.modules:
        torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def trial_device(config: RunConfig) -> str:
    """Return where a trial computes: on its GPU, or where there is none on the CPU.

    Raises:
        CapacityError: there is a GPU, and torch cannot use it.
    """
    if not config.scale.gpus_per_worker or torch.cuda.is_available():
        return "cuda" if config.scale.gpus_per_worker else "cpu"
    # The driver lists GPUs also where it is too old for this torch.
    if torch.cuda.device_count():
        raise CapacityError(
            f"scale.gpus_per_worker={config.scale.gpus_per_worker:g}: there is a GPU, and torch "
            f"{torch.__version__} cannot use it, most likely because the driver is older than CUDA "
            f"{torch.version.cuda} needs",
            "use a newer driver, or CPUs with scale.gpus_per_worker=0",
        )
    return "cpu"


class _TrialContext(LocalContext):
    """One worker's context: after each measurement the trial waits."""

    def __init__(self, running: _Running, config: RunConfig) -> None:
        super().__init__(config.run_uri, device=trial_device(config), should_stop=running.stop.is_set)
        self._gauges = Gauges(config.run_uri, rank=0, device=self.device)
        self._running = running

    def progress(self, progress: Progress) -> None:
        self._gauges.update(progress)

    def report(self, metrics: Mapping[str, object], checkpoint: Path | None, name: str) -> None:
        super().report(metrics, checkpoint, name)
        if not self._running.stop.is_set():
            self._running.tell_new()
