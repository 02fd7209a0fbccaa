"""Configurations that earlier versions wrote, which lack keys of today."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gan_dist.cli.paths import load_run, read_run
from gan_dist.config import RunConfig, flatten, load_config, to_yaml

R3GAN = ["model.name=r3gan", "scale.workers=1"]


def variant(config: RunConfig) -> object:
    return config.model.variant


def earlier(text: str) -> str:
    """A `config.yaml` as version 0.2 wrote it."""
    tree = yaml.safe_load(text)
    del tree["model"]["variant"], tree["model"]["group_width"], tree["ema"]["half_life_start_kimg"]
    return yaml.safe_dump(tree, sort_keys=False)


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """The folder of a run of R3GAN that version 0.2 began."""
    config = load_config("shapes", [*R3GAN, f"storage={tmp_path}", "name=old"])
    (tmp_path / "old").mkdir()
    (tmp_path / "old/config.yaml").write_text(earlier(to_yaml(config)))
    return tmp_path


def test_new_runs_have_the_published_networks_and_others_none(tmp_path: Path) -> None:
    assert variant(load_run("shapes", [*R3GAN, f"storage={tmp_path}"])) == "published"
    assert variant(load_config("shapes", R3GAN)) == "published"
    assert variant(load_config("shapes")) is None
    assert variant(load_config("shapes", [*R3GAN, "model.variant=tanh"])) == "tanh"


def test_what_an_earlier_version_wrote_means_its_networks(begun: Path) -> None:
    written = str(begun / "old/config.yaml")
    assert variant(load_config(written)) == "tanh"
    assert variant(load_config(written, ["name=again"])) == "tanh"
    assert variant(load_run(written, ["name=again"])) == "tanh"
    assert variant(load_config(written, ["model.variant=published"])) == "published"
    assert variant(load_config(written, ["model.name=resnet"])) is None
    again = load_config(written)
    (begun / "new.yaml").write_text(to_yaml(again))
    assert load_config(str(begun / "new.yaml")) == again


def test_the_same_command_goes_on_with_the_networks_of_the_run(begun: Path) -> None:
    command = ["shapes", [*R3GAN, f"storage={begun}", "name=old"]]
    assert variant(load_run(*command)) == "tanh"  # type: ignore[arg-type]
    assert variant(load_run("shapes", [*R3GAN, f"storage={begun}", "name=other"])) == "published"
    recorded = load_config(str(begun / "old/config.yaml"))
    now = load_run(*command)  # type: ignore[arg-type]
    assert {k: v for k, v in flatten(now).items() if k.startswith("model.")} == {
        k: v for k, v in flatten(recorded).items() if k.startswith("model.")
    }


def test_trials_of_an_earlier_search_over_networks_are_alike(tmp_path: Path) -> None:
    """The search's own configuration is of another network, and still says of which time it is."""
    settings = [f"storage={tmp_path}", "scale.workers=1"]
    for name, write in (("old", earlier), ("new", str)):
        (tmp_path / name).mkdir()
        text = write(to_yaml(load_config("shapes", [*settings, f"name={name}"])))
        (tmp_path / name / "config.yaml").write_text(text)
        trial = read_run("shapes", [*settings, f"name={name}"]).with_values({"model.name": "r3gan"})
        assert variant(trial.config()) == {"old": "tanh", "new": "published"}[name]


def test_a_file_by_hand_is_of_today(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {path: builtin://shapes}\nmodel: {name: r3gan, blocks: 2}\n")
    assert variant(load_config(str(tmp_path / "mine.yaml"))) == "published"
