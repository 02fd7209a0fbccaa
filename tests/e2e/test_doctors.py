"""A cluster as a doctor, and what starts runs, finds it: closed, and not for this process."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.heads import ROOT, Head, gan_dist

PATIENT = ("--timeout", "60")
OTHER_RAY = """
import sys
import ray
ray.__version__ = "9.9.9"
from gan_dist.cli import main
main(sys.argv[1:])
"""


def doctor(env: dict[str, str], cwd: Path, *arguments: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """Return the exit code and the findings by name."""
    done = gan_dist("doctor", *arguments, *PATIENT, "--json", env=env, cwd=cwd)
    assert "Traceback" not in done.stderr
    found: dict[str, list[dict[str, Any]]] = {}
    for one in json.loads(done.stdout.splitlines()[-1])["checks"]:
        found.setdefault(one["name"], []).append(one)
    for secret in ("RAY_AUTH_TOKEN", "AWS_SECRET_ACCESS_KEY"):
        assert env.get(secret, "-----") not in done.stdout + done.stderr
    return done.returncode, found


def wrong_ones(found: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [one for several in found.values() for one in several if one["level"] == "error"]


def levels(found: list[dict[str, Any]]) -> list[str]:
    return [one["level"] for one in found]


@pytest.mark.ray
@pytest.mark.slow
def test_a_closed_cluster(head: Head, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        env = {**head.env, "RAY_ADDRESS": head.address}
        storage = f"storage={tmp_path}/runs"
        well = pool.submit(doctor, env, tmp_path, "digits", storage)
        wrong = pool.submit(doctor, {**env, "RAY_AUTH_TOKEN": "of-another-cluster"}, tmp_path)
        code, found = well.result()
        assert (wrong_ones(found), code) == ([], 0)
        for name in ("token", "cluster", "nodes", "room", "storage", "data"):
            assert levels(found[name]) == ["ok"], found[name]
        assert "1 node with 2 CPUs" in found["cluster"][0]["what"]

        code, found = wrong.result()
        assert code == 2
        assert "refuses this token" in found["cluster"][0]["what"]
        assert "RAY_AUTH_TOKEN" in found["cluster"][0]["remedy"]
        assert {one["level"] for one in found["token"]} == {"error", "ok"}

        keyless = {name: value for name, value in env.items() if not name.startswith("RAY_AUTH")}
        train = pool.submit(gan_dist, "train", "digits", storage, env=keyless, cwd=tmp_path)
        command = [sys.executable, "-c", OTHER_RAY, "train", "digits", "name=other", storage]
        other = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert other.returncode == 2, other.stderr
        assert "has Ray 2." in other.stderr
        assert "this process Ray 9.9.9" in other.stderr
        assert train.result().returncode == 2
        assert "wants a token; export RAY_AUTH_MODE=token" in train.result().stderr

        # Nothing of a search that can never be placed is started either.
        done = gan_dist("tune", "search-digits", storage, "scale.workers=4", env=env, cwd=tmp_path)
        assert done.returncode == 2, done.stderr
        assert f"4 x 1 = 4 CPUs; the cluster at {env['RAY_ADDRESS']} has 2 CPUs" in done.stderr
    assert "Traceback" not in other.stderr + train.result().stderr + done.stderr


def test_help_comes_without_torch() -> None:
    code = "import sys; sys.argv = ['gan-dist', 'doctor', '--help']\n"
    code += "from gan_dist.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
    code += "print([m for m in ('torch', 'ray', 'pyarrow', 'grpc') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "exit code" in done.stdout
    script = [sys.executable, str(ROOT / "jobs" / "doctor.py"), "--help"]
    same = subprocess.run(script, capture_output=True, text=True, check=True)
    assert "--timeout" in same.stdout
