"""Emulators of Google's and Azure's stores on free loopback ports, for tests: `make clouds` installs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gan_dist.core import storage
from tests.support.heads import ROOT
from tests.support.ports import free_port
from tests.support.servers import server

FOLDER = ROOT / ".venv-clouds"
INSTALLED = FOLDER / ".installed"
ABSENT = "the emulators are not installed: make clouds"
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's, which its documentation has; no secret."""


@dataclass(frozen=True)
class Cloud:
    scheme: str
    port: int

    def uri(self, bucket: str, port: int | None = None) -> str:
        host = f"{bucket}@{ACCOUNT}.dfs.core.windows.net" if self.scheme == "abfs" else bucket
        return f"{self.scheme}://{host}?endpoint_override=127.0.0.1:{port or self.port}&scheme=http"


@contextmanager
def cloud(scheme: str, folder: Path) -> Iterator[Cloud]:
    """Run an emulator with its data in memory, and a bucket `first` in it."""
    running = Cloud(scheme, free_port())
    port = str(running.port)
    if scheme == "gs":
        command = [
            str(FOLDER / "bin" / "gcp-storage-emulator"),
            "start",
            "--host=127.0.0.1",
            f"--port={port}",
        ]
        command += ["--in-memory", "--default-bucket=first"]
    else:
        command = [str(FOLDER / "node_modules" / ".bin" / "azurite-blob"), "--blobHost", "127.0.0.1"]
        command += ["--blobPort", port, "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
        command += ["--disableTelemetry"]
    with server(command, folder, lambda: _is_ready(running)):
        yield running


def _is_ready(running: Cloud) -> bool:
    filesystem, _ = storage.open_uri(running.uri("first"))
    try:
        if running.scheme == "abfs":
            filesystem.create_dir("first")
        return bool(filesystem.get_file_info("first").type.name == "Directory")
    except OSError:
        return False
