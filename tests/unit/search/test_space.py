"""Search spaces: what is read and refused, which values a trial gets, and how they reach a configuration."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from gan_dist.config import FREE_ON_RESUME, SearchConfig, flatten, load_config
from gan_dist.config.fields import leaves
from gan_dist.config.yaml12 import compose, plain_value
from gan_dist.core.errors import ConfigError
from gan_dist.search.space import Space
from gan_dist.search.space.distributions import Value, all_values
from gan_dist.search.space.parse import FIXED, parse
from gan_dist.search.study import SearchStudy

EXAMPLE = """
optim.g.lr: {log: [1e-5, 1e-3]}
optim.d.lr: {log: [1e-5, 1e-3]}
optim.g.beta1: [0.0, 0.5]
optim.g.beta2: {uniform: [0.9, 0.999]}
train.batch_size: {choice: [32, 64]}
model.width: {int: [16, 64], step: 16}
loss.name: [nonsaturating, hinge, wgan-gp, rpgan]
loss.gp: {log: [1, 30], when: {loss.name: wgan-gp}}
loss.r1: {log: [0.01, 10], when: {loss.name: [nonsaturating, rpgan]}}
"""
NESTED = """
optim.schedule: [constant, linear, cosine]
optim.decay_kimg: {choice: [100, 200], when: {optim.schedule: [linear, cosine]}}
model.blocks: {int: [1, 3], when: {optim.decay_kimg: 200, model.name: resnet}}
model.name: [dcgan, resnet]
model.attention: [true, false]
model.max_width: {choice: [null, 64], when: {model.blocks: [3, 2.0]}}
optim.d_steps: {int: [1, 2], when: {model.max_width: null}}
"""
PARENT = "loss.name: [hinge, wgan-gp]\n"
BAD: dict[str, tuple[str, list[str]]] = {
    "empty": ("{}", ["empty; it needs keys to vary, such as optim.g.lr: {log: [1e-5, 1e-3]}"]),
    "unknown keys": (
        "{optim.g.lrr: [1, 2], zzzzz: [1, 2]}",
        [
            "optim.g.lrr is not a key; the nearest is optim.g.lr",
            "zzzzz is not a key of the configuration",
        ],
    ),
    "section": ("optim: {g: [1]}", ["optim is a section; what can vary is a key such as optim.name"]),
    "never varied": (
        "{name: [a, b], seed: {int: [0, 9]}, search.x: 1, eval.samples: [2, 3], data.path: [a, b],"
        " data.resolution: [8, 16], data.fit: [crop, pad], train.kimg: [1, 2],"
        " scale.workers: [1, 2], log.every_s: [1, 2]}",
        [
            "name cannot vary: the search names its trials",
            "seed cannot vary: the best of several seeds is luck, which does not repeat",
            "search.x cannot vary: a search does not vary itself",
            "eval.samples cannot vary: trials that are measured differently cannot be compared",
            "data.path cannot vary: distances to different images cannot be compared",
            "data.resolution cannot vary: distances to different images cannot be compared",
            "data.fit cannot vary: distances to different images cannot be compared",
            "train.kimg cannot vary: the search decides how long its trials train",
            "scale.workers cannot vary: it says where and how a run proceeds, not what it computes",
            "log.every_s cannot vary: it says where and how a run proceeds, not what it computes",
        ],
    ),
    "single values": (
        "{model.width: 32, loss.name: hinge, optim.g.lr: null}",
        [
            f"{key} must be a list of choices or a range such as {{log: [low, high]}}, not {value}; "
            f"a single value is set outside of search.space"
            for key, value in (("model.width", "32"), ("loss.name", "'hinge'"), ("optim.g.lr", "null"))
        ],
    ),
    "kinds": (
        "{optim.g.lr: {lgo: [1e-5, 1]}, optim.d.lr: {}, loss.r1: {log: [1, 2], uniform: [1, 2]},"
        " loss.r2: {gauss: [0, 1]}, loss.gp: {log: [1, 2], wen: 1}}",
        [
            "optim.g.lr: lgo is not known; the nearest is log",
            "optim.d.lr must have one of log, uniform, int, choice; it has none",
            "loss.r1 must have one of log, uniform, int, choice; it has log and uniform",
            "loss.r2: gauss is not known; the kinds are log, uniform, int, choice",
            "loss.gp: wen is not known; the nearest is when",
        ],
    ),
    "ends": (
        "{loss.r1: {uniform: [1]}, loss.r2: {log: [a, 2]}, loss.gp: {uniform: [0, .inf]},"
        " loss.clip: {uniform: [false, true]}, model.width: {int: [1.5, 3]}, model.blocks: {int: 4},"
        " model.pack: {int: [1, 1e16]}}",
        [
            "loss.r1: uniform takes two numbers, [low, high], not [1]",
            'loss.r2: log takes two numbers, [low, high], not ["a", 2]',
            "loss.gp: uniform takes two numbers, [low, high], not [0, Infinity]",
            "loss.clip: uniform takes two numbers, [low, high], not [false, true]",
            "model.width: int takes two whole numbers up to 2**53, [low, high], not [1.5, 3]",
            "model.blocks: int takes two whole numbers up to 2**53, [low, high], not 4",
            "model.pack: int takes two whole numbers up to 2**53, [low, high], not [1, 1e+16]",
        ],
    ),
    "ranges of nothing": (
        "{optim.g.lr: {log: [1e-3, 1e-5]}, loss.r1: {log: [0, 1]}, loss.r2: {uniform: [3, 3.0]},"
        " model.width: {int: [64, 16], step: 7}, model.blocks: {int: [2, 2], log: true}}",
        [
            "optim.g.lr: the range is upside down, 0.001 > 1e-05; swap its ends",
            "loss.r1: a logarithmic range begins above 0, not at 0",
            "loss.r2: both ends are 3; set loss.r2=3 outside of search.space",
            "model.width: the range is upside down, 64 > 16; swap its ends",
            "model.blocks: both ends are 2; set model.blocks=2 outside of search.space",
        ],
    ),
    "steps": (
        "{model.width: {int: [16, 60], step: 16}, model.blocks: {int: [1, 3], step: 5},"
        " model.latent_dim: {int: [8, 16], step: 0}, model.pack: {int: [1, 9], step: 2, log: true},"
        " optim.d_steps: {int: [1, 5], log: 3}, loss.r1: {log: [1, 2], step: 1}}",
        [
            "model.width: steps of 16 from 16 miss 60: (60 - 16) / 16 = 2.75; end at 48 or 64",
            "model.blocks: steps of 5 from 1 miss 3: (3 - 1) / 5 = 0.4; end at 6",
            "model.latent_dim: step must be a whole number of at least 1, not 0",
            "model.pack: step and log exclude each other",
            "optim.d_steps: log beside int must be true or false, not 3",
            "loss.r1: step belongs to int, not to log",
        ],
    ),
    "choices": (
        "{model.width: [], model.blocks: [1], model.pack: [1, 2, 1.0, 2], loss.r1: {choice: 3},"
        " model.max_width: [[8], null]}",
        [
            "model.width has no choices",
            "model.blocks has one choice; set model.blocks=1 outside of search.space",
            "model.pack has the choice 1.0 twice",
            "model.pack has the choice 2 twice",
            "loss.r1: choice takes a list, not 3",
            "model.max_width: a choice is text, a number, true, false or null, not [8]",
        ],
    ),
    "what the schema refuses": (
        "{optim.g.beta1: {uniform: [0.5, 1.0]}, optim.g.lr: [abc, 1e-4], optim.d.lr: {uniform: [-1, 1]},"
        " loss.name: [hinge, wgn-gp], model.width: ['16', 32], model.max_width: {int: [0, 64]},"
        " model.attention: {uniform: [0, 1]}, model.blocks: {log: [1, 4]}, model.pack: {uniform: [1, 2]}}",
        [
            "optim.g.beta1 must be a number of at least 0 and less than 1, not 1.0",
            "optim.g.lr must be a number greater than 0, not 'abc'",
            "optim.d.lr must be a number greater than 0, not -1",
            "loss.name must be one of minimax, nonsaturating, lsgan, wgan, wgan-gp, hinge, rpgan or your own "
            "package.module:Class, not 'wgn-gp'; the nearest is wgan-gp",
            "model.width must be a whole number greater than 0, not '16'; leave out the quotes",
            "model.max_width must be a whole number greater than 0 or null, not 0",
            "model.attention must be true or false, not 0",
            "model.attention must be true or false, not 1",
            "model.blocks takes whole numbers, which log does not give; use {int: [low, high], log: true}",
            "model.pack takes whole numbers, which uniform does not give; use {int: [low, high]}",
        ],
    ),
    "conditions": (
        PARENT
        + "optim.g.lr: {log: [1e-5, 1e-3]}\n"
        + "loss.r1: {uniform: [1, 2], when: {loss.nam: hinge}}\n"
        + "loss.r2: {uniform: [1, 2], when: {optim.name: adam}}\n"
        + "loss.gp: {uniform: [1, 2], when: {loss.name: [wgan, wgan-gp, hing]}}\n"
        + "loss.clip: {uniform: [1, 2], when: {optim.g.lr: 1e-4}}\n"
        + "loss.dragan: {uniform: [1, 2], when: {loss.name: []}}\n"
        + "loss.penalty_every: {int: [1, 2], when: hinge}\n"
        + "ema.ramp_up: {uniform: [1, 2], when: {}}\n",
        [
            "loss.r1: when names loss.nam, which is not in the space; the nearest is loss.name",
            "loss.r2: when names optim.name, which is not in the space; "
            "the configuration has optim.name=adam",
            "loss.gp: when is never met: loss.name=wgan is not in [hinge, wgan-gp]",
            "loss.gp: when is never met: loss.name must be one of minimax, nonsaturating, lsgan, wgan, "
            "wgan-gp, hinge, rpgan or your own package.module:Class, not 'hing'; the nearest is hinge",
            "loss.clip: when names optim.g.lr, which can be any number; it needs choices or whole numbers",
            "loss.dragan: when gives no value of loss.name",
            "loss.penalty_every: when must be a mapping of keys of the space to values, not 'hinge'",
            "ema.ramp_up: when must be a mapping of keys of the space to values, not an empty mapping",
        ],
    ),
    "conditions on whole numbers": (
        "model.width: {int: [16, 64], step: 16}\n"
        + "loss.r1: {uniform: [1, 2], when: {model.width: [16, 40, 80, true]}}",
        [
            "loss.r1: when is never met: model.width=40 is not in {int: [16, 64], step: 16}",
            "loss.r1: when is never met: model.width=80 is not in {int: [16, 64], step: 16}",
            "loss.r1: when is never met: model.width must be a whole number greater than 0, not true",
        ],
    ),
    "conditions of a parent that is wrong itself": (
        "loss.name: [hinge, hinge]\nloss.gp: {log: [1, 2], when: {loss.name: x}}",
        ["loss.name has the choice hinge twice"],
    ),
    "circles": (
        "model.width: {choice: [1, 2], when: {model.blocks: 1}}\n"
        + "model.blocks: {choice: [1, 2], when: {model.width: 1}}\n"
        + "model.pack: {choice: [1, 2], when: {model.pack: 1}}\n",
        [
            "when goes round in a circle: model.blocks -> model.width -> model.blocks",
            "when goes round in a circle: model.pack -> model.pack",
        ],
    ),
    "conditions that exclude each other": (
        PARENT
        + "model.width: {choice: [16, 32], when: {loss.name: hinge}}\n"
        + "loss.gp: {log: [1, 2], when: {loss.name: wgan-gp, model.width: 16}}\n",
        ["loss.gp never applies: its conditions leave no value of loss.name"],
    ),
}


def read(text: str) -> Space:
    node = compose(text)
    assert node is not None
    return parse(plain_value(node), flatten(load_config("digits")))


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return list(map(str, caught.value.problems))


@pytest.mark.parametrize("case", BAD)
def test_bad_spaces_are_explained(case: str) -> None:
    text, said = BAD[case]
    assert problems(text) == [f"search.space: {sentence}" for sentence in said]


def test_all_problems_come_at_once() -> None:
    assert len(problems("{zzz: 1, seed: [1, 2], optim.g.lr: {log: [1, -1]}, loss.r1: {uniform: 1}}")) == 6


@pytest.mark.parametrize("key", leaves())
def test_what_is_never_varied(key: str) -> None:
    fixed = key in FREE_ON_RESUME or key in FIXED or key.split(".")[0] in FIXED
    try:
        parse({key: [1, "a"]}, {})
        said = ""
    except ConfigError as error:
        said = str(error)
    assert ("cannot vary" in said) == fixed
    assert not key.startswith(("storage.", "eval.", "scale.", "log.")) or fixed


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["hinge", "1", ""]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["log", "uniform", "int", "choice", "step", "when", "loss.name"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@settings(deadline=None, max_examples=200)
@given(space=st.dictionaries(st.sampled_from(["model.width", "loss.gp", "loss.name", "zzz"]), plain))
def test_any_space_is_read_or_refused(space: dict[str, object]) -> None:
    try:
        found = parse(space, {})
    except ConfigError as error:
        refused = tuple(map(str, error.problems))
    else:
        refused = ()
        for point in found.extreme_points():
            found.check_point(point)
    assert all(len(said.splitlines()) == 1 for said in refused)


def test_whole_numbers_may_be_written_as_floats() -> None:
    space = read("{model.width: {int: [16.0, 1e2], step: 4.0}, model.pack: [1.0, 2]}")
    assert space == read("{model.width: {int: [16, 100], step: 4}, model.pack: [1, 2]}")
    assert all(type(value) is int for point in space.extreme_points() for value in point.values())


def ask(space: Space, algorithm: str, trials: int, seed: int = 0) -> list[dict[str, Value]]:
    search = SearchConfig.model_validate(
        {"space": {}, "algorithm": algorithm, "trials": trials, "seed": seed, "scheduler": "none"}
    )
    study = SearchStudy(InMemoryStorage(), "s", space, search, grace=1)
    points = []
    while (trial := study.next()) is not None:
        points.append(trial.params)
        study.report(trial.number, 1, float(trial.number % 7))
        study.complete(trial.number)
    return points


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
@pytest.mark.parametrize("text", [EXAMPLE, NESTED])
def test_only_what_applies_is_sampled(text: str, algorithm: str) -> None:
    space = read(text)
    points = ask(space, algorithm, 200)
    for point in points:
        space.check_point(point)
        assert list(point) == [key for key in space.distributions if space.applies(key, point)]
    assert {key for point in points for key in point} == set(space.distributions)


def test_conditions_follow_their_parents() -> None:
    space = read(NESTED)
    for point in ask(space, "random", 200):
        assert ("optim.decay_kimg" in point) == (point["optim.schedule"] != "constant")
        assert ("model.blocks" in point) == (
            point.get("optim.decay_kimg") == 200 and point["model.name"] == "resnet"
        )
        assert ("model.max_width" in point) == (point.get("model.blocks") in (2, 3))
        assert ("optim.d_steps" in point) == (point.get("model.max_width", "absent") is None)


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_trials_depend_on_the_seed_and_not_on_the_order_of_lines(algorithm: str) -> None:
    upside_down = "\n".join(reversed(EXAMPLE.splitlines()))
    assert ask(read(EXAMPLE), algorithm, 20) == ask(read(upside_down), algorithm, 20)
    assert ask(read(EXAMPLE), algorithm, 20) != ask(read(EXAMPLE), algorithm, 20, seed=1)


@pytest.mark.parametrize("algorithm", ["tpe", "random"])
def test_every_trial_of_the_example_loads(algorithm: str) -> None:
    space = read(EXAMPLE)
    for point in ask(space, algorithm, 100) + space.extreme_points():
        found = flatten(load_config("digits", space.overrides(point)))
        assert found == found | point
        assert (point["loss.name"] == "wgan-gp") == (found["loss.gp"] != 0)


values = {
    "optim.g.lr": st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    "loss.r1": st.floats(min_value=0, allow_infinity=False) | st.integers(0, 2**53),
    "model.width": st.integers(1, 2**60),
    "model.attention": st.booleans(),
    "model.max_width": st.none() | st.integers(1, 9),
    "model.name": st.sampled_from(["dcgan", "resnet"]),
    # No search varies this one; but no other holds any text.
    "data.disk_cache_dir": st.text(st.characters(codec="utf-8"))
    | st.sampled_from(
        ["1e5", "010", "true", "null", "~", "", " ", "#", "a #b", "- a", "[", "1:30", "a: b", "'"]
    ),
}


@settings(deadline=None, max_examples=200)
@given(point=st.fixed_dictionaries({}, optional=values))
def test_overrides_are_read_back_exactly(point: dict[str, object]) -> None:
    found = flatten(load_config("digits", Space.overrides(point)))
    assert {key: found[key] for key in point} == point
    assert all(type(found[key]) is type(value) for key, value in point.items() if key != "loss.r1")


def brute_force(space: Space) -> list[dict[str, Value]]:
    found: list[dict[str, Value]] = []
    each = {key: list(all_values(at) or ()) for key, at in space.distributions.items()}
    for combination in itertools.product(*each.values()):
        point: dict[str, Value] = {}
        for key, value in zip(each, combination, strict=True):
            if space.applies(key, point):
                point[key] = value
        if point not in found:
            found.append(point)
    return found


def test_a_grid_is_all_that_applies() -> None:
    space = read(NESTED)
    grid = space.grid()
    assert grid == brute_force(space)
    # Two of model.attention times the schedules: dcgan's, and resnet's with blocks of one or two widths.
    assert len(grid) == 2 * (1 + 2 * (1 + 1)) + 2 * (1 + 2 * (1 + (1 + 2 * (2 + 1))))
    assert len(read("model.width: {int: [1, 9], log: true}").grid()) == 9


def test_grids_that_cannot_be() -> None:
    with pytest.raises(ConfigError) as caught:
        read(EXAMPLE).grid()
    assert str(caught.value) == (
        "search.space: a grid needs choices or whole numbers; "
        "optim.d.lr, optim.g.beta2, optim.g.lr, loss.gp, loss.r1 can be any number"
    )
    with pytest.raises(ConfigError) as caught:
        read("{model.width: {int: [1, 100000000]}, loss.name: [hinge, wgan]}").grid()
    assert str(caught.value) == (
        "search.space: a grid has at most 10000 combinations; "
        "2 (loss.name) x 100000000 (model.width) are more"
    )


def test_corners_have_every_choice_and_end() -> None:
    space = read(EXAMPLE + "loss.r2: {int: [1, 5], when: {model.width: 48}}")
    seen = {(key, value) for point in space.extreme_points() for key, value in point.items()}
    assert seen >= {("loss.gp", 1.0), ("loss.gp", 30.0), ("loss.r2", 1), ("loss.r2", 2), ("loss.r2", 5)}
    assert seen >= {("loss.name", name) for name in ("nonsaturating", "hinge", "wgan-gp", "rpgan")}
    for point in space.extreme_points():
        space.check_point(point)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.batch_size: {int: [32, 64]}", "33 / 2 = 16.5; use 32 or 34"),
        ("{loss.name: [hinge, wgan], loss.gp: {log: [1, 10], when: {loss.name: wgan}}}", "loss.clip=0.01"),
        ("optim.schedule: [constant, cosine]", "optim.schedule=cosine needs optim.decay_kimg"),
    ],
)
def test_loading_the_corners_tells_of_rules_over_several_keys(text: str, said: str) -> None:
    space = read(text)
    with pytest.raises(ConfigError, match=re.escape(said)):
        list(map(load_config, itertools.repeat("digits"), map(space.overrides, space.extreme_points())))


def refused(space: Space, point: dict[str, object]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        space.check_point(point)
    return list(map(str, caught.value.problems))


def test_points_are_checked() -> None:
    space = read(NESTED)
    for point in space.grid():
        space.check_point(point)
    wrong = {"model.name": "resnt", "optim.schedul": 1, "optim.decay_kimg": 150, "optim.schedule": "linear"}
    origin = 'point {"model.name": "resnt", "optim.schedul": 1, "optim.decay_kimg": 150, "optim.sch…: '
    assert refused(space, wrong | {"model.blocks": 2}) == [
        origin + said
        for said in (
            "optim.schedul is not in the space; the nearest is optim.schedule",
            "model.attention is missing; it is in [true, false]",
            "model.name must be one of dcgan, resnet, r3gan, stylegan2, fastgan or your own "
            "package.module:Class, not 'resnt'; the nearest is resnet",
            "optim.decay_kimg=150 is not in [100, 200]",
            "model.blocks does not apply: it is there only "
            "when model.name is resnet and optim.decay_kimg is 200",
        )
    ]


def test_points_have_their_parents_to_the_last() -> None:
    space = read(NESTED)
    point = {"optim.schedule": "constant", "model.name": "resnet", "model.attention": True}
    space.check_point(point)
    for key, value in {"optim.decay_kimg": 200, "model.blocks": 2, "model.max_width": None}.items():
        assert f"{key} does not apply" in str(refused(space, point | {key: value}))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("optim.g.lr", 1e-2, "optim.g.lr=0.01 is not in {log: [1e-05, 0.001]}"),
        (
            "optim.g.lr",
            "1e-4",
            "optim.g.lr must be a number greater than 0, not '1e-4'; leave out the quotes",
        ),
        ("optim.g.lr", [1], "optim.g.lr must be a number greater than 0, not a list"),
        ("model.width", 24, "model.width=24 is not in {int: [16, 64], step: 16}"),
        ("model.width", True, "model.width must be a whole number greater than 0, not true"),
        ("model.width", 10**400, "model.width=1000"),
        ("model.max_width", 64, "model.max_width=64 is not in [null, 8]"),
    ],
)
def test_values_of_points_are_checked(key: str, value: object, said: str) -> None:
    space = read(
        "{optim.g.lr: {log: [1e-5, 1e-3]}, model.width: {int: [16, 64], step: 16},"
        " model.max_width: [null, 8]}"
    )
    good: dict[str, object] = {"optim.g.lr": 1e-5, "model.width": 32.0, "model.max_width": None}
    space.check_point(good)
    (problem,) = refused(space, good | {key: value})
    assert said in problem


def test_what_differs_is_named() -> None:
    now, was = read(EXAMPLE), read(EXAMPLE)
    assert now == was
    assert now.differences(was) == []
    before = EXAMPLE.replace("1e-3]}\noptim.d", "1e-2]}\noptim.d").replace("[nonsaturating, rpgan]", "rpgan")
    before = before.replace("model.width: {int: [16, 64], step: 16}\n", "model.pack: {int: [1, 4]}\n")
    assert now.differences(read(before.replace("[32, 64]", "[64, 32]"))) == [
        "loss.r1: was {log: [0.01, 10.0]} when loss.name is rpgan, "
        "is now {log: [0.01, 10.0]} when loss.name is nonsaturating or rpgan",
        "model.pack: was {int: [1, 4]}, is now absent",
        "model.width: was absent, is now {int: [16, 64], step: 16}",
        "optim.g.lr: was {log: [1e-05, 0.01]}, is now {log: [1e-05, 0.001]}",
        "train.batch_size: was [64, 32], is now [32, 64]",
    ]


@pytest.mark.parametrize("text", [EXAMPLE, NESTED])
def test_a_space_and_its_trials_are_kept_with_the_study(text: str, tmp_path: Path) -> None:
    space = read(text)

    def study() -> optuna.Study:
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "journal")))
        return optuna.create_study(study_name="s", storage=storage, load_if_exists=True)

    first = study()
    first.set_user_attr("space", space.to_json())
    trials = [first.ask() for _ in range(12)]
    points = [space.suggest(trial) for trial in trials]
    for trial in trials:
        first.tell(trial, 1.0)
    again = study()
    assert [trial.params for trial in again.trials] == points
    kept = Space.from_json(again.user_attrs["space"])
    assert kept == space
    assert space.differences(kept) == []
    space.check_point(space.suggest(again.ask()))


def test_importing_starts_neither_torch_nor_ray() -> None:
    rooms = "gan_dist.search.space.parse, gan_dist.search.study"
    code = f"import sys, {rooms}; print({{'torch', 'ray'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_mappings_are_choices_of_the_augmentation_as_text_that_reads_the_same() -> None:
    chosen = {"ada": ["blit", "geom"]}
    when = {"uniform": [1, 2], "when": {"data.augment": chosen}}
    space = parse({"data.augment": ["none", chosen], "loss.r1": when}, {})
    text = "{ada: [blit, geom]}"
    assert space.distributions["data.augment"] == CategoricalDistribution(["none", text])
    point = {"data.augment": chosen, "loss.r1": 1.5}
    space.check_point(point)
    assert space.normalise(point) == {"data.augment": text, "loss.r1": 1.5}
    config = load_config("digits", ["name=x", *space.overrides(space.normalise(point))])
    assert config.data.augment == {"ada": ("flip", "shift", "geom")}
