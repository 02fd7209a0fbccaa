"""Keys that are `auto`: what machines and clusters give them, what a run recorded, what is refused."""

from __future__ import annotations

import json
import pwd
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from gan_dist.cli import app
from gan_dist.cli.images import read_given
from gan_dist.cli.paths import NO_FID
from gan_dist.cluster.nodes.resources import Node, require_capacity, worker_capacity
from gan_dist.config import RunConfig, config_schema, load_config, to_yaml
from gan_dist.config.load import ConfigBuilder, read_settings
from gan_dist.config.machine import INCEPTION_FILE, INCEPTION_VARIABLE, Machine, choose_extractor
from gan_dist.core import host
from gan_dist.core.errors import CapacityError, ConfigError
from gan_dist.search.plan import plan_search
from tests.support.privileges import permissions

LAPTOP, TWO_CORES = Machine(((8, 0),)), Machine(((2, 0),))
FOUR_GPUS = Machine(((32, 4),), 24 * 10**9)
CLUSTER = Machine(((4, 0), (32, 4), (16, 4)))


@pytest.fixture(autouse=True)
def _no_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)


def on(machine: Machine, *overrides: str, source: str = "shapes") -> ConfigBuilder:
    builder = read_settings(source, overrides)
    builder.machine = lambda: machine
    return builder


def scale(machine: Machine, *overrides: str) -> tuple[int, float, float]:
    """Return workers, CPUs and GPUs of each."""
    found = on(machine, *overrides).config().scale
    return found.workers, found.cpus_per_worker, found.gpus_per_worker


@pytest.mark.parametrize(
    ("machine", "overrides", "expected"),
    [
        (TWO_CORES, [], (1, 2, 0)),
        (Machine(((1, 0),)), [], (1, 1, 0)),
        (LAPTOP, [], (4, 2, 0)),
        (Machine(((6, 0),)), [], (2, 3, 0)),  # 3 do not divide a batch of 64
        (Machine(((64, 0),)), [], (4, 16, 0)),
        (Machine(((8, 0), (8, 0))), [], (4, 2, 0)),  # of one machine
        (Machine(((8, 0), (8, 0))), ["scale.workers=8"], (8, 2, 0)),
        (LAPTOP, ["scale.workers=2"], (2, 4, 0)),
        (LAPTOP, ["scale.cpus_per_worker=1"], (4, 1, 0)),
        (LAPTOP, ["train.batch_size=9"], (3, 2, 0)),
        (LAPTOP, ["train.batch_size=12", "train.accumulate=3", "model.pack=2"], (2, 4, 0)),
        (LAPTOP, ["train.batch_size=12", "model.name=stylegan2"], (3, 2, 0)),
        (LAPTOP, ["train.batch_size=12", "model.name=stylegan2", "model.stddev_group=6"], (2, 4, 0)),
        (TWO_CORES, ["scale.min_workers=2"], (2, 1, 0)),
        (FOUR_GPUS, [], (4, 4, 1)),
        (FOUR_GPUS, ["train.batch_size=63"], (3, 4, 1)),
        (FOUR_GPUS, ["scale.workers=auto", "scale.gpus_per_worker=2"], (2, 4, 2)),
        (FOUR_GPUS, ["scale.gpus_per_worker=0.5"], (1, 4, 0.5)),
        (FOUR_GPUS, ["scale.gpus_per_worker=0"], (4, 8, 0)),
        (FOUR_GPUS, ["scale.workers=8"], (8, 4, 0)),
        (Machine(((2, 4),)), [], (4, 0.5, 1)),
        (CLUSTER, [], (8, 4, 1)),
        (CLUSTER, ["train.batch_size=28"], (7, 4, 1)),
        (Machine(()), [], (1, 1, 0)),
    ],
)
def test_workers_are_what_there_is_room_for(
    machine: Machine, overrides: list[str], expected: tuple[int, float, float]
) -> None:
    assert scale(machine, *overrides) == expected


