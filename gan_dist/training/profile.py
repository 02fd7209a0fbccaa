"""Where the time of a training step goes: phases, a trace, arithmetic, and what is sent to other workers.

The loop names its phases by `phase`, which costs nothing unless a `StepProfile` measures. Measuring changes
no weights.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn
from torch.profiler import ProfilerActivity, record_function
from torch.profiler import profile as Profiler

from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.training.context import Context
from gan_dist.training.flops import FlopCounter, peak_flops

FOLDER, RESULT, TABLE = "profile", "profile.json", "table.txt"
WARM_UP = 3
"""Rounds before the first that is measured: allocators, cuDNN's choices and compilation settle in these."""
PHASES = ("data", "D", "penalties", "G", "reduce", "EMA", "records", "evaluation")

_active: StepProfile | None = None


def phase(name: str) -> AbstractContextManager[object]:
    """Return the context of a phase, whose time does not count to the phase around it."""
    return nullcontext() if _active is None else _active.phase(name)


def reduction(network: nn.Module) -> AbstractContextManager[object]:
    """Return the context of a forward and backward pass at whose end DDP averages the gradients."""
    return nullcontext() if _active is None else _active.reduction(network)


def count_sent(elements: int) -> None:
    """Count float32 numbers that an all-reduce of a phase sums over the workers."""
    if _active is not None and _active.measures:
        _active.summed += elements


class StepProfile:
    """Measures `steps` rounds of this process, then counts the arithmetic of as many more.

    The result is the run's `profile/profile.json`, beside a trace for chrome://tracing or Perfetto. Rank 0
    measures; a store that does not take the files is a warning.

    Args:
        steps: Rounds to measure; 0 measures nothing.
        run_uri: The run's folder.
        context: This process.
        images: Images of a round on this rank.
        bf16: Whether the networks compute in bfloat16.
        compiled: Whether they are compiled, so that their arithmetic cannot be counted.
    """

    def __init__(
        self, steps: int, run_uri: str, context: Context, *, images: int, bf16: bool, compiled: bool
    ) -> None:
        self.summed = 0
        """Numbers that the workers have summed in measured rounds."""
        self._steps = steps if context.rank == 0 else 0
        self._run_uri, self._context, self._images = run_uri, context, images
        self._bf16, self._compiled = bf16, compiled
        self._rounds = 0
        self._times = dict.fromkeys(PHASES, 0.0)
        self._stack: list[str] = []
        self._since = self._began = 0.0
        self._measured_s = 0.0
        self._profiler: Profiler | None = None
        self._flops = FlopCounter()
        self._counted = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what was measured, also where the run ends before all rounds were."""
        if self._steps:
            self._end_round()
            self._finish()

    def round(self) -> None:
        """Begin a round of the loop."""
        if not self._steps:
            return
        self._end_round()
        number, self._rounds = self._rounds, self._rounds + 1
        if number == WARM_UP:
            self._begin()
        elif number == WARM_UP + self._steps:
            self._stop()
        elif number == WARM_UP + 2 * self._steps:
            self._finish()
            return
        if self._profiler is not None:
            self._wait()
            self._began = self._since = time.perf_counter()

    def _end_round(self) -> None:
        if self._profiler is not None and self._began:
            self._wait()
            self._measured_s += time.perf_counter() - self._began
            self._began = 0.0
        elif self._flops.entered:
            self._counted += 1

    def _begin(self) -> None:
        global _active
        on_gpu = self._context.device.type == "cuda"
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
        self._profiler = Profiler(activities=activities)
        self._profiler.start()
        _active = self

    def _stop(self) -> None:
        """End the measurement, write the trace, and begin to count."""
        assert self._profiler is not None
        self._profiler.stop()
        self._write(f"trace_{self._rounds - 1 - self._steps}.json.gz", _trace(self._profiler))
        self._profiler = None
        if not self._compiled:
            self._flops.enter()

    def _finish(self) -> None:
        """Write the result, once."""
        global _active
        rounds = min(self._steps, self._rounds - WARM_UP)
        self._steps, _active = 0, None
        if rounds <= 0:
            self._context.warn(
                f"profile.steps: the run ended before its first {WARM_UP} rounds, which warm up"
            )
            return
        if self._profiler is not None:
            self._profiler.stop()
            self._write("trace.json.gz", _trace(self._profiler))
            self._profiler = None
        self._flops.exit()
        result = self._result(rounds)
        self._write(RESULT, lambda: json.dumps(result, indent=2).encode())
        self._write(TABLE, lambda: (format_profile(result) + "\n").encode())

    def _result(self, rounds: int) -> dict[str, Any]:
        step_s, workers = self._measured_s / rounds, self._context.world_size
        flops = self._flops.total / self._counted if self._counted else None
        peak, source = peak_flops(self._context.device, bf16=self._bf16)
        summed = 4 * self.summed / rounds
        return {
            "rounds": rounds,
            "step_ms": 1000 * step_s,
            "phases_ms": {name: 1000 * seconds / rounds for name, seconds in self._times.items()},
            "covered": sum(self._times.values()) / self._measured_s,
            "images_per_second": self._images * workers / step_s,
            "flops_per_image": flops and flops / self._images,
            "peak_tflops": peak and peak / 1e12,
            "peak_source": source,
            "mfu": flops / (step_s * peak) if flops and peak else None,
            "all_reduce_bytes": summed,
            "sent_bytes": summed * 2 * (workers - 1) / workers,
            "workers": workers,
            "compiled": self._compiled,
        }

    @property
    def measures(self) -> bool:
        """Whether the present round is measured."""
        return self._profiler is not None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time of the body to a phase, and not to the one around it; count no evaluation."""
        if self._profiler is None:
            self._flops.pauses = name == "evaluation"
            yield
            self._flops.pauses = False
            return
        self._switch()
        self._stack.append(name)
        try:
            with record_function(f"gan-dist: {name}"):
                yield
        finally:
            self._switch()
            self._stack.pop()

    @contextmanager
    def reduction(self, network: nn.Module) -> Iterator[None]:
        """Count to `reduce` the time of a backward pass after its last gradient: it waits for others."""
        if self._profiler is None:
            yield
            return
        weights = [one for one in network.parameters() if one.requires_grad]
        self.summed += sum(one.numel() for one in weights)
        last: list[Callable[[], float]] = []
        hook = torch.autograd.graph.register_multi_grad_hook(
            weights, lambda _: last.append(_stopwatch(self._context.device))
        )
        try:
            yield
        finally:
            hook.remove()
        if last and self._stack:
            waited = last[-1]()
            self._times["reduce"] += waited
            self._times[self._stack[-1]] -= waited

    def _switch(self) -> None:
        """Add the time since the last call to the innermost phase."""
        self._wait()
        now = time.perf_counter()
        if self._stack:
            self._times[self._stack[-1]] += now - self._since
        self._since = now

    def _wait(self) -> None:
        if self._context.device.type == "cuda":
            torch.cuda.synchronize(self._context.device)

    def _write(self, name: str, content: Callable[[], bytes]) -> None:
        try:
            self._context.before_writing()
            storage.write_bytes(storage.join(self._run_uri, FOLDER, name), content())
        except (StorageError, OSError) as error:
            self._context.warn(f"profile.steps: {name} was not written, and the run goes on: {error}")


