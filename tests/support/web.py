"""Small HTTP servers for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of this machine; yields the URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    seconds_to_end = 0.01
    threading.Thread(target=server.serve_forever, args=(seconds_to_end,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