nodes = st.lists(st.tuples(st.integers(1, 128), st.integers(0, 8)), min_size=1, max_size=4)


@settings(deadline=None)
@given(nodes=nodes, batch=st.integers(1, 300), accumulate=st.integers(1, 3))
def test_what_is_chosen_divides_the_batch_and_can_be_placed(
    nodes: list[tuple[int, int]], batch: int, accumulate: int
) -> None:
    overrides = [f"train.batch_size={batch * accumulate}", f"train.accumulate={accumulate}"]
    found = on(Machine(tuple(nodes)), *overrides).config()
    require_capacity(found.scale, [Node(cpus, gpus) for cpus, gpus in nodes], "it")
    assert batch % found.scale.workers == 0
    if any(gpus for _, gpus in nodes):
        most = sum(gpus for _, gpus in nodes)
        assert found.scale.gpus_per_worker == 1
        assert not any(batch % more == 0 for more in range(found.scale.workers + 1, most + 1))


def test_more_gpus_than_there_are_are_told_with_the_arithmetic() -> None:
    asked = on(FOUR_GPUS, "scale.workers=8", "scale.gpus_per_worker=1").config().scale
    with pytest.raises(CapacityError, match=r"8 x 1 = 8 GPUs.*hold 4 such workers; use scale.workers=4"):
        require_capacity(asked, [Node(32, 4)], "it")


def test_a_trial_is_one_worker_and_gets_a_gpu_where_there_are_some() -> None:
    space = "search={space: {optim.g.lr: [1e-4, 1e-3], train.batch_size: [32, 64]}}"
    for machine, gpus in ((LAPTOP, 0), (FOUR_GPUS, 1)):
        plan = plan_search(on(machine, space))
        for config in (plan.config, plan.trial(3, {"optim.g.lr": 1e-3, "train.batch_size": 32})):
            assert (
                config.scale
                == RunConfig.model_validate(
                    {"name": "x", "data": {"path": "x"}, "scale": {"gpus_per_worker": gpus}}
                ).scale
            )
    assert worker_capacity(plan.config.scale, [Node(32, 4)]) == 4
    assert plan_search(on(FOUR_GPUS, space, "scale.workers=2")).config.scale.workers == 2


def test_presets_with_numbers_keep_them_on_any_machine() -> None:
    for machine in (TWO_CORES, LAPTOP, FOUR_GPUS, CLUSTER):
        for preset in ("digits", "stacked-digits", "search-digits", "celeba64", "ffhq256"):
            assert on(machine, source=preset).config() == load_config(preset)


def test_a_machine_is_looked_at_only_when_every_key_is_right() -> None:
    def unreachable() -> Machine:
        raise AssertionError

    for wrong in ("train.kimg=x", "train.kimgs=1", "scale.workers=automatic", "eval.extractor=3"):
        builder = read_settings("shapes", [wrong])
        builder.machine = unreachable
        with pytest.raises(ConfigError):
            builder.config()
    fixed = ["scale.workers=1", "scale.cpus_per_worker=1", "scale.gpus_per_worker=0"]
    builder = read_settings("shapes", fixed)  # the preset names its extractor
    builder.machine = unreachable
    builder.config()


def test_other_words_are_refused_with_what_is_possible() -> None:
    for key in ("workers", "cpus_per_worker", "gpus_per_worker"):
        with pytest.raises(
            ConfigError, match=rf"scale.{key} must be auto or a (whole )?number .*'automatic'"
        ):
            load_config("shapes", [f"scale.{key}=automatic"])
    with pytest.raises(ConfigError, match=r"train.kimg must be a number greater than 0 .*, not 'auto'"):
        load_config("shapes", ["train.kimg=auto"])


