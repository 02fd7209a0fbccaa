"""The values of one key of a search space: read from a configuration, represented by Optuna's distributions.

[a, b]  or  {choice: [a, b]}                      text, numbers, true, false, null
{uniform: [low, high]}  {log: [low, high]}        real numbers, both ends included
{int: [low, high]}  with  step: n  or  log: true  whole numbers, both ends included
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial

from gan_dist.config.fields import convert_integers, format_value, schema_of, shorten
from gan_dist.config.messages import check
from gan_dist.config.yaml12 import dump
from gan_dist.core.errors import ConfigError, Problem, closest

Value: TypeAlias = str | int | float | bool | None
"""What Optuna's storages can hold; all keys that a search may vary are one of these."""

Distribution: TypeAlias = FloatDistribution | IntDistribution | CategoricalDistribution

KINDS = ("log", "uniform", "int", "choice")
_OPTIONS = ("step", "when")
_MOST_EXACT = 2**53
"""Optuna's samplers compute with floats, which represent every whole number up to here."""
_MAPPINGS = frozenset({"data.augment"})
"""Keys that take mappings, and text that describes them."""
_OUTSIDE = "outside of search.space"


def read_distribution(key: str, written: object) -> Distribution:
    """Return the distribution that a configuration gives a key; a condition (`when`) beside it is ignored.

    Whole numbers may be written as floats (64.0, 1e3), as everywhere in a configuration.

    Raises:
        ConfigError: with everything that is wrong with it, or that the schema refuses for `key`.
    """
    if isinstance(written, list | tuple):
        written = {"choice": written}
    if isinstance(written, Mapping) and isinstance(choices := written.get("choice"), list | tuple):
        written = {**written, "choice": [as_plain(key, choice) for choice in choices]}
    if not isinstance(written, Mapping):
        what = f"{key} must be a list of choices or a range such as {{log: [low, high]}}"
        remedy = f"a single value is set {_OUTSIDE}"
        raise ConfigError([Problem(f"{what}, not {format_value(written)}", remedy, (key,))])
    problems = [_unknown(key, str(name)) for name in written if name not in (*KINDS, *_OPTIONS)]
    kinds = [kind for kind in KINDS if kind in written and not (kind == "log" and "int" in written)]
    if len(kinds) != 1:
        if kinds or not problems:
            has = " and ".join(kinds) or "none"
            problems.append(Problem(f"{key} must have one of {', '.join(KINDS)}; it has {has}", keys=(key,)))
        raise ConfigError(problems)
    if "step" in written and kinds != ["int"]:
        problems.append(Problem(f"{key}: step belongs to int, not to {kinds[0]}", keys=(key,)))
    problems += _problems(key, kinds[0], written)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return _build(key, kinds[0], written)


def value_problem(key: str, distribution: Distribution, value: Any) -> Problem | None:
    """Return why `value` is none of a key's values, or None if it is one."""
    if problem := _schema_problem(key, value):
        return problem
    value = as_plain(key, value)
    try:
        inside = distribution._contains(distribution.to_internal_repr(value))
    except (ValueError, OverflowError):
        inside = False
    what = f"{key}={format_plain(value)} is not in {format_distribution(distribution)}"
    return None if inside else Problem(what, keys=(key,))


def as_plain(key: str, value: Any) -> Any:
    """Return a mapping as the text in YAML that its key also takes; anything else as it is."""
    return dump(value, flow=True).strip() if key in _MAPPINGS and isinstance(value, Mapping) else value


def format_distribution(distribution: Distribution) -> str:
    """Return a distribution as a user would write it."""
    if isinstance(distribution, CategoricalDistribution):
        return f"[{', '.join(map(format_plain, distribution.choices))}]"
    ends = f"[{distribution.low}, {distribution.high}]"
    if isinstance(distribution, FloatDistribution):
        return f"{{{'log' if distribution.log else 'uniform'}: {ends}}}"
    step = f", step: {distribution.step}" if distribution.step != 1 else ""
    return f"{{int: {ends}{step}{', log: true' if distribution.log else ''}}}"


def format_plain(value: object) -> str:
    """Return a value as it is written after `key=`, on one line."""
    return shorten(value if isinstance(value, str) else json.dumps(value, default=str))


def all_values(distribution: Distribution) -> Sequence[Value] | None:
    """Return all values in their order; None if they are real numbers."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return range(distribution.low, distribution.high + 1, distribution.step)
    return None


def extreme_values(distribution: Distribution) -> Sequence[Value]:
    """Return the values with which a space is checked: every choice, or a range's two ends.

    For whole numbers also `low + step`: where both it and `low` are multiples of k, all values are, so that a
    rule about divisibility is checked for the whole range.
    """
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices
    if isinstance(distribution, IntDistribution):
        return distribution.low, distribution.low + distribution.step, distribution.high
    return distribution.low, distribution.high


def suggest(key: str, distribution: Distribution, trial: Trial) -> Value:
    """Return the value of a key in a trial, drawn by the study's sampler if it has none yet."""
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(key, distribution.choices)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
    low, high, step = distribution.low, distribution.high, distribution.step
    return trial.suggest_int(key, low, high, step=step, log=distribution.log)


