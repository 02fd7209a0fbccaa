"""The shipped dashboard draws the gauges that workers set."""

from __future__ import annotations

import json
import re

import pytest

from gan_dist.cluster.prometheus import OF_RANK, OF_RUN, tags_of
from tests.support.heads import ROOT


def test_the_dashboard_draws_all_gauges_by_tags_that_they_have() -> None:
    dashboard = json.loads((ROOT / "jobs/cluster/grafana.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {f"ray_{name}" for name in (*OF_RUN, *OF_RANK)} == {query.partition("{")[0] for query in queries}
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    for query in queries:
        assert dict(re.findall(r'(\w+)=~"\$(\w+)"', query)) == {"run": "run", "trial": "trial"}
    assert {"run", "trial", "datasource"} == variables


@pytest.mark.parametrize(
    ("uri", "tags"),
    [
        ("/data/runs/faces", {"run": "faces", "trial": ""}),
        ("s3://bucket/runs/search/trials/00007?region=x", {"run": "search", "trial": "00007"}),
        ("runs/search/replicates/00007-1", {"run": "search", "trial": "00007-1"}),
        ("faces", {"run": "faces", "trial": ""}),
        ("/data/whose?/runs/search/trials/00007", {"run": "search", "trial": "00007"}),
    ],
)
def test_a_trial_is_shown_under_its_search(uri: str, tags: dict[str, str]) -> None:
    assert tags_of(uri) == tags
