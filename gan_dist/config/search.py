"""The part of a configuration that describes a search."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import Field

from gan_dist.config.section import Every, Kimg, PositiveFloat, Section

MOST = 10**9
Count = Annotated[int, Field(gt=0, le=MOST)]
TIME = r"^(([01]\d|2[0-3]):[0-5]\d|\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?)$"


class BudgetConfig(Section):
    """What a search may spend, in all its processes. It ends at the first of its limits that is reached."""

    images: Annotated[int, Field(gt=0, le=10**15)] | None = None
    """Images that all trials train with."""
    gpu_hours: PositiveFloat | None = None
    """Hours of GPUs that trials reserve."""
    dollars: PositiveFloat | None = None
    """Price of all nodes of the cluster while the search runs, by `search.prices`."""
    until: (
        Annotated[
            str,
            Field(
                pattern=TIME,
                examples=["06:00, or 2026-12-24T06:00"],
                json_schema_extra={"format": "a time of day or a full time"},
            ),
        ]
        | None
    ) = None
    """A local time: `06:00` is the next one when the search begins, and stays that one when it is continued;
    or a full time, `2026-12-24T06:00`."""

    @property
    def limits(self) -> dict[str, int | float | str]:
        """The limits that are set, by key."""
        return self.model_dump(exclude_none=True)


class SearchConfig(Section):
    """A search over configurations: the keys that vary, the sampler and the scheduler."""

    space: dict[str, Any]
    """What varies, by configuration key: `{log: [1e-5, 1e-3]}`, `{uniform: [0, 1]}`, `{int: [1, 8]}` or
    choices as a list; `when: {loss.name: wgan-gp}` limits a key to where it applies."""
    trials: Count = 30
    """Trials in all; failed ones count. With a `budget` there is no limit where this is not set."""
    objectives: dict[str, Any] | None = None
    """What trials are compared by, where it is not the distance alone: names of recorded values, each with
    `min`, `max`, `{above: x}` or `{below: x}`, as in `{fid: min, coverage: max, precision: {above: 0.6}}`."""
    target: PositiveFloat | None = None
    """No more trials begin once one has measured this or less; those that run go on to their end. With
    `objectives` it is for the first one."""
    budget: BudgetConfig | None = None
    """What the search may spend; at its end running trials write checkpoints, and a larger one goes on."""
    prices: str | None = None
    """YAML file with the price of an hour in dollars by node type, such as `gpu-worker: 1.2`; `local` is a
    node without a type."""
    concurrent: Count | None = None
    """Trials at a time; as many as the cluster holds when absent."""
    algorithm: Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"] = "tpe"
    """Optuna's sampler of the values: `tpe` learns from earlier trials, `gp` (a Gaussian process) and `cmaes`
    (for numbers only) from complete ones, `qmc` (a Sobol sequence) and `random` from none; `grid` tries all
    combinations."""
    scheduler: Literal["asha", "hyperband", "median", "pbt", "pb2", "none"] = "asha"
    """What stops trials, one of Optuna's pruners: `asha` lets the best of each `reduction` go on at rungs,
    `grace_kimg` times powers of `reduction`; `hyperband` has several such ladders, which begin at different
    rungs; `median` stops a trial that is worse than the median of the complete ones. `pbt` (population-based
    training) and `pb2` stop none: every `perturb_kimg` the worst of `trials` members go on from copies of the
    best, with values that are perturbed, or chosen by a Gaussian process (`pb2`)."""
    grace_kimg: Kimg | None = None
    """Thousands of images before which no trial is stopped, and of a population only members that have failed
    copy others; `eval.every_kimg` when absent."""
    perturb_kimg: Every | None = None
    """`pbt` and `pb2`: thousands of images between two comparisons of the members, a multiple of
    `eval.every_kimg`, which it is when absent."""
    quantile: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """`pbt` and `pb2`: share of the members that copy, and share of those that are copied; one at least."""
    synch: bool = True
    """`pbt` and `pb2`: all members are compared after the same images, and the same search makes the same
    decisions; with `false` each is compared, when it gets there, with what the others have measured last."""
    reduction: Annotated[int, Field(ge=2, le=MOST)] = 3
    """`asha` and `hyperband`: of how many trials one goes on."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the sampler; `seed` is that of every trial."""
    retries: Annotated[int, Field(ge=0, le=MOST)] = 2
    """Times that a trial whose process died is started again, from its checkpoint."""
    replicates: Annotated[int, Field(ge=0, le=1000)] = 0
    """Times that each of the three best trials is run again, with another seed, before a winner is named."""
    points: tuple[dict[str, Any], ...] = ()
    """Values to try first."""
    warm_start: str | None = None
    """Folder of an earlier search, whose five best trials within this space are tried next."""
    optuna_storage: str | None = None
    """URL of a database for the study, such as `postgresql://...`; it is written to no file. `env:NAME` takes
    it from a variable of the process that searches. When absent, the study is a file in the search's
    folder."""

    @property
    def most_trials(self) -> float:
        """`trials`; infinite with a budget where it is not set, but for the size of a population."""
        free = self.budget is not None and self.budget.limits and "trials" not in self.model_fields_set
        return math.inf if free and self.scheduler not in ("pbt", "pb2") else self.trials
