"""Gauges of a worker, which every node's metrics endpoint exports to Prometheus.

There their names begin with `ray_`, and a gauge that is no longer set disappears after two of Ray's report
intervals. `jobs/cluster/grafana.json` draws them.
"""

from __future__ import annotations

import time

import torch
from ray.util.metrics import Gauge

from gan_dist.artifacts.search_folder import REPLICATES, TRIALS
from gan_dist.core.console import Rate
from gan_dist.core.storage.redaction import split_query
from gan_dist.training.progress import Progress

EVERY_S = 1.0
TAGS = ("run", "trial", "rank")
OF_RUN = {
    "gan_dist_images": "Images seen.",
    "gan_dist_images_per_second": "Images a second over the last half minute, evaluations included.",
    "gan_dist_loss_d": "The discriminator's loss.",
    "gan_dist_loss_g": "The generator's loss.",
    "gan_dist_distance": "The last measured Frechet distance.",
    "gan_dist_best_distance": "The lowest that was measured.",
}
"""Set by rank 0 only: they are the same on all ranks."""
OF_RANK = {
    "gan_dist_data_wait_ratio": "The share of time in which the worker waited for images.",
    "gan_dist_gpu_memory_bytes": "GPU memory that the worker holds; 0 on a CPU.",
}


class Gauges:
    """A worker's gauges, tagged with its rank and what `tags_of` returns."""

    def __init__(self, run_uri: str, rank: int, device: torch.device) -> None:
        names = {**OF_RUN, **OF_RANK} if rank == 0 else OF_RANK
        tags = {**tags_of(run_uri), "rank": str(rank)}
        self._gauges = {name: Gauge(name, text, TAGS).set_default_tags(tags) for name, text in names.items()}
        self._device = device
        self._rate = Rate()
        self._updated_at, self._waited_s = time.monotonic(), 0.0

    def update(self, progress: Progress) -> None:
        """Set the gauges, at most once a second; called at every step."""
        now = time.monotonic()
        passed = now - self._updated_at
        if passed < EVERY_S:
            return
        waited_s = progress.waited_s - self._waited_s
        self._updated_at, self._waited_s = now, progress.waited_s
        on_gpu = self._device.type == "cuda"
        values = {
            "gan_dist_images": progress.images,
            "gan_dist_images_per_second": self._rate(progress.images),
            "gan_dist_loss_d": progress.loss_d,
            "gan_dist_loss_g": progress.loss_g,
            "gan_dist_distance": progress.value,
            "gan_dist_best_distance": progress.best,
            "gan_dist_data_wait_ratio": min(1.0, waited_s / passed),
            "gan_dist_gpu_memory_bytes": torch.cuda.memory_reserved(self._device) if on_gpu else 0,
        }
        for name, gauge in self._gauges.items():
            if (value := values[name]) is not None:
                gauge.set(value)


def tags_of(run_uri: str) -> dict[str, str]:
    """Return the tags of a run: its name, or for a trial (`<search>/trials/<number>`) search and number."""
    *_, search, kind, name = ("", "", *split_query(run_uri)[0].rstrip("/").split("/"))
    if kind in (TRIALS, REPLICATES):
        return {"run": search, "trial": name}
    return {"run": name, "trial": ""}
