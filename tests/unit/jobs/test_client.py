"""Who answers at a cluster's address, if it is not the cluster."""

from __future__ import annotations

import re
from http.server import BaseHTTPRequestHandler

import pytest

from gan_dist.cluster.jobs.client import dashboard_status
from gan_dist.core.errors import ClusterError
from tests.support.ports import free_port
from tests.support.web import serving


def answering(status: int, text: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None: ...

    return Handler


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("status", [403, 407, 502, 503])
def test_a_proxy_that_answers_for_a_cluster_is_named(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(status, "the proxy says no")) as url:
        monkeypatch.setenv("http_proxy", url.replace("//", "//user:secret@"))
        said = f"is no dashboard of Ray's; .* through a proxy, HTTP_PROXY={url}: .* NO_PROXY=head.invalid"
        with pytest.raises(ClusterError, match=said) as caught:
            dashboard_status("http://head.invalid:8265")
        assert "secret" not in str(caught.value)


def test_a_proxy_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ClusterError, match=r"no cluster answers .* NO_PROXY=head\.invalid"):
        dashboard_status("http://head.invalid:8265")


def test_a_refused_token_is_the_clusters_with_a_proxy_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(answering(403, "Forbidden: Invalid authentication token")) as url:
        monkeypatch.setenv("http_proxy", url)
        assert dashboard_status("http://head.invalid:8265") == 403
    with serving(answering(403, "no")) as url:
        monkeypatch.setenv("no_proxy", re.sub("^http://|:.*$", "", url))
        assert dashboard_status(url) == 403
