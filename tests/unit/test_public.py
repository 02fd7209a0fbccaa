"""What users import and type; a change here is a change of the contract."""

from __future__ import annotations

import ast
import json
import re
import runpy
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import gan_dist
from benchmarks.__main__ import bench
from gan_dist.cli import app
from gan_dist.core.errors import GanDistError
from tools.architecture import FLOORS, PICTURE, draw

PACKAGE = Path(gan_dist.__file__).parent
RAY_ROOMS = ("cluster/", "data/batches/ray_reader.py", "data/packing/ray_pack.py")


def test_the_package_exports_this_and_nothing_else() -> None:
    assert sorted(gan_dist.__all__) == [
        *("Adversarial", "Architecture", "Augmentation", "Discriminator", "Generator", "NetworkSize"),
        *("Release", "Section", "load"),
    ]
    with pytest.raises(AttributeError, match="no attribute 'train'"):
        gan_dist.train  # noqa: B018


SPARING = """
import sys
def require_without(*names):
    assert not {*names} & set(sys.modules), {*names} & set(sys.modules)

import gan_dist
gan_dist.load(sys.argv[1])
assert "torch" in sys.modules
# What comes with an extra, by gan_dist/core/extras.py, and is in this environment.
from gan_dist.core.extras import MODULES
require_without(*(name for modules in MODULES.values() for name in modules))
import torch
from gan_dist.models.init import shapes_only
with shapes_only():
    assert torch.nn.Embedding(2, 3).weight.is_meta
require_without("torch._dynamo")
from gan_dist.report.page import write_report
write_report(*sys.argv[1:])
require_without("optuna", "sklearn")
from gan_dist.evaluation.extractors import load_extractor
load_extractor("random", torch.device("cpu"))
import gan_dist.search.display, gan_dist.search.plan
require_without("ray", "torch_fidelity")
"""


def test_what_is_not_needed_is_not_imported(run_uri: str, tmp_path: Path) -> None:
    """Ray, Optuna, scikit-learn and torch-fidelity take seconds each."""
    run = shutil.copytree(run_uri, tmp_path / "run")
    shutil.copy(next(run.glob("best_*/config.yaml")), run)
    command = [sys.executable, "-c", SPARING, str(run), str(tmp_path / "page.html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_help_names_arguments_as_the_readme_does_and_cuts_no_sentence() -> None:
    shown = CliRunner().invoke(app, ["--help"], terminal_width=80).stdout
    verbs = shown.partition("Commands:")[2].strip().splitlines()
    assert len(verbs) == 14
    assert [line for line in verbs if line.endswith("...")] == []
    for line in verbs:
        usage = CliRunner().invoke(app, [line.split()[0], "--help"], terminal_width=80).stdout.splitlines()[0]
        places = re.findall(r"[{[]+([^]}]+)", usage)
        assert places[0] == "OPTIONS"
        assert [place for place in places if not re.fullmatch("[A-Z_=]+", place)] == [], usage
        assert "[[" not in usage


def test_the_version_is_told() -> None:
    assert CliRunner().invoke(app, ["--version"]).stdout == f"gan-dist {version('gan-dist')}\n"


def test_train_says_that_a_search_is_for_tune() -> None:
    said = "note: this trains one run; its section search is what gan-dist tune goes by\n"
    assert CliRunner().invoke(app, ["train", "search-digits", "--dry-run"]).stderr == said
    assert CliRunner().invoke(app, ["train", "digits", "--dry-run"]).stderr == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits", "train.kimgs=3"],
        ["tune", "search-digits", "search.trial=3"],
        ["tune", "search-digts"],
        ["evaluate", "runs/digits", "--metrics", "fid,kd"],
        ["sample", "runs/digits", "--out", "grid.jpg"],
        ["pack", "photos", "shards", "--resolution", "0"],
    ],
)
def test_a_typo_is_told_before_torch_is_loaded(arguments: list[str]) -> None:
    code = "import sys; from gan_dist.cli import main\n"
    code += "try: main(sys.argv[1:])\n"
    code += "finally: print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (2, "False"), done.stderr


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_ray_stays_in_its_rooms() -> None:
    users = {
        str(file.relative_to(PACKAGE))
        for file in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] == "ray" for name in imports(file))
    }
    assert users
    assert {user for user in users if not user.startswith(RAY_ROOMS)} == set()


