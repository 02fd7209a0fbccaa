"""The archive of a submitted job, and secrets that it must not hold."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock
from zipfile import ZipFile

import pytest

from gan_dist.cluster.jobs import archive
from gan_dist.cluster.jobs.archive import collect_files, require_no_secrets, write_zip
from gan_dist.core.errors import ClusterError
from gan_dist.core.storage.redaction import reason, secrets_here
from tests.support.heads import ROOT
from tests.support.privileges import permissions


def write(folder: Path, *names: str, text: str = "x") -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def own(folder: Path, *wanted: str) -> set[str]:
    """Return what is sent of a folder, besides the package."""
    return {name for name in collect_files(folder, wanted).files if not name.startswith("gan_dist/")}


def test_what_is_ignored_is_not_sent(tmp_path: Path) -> None:
    kept = {"my.yaml", "code/model.py", "code/keep.log", "deep/a/runs/x", ".rayignore", "deep/.gitignore"}
    write(tmp_path, "data/big.bin", "code/a.log", "deep/a/notes.txt", "other/a/notes.txt", *kept)
    write(
        tmp_path, ".env", ".git/config", "venv/pyvenv.cfg", "code/__pycache__/m.pyc", "runs/digits/best.json"
    )
    (tmp_path / ".rayignore").write_text("data/\n*.log\n!keep.log\n")
    (tmp_path / "deep/.gitignore").write_text("a/notes.txt\n")
    assert own(tmp_path) == {*kept, "other/a/notes.txt"}
    assert own(tmp_path, "runs/digits/best.json") == {*kept, "other/a/notes.txt", "runs/digits/best.json"}


def test_links_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    write(tmp_path, "shared/net.py", "job/my.yaml")
    (tmp_path / "job/net").symlink_to(tmp_path / "shared")
    (tmp_path / "job/me").symlink_to(tmp_path / "job")
    (tmp_path / "job/gone").symlink_to(tmp_path / "nowhere")
    assert own(tmp_path / "job") == {"my.yaml", "net/net.py"}


def test_links_that_lead_to_each_other_are_followed_once(tmp_path: Path) -> None:
    write(tmp_path, "a/one.py", "b/two.py")
    for name in ("1", "2"):
        (tmp_path / "a" / name).symlink_to("../b")
        (tmp_path / "b" / name).symlink_to("../a")
    assert own(tmp_path) == {
        *("a/one.py", "a/1/two.py", "a/2/two.py", "b/two.py", "b/1/one.py", "b/2/one.py"),
    }


def circle(folder: Path) -> None:
    (folder / "loop").symlink_to("loop")


def not_utf8(folder: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.py")).touch()


def closed_folder(folder: Path) -> None:
    write(folder, "lost+found/x")
    (folder / "lost+found").chmod(0)


def folder_without_search(folder: Path) -> None:
    write(folder, "closed/x")
    (folder / "closed").chmod(0o600)


def closed_file(folder: Path) -> None:
    write(folder, "notes.txt")
    (folder / "notes.txt").chmod(0)


@pytest.mark.parametrize(
    ("setup", "said", "pattern"),
    [
        (circle, r"/loop cannot be read \(Too many levels of symbolic links\)", b"loop"),
        (not_utf8, r"holds a name that is not UTF-8 \(b'caf\\xe9.py'\)", b"caf\xe9.py"),
        (closed_folder, r"/lost\+found cannot be read \(Permission denied\)", b"lost+found/"),
        (folder_without_search, r"/closed/x cannot be read \(Permission denied\)", b"closed/"),
        (closed_file, r"/notes.txt cannot be read \(Permission denied\)", b"*.txt"),
    ],
)
def test_what_cannot_be_sent_is_named_unless_it_is_ignored(
    setup: Callable[[Path], None], said: str, pattern: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "job"
    write(folder, "job.py", "gan_dist/__init__.py")
    setup(folder)
    with permissions():
        with pytest.raises(ClusterError, match=f"{said}.*name it in .rayignore"):
            write_zip(collect_files(folder), tmp_path / "x.zip", {})
        (folder / ".rayignore").write_bytes(pattern + b"\n")
        assert own(folder) == {"job.py", ".rayignore"}
        write_zip(collect_files(folder), tmp_path / "x.zip", {})
    for path in (folder / "lost+found", folder / "closed"):
        if path.exists():
            path.chmod(0o700)  # pytest deletes it


def test_ignore_files_are_read_as_git_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Mock()
    monkeypatch.setattr(archive, "LOG", log)
    write(tmp_path, "a.log", "b.tmp", "deep/c.py", "other/.gitignore/d.py")
    lines = [b"\xef\xbb\xbf*.log", b"!", b"\\", b"[z-a]", b"caf\xe9\r", b"*.tmp\r", b""]
    (tmp_path / ".gitignore").write_bytes(b"\n".join(lines))
    (tmp_path / "deep/.gitignore").write_text("*.py")
    (tmp_path / "deep/.gitignore").chmod(0)
    with permissions():
        assert own(tmp_path) == {".gitignore", "deep/c.py", "other/.gitignore/d.py"}
    [[text, file, reason], _] = log.warning.call_args
    warned = text % (file, reason)
    assert "deep/.gitignore is passed over, as by git: Permission denied" in warned


def test_a_job_gets_the_package_that_submits_it(tmp_path: Path) -> None:
    sent = collect_files(tmp_path).files
    assert {
        "gan_dist/__main__.py",
        "gan_dist/report/page.html",
        "gan_dist/presets/digits.yaml",
        "gan_dist/assets/lenet.safetensors",
    } <= sent.keys()
    assert not any("__pycache__" in name for name in sent)
    # A checkout has its own, which is the one that runs.
    write(tmp_path, "gan_dist/__init__.py")
    assert collect_files(tmp_path).files == {"gan_dist/__init__.py": tmp_path / "gan_dist/__init__.py"}


def test_of_this_repository_a_few_files_are_sent() -> None:
    sent = collect_files(ROOT)
    assert {name.split("/")[0] for name in sent.files} >= {"gan_dist", "jobs"}
    assert not any(name.startswith(("tests/", "benchmarks/", ".venv/")) for name in sent.files)
    assert sent.bytes < 4 * 1024**2


def test_too_much_is_refused_with_the_largest_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "small.py", "faces/a.png")
    for name, size in {"faces/b.tar": 90, "weights.pth": 30}.items():
        with (tmp_path / name).open("wb") as file:
            file.truncate(size * 1024**2)
    with pytest.raises(ClusterError) as caught:
        collect_files(tmp_path)
    said = rf"the working directory {tmp_path} is 12\d\.\d MiB, and a job's may be 100\.0 MiB"
    assert re.match(said, str(caught.value))
    assert "the largest files are faces/b.tar (90.0 MiB), weights.pth (30.0 MiB)" in str(caught.value)
    (tmp_path / ".rayignore").write_text("*.tar\n")
    assert own(tmp_path) == {"small.py", "faces/a.png", "weights.pth", ".rayignore"}
    monkeypatch.setattr(archive, "MAX_FILES", 200)
    write(tmp_path, *(f"images/{number}.png" for number in range(200)))
    with pytest.raises(ClusterError, match=r"more than 200 files, most of them in gan_dist \(\d+\)"):
        collect_files(tmp_path)


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    write(tmp_path / "a", "z.py", "job.sh", text="echo\n")
    (tmp_path / "a/job.sh").chmod(0o755)
    write_zip(collect_files(tmp_path / "a"), tmp_path / "1.zip", {})
    os.utime(tmp_path / "a/z.py", (0, 0))
    write_zip(collect_files(tmp_path / "a"), tmp_path / "2.zip", {})
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    with ZipFile(tmp_path / "1.zip") as archive:
        assert archive.read("z.py") == b"echo\n"
        assert archive.getinfo("job.sh").external_attr >> 16 & 0o777 == 0o755


def test_a_file_that_holds_a_secret_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-canary")
    write(tmp_path, "notes.txt", text="the key is canary-canary.")
    with pytest.raises(ClusterError, match=r"notes.txt holds the value of AWS_SECRET_ACCESS_KEY") as caught:
        write_zip(collect_files(tmp_path), tmp_path / "x.zip", secrets_here())
    assert "canary-canary" not in str(caught.value)


def test_variables_that_hold_secrets_are_known_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    held = [
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "RAY_AUTH_TOKEN",
        "DB_PASSWORD",
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        "WANDB_API_KEY",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "AZURE_STORAGE_KEY",
        "AZURE_STORAGE_SAS_TOKEN",
        "AZURE_STORAGE_CONNECTION_STRING",
        "AZURE_CLIENT_SECRET",
        "GAN_DIST_TOKEN",
        "PGPASSWORD",
        "MYSQL_PWD",
    ]
    others = [
        "PWD",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "PATH",
        "RAY_AUTH_TOKEN_PATH",
        "TOKENIZERS_PARALLELISM",
        "AWS_DEFAULT_REGION",
    ]
    for name in [*held, *others]:
        monkeypatch.setenv(name, f"value-of-{name}")
    monkeypatch.setenv("GITHUB_TOKEN", "short")
    assert set(held) <= secrets_here().keys()
    assert not {*others, "GITHUB_TOKEN"} & secrets_here().keys()
    assert (
        reason(OSError("it refused value-of-HF_TOKEN and value-of-PATH"))
        == "it refused ... and value-of-PATH"
    )


@pytest.mark.parametrize(
    "text",
    [
        "search.optuna_storage=postgresql://me:pa55@db/gan",
        "search={optuna_storage: 'mysql+pymysql://me:12345@db:3306/gan'}",
        "storage=s3://AKIDX:pa55@bucket/runs",
        "storage=s3://bucket/runs?region=x&secret_key=pa55",
        "data.path=https://bucket/faces?X-Amz-Signature=pa55",
        "name=AKIA0123456789ABCDEF",
        "name=run-pa55word-1",
    ],
)
def test_a_secret_in_an_argument_is_refused(text: str) -> None:
    with pytest.raises(ClusterError, match="argument 1 of train holds") as caught:
        require_no_secrets([("argument 1 of train", text)], {"DB_PASSWORD": "pa55word"})
    assert "pa55" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "storage=s3://bucket/runs?endpoint_override=host:9000&scheme=http",
        "search.optuna_storage=env:STUDY_URL",
        "search.optuna_storage=postgresql://db:5432/gan",
        "http://127.0.0.1:8265",
        "name=passes",
        "optim.g.lr=1e-4",
    ],
)
def test_what_is_no_secret_is_sent(text: str) -> None:
    require_no_secrets([("it", text)], {"DB_PASSWORD": "pa55word"})
