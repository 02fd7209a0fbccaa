"""MLflow's server, for tests: `make mlflow` installs it into `.venv-mlflow`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.support.heads import ROOT
from tests.support.ports import free_ports
from tests.support.servers import server

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
    with server(command, folder, lambda: _answers(url)):
        yield url


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=2).ok
    except OSError:
        return False