def test_imports_go_downward_only() -> None:
    floor = {room: number for number, rooms in enumerate(reversed(FLOORS)) for room in rooms}
    code = {file.relative_to(PACKAGE).parts[0] for file in PACKAGE.rglob("*.py")}
    assert code == floor.keys() | {"__init__.py", "__main__.py"}
    upward = [
        f"{file.relative_to(PACKAGE)} imports {name}"
        for file in PACKAGE.rglob("*.py")
        for name in imports(file)
        if name.startswith("gan_dist.")
        and (room := file.relative_to(PACKAGE).parts[0]) in floor
        and (other := name.split(".")[1]) in floor
        and other != room
        and floor[other] >= floor[room]
    ]
    assert upward == []


def test_no_file_imports_itself_through_others() -> None:
    def module(file: Path) -> str:
        inside = file.relative_to(PACKAGE).with_suffix("").parts
        return ".".join(("gan_dist", *inside)).removesuffix(".__init__")

    files = {module(file): file for file in PACKAGE.rglob("*.py")}
    graph = {}
    for name, file in files.items():
        found = imports(file) & files.keys()
        # `from gan_dist.data import order` names the room too, of which only that file is meant.
        graph[name] = {one for one in found if not any(other.startswith(f"{one}.") for other in found)}
    assert graph["gan_dist.evaluation.extractors"]
    TopologicalSorter(graph).prepare()  # raises CycleError


VERBS = sorted(
    str(command.callback.__name__)
    for command in app.registered_commands
    if command.callback and not command.hidden
)


def test_every_verb_has_a_script_and_every_script_is_its_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = PACKAGE.parent / "jobs"
    assert sorted(file.stem for file in jobs.glob("*.py")) == VERBS
    for verb in VERBS:
        script = str(jobs / f"{verb}.py")
        monkeypatch.setattr(sys, "argv", [script, "--help"])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(script)
        assert ended.value.code == 0
        assert f" {verb} [OPTIONS]" in capsys.readouterr().out


def test_the_schema_is_json_and_describes_every_section() -> None:
    result = CliRunner().invoke(app, ["train", "--schema"])
    schema = json.loads(result.output)
    assert {"data", "model", "loss", "optim", "ema", "train", "eval", "scale"} <= set(schema["properties"])
    assert "Learning rate" in result.output


def test_a_dry_run_shows_sizes_and_touches_nothing(tmp_path: Path) -> None:
    arguments = ["train", "digits", "--dry-run", "--json", f"storage={tmp_path}", "train.kimg=10"]
    result = CliRunner().invoke(app, arguments)
    summary = json.loads(result.output.splitlines()[-1])
    assert summary["length"].startswith("10048 images")
    assert summary["placement"].startswith("2 workers of 1 CPUs and 0 GPUs")
    assert summary["generator_parameters"] > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "option"), [("step", "--all"), ("modes", "--real"), ("search", "--all")])
def test_a_part_that_a_benchmark_has_not_is_refused(name: str, option: str) -> None:
    command = typer.Typer()
    command.command()(bench)
    done = CliRunner().invoke(command, [name, option])
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"which {name} has not; leave it out" in done.stderr


def test_bench_says_where_the_benchmarks_are() -> None:
    with pytest.raises(GanDistError, match="python -m benchmarks NAME"):
        CliRunner().invoke(app, ["bench", "step", "--quick", "--out", "x"], catch_exceptions=False)


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gan_dist", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"gan-dist {version('gan-dist')}\n"


def test_the_picture_of_the_rooms_is_that_of_the_imports() -> None:
    assert PICTURE.read_text() == draw(), "python -m tools.architecture"


def test_the_files_that_the_documentation_names_are_there() -> None:
    root = PACKAGE.parent
    pages = [root / "CONTRIBUTING.md", root / "docs" / "architecture.md"]
    named = {
        name
        for page in pages
        for name in re.findall(r"`([a-z_]+/[a-z_0-9/]*\.(?:py|txt|md))`", page.read_text())
    }
    assert len(named) > 20
    assert [name for name in sorted(named) if not any((top / name).exists() for top in (root, PACKAGE))] == []
