"""The values that one key of a search space may take: read from a configuration, held by Optuna's classes.

[a, b]  or  {choice: [a, b]}                      text, numbers, true, false, null
{uniform: [low, high]}  {log: [low, high]}        real numbers, both ends included
{int: [low, high]}  with  step: n  or  log: true  whole numbers, both ends included
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, assert_never

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from gan_dist.config.fields import brief, fit, leaves, shown
from gan_dist.config.messages import check
from gan_dist.core.errors import ConfigError, nearest

Value: TypeAlias = str | int | float | bool | None
"""What Optuna's storages can keep; all keys that a search may vary are one of these."""

Distribution: TypeAlias = FloatDistribution | IntDistribution | CategoricalDistribution

KINDS = ("log", "uniform", "int", "choice")
_OPTIONS = ("step", "when")
_MOST_EXACT = 2**53
"""Optuna's samplers compute with floats, which hold whole numbers up to here."""


def read(key: str, written: object) -> Distribution:
    """Return the distribution that `written` describes; a condition (`when`) beside it is left alone.

    Whole numbers may be written as floats (64.0, 1e3), as everywhere in a configuration.

    Raises:
        ConfigError: with everything that is wrong with it, or that the schema refuses for `key`. The
            sentences begin with the key and have no origin before them.
    """
    if isinstance(written, list | tuple):
        written = {"choice": written}
    if not isinstance(written, Mapping):
        raise ConfigError(
            [
                f"{key} must be a list of choices or a range such as {{log: [low, high]}}, not "
                f"{shown(written)}; a single value is set outside of search.space"
            ]
        )
    problems = [_unknown(key, str(name)) for name in written if name not in (*KINDS, *_OPTIONS)]
    kinds = [kind for kind in KINDS if kind in written and not (kind == "log" and "int" in written)]
    if len(kinds) != 1:
        if kinds or not problems:
            has = " and ".join(kinds) or "none"
            problems.append(f"{key} must have one of {', '.join(KINDS)}; it has {has}")
        raise ConfigError(problems)
    if "step" in written and kinds != ["int"]:
        problems.append(f"{key}: step belongs to int, not to {kinds[0]}")
    problems += _problems(key, kinds[0], written)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return _build(key, kinds[0], written)


def misfit(key: str, value: object) -> str | None:
    """Return what the configuration's schema says against `value` for the leaf `key`; None if it fits.

    Rules that relate several keys are not asked: `load_config` applies them to whole trials.
    """
    # Other keys that must be there are missing, and so such rules wait.
    _, problems = check({key: fit(value, leaves()[key])})
    return next((str(problem) for problem in problems if problem.keys == (key,)), None)


def refusal(key: str, distribution: Distribution, value: Any) -> str | None:
    """Return why `key` can never be `value`, as a sentence that begins with the key; None if it can."""
    said = misfit(key, value)
    if said is not None:
        return said
    try:
        inside = distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, OverflowError):
        inside = False
    return None if inside else f"{key}={word(value)} is not in {text(distribution)}"


def text(distribution: Distribution) -> str:
    """Return the distribution as a user would write it."""
    match distribution:
        case CategoricalDistribution():
            return f"[{', '.join(word(choice) for choice in distribution.choices)}]"
        case IntDistribution():
            step = f", step: {distribution.step}" if distribution.step != 1 else ""
            log = ", log: true" if distribution.log else ""
            return f"{{int: [{distribution.low}, {distribution.high}]{step}{log}}}"
        case FloatDistribution():
            kind = "log" if distribution.log else "uniform"
            return f"{{{kind}: [{distribution.low}, {distribution.high}]}}"
        case _:
            assert_never(distribution)


def word(value: object) -> str:
    """Return a value as it stands after `key=`, on one line."""
    return brief(value if isinstance(value, str) else json.dumps(value, default=str))


def values(distribution: Distribution) -> Sequence[Value] | None:
    """Return all values in their order; None if they are real numbers."""
    match distribution:
        case CategoricalDistribution():
            return distribution.choices
        case IntDistribution():
            return range(distribution.low, distribution.high + 1, distribution.step)
        case FloatDistribution():
            return None
        case _:
            assert_never(distribution)


