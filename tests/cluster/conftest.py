"""One local Ray for all tests of this folder: its own temporary folder, token and ports."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator

import pytest
import ray

from tests.support.s3 import KEYS


@pytest.fixture(scope="package")
def local_ray(s3_url: str) -> Iterator[None]:
    """It ends with the folder: what the process tests afterwards is connected to no cluster."""
    # Short, since the paths of Ray's sockets are limited to 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        # As on a cluster whose nodes were started with these set.
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": s3_url}.items():
            patch.setenv(key, value)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        yield
        ray.shutdown()
