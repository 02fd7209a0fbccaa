"""The cluster files: complete, of one version, without secrets; and start.sh, which refuses to be open."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.support.heads import BIN, ROOT

FOLDER = ROOT / "jobs" / "cluster"
START = FOLDER / "start.sh"
LAUNCHERS = [ROOT / "cluster.yaml", *(FOLDER / f"{name}.yaml" for name in ("on-premise", "gcp", "azure"))]
MANIFESTS = [FOLDER / "raycluster.yaml", FOLDER / "rayjob.yaml"]
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
EACH = pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)


def load(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


def commands(config: dict[str, Any]) -> dict[str, list[str]]:
    return {key: value for key, value in config.items() if key.endswith("_commands")}


def locked(package: str) -> str:
    locks = "".join((ROOT / f"requirements{kind}.lock").read_text() for kind in ("", "-dev"))
    found = re.search(rf"^{package}==(\S+)", locks, re.MULTILINE)
    assert found
    return found[1]


def instructions(word: str) -> list[str]:
    """The arguments of a Dockerfile's instruction, in order."""
    whole = DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^{word} (.+)$", whole, re.MULTILINE)


# What goes to the nodes


@EACH
def test_what_is_copied_to_the_nodes_exists(path: Path) -> None:
    mounts = load(path)["file_mounts"]
    assert mounts.pop("~/.ray/auth_token") == "~/.ray/auth_token"
    for remote, local in mounts.items():
        assert remote == f"~/gan-dist/{local}"
        assert (ROOT / local).exists()


def copied_by_the_image() -> list[str]:
    return [source for line in instructions("COPY") for source in shlex.split(line)[:-1]]


def copied_by(path: Path) -> list[str]:
    mounts = load(path)["file_mounts"]
    return [local for local in mounts.values() if not local.startswith("~")]