def _stopwatch(device: torch.device) -> Callable[[], float]:
    """Return a call that returns the seconds since now, on a GPU those of its stream."""
    if device.type != "cuda":
        began = time.perf_counter()
        return lambda: time.perf_counter() - began
    first, second = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record()

    def read() -> float:
        second.record()
        second.synchronize()
        return float(first.elapsed_time(second)) / 1000

    return read


def _trace(profiler: Profiler) -> Callable[[], bytes]:
    def content() -> bytes:
        with tempfile.TemporaryDirectory(prefix="gan-dist-trace-") as folder:
            path = Path(folder, "trace.json.gz")
            profiler.export_chrome_trace(str(path))
            return path.read_bytes()

    return content


def format_profile(result: Mapping[str, Any]) -> str:
    """Return the table of a result."""
    step_ms = result["step_ms"]
    rows = {**result["phases_ms"], "other": step_ms * (1 - result["covered"]), "a step": step_ms}
    lines = [f"{'phase':<12}{'ms':>10}{'share':>8}"]
    lines += [f"{name:<12}{value:>10.2f}{value / step_ms:>8.1%}" for name, value in rows.items()]
    lines.append(f"{result['images_per_second']:,.0f} images/s over {result['rounds']} steps")
    if result["flops_per_image"]:
        share = f"{result['mfu']:.1%}" if result["mfu"] else "an unknown share"
        peak = f"{result['peak_tflops']:,.3g} TFLOP/s: " if result["peak_tflops"] else ""
        lines.append(
            f"{result['flops_per_image'] / 1e9:.3g} GFLOP an image, {share} of the peak "
            f"({peak}{result['peak_source']})"
        )
    else:
        why = "the networks are compiled (train.compile)" if result["compiled"] else "the run ended before"
        lines.append(f"operations were not counted: {why}")
    sent, whole = result["sent_bytes"] / 2**20, result["all_reduce_bytes"] / 2**20
    lines.append(
        f"{sent:.3g} MiB sent a step by each of {result['workers']} workers, to average {whole:.3g} MiB"
    )
    return "\n".join(lines)
