"""The page of a run or search over HTTP: it asks for what has changed, and renews itself."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from gan_dist.core.access import require_protected
from gan_dist.core.errors import GanDistError
from gan_dist.report.blocks import Page, Picture
from gan_dist.report.page import anchor, fragments, head, media_type, render, shell

EVERY_S = 5.0
"""Seconds between two readings of a folder at least."""
SHARE = 0.2
"""Share of the time, at most, in which the folder is read: a search in a bucket may take seconds."""
NEAREST = ("localhost", "127.0.0.1", "::1")
"""Names by which it may be asked without a token: the page of another site that has made its own name lead
to this machine would otherwise read this one."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class LivePage:
    """A page that is read again when it is asked for and enough time has passed.

    Args:
        read: Reads the page.
        every_s: Seconds between two readings, at least.
    """

    def __init__(self, read: Callable[[], Page], every_s: float = EVERY_S) -> None:
        self.every_s = every_s
        self.pictures: dict[str, bytes] = {}
        """Pictures by hash."""
        self.page = read()
        self.problem = ""
        """Why the last reading failed; empty if it did not."""
        self._read, self._lock = read, asyncio.Lock()
        self._due = time.monotonic() + every_s

    async def renew(self) -> None:
        """Read the page again if it is time to; if it cannot be read it stays, and there is a problem."""
        async with self._lock:
            begun = time.monotonic()
            if begun < self._due:
                return
            try:
                self.page, self.problem = await asyncio.to_thread(self._read), ""
            except GanDistError as error:
                self.problem = str(error)
            now = time.monotonic()
            self._due = now + max(self.every_s, (now - begun) * (1 / SHARE - 1))

    def source(self, picture: Picture) -> str:
        """Return the address of a picture."""
        name = hashlib.sha256(picture.content).hexdigest()[:32]
        self.pictures[name] = picture.content
        return f"pictures/{name}"

    def html(self) -> str:
        """Return the whole page."""
        return render(self.page, self.source, self.every_s)

    def changes(self, have: set[str]) -> dict[str, Any]:
        """Return the order of sections and blocks, with the HTML of those whose hash is not known."""
        sections = []
        for section in self.page.sections:
            blocks = [
                {"key": one.key} | ({} if one.hash in have else {"html": one.html})
                for one in fragments(section, self.source)
            ]
            entry = {"id": anchor(section), "title": section.title, "shell": shell(section), "blocks": blocks}
            sections.append(entry)
        return {
            "head": head(self.page),
            "sections": sections,
            "ended": self.page.ended and not self.problem,
            "problem": self.problem,
        }


def application(live: LivePage, token: str | None = None) -> web.Application:
    """Return the server of a page.

    With a token, each request has it: as `Authorization: Bearer`, as the parameter `token` of the address, or
    in the cookie that the latter leaves. Without, it answers to names of this machine alone.
    """

    async def page(_: web.Request) -> web.Response:
        await live.renew()
        return _utf8(live.html(), "text/html")

    async def state(request: web.Request) -> web.Response:
        await live.renew()
        changes = live.changes({*request.query.get("have", "").split(",")})
        return _utf8(json.dumps(changes), "application/json")

    async def picture(request: web.Request) -> web.Response:
        content = live.pictures.get(request.match_info["name"])
        if content is None:
            raise web.HTTPNotFound
        kept = {"Cache-Control": "private, max-age=31536000, immutable"}
        return web.Response(body=content, content_type=media_type(content), headers=kept)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            name = request.url.host
        except ValueError:
            raise web.HTTPBadRequest(text="the header Host has no valid port") from None
        if token is None:
            if name not in NEAREST:
                raise web.HTTPForbidden(
                    text=f"{name} is not a name of this machine: without a token it is needed"
                )
            return await handler(request)
        cookie = f"gan_dist_{request.url.port}"
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        asked = request.query.get("token", "")
        if not any(_same(one, token) for one in (given, asked, request.cookies.get(cookie, ""))):
            raise web.HTTPUnauthorized(text="this page needs its token: open the address that was printed")
        if not asked:
            return await handler(request)
        # The token goes from the address, which is kept in histories, into a cookie.
        response = web.Response(status=303, headers={"Location": request.path})
        response.set_cookie(cookie, token, httponly=True, samesite="Strict")
        return response

    async def harden(_: web.Request, response: web.StreamResponse) -> None:
        response.headers.setdefault("Cache-Control", "no-store")
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"

    server = web.Application(middlewares=[guard])
    server.on_response_prepare.append(harden)
    routes = [("/", page), ("/state", state), ("/pictures/{name}", picture)]
    server.add_routes([web.get(path, handler) for path, handler in routes])
    return server


def listen(host: str, port: int, token: str | None = None) -> socket.socket:
    """Return a listening socket; port 0 is any that is free.

    Raises:
        GanDistError: `require_protected` raises it, or the port cannot be had.
    """
    require_protected(host, token)
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        raise GanDistError(
            f"--host {host} --port {port} cannot be listened at: {error}", "take another host, or port 0"
        ) from None


def serve(live: LivePage, listener: socket.socket, token: str | None = None) -> None:
    """Answer until SIGINT or SIGTERM."""
    web.run_app(application(live, token), sock=listener, print=None, access_log=None, shutdown_timeout=1)


def _utf8(text: str, kind: str) -> web.Response:
    # Names of files may be no text.
    return web.Response(body=text.encode(errors="backslashreplace"), content_type=kind, charset="utf-8")


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="surrogateescape"), token.encode(errors="surrogateescape"))
