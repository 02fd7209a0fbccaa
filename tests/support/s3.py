"""A real S3 server on a free loopback port, for tests."""

from __future__ import annotations

import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.support.ports import free_port
from tests.support.servers import server
from tests.support.web import serving

KEYS = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "secret-that-must-not-be-shown",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server() -> Iterator[str]:
    """Run moto's server in a process of its own; yields its URL."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder, server(command, Path(folder), lambda: _answers(url), KEYS):
        yield url


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/moto-api/", timeout=5).close()
    except (urllib.error.URLError, TimeoutError):
        return False
    return True


def make_bucket(url: str, name: str) -> None:
    urllib.request.urlopen(urllib.request.Request(f"{url}/{name}", method="PUT"), timeout=60).close()


def put_object(url: str, path: str, content: bytes) -> None:
    """Write an object; `path` is its bucket and key."""
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{url}/{path}", content, headers, method="PUT")
    urllib.request.urlopen(request, timeout=60).close()


class _Refusing(BaseHTTPRequestHandler):
    """A store that refuses everything, as real ones do (the server of the other tests checks nothing)."""

    protocol_version = "HTTP/1.1"  # answers a client that asks before it sends a body
    code = ""
    requests: list[str]

    def _refuse(self) -> None:
        self.requests.append(self.command)
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        body = f"<?xml version='1.0'?><Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _refuse  # noqa: N815

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def refusing_server(code: str) -> Iterator[tuple[str, list[str]]]:
    """Serve 403 with a code of S3's to every request; yields the URL and the requests so far."""
    requests: list[str] = []
    with serving(type("Handler", (_Refusing,), {"code": code, "requests": requests})) as url:
        yield url, requests
