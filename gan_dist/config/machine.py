"""Values of the keys that are `auto`: what a machine or a cluster has decides them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from gan_dist.config.model import USUAL_GROUPS
from gan_dist.config.schema import TrainConfig
from gan_dist.core import host

AUTO = "auto"
AUTO_KEYS = ("scale.workers", "scale.cpus_per_worker", "scale.gpus_per_worker", "eval.extractor")
"""Keys that may be `auto`, and are where nothing sets them."""
CPU_WORKERS = 4
"""Most workers on CPUs: each step waits for all of them."""
GPU_CPUS = 4
"""Most CPUs of a worker on a GPU, whose images they prepare; others may want the rest."""
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
"""FID's weights (Heusel et al. 2017), converted from TensorFlow. pytorch-fid's `pt_inception...` is equal."""
INCEPTION_VARIABLE = "GAN_DIST_INCEPTION_WEIGHTS"
"""Environment variable with the path or URI of that file."""
DIGITS = ("builtin://digits", "builtin://stacked-digits")

Nodes: TypeAlias = tuple[tuple[float, float], ...]
"""CPUs and GPUs of each node."""


@dataclass(frozen=True)
class Machine:
    """What a run can use: this machine, or the nodes of a cluster."""

    nodes: Nodes
    gpu_bytes: int | None = None
    """Memory of the smallest GPU in bytes; None where it is unknown."""

    @property
    def gpus(self) -> int:
        """Whole GPUs of all nodes."""
        return sum(int(gpus) for _, gpus in self.nodes)


def this_machine() -> Machine:
    """Return the CPUs and GPUs that this process may use."""
    gpus = host.gpus()
    return Machine(((host.cores(), gpus),), host.gpu_bytes() if gpus else None)


def resolve(values: Mapping[str, object], machine: Machine, *, trial: bool) -> dict[str, object]:
    """Return the values of AUTO_KEYS that `values`, by dotted key, do not set.

    `trial` is for the trials of a search: one worker each, on one CPU or GPU, so that many run at a time.
    """
    found = _scale(values, machine, trial=trial)
    weights = bool(values.get("eval.inception_weights"))
    one_node = len(machine.nodes) == 1
    found["eval.extractor"] = choose_extractor(str(values.get("data.path")), weights, one_node=one_node)
    return {key: value for key, value in found.items() if key not in values}


def _scale(values: Mapping[str, object], machine: Machine, *, trial: bool) -> dict[str, object]:
    fewest, given = _number(values, "scale.min_workers", 1), _number(values, "scale.workers", 0)
    enough = machine.gpus >= max(given, fewest)
    gpus = _number(values, "scale.gpus_per_worker", 1.0 if enough else 0.0)
    nodes, workers = machine.nodes or ((1, 0),), int(given)
    if not workers:
        if not gpus:
            nodes = (max(nodes),)  # gradients between machines without GPUs are slow
        usual = USUAL_GROUPS.get(str(values.get("model.name")), 1)
        together = _number(values, "model.pack", 1) * _number(values, "model.stddev_group", usual)
        portions = _number(values, "train.accumulate", 1) * together
        batch = _number(values, "train.batch_size", TrainConfig().batch_size)
        limit = 1 if trial else _most_workers(nodes, gpus)
        dividing = (count for count in range(limit, 1, -1) if batch % (count * portions) == 0)
        workers = max(next(dividing, 1), int(fewest))
    cpus = 1.0 if trial else _cpus_per_worker(nodes, workers, gpus)
    return dict(zip(AUTO_KEYS, (workers, cpus, gpus), strict=False))


def _number(values: Mapping[str, object], key: str, default: float) -> float:
    """Return a number that is set, or the default; other values are refused elsewhere."""
    value = values.get(key)
    return value if isinstance(value, int | float) and value >= 0 else default


def _most_workers(nodes: Nodes, gpus: float) -> int:
    """Return how many workers of `gpus` GPUs each there is room for, or of two CPUs on the first node."""
    if gpus:
        # Ray reserves a part of one GPU or whole ones; NCCL refuses workers that share one.
        return max(1, sum(int(has / max(gpus, 1)) for _, has in nodes)) if gpus > 0.5 else 1
    return max(1, min(CPU_WORKERS, int(nodes[0][0]) // 2))


def _cpus_per_worker(nodes: Nodes, workers: int, gpus: float) -> float:
    """Return an equal share of the CPUs, in whole ones where there is one for each worker."""
    if gpus:
        slots = [(cpus, min(workers, int(has / max(gpus, 1)))) for cpus, has in nodes]
        share = min((cpus / count for cpus, count in slots if count), default=1.0)
        return min(float(GPU_CPUS), float(int(share)) if share >= 1 else share) or 1.0
    counts = range(int(max(cpus for cpus, _ in nodes)), 0, -1)
    fitting = (each for each in counts if sum(cpus // each for cpus, _ in nodes) >= workers)
    return float(next(fitting, 1))


def choose_extractor(data: str, weights: bool, *, one_node: bool) -> str:
    """Return the extractor for the set `data`: `inception` where its weights are, `digits`, or `random`.

    `weights` says whether `eval.inception_weights` has them; so may the environment. Those that
    torch-fidelity has downloaded count only if the run is on one node.
    """
    if weights or os.environ.get(INCEPTION_VARIABLE) or (one_node and downloaded_inception()):
        return "inception"
    return "digits" if data.partition("?")[0] in DIGITS else "random"


def downloaded_inception() -> str | None:
    """Return the path of FID's weights where torch-fidelity has downloaded them, or None."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    path = Path(os.environ.get("TORCH_HOME") or caches, "hub", "checkpoints", INCEPTION_FILE)
    with suppress(OSError, RuntimeError):  # a home that this user may not enter, or none
        path = path.expanduser()
        return str(path) if path.is_file() else None
    return None
