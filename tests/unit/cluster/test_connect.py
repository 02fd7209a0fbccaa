"""A local cluster that does not come up, which cannot be had at will: Ray's start is replaced."""

from __future__ import annotations

import pytest
import ray
from ray.exceptions import RayActorError

from gan_dist.cluster.connect import connect
from gan_dist.core.errors import ClusterError


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (Exception("The current node timed out during startup."), ClusterError, r"startup\); .* try again"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
)
def test_a_cluster_that_does_not_start_is_the_users_error(
    error: BaseException, expected: type[BaseException], said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: object) -> None:
        raise error

    ended: list[bool] = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: ended.append(True))
    with pytest.raises(expected, match=said), connect():
        raise AssertionError("connected")
    assert ended == [True]


def test_a_cluster_that_ends_while_it_is_in_use_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    monkeypatch.setattr("gan_dist.cluster.connect.join", lambda _: None)
    with pytest.raises(ClusterError, match=r"RAY_ADDRESS=127.0.0.1:1 ended, or .*actor died"), connect():
        raise RayActorError(error_msg="The actor died")