def _schema_problem(key: str, value: object) -> Problem | None:
    # Other keys that must be there are missing, so that rules that relate several keys are not applied:
    # `load_config` does that to whole trials.
    _, problems = check({key: convert_integers(value, schema_of(key))})
    return next((problem for problem in problems if problem.keys == (key,)), None)


def _unknown(key: str, name: str) -> Problem:
    meant = closest(name, (*KINDS, *_OPTIONS))
    remedy = f"the nearest is {meant}" if meant else f"the kinds are {', '.join(KINDS)}"
    return Problem(f"{key}: {shorten(name)} is not known", remedy, (key,))


def _problems(key: str, kind: str, written: Mapping[str, object]) -> Iterator[Problem]:
    if kind == "choice":
        yield from _choice_problems(key, written[kind])
        return
    yield from _range_problems(key, kind, written[kind], kind == "log" or written.get("log") is True)
    if kind == "int":
        yield from _step_problems(key, written)


def _choice_problems(key: str, choices: object) -> Iterator[Problem]:
    if not isinstance(choices, list | tuple):
        yield Problem(f"{key}: choice takes a list, not {format_value(choices)}", keys=(key,))
        return
    if not choices:
        yield Problem(f"{key} has no choices", keys=(key,))
    if len(choices) == 1:
        remedy = f"set {key}={format_plain(choices[0])} {_OUTSIDE}"
        yield Problem(f"{key} has one choice", remedy, (key,))
    for index, choice in enumerate(choices):
        written = format_plain(choice)
        if isinstance(choice, list | tuple | Mapping):
            what = f"{key}: a choice is text, a number, true, false or null, not {written}"
            yield Problem(what, keys=(key,))
        elif problem := _schema_problem(key, choice):
            yield problem
        if choice in choices[:index]:
            yield Problem(f"{key} has the choice {written} twice", keys=(key,))


def _range_problems(key: str, kind: str, ends: object, log: bool) -> Iterator[Problem]:
    pair = _pair(ends)
    if pair is None or (kind == "int" and not all(_is_whole(end) for end in pair)):
        numbers = "whole numbers up to 2**53" if kind == "int" else "numbers"
        what = f"{key}: {kind} takes two {numbers}, [low, high], not {format_plain(ends)}"
        yield Problem(what, keys=(key,))
        return
    low, high = map(format_plain, pair)
    if pair[0] == pair[1]:
        yield Problem(f"{key}: both ends are {low}", f"set {key}={low} {_OUTSIDE}", (key,))
    if pair[0] > pair[1]:
        yield Problem(f"{key}: the range is upside down, {low} > {high}", "swap its ends", (key,))
    if log and min(pair) <= 0:
        what = f"{key}: a logarithmic range begins above 0, not at {format_plain(min(pair))}"
        yield Problem(what, keys=(key,))
    if kind != "int" and isinstance(convert_integers(1.0, schema_of(key)), int):
        instead = f"use {{int: [low, high]{', log: true' if log else ''}}}"
        yield Problem(f"{key} takes whole numbers, which {kind} does not give", instead, (key,))
        return
    yield from filter(None, (_schema_problem(key, end) for end in pair))


def _step_problems(key: str, written: Mapping[str, object]) -> Iterator[Problem]:
    step, log, pair = written.get("step", 1), written.get("log", False), _pair(written["int"])
    if not isinstance(log, bool):
        yield Problem(f"{key}: log beside int must be true or false, not {format_value(log)}", keys=(key,))
    if not _is_whole(step) or step < 1:
        what = f"{key}: step must be a whole number of at least 1, not {format_value(step)}"
        yield Problem(what, keys=(key,))
        return
    if step != 1 and log is True:
        yield Problem(f"{key}: step and log exclude each other", keys=(key,))
    if pair is None or not all(_is_whole(end) for end in pair):
        return
    low, high, step = int(pair[0]), int(pair[1]), int(step)
    if low < high and (high - low) % step:
        below = high - (high - low) % step
        instead = f"{below} or {below + step}" if below > low else f"{below + step}"
        miss = f"({high} - {low}) / {step} = {(high - low) / step:g}"
        what = f"{key}: steps of {step} from {low} miss {high}: {miss}"
        yield Problem(what, f"end at {instead}", (key,))


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
        return CategoricalDistribution([convert_integers(choice, schema_of(key)) for choice in written[kind]])
    low, high = written[kind]
    if kind == "int":
        step, log = int(written.get("step", 1)), written.get("log", False)
        return IntDistribution(int(low), int(high), step=step, log=log)
    return FloatDistribution(low, high, log=kind == "log")
