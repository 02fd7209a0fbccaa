"""A headless Chromium, driven by its DevTools protocol: what a page asks for, says and looks like."""

from __future__ import annotations

import asyncio
import base64
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(
    PROGRAM is None, reason="no chromium on this machine: apt-get install chromium"
)
DESKTOP, PHONE = (1280, 900), (390, 844)


class Tab:
    """A tab of a browser."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self.requests: list[str] = []
        """Addresses that were asked for, data in addresses left out."""
        self.errors: list[str] = []
        """Errors and warnings on the console, and exceptions that nobody caught."""
        self._socket = socket
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._loaded = asyncio.Event()
        self.listener = asyncio.create_task(self._listen())

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        number = len(self._answers)
        self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(30):
            answer = await self._answers[number]
        assert "error" not in answer, (method, answer["error"])
        return cast(dict[str, Any], answer["result"])

    async def open(self, url: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> None:
        """Open a page at a size in CSS pixels, and wait until it is loaded and drawn."""
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        await self.call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(30):
            await self._loaded.wait()
        # Charts are drawn in the frame after they have a width.
        await self.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    async def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, which may be a promise."""
        found = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def wait_for(self, script: str) -> None:
        """Wait until an expression is true."""
        async with asyncio.timeout(30):
            while not await self.run(script):
                await asyncio.sleep(0.05)

    async def picture(self, file: Path) -> None:
        """Write the whole page as a PNG."""
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(base64.b64decode(shot["data"]))

    async def _listen(self) -> None:
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._answers[told["id"]].set_result(told)
            elif told["method"] == "Page.loadEventFired":
                self._loaded.set()
            elif told["method"] == "Network.requestWillBeSent":
                url = told["params"]["request"]["url"]
                self.requests += [] if url.startswith("data:") else [url]
            elif told["method"] == "Runtime.exceptionThrown":
                self.errors.append(str(told["params"]["exceptionDetails"]))
            elif told["method"] == "Log.entryAdded":
                self.errors.append(told["params"]["entry"]["text"])
            elif told["method"] == "Runtime.consoleAPICalled" and told["params"]["type"] in (
                "error",
                "warning",
            ):
                self.errors.append(str(told["params"]["args"]))


@asynccontextmanager
async def browser_tab() -> AsyncIterator[Tab]:
    """Start a browser with an empty profile of its own, and end it."""
    assert PROGRAM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
        options += [
            "--hide-scrollbars",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ]
        silent = asyncio.subprocess.DEVNULL
        process = await asyncio.create_subprocess_exec(PROGRAM, *options, stdout=silent, stderr=silent)
        try:
            file = Path(profile, "DevToolsActivePort")
            async with asyncio.timeout(60):
                while not (file.exists() and len(file.read_text().split()) == 2):
                    await asyncio.sleep(0.05)
            port = file.read_text().split()[0]
            async with ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                    tabs = await answer.json(content_type=None)
                url = next(one["webSocketDebuggerUrl"] for one in tabs if one["type"] == "page")
                async with session.ws_connect(url, max_msg_size=0) as socket:
                    tab = Tab(socket)
                    yield tab
                    tab.listener.cancel()
        finally:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()
