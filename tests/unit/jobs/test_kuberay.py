"""What KubeRay is given: valid, behind a token, without root and without secrets."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from gan_dist.config import load_config
from tests.kuberay import problem
from tests.support.heads import ROOT

FOLDER = ROOT / "jobs" / "cluster"
Document = dict[str, Any]


def documents(name: str) -> list[Document]:
    return list(yaml.safe_load_all(Path(FOLDER, name).read_text()))


def by_kind(name: str, kind: str) -> Document:
    return next(document for document in documents(name) if document["kind"] == kind)


def cluster_spec(name: str) -> Document:
    found = {document["kind"]: document for document in documents(name)}
    spec: Document = (
        found["RayJob"]["spec"]["rayClusterSpec"] if "RayJob" in found else found["RayCluster"]["spec"]
    )
    return spec


def templates(name: str) -> list[Document]:
    spec = cluster_spec(name)
    pods = [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]
    if name == "rayjob.yaml":
        pods.append(by_kind(name, "RayJob")["spec"]["submitterPodTemplate"])
    return pods


BOTH = pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])


@BOTH
def test_every_document_is_one_that_the_api_server_takes(name: str) -> None:
    found = documents(name)
    assert found
    assert [problem(document) for document in found] == [None] * len(found)


def misspelt(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["authOption"] = job["spec"]["rayClusterSpec"].pop("authOptions")


def unknown_mode(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "tokens"


def number_as_text(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "2"


def parameter_as_number(job: Document) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def misspelt_in_the_pod(job: Document) -> None:
    pod = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    pod["containers"][0]["securityContext"]["runAsNonroot"] = True


def no_bound(job: Document) -> None:
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (misspelt, "'authOption' was unexpected"),
        (unknown_mode, "'tokens' is not one of ['disabled', 'token']"),
        (number_as_text, "'2' is not of type 'integer'"),
        (parameter_as_number, "0 is not of type 'string'"),
        (misspelt_in_the_pod, "'runAsNonroot' was unexpected"),
        (no_bound, "'maxReplicas' is a required property"),
    ],
)
def test_a_mistake_is_found_and_named(change: Callable[[Document], None], said: str) -> None:
    job = copy.deepcopy(by_kind("rayjob.yaml", "RayJob"))
    change(job)
    assert said in (problem(job) or "")


def test_a_mistake_in_what_is_not_rays_is_found() -> None:
    policy = copy.deepcopy(by_kind("rayjob.yaml", "NetworkPolicy"))
    policy["spec"]["ingres"] = policy["spec"].pop("ingress")
    assert "'ingres' was unexpected" in (problem(policy) or "")


@BOTH
def test_every_cluster_asks_for_the_token_of_a_secret_that_is_made_by_hand(name: str) -> None:
    assert cluster_spec(name)["authOptions"] == {"mode": "token", "secretName": "gan-dist-token"}
    assert (
        "kubectl create secret generic gan-dist-token --from-file=auth_token="
        in Path(FOLDER, name).read_text()
    )
    assert "Secret" not in {document["kind"] for document in documents(name)}


def test_the_dashboard_is_on_loopback_or_behind_a_policy_that_covers_every_pod_of_the_job() -> None:
    assert cluster_spec("raycluster.yaml")["headGroupSpec"]["rayStartParams"]["dashboard-host"] == "127.0.0.1"
    policy = by_kind("rayjob.yaml", "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    label = policy["podSelector"]["matchLabels"]
    assert all(label.items() <= pod["metadata"]["labels"].items() for pod in templates("rayjob.yaml"))
    inside, operator = policy["ingress"]
    assert inside == {"from": [{"podSelector": {"matchLabels": label}}]}
    assert operator["ports"] == [{"port": 8265}]


@BOTH
def test_no_pod_runs_as_root_or_may_become_it(name: str) -> None:
    for pod in templates(name):
        assert pod["spec"]["securityContext"]["runAsUser"] == 1000
        for container in pod["spec"]["containers"]:
            context = container["securityContext"]
            assert context["runAsNonRoot"]
            assert not context["allowPrivilegeEscalation"]
            assert context["capabilities"] == {"drop": ["ALL"]}


@BOTH
def test_every_ray_pod_has_shared_memory_of_its_own_within_its_limit(name: str) -> None:
    spec = cluster_spec(name)
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    for pod in (group["template"]["spec"] for group in groups):
        (volume,) = pod["volumes"]
        assert volume["emptyDir"]["medium"] == "Memory"
        assert {"name": volume["name"], "mountPath": "/dev/shm"} in pod["containers"][0]["volumeMounts"]
        shared = int(volume["emptyDir"]["sizeLimit"].removesuffix("Gi"))
        memory = int(pod["containers"][0]["resources"]["limits"]["memory"].removesuffix("Gi"))
        # Ray takes 30 % of the container's memory for objects; what it holds there counts as that memory.
        assert 0.3 * memory < shared < 0.6 * memory


@BOTH
def test_a_worker_has_time_to_leave_before_it_is_killed(name: str) -> None:
    for group in cluster_spec(name)["workerGroupSpecs"]:
        pod = group["template"]["spec"]
        drain = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
        assert int(drain["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]


def test_the_job_runs_a_configuration_that_its_pods_can_hold() -> None:
    python, script, preset, *overrides = by_kind("rayjob.yaml", "RayJob")["spec"]["entrypoint"].split()
    assert (python, script) == ("python", "/opt/gan-dist/jobs/train.py")
    scale = load_config(preset, overrides).scale
    (gpu,) = (
        group for group in cluster_spec("rayjob.yaml")["workerGroupSpecs"] if group["groupName"] == "gpu"
    )
    limits = gpu["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert scale.workers == gpu["replicas"]
    assert scale.gpus_per_worker == limits["nvidia.com/gpu"]
    assert scale.cpus_per_worker < int(limits["cpu"])  # the rest is for Ray Data


def test_the_head_runs_no_training_and_one_group_has_gpus() -> None:
    for name in ("raycluster.yaml", "rayjob.yaml"):
        spec = cluster_spec(name)
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        limits = {
            group["groupName"]: group["template"]["spec"]["containers"][0]["resources"]["limits"]
            for group in spec["workerGroupSpecs"]
        }
        assert {group for group, limit in limits.items() if "nvidia.com/gpu" in limit} == {"gpu"}
        assert set(limits) == {"gpu", "cpu"}
