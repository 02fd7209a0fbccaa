"""MLflow's server, for tests: `make mlflow` installs it into `.venv-mlflow`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.support.heads import ROOT
from tests.support.ports import free_ports

INSTALLED = ROOT / ".venv-mlflow" / ".installed"
ABSENT = "MLflow's server is not installed: make mlflow"


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """Run the server on a SQLite store in a folder; yields its URL."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = [str(ROOT / ".venv-mlflow" / "bin" / "mlflow"), "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--port", str(port)]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, stdout=output, stderr=output, start_new_session=True, env={**os.environ}
        )
    try:
        deadline = time.monotonic() + 90
        while not _answers(url):
            if time.monotonic() > deadline or process.poll() is not None:
                raise RuntimeError(f"MLflow's server did not start: {log.read_text()}")
            time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=2).ok
    except OSError:
        return False