def extremes(distribution: Distribution) -> Sequence[Value]:
    """Return values that stand for all others when a space is checked: every choice, or a range's two ends.

    For whole numbers also `low + step`: where both it and `low` are multiples of k, all values are, so that a
    rule about divisibility is checked for the whole range.
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return distribution.low, distribution.low + distribution.step, distribution.high
    return distribution.low, distribution.high


def suggest(key: str, distribution: Distribution, trial: Trial) -> Value:
    """Return the value that the trial's sampler picks."""
    match distribution:
        case CategoricalDistribution():
            return trial.suggest_categorical(key, distribution.choices)
        case IntDistribution(low=low, high=high):
            return trial.suggest_int(key, low, high, step=distribution.step, log=distribution.log)
        case FloatDistribution(low=low, high=high):
            return trial.suggest_float(key, low, high, log=distribution.log)
        case _:
            assert_never(distribution)


def _unknown(key: str, name: str) -> str:
    hint = nearest(name, (*KINDS, *_OPTIONS)) or f"; the kinds are {', '.join(KINDS)}"
    return f"{key}: {brief(name)} is not known{hint}"


def _problems(key: str, kind: str, written: Mapping[str, object]) -> Iterator[str]:
    if kind == "choice":
        yield from _problems_of_choices(key, written[kind])
        return
    yield from _problems_of_ends(key, kind, written[kind], kind == "log" or written.get("log") is True)
    if kind == "int":
        yield from _problems_of_steps(key, written)


def _problems_of_choices(key: str, choices: object) -> Iterator[str]:
    if not isinstance(choices, list | tuple):
        yield f"{key}: choice takes a list, not {shown(choices)}"
        return
    if not choices:
        yield f"{key} has no choices"
    if len(choices) == 1:
        yield f"{key} has one choice; set {key}={word(choices[0])} outside of search.space"
    for index, choice in enumerate(choices):
        if isinstance(choice, list | tuple | Mapping):
            yield f"{key}: a choice is text, a number, true, false or null, not {word(choice)}"
        elif said := misfit(key, choice):
            yield said
        if choice in choices[:index]:
            yield f"{key} has the choice {word(choice)} twice"


def _problems_of_ends(key: str, kind: str, ends: object, log: bool) -> Iterator[str]:
    pair = _pair(ends)
    if pair is None or (kind == "int" and not all(_is_whole(end) for end in pair)):
        numbers = "whole numbers up to 2**53" if kind == "int" else "numbers"
        yield f"{key}: {kind} takes two {numbers}, [low, high], not {word(ends)}"
        return
    low, high = pair
    if low == high:
        yield f"{key}: both ends are {word(low)}; set {key}={word(low)} outside of search.space"
    if low > high:
        yield f"{key}: the range is upside down, {word(low)} > {word(high)}; swap its ends"
    if log and min(pair) <= 0:
        yield f"{key}: a logarithmic range begins above 0, not at {word(min(pair))}"
    if kind != "int" and isinstance(fit(1.0, leaves()[key]), int):
        instead = f"{{int: [low, high]{', log: true' if log else ''}}}"
        yield f"{key} takes whole numbers, which {kind} does not give; use {instead}"
        return
    for end in pair:
        if said := misfit(key, end):
            yield said


def _problems_of_steps(key: str, written: Mapping[str, object]) -> Iterator[str]:
    step, log, pair = written.get("step", 1), written.get("log", False), _pair(written["int"])
    if not isinstance(log, bool):
        yield f"{key}: log beside int must be true or false, not {shown(log)}"
    if not _is_whole(step) or step < 1:
        yield f"{key}: step must be a whole number of at least 1, not {shown(step)}"
        return
    if step != 1 and log is True:
        yield f"{key}: step and log exclude each other"
    if pair is None or not all(_is_whole(end) for end in pair):
        return
    low, high, step = int(pair[0]), int(pair[1]), int(step)
    if low < high and (high - low) % step:
        below = high - (high - low) % step
        instead = f"{below} or {below + step}" if below > low else f"{below + step}"
        yield (
            f"{key}: steps of {step} from {low} miss {high}: ({high} - {low}) / {step} = "
            f"{(high - low) / step:g}; end at {instead}"
        )


def _pair(ends: object) -> tuple[float, float] | None:
    if isinstance(ends, list | tuple) and len(ends) == 2 and _is_real(ends[0]) and _is_real(ends[1]):
        return ends[0], ends[1]
    return None


def _is_real(value: object) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max


def _is_whole(value: object) -> TypeGuard[float]:
    return _is_real(value) and value == int(value) and abs(value) <= _MOST_EXACT


def _build(key: str, kind: str, written: Mapping[str, Any]) -> Distribution:
    if kind == "choice":
        return CategoricalDistribution([fit(choice, leaves()[key]) for choice in written[kind]])
    low, high = written[kind]
    if kind == "int":
        step, log = int(written.get("step", 1)), written.get("log", False)
        return IntDistribution(int(low), int(high), step=step, log=log)
    return FloatDistribution(low, high, log=kind == "log")
