"""What picks the values of a trial: Optuna's samplers, seeded and set up for spaces with conditions."""

from __future__ import annotations

import warnings
from typing import Literal, assert_never

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, BruteForceSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from gan_dist.search.space import Space

Algorithm = Literal["tpe", "random", "grid"]


def make_sampler(algorithm: Algorithm, space: Space, seed: int) -> BaseSampler:
    """Return a sampler for trials that run side by side.

    `tpe` models the keys that apply together jointly (Bergstra et al. 2011; Falkner et al. 2018, section
    3.2), and takes trials that still run for bad ones, so that the next is no copy of them. `grid` visits
    every combination once, in random order, `len(space.grid())` in all, and repeats some after that; it
    counts what the study already holds.

    `seed`, from 0 to 2**32 - 1, starts the sampler's own generator. A continued study needs another seed
    than the one that began it, or random draws repeat themselves.

    Raises:
        ConfigError: a grid of a space that has ranges of real numbers, or too many combinations.
    """
    with warnings.catch_warnings():
        # `group` and BruteForceSampler have been experimental since 2021 and 2023; releases are pinned.
        warnings.simplefilter("ignore", ExperimentalWarning)
        match algorithm:
            case "tpe":
                return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
            case "random":
                return RandomSampler(seed=seed)
            case "grid":
                space.grid()
                return _Grid(seed=seed)
            case _:
                assert_never(algorithm)


class _Grid(BruteForceSampler):
    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: object) -> None:
        # Optuna's own stops `Study.optimize` here, which raises where trials are asked for and told.
        pass
