"""What tests of several folders share."""

from __future__ import annotations

import os
import socket
import tempfile
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from gan_dist.core import storage
from gan_dist.core.storage import StorageOptions
from tests.support.s3 import KEYS, make_bucket, s3_server
from tests.support.searches import measured_run


class _ClustersFirst(LoadScopeScheduling):  # type: ignore[misc]
    """One of several test processes has all that shares a cluster; a file of commands stays together.

    Scopes of many tests are begun first, so that the short tests fill the time that is left at the end.
    """

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith("tests/cluster/"):
            return "cluster"
        return nodeid.partition("::")[0] if nodeid.startswith("tests/e2e/") else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ClustersFirst(config, log)


def pytest_configure() -> None:
    """Leave the other CPUs to the other test processes."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["pyarrow", "s3fs"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new bucket, reached as a user would: by the usual AWS variables. Yields its URI."""
    name = f"b{uuid.uuid4().hex[:12]}"
    make_bucket(s3_url, name)
    for key, value in {**KEYS, "AWS_ENDPOINT_URL": s3_url}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    yield f"s3://{name}"
    storage.configure(StorageOptions())


@pytest.fixture(scope="module")
def run_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run of an untrained generator, whose release is real."""
    return measured_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but this machine can be reached, and no variable says where weights are."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def local_connect(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), f"connects to {address}"
        connect(self, address)

    def local_resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        assert host in ("127.0.0.1", "::1", "localhost"), f"looks up {host}"
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", local_connect)
    monkeypatch.setattr(socket, "getaddrinfo", local_resolve)
    monkeypatch.delenv("GAN_DIST_INCEPTION_WEIGHTS", raising=False)


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """A short path of its own for Ray's files: its sockets' paths are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder
