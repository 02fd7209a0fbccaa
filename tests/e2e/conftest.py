"""One head for the tests of this folder that need no cluster of their own."""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.heads import Head, ray_head, routes
from tests.support.s3 import KEYS, make_bucket


@pytest.fixture(scope="session")
def head(s3_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """A head whose environment holds secrets, as that of a user who also works on it does."""
    home, name = tmp_path_factory.mktemp("home"), f"b{uuid.uuid4().hex[:12]}"
    make_bucket(s3_url, name)
    secret = f"rdb-canary-{uuid.uuid4().hex}"
    canaries = {
        "AWS_ACCESS_KEY_ID": f"AKIA{uuid.uuid4().hex[:16].upper()}",
        "AWS_SECRET_ACCESS_KEY": f"key-canary-{uuid.uuid4().hex}",
        "AWS_SESSION_TOKEN": f"session-canary-{uuid.uuid4().hex}",
    }
    study = {"STUDY_URL": f"sqlite:///file:{home}/study.db?mode=rwc&uri=true&password={secret}"}
    given = {**KEYS, "AWS_ENDPOINT_URL": s3_url, "HOME": str(home), **canaries, **study}
    with (
        tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        ray_head(folder, **given) as env,
    ):
        found = {**canaries, "STUDY_URL": secret, "RAY_AUTH_TOKEN": env["RAY_AUTH_TOKEN"]}
        head = Head(env, Path(folder), home, f"s3://{name}", found)
        deadline = time.monotonic() + 90
        while ("POST", "/api/job_agent/jobs/") not in routes(head, "POST") and time.monotonic() < deadline:
            time.sleep(0.5)
        yield head
