"""What `gan-dist bench search` measures of Ray Tune: the cost of one more trial."""

from __future__ import annotations

import time
from statistics import median
from tempfile import TemporaryDirectory

from gan_dist.cluster import search
from gan_dist.search.ledger import ENDED, Ledger
from gan_dist.search.plan import Plan, begin, make_plan
from gan_dist.search.studies import study_storage
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train

WARM = 4
"""Trials before the actors, their libraries and caches are there."""
SMALL = [
    *("model.width=4", "model.max_width=8", "train.batch_size=32", "eval.samples=64"),
    *("train.kimg=0.128", "eval.every_kimg=0.064", "search.scheduler=none", "search.concurrent=1"),
    "search.space={optim.g.lr: {log: [1.0e-4, 1.0e-3]}}",
]


def seconds_per_trial(*, quick: bool) -> dict[str, float]:
    """Return the median seconds from the end of a trial to that of the next, and what they are made of.

    `seconds_per_trial` is what a trial costs beyond `own_seconds`, those of the same run without Ray.
    """
    count = WARM + (2 if quick else 16)
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        plan = make_plan("search-digits", [*SMALL, f"storage={folder}", f"search.trials={count}"])
        begin(plan, "fd_digits")
        ledger = Ledger(study_storage(plan.uri, None), "bench", plan.space, plan.search, plan.grace)
        ends: list[float] = []

        def changed() -> None:
            ended = sum(trial.state in ENDED for trial in ledger.trials())
            ends.extend([time.perf_counter()] * (ended - len(ends)))

        search.run(plan, ledger, "fd_digits", changed)
        own = _alone(plan, count)
    steps = [after - before for before, after in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]
    each = median(steps)
    return {"seconds_per_trial": each - own, "trial_seconds": each, "own_seconds": own}


def _alone(plan: Plan, count: int) -> float:
    """Return the median seconds of such a run in this process."""
    times = []
    for number in range(count, 2 * count):
        config = plan.trial(number, {"optim.g.lr": 2e-4})
        began = time.perf_counter()
        train(config, LocalContext(config.run_uri))
        times.append(time.perf_counter() - began)
    return median(times[WARM:])
