"""`gan-dist serve` as it is typed: one server for all tests but the last, which ends it."""

from __future__ import annotations

import base64
import json
import os
import re
import signal
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gan_dist.artifacts.sampling import write_images_of_seeds
from gan_dist.cluster.serve.query import ImageQuery
from gan_dist.models import release
from tests.support.commands import Command, command, wait_until
from tests.support.heads import environment
from tests.support.serving import measured, sampled

pytestmark = [pytest.mark.ray, pytest.mark.slow]
TOKEN = "a-token-of-some-length"
LARGER = ("model.width=64", "model.max_width=64")
"""Networks whose passes take long enough for a signal to come between them."""


@dataclass(frozen=True)
class Server:
    url: str
    run: str
    folder: Path
    process: Command

    def get(self, path: str, token: str | None = TOKEN) -> tuple[int, bytes, Any]:
        """Return the status, the body and the headers of an answer."""
        request = urllib.request.Request(self.url + path)
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def json(self, path: str) -> Any:
        return json.loads(self.get(path)[1])

    def many(self, paths: list[str]) -> list[tuple[int, bytes, Any]]:
        with ThreadPoolExecutor(len(paths)) as pool:
            return list(pool.map(self.get, paths))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("served")
    run = measured(folder, 0, 2.0, *LARGER)
    with tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        env = environment(ray_folder, GAN_DIST_TOKEN=TOKEN, RAY_raylet_start_wait_time_s="120")
        options = ["--host", "0.0.0.0", "--port", "0", "--renew-s", "0.2", "--json"]
        with command("serve", run, *options, cwd=folder, env=env) as process:
            process.wait_for("serving")
            (port,) = re.findall(r"http://0\.0\.0\.0:(\d+)/", process.said())
            yield Server(f"http://127.0.0.1:{port}/", run, folder, process)


def test_images_that_are_asked_for_at_once_are_those_of_sample(server: Server) -> None:
    loaded = release.load(server.run)
    wanted = [ImageQuery(seed, seed % 3, (1.0, 0.7)[seed % 2]) for seed in range(24)]
    before = server.json("release")
    answers = server.many([f"image?seed={w.seed}&class={w.label}&truncation={w.truncation}" for w in wanted])
    assert [answer[:2] for answer in answers] == [(200, sampled(loaded, one)) for one in wanted]
    after = server.json("release")
    assert after["images"] - before["images"] == 24
    assert after["passes"] - before["passes"] < 24  # images of one pass were asked for by several
    write_images_of_seeds(loaded, str(server.folder / "files"), [7])
    status, body, headers = server.get("image?seed=7")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert body == (server.folder / "files" / "0000000007.png").read_bytes()


def test_several_images_are_json(server: Server) -> None:
    loaded, before = release.load(server.run), server.json("release")
    found = server.json("images?seed=5&n=16&class=b")
    assert [(one["seed"], one["class"]) for one in found["images"]] == [(seed, 1) for seed in range(5, 21)]
    expected = [sampled(loaded, ImageQuery(seed, 1)) for seed in range(5, 21)]
    assert [base64.b64decode(one["png"]) for one in found["images"]] == expected
    assert server.json("release")["passes"] - before["passes"] == 2


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("image?class=9", 400, "class 9: the generator has the classes 0 to 3, named a, b, c, d"),
        ("images?n=65", 400, "n=65: one request makes 64 images"),
        ("image?seed=x", 400, "seed=x is no whole number"),
        ("picture", 404, "there is no /picture; there are /, /image, /images, /release, /health"),
    ],
)
def test_a_request_that_cannot_be_answered_is_told_why(
    server: Server, path: str, status: int, said: str
) -> None:
    code, body, _ = server.get(path)
    assert code == status
    assert said in json.loads(body)["error"]


def test_without_the_token_nothing_is_shown_but_that_it_lives(server: Server) -> None:
    for token in (None, "", "a-token-of-another-one"):
        for path in ("", "image?seed=1", "images", "release", "picture"):
            assert server.get(path, token)[0] == 401, (path, token)
    assert server.get("image?token=wrong", None)[0] == 401
    assert server.get(f"image?token={TOKEN}", None)[0] == 200
    assert server.get("health", None)[:2] == (200, b'{"status":"ok"}')


def test_the_page_needs_nothing_from_elsewhere(server: Server) -> None:
    status, body, headers = server.get("")
    page = body.decode()
    assert status == 200
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert re.findall(r"https?://|src=\"|href=\"[^d]", page) == []
    assert '"classes": ["a", "b", "c", "d"]' in page


def test_a_better_release_is_taken_up_under_load(server: Server) -> None:
    releases = {server.json("release")["hash"]: sampled(release.load(server.run), ImageQuery(3, 3))}
    answers, stop = [], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            answers.append(server.get("image?seed=3"))

    def has_both() -> bool:
        return len({headers["X-Release"] for _, _, headers in answers[-20:]} | releases.keys()) == 2

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(answers) > 8)
        measured(server.folder, 1000, 1.0, *LARGER)
        wait_until(has_both)
        wait_until(lambda: {headers["X-Release"] for _, _, headers in answers[-8:]}.isdisjoint(releases))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    now = server.json("release")
    assert (now["value"], now["problem"], Path(now["release"]).name) == (1.0, "", "best_000000001000")
    releases[now["hash"]] = sampled(release.load(server.run), ImageQuery(3, 3))
    assert len(set(releases.values())) == 2
    assert {status for status, _, _ in answers} == {200}
    assert all(body == releases[headers["X-Release"]] for _, body, headers in answers)


def test_a_signal_ends_it_after_the_requests_in_flight(server: Server) -> None:
    before = server.json("release")["images"]
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(server.get, f"images?n=64&seed={64 * number}") for number in range(6)]
        wait_until(lambda: server.json("release")["images"] > before)
        unanswered = sum(not answer.done() for answer in answers)
        server.process.signal_group(signal.SIGTERM)
        assert [answer.result()[0] for answer in answers] == [200] * 6
        assert [len(json.loads(answer.result()[1])["images"]) for answer in answers] == [64] * 6
    assert unanswered
    assert server.process.process.wait(60) == 0
    assert server.process.left_over() == []
    assert "Traceback" not in server.process.said()
    assert os.linesep.join(server.process.said().splitlines()[-1:]) == "stopped; all requests were answered"
