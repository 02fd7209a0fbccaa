"""The deployment of Ray Serve: requests over HTTP become blocks of images."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from ray import serve
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from gan_dist.cluster.serve.passes import Passes
from gan_dist.cluster.serve.query import ImageQuery, parse_image, parse_images
from gan_dist.cluster.serve.served import Served, find_place
from gan_dist.core import storage
from gan_dist.core.access import is_loopback
from gan_dist.core.errors import GanDistError

LOG = logging.getLogger("ray.serve")
ONGOING = 256
"""Requests that are accepted at the same time; as many more wait before the replica, others get 503."""
HEADERS = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
POLICY = (
    "default-src 'none'; img-src 'self' data:; connect-src 'self'; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


class Images:
    """Answers of one replica; its class is a deployment by `deployment`."""

    def __init__(
        self,
        uri: str,
        *,
        trust: Sequence[str],
        options: storage.StorageOptions,
        threads: int,
        renew_s: float,
        token_hash: bytes | None,
    ) -> None:
        storage.configure(options)
        torch.set_num_threads(threads)
        self._uri, self._trust, self._token_hash = uri, trust, token_hash
        self._served, self._problem = Served(uri, trust), ""
        began = time.perf_counter()
        self._served.pictures([ImageQuery(0, 0)])
        self._passes = Passes(time.perf_counter() - began)
        threading.Thread(target=self._renew_forever, args=(renew_s,), daemon=True).start()

    def _renew_forever(self, renew_s: float) -> None:
        while True:
            time.sleep(renew_s)
            try:
                if find_place(self._uri)[1] != self._served.hash:
                    self._served = Served(self._uri, self._trust)
                self._problem = ""
            except GanDistError as error:  # the store is away, or the release was replaced meanwhile
                self._problem = str(error)
            except Exception as error:
                self._problem = repr(error)
                LOG.exception("the release could not be looked at")

    async def __call__(self, request: Request) -> Response:
        answers: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "/": self._page,
            "/image": self._image,
            "/images": self._images,
            "/release": self._release,
        }
        path = request.url.path
        if path == "/health":
            return JSONResponse({"status": "ok"}, headers=HEADERS)
        if not self._is_allowed(request):
            headers = {"WWW-Authenticate": "Bearer", **HEADERS}
            what = "this server wants its token: Authorization: Bearer TOKEN, or ?token=TOKEN"
            return JSONResponse({"error": what}, 401, headers)
        if path not in answers:
            what = f"there is no {path[:80]}; there are {', '.join([*answers, '/health'])}"
            return JSONResponse({"error": what}, 404, HEADERS)
        if request.method not in ("GET", "HEAD"):
            return JSONResponse({"error": f"{path} answers GET"}, 405, {"Allow": "GET", **HEADERS})
        try:
            return await answers[path](request)
        except GanDistError as error:
            (problem,) = error.problems
            content = {"error": problem.what, "remedy": problem.remedy, "kind": type(error).__name__}
            return JSONResponse(content, 400, HEADERS)

    def _is_allowed(self, request: Request) -> bool:
        if self._token_hash is None:
            # A page of another site may have its name lead here: the browser then says that name.
            return is_loopback(request.url.hostname or "")
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer":
            given = request.query_params.get("token", "")
        return hmac.compare_digest(hash_token(given.strip()), self._token_hash)

    async def _image(self, request: Request) -> Response:
        served = self._served
        query = parse_image(request.query_params.multi_items(), served.release.shape)
        served.truncated(query.truncation)
        headers = {**HEADERS, "X-Release": served.hash}
        return Response(await self._passes.image(served, query), media_type="image/png", headers=headers)

    async def _images(self, request: Request) -> Response:
        served = self._served
        queries = parse_images(request.query_params.multi_items(), served.release.shape)
        served.truncated(queries[0].truncation)
        pictures = await asyncio.gather(*(self._passes.image(served, query) for query in queries))
        images = [
            {"seed": query.seed, "class": query.label, "png": base64.b64encode(picture).decode()}
            for query, picture in zip(queries, pictures, strict=True)
        ]
        return JSONResponse({"release": served.hash, "images": images}, headers=HEADERS)

    async def _release(self, _request: Request) -> Response:
        content = {**self._served.description, "problem": self._problem}
        return JSONResponse(content, headers=HEADERS)

    async def _page(self, _request: Request) -> Response:
        template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
            Path(__file__).with_name("page.html").read_text()
        )
        page = template.render(release=self._served.description)
        return HTMLResponse(page, headers={**HEADERS, "Content-Security-Policy": POLICY})


def hash_token(token: str) -> bytes:
    """Return what the cluster knows of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


def deployment(replicas: int, cpus: float) -> Any:
    """Return the deployment; `bind` takes the arguments of `Images`."""
    return serve.deployment(
        Images,
        num_replicas=replicas,
        max_ongoing_requests=ONGOING,
        max_queued_requests=ONGOING,
        ray_actor_options={"num_cpus": cpus},
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=120,
        logging_config={"enable_access_log": False},
    )
