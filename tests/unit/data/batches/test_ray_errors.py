"""A user's error that a task of Ray's raised."""

from __future__ import annotations

import pickle

import pytest
from ray.exceptions import RayTaskError

from gan_dist.core.errors import (
    ConfigError,
    DataError,
    GanDistError,
    NonFiniteError,
    Problem,
    StorageError,
)
from gan_dist.data.batches.ray_reader import plain_errors


def raised(error: Exception) -> Exception:
    with pytest.raises(Exception) as caught, plain_errors():  # noqa: PT011
        raise RayTaskError("read", "a traceback", error)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        DataError("a.png is none"),
        StorageError("no bucket"),
        NonFiniteError("the loss is nan", "use a lower optim.g.lr", keys=("optim.g.lr",)),
        ConfigError([Problem("one problem"), Problem("another")]),
    ],
)
def test_the_users_error_is_found_with_its_text(error: GanDistError) -> None:
    found = raised(error)
    sent = pickle.loads(pickle.dumps(error))
    for one in (found, sent):
        assert type(one) is type(error)
        assert str(one) == str(error)
        assert one.problems == error.problems


def test_advice_for_others_is_left_out() -> None:
    error = StorageError("no bucket", "create it")
    error.args = (f"{error.args[0]}\nFailed to apply a function", *error.args[1:])  # as Ray Data does (2.60)
    assert str(raised(pickle.loads(pickle.dumps(error)))) == "no bucket; create it"


def test_another_failure_stays_what_it_is() -> None:
    assert isinstance(raised(KeyError("x")), RayTaskError)
