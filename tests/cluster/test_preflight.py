"""Nodes that cannot work together are told apart before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from gan_dist.cluster import connect
from gan_dist.cluster.nodes.node_checks import NodeFacts, NodeReport, check_nodes, node_problems, shm_warning
from gan_dist.cluster.nodes.resources import cluster_nodes, concurrent_trials
from gan_dist.config import ScaleConfig
from gan_dist.core import host
from gan_dist.core.errors import ClusterError, Problem
from tests.cluster.conftest import AddNode


def test_what_differs_is_named_with_the_remedy() -> None:
    here = {"python": "3.12.1", "gan-dist": "0.1.0", "torch": "2.15.0", "ray": "2.60.0"}
    unseen = "it does not see what the driver writes there"
    answers = [
        NodeReport("10.0.0.1", 0.0, NodeFacts(here)),
        NodeReport("10.0.0.2", 0.0, NodeFacts({**here, "torch": "2.11.0"}, {"storage.path": unseen})),
        NodeReport("10.0.0.3", 0.0, Problem("did not answer within 60 s", "look at it, or take it out")),
    ]
    problems = node_problems(here, answers, {"storage.path": "/home/me/runs/x"})
    assert [str(problem) for problem in problems] == [
        "10.0.0.2 has torch 2.11.0, the driver 2.15.0; install the same on all",
        "10.0.0.2 cannot use storage.path, where /home/me/runs/x is: it does not see what the driver writes "
        "there; use a bucket or a folder that all nodes share",
        "10.0.0.3 did not answer within 60 s; look at it, or take it out",
    ]
    mine = host.versions()
    assert node_problems(mine, [NodeReport("10.0.0.1", 0.0, NodeFacts(mine))], {}) == []


def test_nodes_may_have_torch_in_builds_of_their_own() -> None:
    here = {"gan-dist": "0.1.0+local", "torch": "2.15.0+cu132"}
    for torch in ("2.15.0", "2.15.0+cpu", "2.15.0+cu128"):
        assert (
            node_problems(here, [NodeReport("10.0.0.2", 0.0, NodeFacts({**here, "torch": torch}))], {}) == []
        )
    without = {"gan-dist": here["gan-dist"]}
    for other in ({**here, "torch": "2.15.1+cu132"}, {**here, "gan-dist": "0.1.0"}, without):
        (problem,) = node_problems(here, [NodeReport("10.0.0.2", 0.0, NodeFacts(other))], {})
        assert problem.remedy == "install the same on all"


def test_an_object_store_larger_than_its_shared_memory_is_on_disk() -> None:
    told = NodeFacts({}, shm=(64 * 2**20, 2**20))  # a store that runs holds most of it
    assert shm_warning(NodeReport("10.0.0.1", 50e6, told)) is None
    warning = shm_warning(NodeReport("10.0.0.1", 6.8e9, told))
    assert warning is not None
    assert "--shm-size=7g" in warning.remedy
    assert shm_warning(NodeReport("10.0.0.1", 6.8e9, Problem("did not answer"))) is None


@pytest.mark.ray
@pytest.mark.slow
def test_two_nodes_are_asked(tmp_path: Path, add_node: AddNode, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("RAY_NODE_TYPE_NAME", "cpu")  # as on a node of a cluster.yaml
        add_node(num_cpus=1)
    run = tmp_path / "run"
    check_nodes(str(run), "builtin://digits")
    other = {"python": "3.0", "gan-dist": "0", "torch": "0", "ray": "0"}
    monkeypatch.setattr(host, "versions", lambda: other)
    with pytest.raises(ClusterError) as caught:
        check_nodes(str(run), "/no/such/images")
    message = str(caught.value)
    unseen = "cannot use data.path, where /no/such/images is: it does not see the manifest.json there"
    assert message.count(unseen) == 2
    assert message.count("install the same on all") == 8
    assert "the driver 3.0" in message
    assert list(run.iterdir()) == []
    # More nodes of its kind may come: what there is no room for now is not refused.
    wanted = ScaleConfig(gpus_per_worker=1)
    with connect.connect_for(wanted):
        assert concurrent_trials(wanted, cluster_nodes(), None) == 1
