"""The served page: it renews itself, needs its token, and neither it nor the file asks anybody else."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar, web
from PIL import Image
from typer.testing import CliRunner

from gan_dist.artifacts.records import METRICS
from gan_dist.cli import app
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError
from gan_dist.report import server
from gan_dist.report.blocks import Page
from gan_dist.report.page import reader
from gan_dist.report.server import LivePage, application, listen
from tests.support.chromium import DESKTOP, PHONE, Tab, browser_tab, needs_chromium
from tests.support.reports import plan_of, search_with

QUICK_S = 0.05


@asynccontextmanager
async def served(source: str, token: str | None = None) -> AsyncIterator[str]:
    """Serve the page of a run or search that is read at every request; the address is that of the page."""
    live = LivePage(reader(source)[1], QUICK_S)
    runner = web.AppRunner(application(live, token))
    await runner.setup()
    with listen("127.0.0.1", 0) as listener:
        await web.SockSite(runner, listener).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        await runner.cleanup()


class Growing:
    """A copy of a run as it was after its second evaluation, to which the rest comes."""

    def __init__(self, run: str, folder: Path) -> None:
        self.whole, self.folder = Path(run), folder
        late = shutil.ignore_patterns(
            "best*", "checkpoint_*", "tensorboard", *(f"fakes_{at}*" for at in ("000000.192", "000000.256"))
        )
        shutil.copytree(run, folder, ignore=late)
        self.lines = Path(run, METRICS).read_text().splitlines(keepends=True)
        Path(folder, METRICS).write_text("".join(self.lines[:4]))

    def grow(self) -> None:
        shutil.copytree(self.whole, self.folder, dirs_exist_ok=True)


async def get(url: str, **more: Any) -> tuple[int, str]:
    jar = CookieJar(unsafe=True)  # also of addresses that are numbers, as browsers do
    async with ClientSession(cookie_jar=jar) as session, session.get(url, **more) as answer:
        return answer.status, await answer.text(errors="replace")


def test_only_what_has_changed_is_sent_until_the_run_has_ended(trained: str, tmp_path: Path) -> None:
    run = Growing(trained, tmp_path / "run")

    async def follow() -> None:
        async with served(str(run.folder)) as url:
            status, page = await get(url)
            assert (status, page.count('class="chart"') > 5) == (200, True)
            state = json.loads((await get(f"{url}state"))[1])
            assert not state["ended"]
            blocks = [block for section in state["sections"] for block in section["blocks"]]
            hashes = [block["html"].partition('data-hash="')[2][:12] for block in blocks]
            assert all(f'data-hash="{one}"' in page for one in hashes)
            known = f"{url}state?have={','.join(hashes)}"

            async def changed(expected: Callable[[dict[str, Any]], bool]) -> tuple[set[str], dict[str, Any]]:
                async with asyncio.timeout(30):
                    while not expected(state := json.loads((await get(known))[1])):
                        await asyncio.sleep(QUICK_S)
                blocks = [block for section in state["sections"] for block in section["blocks"]]
                return {block["key"] for block in blocks if "html" in block}, state

            assert (await changed(lambda _: True))[0] == set()
            run.grow()
            keys, _ = await changed(lambda state: state["ended"])
            assert {"run/headline//1", "samples/slider//1", "curves/chart/Losses/1"} <= keys
            assert not {key for key in keys if key.startswith(("set-otherwise", "all-other", "go-on/note"))}
            # A page that cannot be read stays, with the reason.
            config = run.folder / "config.yaml"
            text = config.read_text()
            config.write_text("seed: [")
            again, state = await changed(lambda state: "config.yaml" in state["problem"])
            assert (state["ended"], again) == (False, keys)
            config.write_text(text)
            await changed(lambda state: state["ended"])

    asyncio.run(follow())


def test_a_folder_that_is_slow_to_read_is_read_a_fifth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds, reads = [0.0], []
    monkeypatch.setattr(server, "time", SimpleNamespace(monotonic=lambda: seconds[0]))

    def read() -> Page:
        seconds[0] += 8
        reads.append(seconds[0])
        return Page("a search", "", [])

    live = LivePage(read)
    for at in (12.9, 13.0, 52.9, 53.0):
        seconds[0] = at
        asyncio.run(live.renew())
    assert reads == [8, 21, 61]


def test_pictures_are_served_once_and_kept(trained: str) -> None:
    async def look() -> None:
        async with served(trained) as url, ClientSession() as session:
            page = await (await session.get(url)).text()
            name = page.partition('src="pictures/')[2].partition('"')[0]
            async with session.get(f"{url}pictures/{name}") as answer:
                assert "immutable" in answer.headers["Cache-Control"]
                shown = Image.open(io.BytesIO(await answer.read()))
                assert Image.MIME[shown.format or ""] == answer.content_type
            assert (await get(f"{url}pictures/{'0' * 32}"))[0] == 404

    asyncio.run(look())


def test_a_run_in_a_bucket_is_served(bucket: str, trained: str, tmp_path: Path) -> None:
    few = Growing(trained, tmp_path / "few").folder
    storage.copy_tree(str(few), f"{bucket}/runs/live")
    names = storage.list_names(f"{bucket}/runs/live")

    async def look() -> None:
        async with served(f"{bucket}/runs/live") as url:
            status, page = await get(url)
            shown = page.count('src="pictures/')
            assert (status, "0.128 kimg of 0.256 kimg" in page, shown) == (200, True, 4)

    asyncio.run(look())
    assert storage.list_names(f"{bucket}/runs/live") == names


def test_a_token_opens_the_page_and_goes_from_its_address(trained: str) -> None:
    async def knock() -> None:
        async with served(trained, "s3cret") as url, ClientSession() as session:
            for path in ("", "state", "pictures/0", "?token=wrong", "?token=%F0%9F%98%80"):
                status, text = await get(url + path)
                assert (status, "faces" in text, "s3cret" in text) == (401, False, False), path
            assert (await get(url, headers={"Authorization": "Bearer s3cret"}))[0] == 200
            async with session.get(f"{url}?token=s3cret", allow_redirects=False) as answer:
                assert (answer.status, answer.headers["Location"]) == (303, "/")
                assert {"httponly", "samesite=strict"} <= set(
                    answer.headers["Set-Cookie"].lower().split("; ")
                )
                cookie = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0]}
            assert (await get(f"{url}state", headers=cookie))[0] == 200
            # It is for this server alone.
            assert (await get(f"{url}state", headers={"Cookie": "gan_dist_1=s3cret"}))[0] == 401

    asyncio.run(knock())


def test_without_a_token_no_other_name_leads_to_the_page(trained: str) -> None:
    async def knock() -> None:
        async with served(trained) as url:
            port = url.rpartition(":")[2].strip("/")
            assert (await get(url, headers={"Host": f"evil.example:{port}"}))[0] == 403
            assert (await get(url, headers={"Host": f"localhost:{port}"}))[0] == 200
            assert (await get(url, headers={"Host": "localhost:99999"}))[0] == 400

    asyncio.run(knock())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["RUN", "--host", "0.0.0.0"], "can be reached from other machines, and there is no token"),
        (["RUN", "--host", "nowhere.invalid", "--token", "0123456789abcdef"], "cannot be listened at"),
        (["RUN", "--host", "0.0.0.0", "--token", "guess"], "a token of 5 characters can be guessed"),
        (["RUN", "--port", "TAKEN"], "cannot be listened at"),
        (["RUN", "--port", "0", "--optuna-storage", "env:STUDY_URL"], "is a run, which has no study"),
        (["/absent/run", "--port", "0"], "is neither a search nor a run"),
        (["hf://ann/digits", "--port", "0"], "is a model repository, which holds a release: no run, search"),
    ],
)
def test_what_cannot_be_served_is_told_at_once(trained: str, arguments: list[str], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        known = {"RUN": trained, "TAKEN": str(taken.getsockname()[1])}
        command = ["report", "--serve", *(known.get(one, one) for one in arguments)]
        with pytest.raises(GanDistError, match=said):
            CliRunner().invoke(app, command, catch_exceptions=False)


def test_ctrl_c_ends_the_server_in_order(trained: str) -> None:
    command = [sys.executable, "-m", "gan_dist", "report", trained, "--serve", "--port", "0", "--json"]
    command += ["--token", "a token: 16 & more"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        status, page = asyncio.run(get(told["url"]))
        assert (told["kind"], status, "faces" in page) == ("run", 200, True)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")


# In a browser


async def quiet(tab: Tab, url: str) -> None:
    """Open a page at the widths of a desktop and a phone: nothing is amiss, and nobody else is asked."""
    for size in (DESKTOP, PHONE):
        await tab.open(url, size)
        assert await tab.run("[document.documentElement.scrollWidth, innerWidth]") == [size[0]] * 2
        drawn = "[...document.querySelectorAll('.chart')].filter(one => one.clientWidth)"
        assert await tab.run(f"{drawn}.length > 2 && {drawn}.every(one => one.querySelector('svg path'))")
    assert tab.errors == []
    assert {request for request in tab.requests if not request.startswith(url)} == set()


@needs_chromium
def test_a_file_is_quiet_in_a_browser_at_any_width(trained: str, tmp_path: Path) -> None:
    async def look() -> None:
        async with browser_tab() as tab:
            for source in (trained, search_with(plan_of(tmp_path))):
                file = tmp_path / "page.html"
                CliRunner().invoke(app, ["report", source, "--out", str(file)], catch_exceptions=False)
                await quiet(tab, file.as_uri())

    asyncio.run(look())


@needs_chromium
def test_a_page_renews_itself_and_leaves_the_reader_where_they_are(trained: str, tmp_path: Path) -> None:
    run = Growing(trained, tmp_path / "run")

    async def look() -> None:
        async with served(str(run.folder)) as url, browser_tab() as tab:
            await quiet(tab, url)
            await tab.open(url)
            # The reader looks at the first picture, has zoomed into a chart, and has scrolled.
            await tab.run("""(() => {
                const range = document.querySelector("input[type=range]");
                range.value = 0;
                range.oninput();
                const chart = document.querySelector("#curves .chart");
                const key = chart.closest("[data-key]").dataset.key;
                zooms.set(key, {min: 0.07, max: 0.11});
                charts.get(chart).zoom(zooms.get(key));
                scrollTo(0, 700);
            })()""")
            assert await tab.run("document.querySelector('.headline').innerText.includes('50%')")
            run.grow()
            await tab.wait_for("document.querySelector('.headline').innerText.includes('100%')")
            await tab.wait_for("document.getElementById('live').textContent.startsWith('It has ended')")
            seen = await tab.run("""(() => {
                const range = document.querySelector("input[type=range]");
                const {min, max} = charts.get(document.querySelector("#curves .chart")).range;
                const {at} = document.querySelector(".frames img:not([hidden])").dataset;
                return {range: [range.value, range.max], zoom: [min, max], at, scroll: scrollY};
            })()""")
            assert seen == {"range": ["0", "3"], "zoom": [0.07, 0.11], "at": "64.0", "scroll": 700}
            # It asks no more.
            await asyncio.sleep(4 * QUICK_S)
            asked = len(tab.requests)
            await asyncio.sleep(4 * QUICK_S)
            assert len(tab.requests) == asked
            assert tab.errors == []
            assert {request for request in tab.requests if not request.startswith(url)} == set()

    asyncio.run(look())