def test_the_schema_admits_auto_and_a_file_may_say_it() -> None:
    workers = config_schema()["$defs"]["ScaleConfig"]["properties"]["workers"]
    assert workers["anyOf"][0] == {"const": "auto"}
    assert workers["default"] == "auto"
    assert "auto" not in json.dumps(config_schema()["$defs"]["ScaleConfig"]["properties"]["wait_s"])
    Path("mine.yaml").write_text(
        "data: {path: builtin://shapes}\nscale: {workers: auto}\neval: {extractor: auto}\n"
    )
    found = on(LAPTOP, source="mine.yaml").config()
    assert (found.scale.workers, found.eval.extractor) == (4, "random")
    Path("again.yaml").write_text(to_yaml(found))
    assert on(FOUR_GPUS, source="again.yaml").config() == found


def test_the_extractor_is_inception_where_its_weights_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chosen(path: str, *overrides: str, machine: Machine = LAPTOP) -> str:
        return on(machine, f"data.path={path}", "eval.extractor=auto", *overrides).config().eval.extractor

    assert chosen("shards/faces") == chosen("builtin://shapes?count=9") == "random"
    assert chosen("builtin://digits") == chosen("builtin://stacked-digits?count=9") == "digits"
    assert chosen("builtin://digits", "eval.inception_weights=x.pth") == "inception"
    downloaded = tmp_path / "torch" / "hub" / "checkpoints" / INCEPTION_FILE
    downloaded.parent.mkdir(parents=True)
    downloaded.touch()
    assert chosen("shards/faces") == "inception"
    assert chosen("shards/faces", machine=CLUSTER) == "random"  # the other nodes have no such file
    monkeypatch.setenv(INCEPTION_VARIABLE, "s3://bucket/weights.pth")
    assert chosen("shards/faces", machine=CLUSTER) == "inception"


def test_a_run_goes_on_with_what_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mine.yaml"
    source.write_text("data: {path: builtin://shapes}\n")
    monkeypatch.setattr(host, "cores", lambda: 8)

    def begin(*overrides: str) -> RunConfig:
        return read_given(str(source), overrides).settings.config()

    begun = begin()
    assert (begun.scale.workers, begun.scale.cpus_per_worker, begun.eval.extractor) == (4, 2, "random")
    assert capsys.readouterr().err == f"{NO_FID}\n"
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(begun))
    monkeypatch.setattr(host, "cores", lambda: 16)
    monkeypatch.setenv(INCEPTION_VARIABLE, "/nodes/weights.pth")
    assert begin() == begun
    assert begin("scale.workers=2").scale.workers == 2
    assert begin("name=other").scale.cpus_per_worker == 4
    assert capsys.readouterr().err == ""
    # A run of 0.1 or 0.2 had one worker of one CPU, and measured by `digits`.
    earlier = (
        to_yaml(begun).replace("workers: 4", "workers: 1").replace("extractor: random", "extractor: digits")
    )
    (folder / "config.yaml").write_text(earlier)
    found = begin()
    assert (found.scale.workers, found.eval.extractor) == (1, "digits")
    (folder / "config.yaml").write_text("data: [")  # `train` says later what is wrong with it
    assert begin().scale.cpus_per_worker == 4


def test_a_dry_run_shows_what_auto_came_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "cores", lambda: 8)
    Path("mine.yaml").write_text("data: {path: 'builtin://shapes?count=64&resolution=16'}\n")
    done = CliRunner().invoke(app, ["train", "mine.yaml", "--dry-run"])
    assert done.exit_code == 0, done.output
    for line in ("  workers: 4", "  cpus_per_worker: 2.0", "  gpus_per_worker: 0.0", "  extractor: random"):
        assert line in done.stdout.splitlines()
    assert "# placement: 4 workers of 2 CPUs and 0 GPUs, 16 images each a batch" in done.stdout
    assert done.stderr == f"{NO_FID}\n"


def test_without_a_home_that_may_be_entered_there_are_no_downloaded_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # a user whom the machine does not know
    assert choose_extractor("faces", weights=False, one_node=True) == "random"
    tmp_path.chmod(0)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with permissions():
        assert choose_extractor("faces", weights=False, one_node=True) == "random"
    tmp_path.chmod(0o700)
