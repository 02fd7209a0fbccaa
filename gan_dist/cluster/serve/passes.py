"""Passes through a served network, each for images that several requests wait for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TypeAlias

from gan_dist.cluster.serve.query import ImageQuery
from gan_dist.cluster.serve.served import Served
from gan_dist.core.errors import GanDistError
from gan_dist.models.generator import BLOCK

WINDOW = 0.125
"""How long a block that is not full waits for more images, as a part of the time that a pass takes."""
RETURN = 0.5
"""How long it waits for those who have just had an answer to ask again, as a part of the same."""
SHORTEST_S, LONGEST_S = 0.002, 0.05

Wanted: TypeAlias = tuple[Served, ImageQuery]


class Passes:
    """Makes images in passes of BLOCK, one pass at a time; all its methods run in one event loop.

    A pass costs the same for one image as for BLOCK. So it begins when BLOCK images are wanted, or as many as
    may come soon: who has just had an answer often asks again at once. Those are waited for if the network
    would otherwise make a part of them now, and the others, who come a moment later, in a pass of their own.

    Args:
        pass_s: Seconds that a pass takes.
    """

    def __init__(self, pass_s: float) -> None:
        self._window_s = min(max(WINDOW * pass_s, SHORTEST_S), LONGEST_S)
        self._return_s = max(RETURN * pass_s, SHORTEST_S)
        self._waiting: list[tuple[Wanted, asyncio.Future[bytes]]] = []
        self._came = asyncio.Event()
        self._expected, self._ended = 0, -float("inf")
        """Images that waited when the last pass ended, with those of the pass itself; and when it ended."""
        self._working: asyncio.Task[None] | None = None

    async def image(self, served: Served, query: ImageQuery) -> bytes:
        """Return an image as PNG; raise the error that it has."""
        made: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append(((served, query), made))
        self._came.set()
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await made

    async def _work(self) -> None:
        while self._waiting:
            await self._gather()
            # Those whose reader has gone are left out.
            waiting = [one for one in self._waiting if not one[1].done()]
            block, self._waiting = waiting[:BLOCK], waiting[BLOCK:]
            if not block:
                continue
            made: Sequence[bytes | Exception]
            try:
                made = await asyncio.to_thread(make_together, [wanted for wanted, _ in block])
            except Exception as error:
                made = [error] * len(block)
            self._expected, self._ended = len(self._waiting) + len(block), time.monotonic()
            for (_, future), one in zip(block, made, strict=True):
                if future.done():
                    continue
                if isinstance(one, bytes):
                    future.set_result(one)
                else:
                    future.set_exception(one)

    async def _gather(self) -> None:
        """Wait for the images that go into the next pass together."""
        now = time.monotonic()
        if now < self._ended + self._return_s:
            expected, until = min(BLOCK, self._expected), self._ended + self._return_s
        else:
            expected, until = BLOCK, now + self._window_s
        while len(self._waiting) < expected and (left := until - time.monotonic()) > 0:
            self._came.clear()
            try:
                await asyncio.wait_for(self._came.wait(), left)
            except TimeoutError:
                return


def make_together(wanted: Sequence[Wanted]) -> list[bytes | GanDistError]:
    """Return the images of queries; of a block around a renewal, some are of the earlier release."""
    made: dict[int, bytes | GanDistError] = {}
    for served in dict.fromkeys(one for one, _ in wanted):
        indices = [index for index, (one, _) in enumerate(wanted) if one is served]
        made |= zip(indices, served.pictures([wanted[index][1] for index in indices]), strict=True)
    return [made[index] for index in range(len(wanted))]
