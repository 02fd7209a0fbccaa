"""A local cluster that does not come up, which cannot be had at will: Ray's start is replaced."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from gan_dist.cluster.connect import connect
from gan_dist.core.errors import ClusterError
from tests.support.privileges import permissions


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """What a start of Ray was given."""
    given: dict[str, Any] = {}

    def init(*, _temp_dir: str, **_: object) -> None:
        token = os.environ.get("RAY_AUTH_TOKEN")
        given.update(folder=_temp_dir, real=Path(_temp_dir).resolve(), token=token)

    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(ray, "init", init)
    return given


def test_rays_sockets_have_short_paths_and_its_files_are_where_the_user_wants_them(
    start: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wanted = tmp_path / ("temporary" * 8)
    monkeypatch.setenv("TMPDIR", str(wanted))
    with connect():
        assert start["real"] == wanted / "ray"
        assert len(start["folder"]) <= 43
    assert not Path(start["folder"]).is_symlink()
    monkeypatch.setenv("TMPDIR", "/proc/no/" + "temporary" * 8)
    with pytest.raises(ClusterError, match=r"^/proc/no/\w+/ray cannot be written .* RAY_TMPDIR"), connect():
        raise AssertionError("connected")
    monkeypatch.setenv("TMPDIR", "/tmp")
    with connect():
        assert start["folder"] == "/tmp/ray"


@pytest.mark.parametrize("home", ["/proc/nowhere", None, "closed", "of another user"])
def test_a_token_needs_no_home(
    home: str | None, start: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if home is None:
        monkeypatch.delenv("HOME")
    elif home != "/proc/nowhere":
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        closed = tmp_path / "home"
        closed.mkdir()
        if home == "of another user":
            closed = closed / ".ray/auth_token"
            closed.parent.mkdir()
            closed.write_text("secret")
        closed.chmod(0)
    else:
        monkeypatch.setenv("HOME", home)
    with permissions(), connect():
        token = start["token"]
    assert len(token) == 64
    with permissions(), connect():
        assert start["token"] == token  # Ray's client remembers it
    if (tmp_path / "home").exists():
        (tmp_path / "home").chmod(0o700)  # pytest deletes it
    assert "RAY_AUTH_TOKEN" not in os.environ


def test_a_token_is_kept_in_a_home_or_given_by_the_user(
    start: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with connect():
        assert start["token"] is None
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with connect():
        assert start["token"] is None
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "mine")
    with connect():
        assert start["token"] == "mine"
    assert os.environ["RAY_AUTH_TOKEN"] == "mine"


@pytest.mark.parametrize(
    ("error", "expected", "said"),
    [
        (
            PermissionError(13, "Permission denied", "/x/ray"),
            ClusterError,
            r"/x/ray'\); .* set it to a folder",
        ),
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
