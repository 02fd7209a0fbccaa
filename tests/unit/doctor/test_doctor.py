"""What `gan-dist doctor` says of conditions that are really there."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gan_dist.cli import app
from gan_dist.cli.doctor import _show
from gan_dist.config import RunConfig, load_config
from gan_dist.core import host, storage
from gan_dist.core.errors import StorageError
from gan_dist.core.findings import Finding, examine
from gan_dist.core.storage import StorageOptions
from gan_dist.core.threads import abandoned
from gan_dist.doctor import checks
from tests.support.faults import proxy
from tests.support.s3 import KEYS, refusing_server
from tests.support.sources import SMALL, checkpoint


def only(found: Iterable[Finding]) -> Finding:
    (finding,) = found
    assert (finding.level == "ok") == (not finding.why and not finding.remedy)
    return finding


def digits(*overrides: str) -> RunConfig:
    config = load_config("digits", list(overrides))
    storage.configure(StorageOptions(config.storage.backend, config.storage.timeout_s))
    return config


def test_a_check_that_raises_or_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["AWS_SECRET_ACCESS_KEY"])

    def hangs() -> Iterable[Finding]:
        yield Finding("hangs", "ok", "so far")
        time.sleep(60)

    def raises() -> Iterable[Finding]:
        raise RuntimeError(f"signed with {KEYS['AWS_SECRET_ACCESS_KEY']}")

    def refuses() -> Iterable[Finding]:
        raise StorageError("s3://b: the bucket does not exist", "create it")

    found = examine({"hangs": (hangs, 0.3), "raises": (raises, 5.0), "refuses": (refuses, 5.0)})
    assert [one.level for one in found] == ["ok", "error", "error", "error"]
    assert "hangs" in {getattr(one, "name", one) for one in abandoned()}
    assert "no answer within 0.3 s" in found[1].what
    assert found[2].what == "it could not be checked: RuntimeError: signed with ..."
    assert (found[3].what, found[3].remedy) == (
        "s3://b: the bucket does not exist",
        "create it",
    )


def test_a_package_below_the_projects_floor_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torch" in only(checks.packages()).what
    told = tmp_path / "gan_dist-0.1.0.dist-info" / "METADATA"
    told.parent.mkdir()
    told.write_text(
        "Metadata-Version: 2.1\nName: gan-dist\nVersion: 0.1.0\nRequires-Python: >=3.99\n"
        "Requires-Dist: torch>=99\nRequires-Dist: no-such-package\nRequires-Dist: numpy>=1\n"
        "Requires-Dist: no-such-either; sys_platform == 'win32'\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = only(checks.packages())
    assert found.level == "error"
    assert [part.split()[0] for part in found.what.split("; ")] == ["Python", "torch", "no-such-package"]


def test_gpus_that_are_asked_for_and_not_there_are_an_error() -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a GPU")
    assert only(checks.gpus(0)).level == "ok"
    assert "scale.gpus_per_worker=0" in only(checks.gpus(1)).remedy


def test_more_threads_than_cores_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert only(checks.threads(2, 1.0)).level == "ok"
    assert only(checks.threads(host.cores() + 1, 0.1)).level == "warning"
    monkeypatch.setenv("OMP_NUM_THREADS", str(host.cores() + 1))
    assert "unset OMP_NUM_THREADS" in only(checks.threads(2, 1.0)).remedy
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert only(checks.threads(2, 1.0)).level == "warning"


def test_an_interface_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert only(checks.host_name()).level in ("ok", "warning")
    monkeypatch.setattr(host, "own_address", lambda: "127.0.1.1")
    assert "on several hosts meet at the interfaces" in only(checks.host_name()).what
    monkeypatch.setattr(host, "own_address", lambda: "203.0.113.1")
    assert "of another machine" in only(checks.host_name()).what
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert only(checks.host_name()).level == "ok"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nosuch0")
    assert "lo" in only(checks.host_name()).remedy


def test_a_small_shm_says_what_docker_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(checks.shm()).name == "shm"
    monkeypatch.setattr(host, "shm_bytes", lambda: (64e6, 64e6))
    monkeypatch.setattr(host, "free_memory_bytes", lambda: 6.8e9 / 0.3)
    found = only(checks.shm())
    assert found.level == "warning"
    assert "--shm-size=7g" in found.remedy
    assert "0.06 GB" in found.what


def test_little_free_memory_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "memory_bytes", lambda: 64e9)
    for free, level in ((3.9e9, "warning"), (4e9, "ok")):
        monkeypatch.setattr(host, "free_memory_bytes", lambda free=free: free)
        assert only(checks.memory()).level == level


def test_rights_leave_nothing_behind(tmp_path: Path) -> None:
    assert only(checks.storage_access(f"{tmp_path}/a/b")).level == "ok"
    assert list(tmp_path.iterdir()) == []
    kept = tmp_path / "whose? #3"
    kept.mkdir()
    assert only(checks.storage_access(str(kept))).level == "ok"
    assert list(kept.iterdir()) == []


def test_a_file_in_the_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    found = only(checks.storage_access(f"{tmp_path}/runs"))
    assert found.level == "error"
    assert found.what.startswith(
        f"{tmp_path}/runs is a file, or in one, where there should be a folder (a file"
    )
    assert found.remedy == "give another storage=..."


def test_a_folder_that_is_mounted_for_reading_is_an_error(tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "ro,size=64k", "none", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process can mount nothing")
    try:
        found = only(checks.storage_access(str(tmp_path)))
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert found.level == "error"
    assert "Read-only file system" in found.what


def test_rights_in_a_bucket(bucket: str) -> None:
    assert only(checks.storage_access(f"{bucket}/runs")).level == "ok"
    assert storage.list_names(bucket) == []
    storage.configure(StorageOptions(timeout_s=30))
    found = only(checks.storage_access("s3://no-such-bucket-here/runs"))
    assert (found.level, found.remedy) == ("error", "create it, or correct its name")


def test_a_store_that_refuses_says_so_without_the_secret(bucket: str) -> None:
    with refusing_server("AccessDenied") as (url, _):
        place = f"{bucket}/runs?scheme=http&endpoint_override={url.removeprefix('http://')}"
        storage.configure(StorageOptions(timeout_s=30))
        found = only(checks.storage_access(place))
    assert found.level == "error"
    assert "give these credentials the right to it" in found.remedy
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in str(found)


@pytest.mark.parametrize(("off_s", "level"), [(0, "ok"), (300, "warning"), (-1000, "error")])
def test_a_clock_that_is_not_the_stores(
    off_s: float, level: str, bucket: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(s3_url) as between:
        between.faults.clock_s = off_s
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{between.port}")
        found = only(checks.clock(f"{bucket}/runs", "builtin://digits", 5.0))
    assert found.level == level
    assert ("ahead of" in found.what, "behind" in found.what) == (off_s < 0, off_s > 0)


def test_a_store_that_does_not_tell_the_time_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:hidden@127.0.0.1:1")
    found = only(checks.clock("s3://b/runs", "builtin://digits", 2.0))
    assert found.level == "warning"
    assert "hidden" not in str(found)
    assert only(checks.clock("runs", "builtin://digits", 2.0)).level == "ok"


def test_what_training_would_refuse_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAN_DIST_INCEPTION_WEIGHTS", raising=False)
    place = f"storage={tmp_path}"
    assert [one.name for one in checks.preflight(digits(place))] == ["data", "extractor", "run"]
    lost = list(checks.preflight(digits(place, "data.path=nowhere", "eval.extractor=inception")))
    assert [(one.name, one.level) for one in lost] == [("data", "error"), ("extractor", "error")]
    (tmp_path / "weights.pth").write_bytes(b"other")
    weights = f"eval.inception_weights={tmp_path}/weights.pth"
    other = list(checks.preflight(digits(place, "eval.extractor=inception", weights)))
    assert "SHA-256" in other[1].what
    odd = list(checks.preflight(digits(place, "data.resolution=9")))
    assert odd[-1].level == "error"


def test_the_source_of_the_first_weights_is_looked_at(tmp_path: Path) -> None:
    checkpoint(tmp_path / "source")
    given = [f"storage={tmp_path}", *SMALL, f"init.from={tmp_path / 'source'}"]
    init, run = list(checks.preflight(digits(*given)))[-2:]
    assert (init.name, init.level, run.level) == ("init", "ok", "ok")
    assert "init_discriminator: all 8 tensors" in init.what
    (other,) = (one for one in checks.preflight(digits(*given, "init.freeze_d=3")) if one.level == "error")
    assert (other.name, other.remedy) == ("run", "use 2 or less, as a rule half of them")


def test_the_verb_prints_json_and_has_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "many")  # a warning is no error
    arguments = [
        "doctor",
        "digits",
        f"storage={tmp_path}/runs",
        "scale.workers=1",
        "--timeout",
        "60",
        "--json",
    ]
    done = CliRunner().invoke(app, arguments)
    found = json.loads(done.output.splitlines()[-1])["checks"]
    assert done.exit_code == 0, done.output
    assert {set(one) == {"name", "level", "what", "why", "remedy"} for one in found} == {True}
    assert [one["level"] for one in found if one["name"] == "threads"] == ["warning"]
    names = {one["name"] for one in found}
    assert names >= {"packages", "gpus", "cores", "memory", "shm", "threads", "name", "ports", "cluster"}
    assert names >= {"room", "storage", "clock", "data", "extractor", "run"}
    assert list(tmp_path.iterdir()) == []

    done = CliRunner().invoke(app, [*arguments[:3], "optim.g.lrr=1", "--json"])
    wrong = [one for one in json.loads(done.output.splitlines()[-1])["checks"] if one["level"] == "error"]
    assert done.exit_code == 2
    assert [one["name"] for one in wrong] == ["config"]
    assert "optim.g.lr" in wrong[0]["what"] + wrong[0]["remedy"]

    # The same arithmetic as `train` and `tune` have.
    for source in ("digits", "search-digits"):
        done = CliRunner().invoke(
            app, ["doctor", source, *arguments[2:3], "scale.workers=64", "--timeout", "60"]
        )
        assert done.exit_code == 2
        assert "64 x 1 = 64 CPUs" in done.output


def test_a_finding_of_doctor_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    text = "runs/faces [raw]/[/]:cat:"
    _show([Finding("storage", "error", text, why=f"why {text}", remedy=f"do {text}")])
    shown = capsys.readouterr().out
    assert shown.count(text) == 3
