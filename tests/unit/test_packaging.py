"""What is installed: the wheel alone, its extras, and the locks."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch

import gan_dist
from gan_dist.core.errors import MissingPackageError
from gan_dist.core.extras import MODULES, explain, require
from tests.support.heads import BIN, ROOT
from tests.unit.test_public import PACKAGE, VERBS, imports
from tools.package_sizes import closure, project

# The wheel in an environment with what it declares, and nothing else


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of a new environment with the built wheel, and links to what it requires."""
    folder = tmp_path_factory.mktemp("bare")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "gan_dist", ignore=shutil.ignore_patterns("__pycache__"))

    def uv(*arguments: str | Path) -> None:
        command = [BIN / "uv", *arguments, "--offline", "--no-cache"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr

    uv("build", "--wheel", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, source)
    (wheel,) = folder.glob("gan_dist-*.whl")
    uv("venv", "--python", sys.executable, folder / "venv")
    python = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    for package in closure(project()[""]).values():
        for name in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            its = Path(str(package.locate_file(name)))
            if name.endswith(".dist-info"):
                shutil.copytree(its, site / name)  # uv passes over links
            elif not name.endswith(".pth") and not (site / name).exists():
                (site / name).symlink_to(its)
    uv("pip", "install", "--no-deps", "--python", python, wheel)
    uv("pip", "check", "--python", python)  # nothing that the wheel declares is missing
    return python.parent


def call(bare: Path, code: str, *arguments: str, cwd: Path) -> str:
    """Run Python in the environment, and return what it has printed."""
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RAY_ADDRESS")}
    command = [str(bare / "python"), "-c", code, *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def configured(run_uri: str, copy: Path) -> Path:
    """Copy a run, with the configuration that runs have in their folders."""
    shutil.copytree(run_uri, copy)
    shutil.copy(next(copy.glob("best_*/config.yaml")), copy)
    return copy


USE = """
import importlib.util, sys
import gan_dist, gan_dist.cli
absent = {"ray", "optuna", "sqlalchemy", "torchvision", "tensorboard", "botocore", "scipy"}
assert not [name for name in absent if importlib.util.find_spec(name)]
commands = [("sample", "--out", "a.png"), ("export", "--to", "a.pt2"), ("best", "--to", "release")]
commands += [("report", "--out", "a.html")]
for verb, option, to in commands:
    gan_dist.cli.app([verb, sys.argv[1], option, to], standalone_mode=False)
print(*gan_dist.load("release").sample(2).flatten().tolist())
"""


@pytest.mark.slow
def test_the_wheel_alone_loads_samples_and_exports(bare: Path, run_uri: str, tmp_path: Path) -> None:
    run = configured(run_uri, tmp_path.with_suffix(".run"))
    pixels = call(bare, USE, str(run), cwd=tmp_path).splitlines()[-1].split()
    expected = gan_dist.load(run_uri).sample(2).flatten()
    assert torch.equal(torch.tensor([int(one) for one in pixels], dtype=torch.uint8), expected)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.pt2", "a.html", "release"}


FAIL = """
import contextlib, io, json, sys
from gan_dist.cli import main
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([arguments, code, said.getvalue()]))
"""


@pytest.mark.slow
def test_a_command_without_its_extra_says_what_to_install(bare: Path, run_uri: str, tmp_path: Path) -> None:
    commands = {
        "train digits": "train",
        "tune search-digits": "train",
        "evaluate RUN": "train",
        "pack photos shards --resolution 64": "train",
        "doctor": "train",
        "submit train digits": "train",
        "sample s3://bucket/release": "s3",
        "sample RUN --walk walk.mp4": "mp4",
        "export RUN --to generator.onnx": "onnx",
        "publish RUN --to hf://ann/digits": "hub",
        "sample hf://ann/digits": "hub",
        "serve RUN": "serve",
    }
    (tmp_path / "photos").mkdir()
    run = configured(run_uri, tmp_path.with_suffix(".run"))
    shutil.copy(next(run.glob("best_*/samples.png")), tmp_path / "photos")
    typed = [[str(run) if word == "RUN" else word for word in command.split()] for command in commands]
    told = map(json.loads, call(bare, FAIL, json.dumps(typed), cwd=tmp_path).splitlines())
    for (arguments, code, said), extra in zip(told, commands.values(), strict=True):
        assert (code, "gan-dist: " in said, "Traceback" in said) == (2, True, False), arguments
        assert f'pip install "gan-dist[{extra}]"' in said
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


HELP = """
import sys
from gan_dist.cli import app
for verb in sys.argv[1:]:
    app([verb, "--help"], standalone_mode=False)
"""


def test_the_help_of_every_verb_needs_no_extra(bare: Path, tmp_path: Path) -> None:
    assert call(bare, HELP, *VERBS, cwd=tmp_path).count("Usage:") == len(VERBS)


# Extras


def test_every_import_is_declared_and_its_extra_is_the_one_that_is_named() -> None:
    """Of the packages that torch or a trainer's library brings, too: what is imported is declared."""
    odd = {"grpcio": "grpc", "mlflow-skinny": "mlflow", "pillow": "PIL", "pyyaml": "yaml"}

    def declared(extra: str) -> set[str]:
        names = {re.split(r"[\[><=]", one)[0] for one in project()[extra]} - {"gan-dist"}
        return {odd.get(name, name.replace("-", "_")) for name in names}

    alone = declared("")
    brought = {"markupsafe", "pydantic_core"}  # by jinja2 and pydantic, as parts of them
    known = alone | brought | {module for of_extra in MODULES.values() for module in of_extra}
    imported = {name.partition(".")[0] for file in PACKAGE.rglob("*.py") for name in imports(file)}
    assert imported - set(sys.stdlib_module_names) - {"gan_dist"} <= known
    assert not alone & {module for of_extra in MODULES.values() for module in of_extra}
    for extra in project().keys() - {"", "s3", "serve", "train"}:
        assert set(MODULES[extra]) == declared(extra) - {"av"} | ({"av"} if extra == "mp4" else set())
    assert set(MODULES["train"]) == declared("train") | declared("s3")


def test_a_module_that_no_extra_has_is_no_matter_of_extras() -> None:
    assert explain(ModuleNotFoundError("no", name="nowhere")) is None
    error = explain(ModuleNotFoundError("no", name="s3fs.core"))
    assert 'pip install "gan-dist[s3]"' in str(error)


def test_what_is_missing_of_an_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    require("onnx", "it")
    monkeypatch.setitem(MODULES, "onnx", ("onnx", "nowhere", "gone"))
    with pytest.raises(MissingPackageError, match=r"it needs nowhere, gone, which are not installed"):
        require("onnx", "it")


# The locks


def locked(name: str) -> dict[str, str]:
    """Return the requirements of a lock by package, with version and marker, and refuse one without hash."""
    text = (ROOT / name).read_text()
    assert "://" not in text
    lines = re.findall(r"^([a-z0-9.-]+)==([^\\]+?) \\\n    --hash=sha256", text, re.MULTILINE)
    assert len(lines) == len(re.findall(r"^[a-z]", text, re.MULTILINE))
    return dict(lines)


def versions(lock: dict[str, str]) -> dict[str, str]:
    return {name: line.split(" ")[0] for name, line in lock.items()}


def test_the_lock_for_cpus_has_the_same_versions_and_nothing_of_cuda() -> None:
    all_of, cpu = locked("requirements.lock"), locked("requirements-cpu.lock")
    assert cpu.items() <= all_of.items()
    assert {name for name in all_of.keys() - cpu.keys() if not re.match("nvidia-|cuda-|triton$", name)} == {
        "torch",
        "torchvision",
    }
    assert [name for name in cpu if re.match("nvidia|cuda|triton", name)] == []


def test_the_locks_agree_and_running_needs_no_tool_of_developers() -> None:
    running, developing = locked("requirements.lock"), locked("requirements-dev.lock")
    both = running.keys() & developing.keys()
    assert {name: versions(running)[name] for name in both} == {
        name: versions(developing)[name] for name in both
    }
    # What both list is what the first wants on fewer machines than the second.
    assert {name for name in both if running[name] == developing[name]} == set()
    assert not {"pytest", "mypy", "moto", "onnx", "mkdocs-material"} & running.keys()
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
    wanted = {re.split(r"[\[><=]", one)[0] for one in groups["dev"] if isinstance(one, str)}
    assert wanted - {"ray"} <= developing.keys()


@pytest.mark.parametrize(
    ("arguments", "locks", "of_torch"),
    [
        (["install"], ["requirements.lock"], 0),
        (["demo"], ["requirements.lock"], 0),
        (["setup"], ["requirements.lock", "requirements-dev.lock"], 0),
        (["quick"], ["requirements.lock", "requirements-dev.lock"], 0),
        (["setup", "CPU=1"], ["requirements-cpu.lock", "requirements-dev.lock"], 1),
    ],
)
def test_a_target_installs_what_it_needs(
    arguments: list[str], locks: list[str], of_torch: int, tmp_path: Path
) -> None:
    for name in ("Makefile", "pyproject.toml", *locks):
        shutil.copy(ROOT / name, tmp_path)
    shown = subprocess.run(
        ["make", "--dry-run", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"--require-hashes -r (\S+)", shown) == locks
    assert shown.count("--torch-backend cpu") == of_torch


def test_the_pages_say_what_each_extra_costs() -> None:
    page = (ROOT / "docs" / "install.md").read_text().partition("| extra | for | adds |")[2]
    rows = re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert named == project().keys() - {""}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    pages = (ROOT / "docs" / "install.md").read_text() + (ROOT / "README.md").read_text()
    assert set(re.findall(r"gan_dist-([0-9.]+)-py3", pages)) == {version}
    assert all(f"[{extra}]" in (ROOT / "README.md").read_text() for extra in named)