@pytest.mark.parametrize(
    "copied",
    [*map(copied_by, LAUNCHERS[:2]), copied_by_the_image()],
    ids=["cluster.yaml", "on-premise.yaml", "Dockerfile"],
)
def test_what_is_copied_is_enough_to_install_the_package(copied: list[str], tmp_path: Path) -> None:
    node = tmp_path / "gan-dist"
    node.mkdir()
    for name in copied:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, node / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, node / name)
    build = [
        str(BIN / "uv"),
        "build",
        "--quiet",
        "--wheel",
        "--no-build-isolation",
        "--offline",
        "--no-cache",
    ]
    build += ["--python", sys.executable, "--out-dir", str(tmp_path), str(node)]
    subprocess.run(build, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("gan_dist-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    others = {"gan_dist/presets/digits.yaml", "gan_dist/report/page.html"}
    assert {"gan_dist/cli/__init__.py", *others} <= set(names)
    assert (node / "jobs" / "train.py").exists()


def test_the_image_may_copy_what_it_copies() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == set(copied_by_the_image())


def test_the_image_installs_by_hash_and_does_not_run_as_root() -> None:
    (install,) = [line for line in instructions("RUN") if "--require-hashes" in line]
    # `docker build` runs this in a shell; here uv is one that says how it is called.
    for cpu, lock in (("", "requirements.lock"), ("1", "requirements-cpu.lock")):
        script = f"python() {{ :; }}; uv() {{ echo uv $*; }}; CPU={cpu}; UV_VERSION=1; {install}"
        done = subprocess.run(["sh", "-euc", script], cwd=ROOT, capture_output=True, text=True, check=True)
        *torch, last = done.stdout.splitlines()
        assert last == f"uv pip install --no-deps --require-hashes -r {lock}"
        versions = f"torch=={locked('torch')} torchvision=={locked('torchvision')}"
        assert torch == ([f"uv pip install --no-deps --torch-backend cpu {versions}"] if cpu else [])
    assert DOCKERFILE.splitlines()[-1] == "USER 1000"


@EACH
def test_every_node_installs_as_make_does_and_starts_by_the_script_alone(path: Path) -> None:
    config = load(path)
    assert any("make install" in command for command in config["setup_commands"])
    for role in ("head", "worker"):
        started = config[f"{role}_start_ray_commands"]
        scripts = [command for command in started if f"jobs/cluster/start.sh {role}" in command]
        assert len(scripts) == 1
        # No other command of theirs starts Ray, or opens the dashboard.
        assert not any("ray start" in command.replace('echo "ray start --head"', "") for command in started)
        assert not any("dashboard" in command for command in started)


@EACH
def test_rays_own_schema_holds(path: Path) -> None:
    validate_config(prepare_config(load(path)))


def test_launchers_of_clouds_copy_the_same_files_and_call_the_same_commands() -> None:
    amazon = load(LAUNCHERS[0])
    for path in LAUNCHERS[2:]:
        config = load(path)
        for key in ("file_mounts", "setup_commands", "head_start_ray_commands"):
            assert config[key] == amazon[key], (path, key)
        assert config["worker_start_ray_commands"] == amazon["worker_start_ray_commands"][:2]


def test_skypilots_task_starts_one_ray_on_all_machines() -> None:
    task = load(FOLDER / "sky.yaml")
    assert task.keys() == {"name", "num_nodes", "resources", "workdir", "envs", "secrets", "setup", "run"}
    assert (task["secrets"], task["envs"]["STORAGE"]) == ({"RAY_AUTH_TOKEN": None}, None)
    assert "RAY_AUTH_MODE=token" in task["run"]
    done = subprocess.run(["bash", "-n"], input=task["run"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@EACH
def test_every_command_is_one_that_bash_can_read(path: Path) -> None:
    for command in (command for many in commands(load(path)).values() for command in many):
        done = subprocess.run(
            ["bash", "-n", "-c", f"({command})"], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), command


# One version of everything


def test_versions_agree_with_the_lock_and_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for path in MANIFESTS:
        text = path.read_text()
        assert set(re.findall(r"rayVersion: (\S+)", text)) == {locked("ray")}
        assert set(re.findall(r"image: (?:&image )?(\S+/gan-dist:\S+)", text)) == {
            f"REGISTRY/gan-dist:{project['version']}"
        }
    assert set(re.findall(r"gan-dist:(\S+)", DOCKERFILE)) == {project["version"]}
    makefile = (ROOT / "Makefile").read_text()
    assert instructions("ARG") == [f"UV_VERSION={locked('uv')}", "CPU="]
    assert f"UV_VERSION := {locked('uv')}\n" in makefile
    (base,) = instructions("FROM")
    python = tuple(int(part) for part in base.removeprefix("python:").split("-")[0].split("."))
    least = tuple(int(part) for part in project["requires-python"].removeprefix(">=").split("."))
    assert python >= least


def test_what_the_aws_launcher_imports_is_in_the_lock() -> None:
    assert locked("boto3")


# No secrets


def leaves(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, f"{path}.{key}")
    elif isinstance(node, list):
        for value in node:
            yield from leaves(value, path)
    else:
        yield path, str(node)


SECRET = re.compile(r"(token|passw|secret|credential|access_?key|private_?key)", re.IGNORECASE)
# Names and places of secrets, not secrets.
ALLOWED = {
    "token", "required", "False", "None", "gan-dist-token", "~/.ray/auth_token", "~/.ssh/id_ed25519",
}  # fmt: skip


@pytest.mark.parametrize("path", [*LAUNCHERS, *MANIFESTS, FOLDER / "sky.yaml"], ids=lambda path: path.name)
def test_no_file_holds_a_secret(path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        held = {value for key, value in leaves(document) if SECRET.search(key)}
        assert held <= ALLOWED
        for entry, value in leaves(document):
            assert not re.search(r"AKIA[0-9A-Z]{16}|AWS_SECRET|RAY_AUTH_TOKEN=|-----BEGIN", value), entry
    assert not re.search(r"AKIA|AWS_SECRET|RAY_AUTH_TOKEN", DOCKERFILE)


def test_storage_on_aws_is_reached_by_roles() -> None:
    nodes = load(ROOT / "cluster.yaml")["available_node_types"]
    roles = {name: node["node_config"]["IamInstanceProfile"]["Name"] for name, node in nodes.items()}
    assert roles == {"head": "gan-dist-head", "gpu": "gan-dist-worker", "cpu": "gan-dist-worker"}


# start.sh and spot-watch.sh


def run(script: Path, *arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return subprocess.run(
        [str(script), *arguments],
        env={**inherited, "HOME": str(home), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        (["head"], {}, "ray get-auth-token --generate"),
        (
            ["head", "--node-ip-address=203.0.113.5"],
            {},
            "no token: {home}/.ray/auth_token is missing or empty",
        ),
        (["worker", "10.0.0.1:6379"], {}, "no token"),
        (["head"], {"RAY_AUTH_TOKEN_PATH": "/nowhere/token"}, "no token: /nowhere/token"),
        (["head"], {"RAY_AUTH_TOKEN": ""}, "no token"),
        (["head"], {"RAY_AUTH_TOKEN": "t", "RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=disabled"),
        (["head", "--dashboard-host=0.0.0.0"], {"RAY_AUTH_TOKEN": "t"}, "loopback only"),
        (["head", "--dashboard-host="], {"RAY_AUTH_TOKEN": "t"}, "loopback only"),
        (["head", "--dashboard-host", "10.0.0.1"], {"RAY_AUTH_TOKEN": "t"}, "--dashboard-host=10.0.0.1"),
        (["worker"], {"RAY_AUTH_TOKEN": "t"}, "which head?"),
        (["worker", "--block"], {"RAY_AUTH_TOKEN": "t"}, "which head?"),
        ([], {"RAY_AUTH_TOKEN": "t"}, "head or worker?"),
    ],
)
def test_start_refuses_what_would_be_open(
    arguments: list[str], env: dict[str, str], said: str, tmp_path: Path
) -> None:
    done = run(START, *arguments, home=tmp_path, **env)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert said.format(home=tmp_path) in done.stderr


def test_an_empty_token_file_is_none_and_one_that_others_read_becomes_private(tmp_path: Path) -> None:
    token = tmp_path / ".ray" / "auth_token"
    token.parent.mkdir()
    token.touch(mode=0o644)
    assert "missing or empty" in run(START, "head", home=tmp_path).stderr
    token.write_text("a" * 32)
    # Refused for another reason, after the token was found.
    assert "loopback only" in run(START, "head", "--dashboard-host=0.0.0.0", home=tmp_path).stderr
    assert stat.S_IMODE(token.stat().st_mode) == 0o600


def test_the_spot_watch_wants_to_know_the_head(tmp_path: Path) -> None:
    done = run(FOLDER / "spot-watch.sh", home=tmp_path)
    assert done.returncode == 2
    assert "which head?" in done.stderr
