"""A proxy of our own that stands before a real object store and makes its network bad, reproducibly."""

from __future__ import annotations

import asyncio
import random
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

CHUNK = 64 * 1024
_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "expect"}
_ERRORS = {
    "internal": (500, "InternalError"),
    "unavailable": (503, "ServiceUnavailable"),
    "slowdown": (503, "SlowDown"),
    "throttled": (429, "TooManyRequests"),
}


@dataclass
class Faults:
    """What goes wrong. Everything may be changed while the proxy runs; probabilities are per request."""

    latency_s: float = 0.0
    """Wait before every answer."""
    bandwidth: float = 0.0
    """Bytes a second in each direction, shared by all connections; 0 is no limit."""
    errors: float = 0.0
    """Probability of an error of the server: 500, 503, SlowDown or 429 in turn."""
    reset: float = 0.0
    """Probability of a connection reset instead of an answer."""
    stall: float = 0.0
    """Probability of half an answer and then silence."""
    truncate: float = 0.0
    """Probability of half an answer and then the connection's orderly end."""
    corrupt: float = 0.0
    """Probability of a flipped bit in the body of an answer to GET."""
    clock_s: float = 0.0
    """Seconds by which the date of every answer is off."""
    delete_status: int = 0
    """Status of the answer to a request that deletes several objects, if it is not passed on."""
    planned: list[str] = field(default_factory=list)
    """Faults of the next requests, before chance decides: `pass` or a kind that `Proxy.counts` counts."""
    planned_for: str = ""
    """What is in the paths of the requests that these happen to."""

    def next(self, chance: random.Random, path: str) -> str:
        """Return what happens to the next request, which is for a path."""
        if self.planned and self.planned_for in path:
            return self.planned.pop(0)
        draw = chance.random()
        for kind in ("errors", "reset", "stall", "truncate", "corrupt"):
            draw -= getattr(self, kind)
            if draw < 0:
                return chance.choice(sorted(_ERRORS)) if kind == "errors" else kind
        return "pass"


class Proxy:
    """A running proxy: `port` to connect to, `faults` to set, `counts` of what was done to requests."""

    def __init__(self, upstream: str, seed: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self.faults = Faults()
        self.counts: Counter[str] = Counter()
        self.methods: Counter[str] = Counter()
        self.port = 0
        self._upstream, self._tls = upstream, tls
        self._chance = random.Random(seed)
        self._free_at = 0.0
        self._ended: asyncio.Event | None = None

    async def serve(self, started: threading.Event) -> None:
        """Serve until `stop`."""
        self._ended = asyncio.Event()
        timeout = ClientTimeout(total=None)
        async with ClientSession(
            auto_decompress=False, connector=TCPConnector(limit=0), timeout=timeout
        ) as self._session:
            runner = web.ServerRunner(web.Server(self._handle, access_log=None), shutdown_timeout=0.1)
            await runner.setup()
            site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._tls)
            await site.start()
            self.port = runner.addresses[0][1]
            self._loop = asyncio.get_running_loop()
            started.set()
            await self._ended.wait()
            await runner.cleanup()

    def stop(self) -> None:
        """Let `serve` end."""
        if self._ended is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._ended.set)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        kind = self.faults.next(self._chance, request.raw_path)
        self.counts[kind] += 1
        self.methods[request.method] += 1
        if request.headers.get("Expect", "").lower() == "100-continue":
            # A client that waits for this in vain sends its body a second later.
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        body = bytearray()
        async for piece in request.content.iter_chunked(CHUNK):
            body += piece
            await self._pass_bytes(len(piece))
        await asyncio.sleep(self.faults.latency_s)
        if kind in _ERRORS:
            status, code = _ERRORS[kind]
            text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>injected</Message></Error>'
            return web.Response(status=status, text=text, content_type="application/xml")
        if kind == "reset":
            assert request.transport is not None
            request.transport.abort()
            raise ConnectionResetError
        if self.faults.delete_status and request.method == "POST" and "delete" in request.query:
            return web.Response(
                status=self.faults.delete_status, text="<Error><Code>NotImplemented</Code></Error>"
            )
        # Clients that take this for the proxy of another host name that host, which means nothing there.
        left_out = _HOP | {"host"} if request.raw_path.startswith("http") else _HOP
        url = URL(self._upstream + re.sub("^https?://[^/]*", "", request.raw_path), encoded=True)
        headers = {key: value for key, value in request.headers.items() if key.lower() not in left_out}
        async with self._session.request(
            request.method, url, headers=headers, data=bytes(body), allow_redirects=False
        ) as answer:
            content = bytearray(await answer.read())
            if kind == "corrupt" and content and request.method == "GET":
                content[len(content) // 2] ^= 0x10
            response = web.StreamResponse(status=answer.status)
            for key, value in answer.headers.items():
                if key.lower() not in _HOP:
                    response.headers[key] = value
            length = answer.headers.get("Content-Length", str(len(content)))
        if self.faults.clock_s:
            response.headers["Date"] = formatdate(time.time() + self.faults.clock_s, usegmt=True)
        response.headers["Content-Length"] = length
        return await self._answer(request, response, content, kind)

    async def _answer(
        self, request: web.BaseRequest, response: web.StreamResponse, content: bytearray, kind: str
    ) -> web.StreamResponse:
        assert request.transport is not None
        broken = kind in ("stall", "truncate")
        if broken and not content:
            # There is no body to break: what is withheld is the answer itself.
            await (asyncio.sleep(3600) if kind == "stall" else asyncio.sleep(0))
            request.transport.close()
            raise ConnectionResetError
        await response.prepare(request)
        sent = len(content) // 2 if broken else len(content)
        for start in range(0, sent, CHUNK):
            piece = bytes(content[start : min(start + CHUNK, sent)])
            await self._pass_bytes(len(piece))
            await response.write(piece)
        if kind == "stall":
            await asyncio.sleep(3600)
        if broken:
            request.transport.close()
            raise ConnectionResetError
        return response

    async def _pass_bytes(self, count: int) -> None:
        if self.faults.bandwidth:
            now = asyncio.get_running_loop().time()
            self._free_at = max(self._free_at, now) + count / self.faults.bandwidth
            await asyncio.sleep(self._free_at - now)


@contextmanager
def proxy(upstream: str, seed: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """Run a proxy in a thread, before `upstream` (such as `http://127.0.0.1:5000`), by HTTPS with `tls`."""
    running = Proxy(upstream, seed, tls)
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(running.serve(started)), daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the proxy did not start")
    try:
        yield running
    finally:
        running.stop()
        thread.join(10)
