"""The training loop under Ray Train, for `gan-dist bench step`."""

from __future__ import annotations

from gan_dist.bench.step import steady_rate
from gan_dist.cluster import trainer
from gan_dist.config import RunConfig


def rate_under_ray(config: RunConfig) -> float:
    """Train a run under TorchTrainer; return its images a second after the first evaluation."""
    trainer.run(config, lambda _: None)
    return steady_rate(config)
