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
from tests.support.heads import NICENESS
from tests.support.s3 import KEYS, make_bucket, s3_server
from tests.support.searches import measured_run

LONGEST_FIRST = (
    "head of tests/e2e/",
    "tests/cluster/",
    "tests/e2e/test_hosts.py",
    "tests/unit/training/test_training.py",
    "tests/unit/core/test_storage.py",
    "tests/e2e/test_notebooks.py",
    "tests/unit/artifacts/test_trackers.py",
    "tests/e2e/test_commands.py",
    "tests/unit/artifacts/test_export.py",
    "tests/unit/data/packing/test_sources_stores.py",
    "tests/unit/training/test_audit.py",
    "tests/unit/training/test_step.py",
    "tests/unit/core/test_storage_whole.py",
    "tests/unit/cli/test_printed_commands.py",
    "tests/unit/training/test_checkpoint.py",
    "tests/e2e/test_serving.py",
    "tests/e2e/test_autoscaling.py",
    "tests/unit/core/test_storage_signed.py",
    "tests/unit/core/test_storage_clouds.py",
    "tests/unit/test_packaging.py",
)
"""Scopes by the seconds that they were measured to take: from 6 minutes down to 15 s."""
ALONE = ("autoscaling", "commands", "hosts", "notebooks", "ray_up", "serving", "slurm")
"""Files of tests/e2e/ that need no head, or take so long that they have one of their own."""


class _LongestFirst(LoadScopeScheduling):  # type: ignore[misc]
    """What shares a cluster or a fixture stays in one process; the longest begins first.

    Short files then fill the time that is left at the end.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        if file.startswith("tests/cluster/"):
            return "tests/cluster/"
        shares_head = file.startswith("tests/e2e/") and not any(name in file for name in ALONE)
        return "head of tests/e2e/" if shares_head else file

    def _assign_work_unit(self, node: Any) -> None:
        def rank(scope: str) -> tuple[int, int]:
            known = scope in LONGEST_FIRST
            return LONGEST_FIRST.index(scope) if known else len(LONGEST_FIRST), -len(self.workqueue[scope])

        self.workqueue.move_to_end(min(self.workqueue, key=rank), last=False)
        super()._assign_work_unit(node)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", type=int, metavar="SEED", help="run tests/chaos at length, with this seed")


def pytest_report_header(config: pytest.Config) -> list[str]:
    seed = config.getoption("--chaos")
    return [] if seed is None else [f"chaos: SEED={seed}"]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _LongestFirst(config, log)


def pytest_xdist_auto_num_workers() -> int:
    """One process more than CPUs, four at most: those with a cluster wait for it much of their time."""
    return min(len(os.sched_getaffinity(0)) + 1, 4)


def pytest_configure() -> None:
    """Leave the other CPUs to the other test processes, and Ray's workers their part of these.

    A machine's own list of certificates would have s3fs take the place of pyarrow in all tests of buckets.
    """
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        os.environ.pop(name, None)
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)
    os.environ.setdefault("RAY_worker_niceness", NICENESS)


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


@pytest.fixture(scope="session", autouse=True)
def _no_inception_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Neither a variable nor torch-fidelity's downloads have Inception's weights, which `auto` would use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GAN_DIST_INCEPTION_WEIGHTS", raising=False)
        patch.setenv("TORCH_HOME", str(tmp_path_factory.mktemp("torch")))
        yield


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but this machine can be reached."""
    connect, resolve = socket.socket.connect, socket.getaddrinfo

    def local_connect(self: socket.socket, address: Any) -> None:
        assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1"), f"connects to {address}"
        connect(self, address)

    def local_resolve(host: Any, *arguments: Any, **options: Any) -> Any:
        assert host in ("127.0.0.1", "::1", "localhost"), f"looks up {host}"
        return resolve(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", local_connect)
    monkeypatch.setattr(socket, "getaddrinfo", local_resolve)


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """A short path of its own for Ray's files: its sockets' paths are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder
