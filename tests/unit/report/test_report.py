"""The page of a run or search: all that was recorded is in it, nothing is loaded, nothing else is written."""

from __future__ import annotations

import base64
import fcntl
import io
import json
import math
import re
import shlex
import shutil
from collections import Counter
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna import create_study
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial
from PIL import Image
from typer.testing import CliRunner

from gan_dist.artifacts.records import METRICS, read_records
from gan_dist.cli import app
from gan_dist.config import load_config, to_yaml
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, GanDistError, StorageError
from gan_dist.core.image_size import ImageSize
from gan_dist.core.images import split_grid
from gan_dist.core.storage.hashed_folder import to_json
from gan_dist.data.batches.loader import open_images
from gan_dist.evaluation.images import RealImages
from gan_dist.report.blocks import Chart, Table
from gan_dist.report.charts import curves
from gan_dist.report.lineage_charts import lineage_blocks
from gan_dist.report.series import Series
from gan_dist.report.trials import full_length
from gan_dist.search.start import begin
from gan_dist.search.study_storage import JOURNAL
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.preflight import require_same_run
from tests.support.reports import CURVES, SMALL, ledger_of, plan_of, search_with
from tests.support.searches import record, trial_uri, write_run

HOSTILE = "</script><script>alert(1)</script><img src=http://example.org/a.png onerror=alert(2)>"
PICTURES = ("data:image/png;base64,", "data:image/webp;base64,")


class Parsed(HTMLParser):
    """What a browser sees of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.marked: list[list[str]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.meters: list[float] = []
        self._text: list[str] | None = None
        self._inside: tuple[str, dict[str, str | None]] = ("", {})
        self._shown: list[str] = []
        self.feed(text)
        self.shown = " ".join("".join(self._shown).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags[tag] += 1
        self.addresses += [given[key] or "" for key in ("src", "href", "action", "data") if key in given]
        if tag == "meter":
            self.meters.append(float(given["value"] or ""))
        self.handlers += [key for key in given if key.startswith("on")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
            if given.get("class") == "marked":
                self.marked.append(self.tables[-1][-1])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self._inside = (tag, given)

    def handle_data(self, data: str) -> None:
        tag, given = self._inside
        if tag == "script":
            self.scripts.append((given, data))
            return
        if tag in ("td", "th"):
            self.tables[-1][-1][-1] += data
        if tag != "style":
            self._shown.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ("", {})

    @property
    def facts(self) -> dict[str, str]:
        """Rows of two cells, by the first."""
        return {row[0]: row[1] for table in self.tables for row in table if len(row) == 2}

    @property
    def figures(self) -> list[dict[str, Any]]:
        return [json.loads(text) for given, text in self.scripts if given.get("type") == "application/json"]

    @property
    def traces(self) -> dict[str, dict[str, Any]]:
        return {
            trace["name"]: trace for figure in self.figures for trace in figure["data"] if "name" in trace
        }

    def group(self, name: str) -> list[dict[str, Any]]:
        """Return the series of a group in a chart's legend."""
        return [one for figure in self.figures for one in figure["data"] if one.get("group") == name]

    @property
    def pictures(self) -> list[Image.Image]:
        found = [one.partition(";base64,")[2] for one in self.addresses if one.startswith(PICTURES)]
        return [Image.open(io.BytesIO(base64.b64decode(one))) for one in found]

    def table(self, first: str) -> list[list[str]]:
        """Return the rows of the table whose head begins with a word, its head left out."""
        (found,) = [table for table in self.tables if table[0][0] == first and len(table[0]) > 3]
        return found[1:]


def page(source: str, folder: Path, *arguments: str) -> Parsed:
    """Call the verb, and see that its page loads nothing and runs nothing but its own."""
    out = folder / "page.html"
    command = ["report", source, "--out", str(out), "--json", *arguments]
    result = CliRunner().invoke(app, command, catch_exceptions=False)
    assert result.exit_code == 0
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["out"], told["bytes"]) == (str(out), out.stat().st_size)
    text = out.read_text()
    parsed = Parsed(text)
    assert len(text.encode()) <= 1_500_000
    assert all(one.startswith((*PICTURES, "#")) or one == "data:," for one in parsed.addresses)
    assert parsed.handlers == []
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'nonce-" in text
    running = [given for given, _ in parsed.scripts if given.get("type") != "application/json"]
    assert len(running) == 2
    assert all(f"'nonce-{given['nonce']}'" in text for given in running)
    return parsed


def contents(folder: str | Path) -> dict[str, tuple[bytes, int]]:
    files = [file for file in Path(folder).rglob("*") if file.is_file()]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


# A run


def test_the_page_of_a_run_has_all_that_it_recorded(trained: str, tmp_path: Path) -> None:
    before = contents(trained)
    seen = page(trained, tmp_path)
    assert contents(trained) == before
    facts, records = seen.facts, read_records(trained)
    assert facts["length"] == "0.256 kimg of 0.256 kimg recorded (100%)"
    assert facts["state"] == "finished: it reached train.kimg"
    evaluations = [one for one in records if "fd_digits" in one]
    assert (len(records), len(evaluations)) == (8, 4)
    best = min(evaluations, key=lambda one: float(one["fd_digits"]))
    assert facts["best fd_digits"].startswith(f"{best['fd_digits']:.6g} after {best['images'] / 1000:g} kimg")
    assert (facts["extractor"], facts["samples"]) == ("digits", "64")
    # Every series is drawn as it was recorded.
    measured = {key for one in records for key, value in one.items() if isinstance(value, float)}
    measured -= {"kimg", "halves", "noise"}
    assert {"fd_digits", "kid_digits", "recall_digits", "loss_d", "augment_p", "weight_norm_g"} <= measured
    assert {"wait_share", "s_per_kimg", "peak_memory_gib"} <= measured
    for key in measured:
        points = [(one["kimg"], float(f"{one[key]:.6g}")) for one in records if key in one]
        assert list(zip(seen.traces[key]["x"], seen.traces[key]["y"], strict=True)) == points
        assert len(points) == (8 if key.startswith(("loss_", "grad_norm_")) else len(points))
    assert (seen.traces["best"]["x"], seen.traces["best"]["y"]) == ([best["kimg"]], [best["fd_digits"]])
    # The noise was measured at evaluations 1, 2 and 4; the band has the last one.
    noises = [one["noise"] for one in evaluations if "noise" in one]
    assert (len(noises), evaluations[3]["noise"]) == (3, noises[-1])
    distance = seen.traces["fd_digits"]
    assert distance["high"][0] / distance["y"][0] == pytest.approx(1 + 2 * noises[-1])
    assert seen.traces["two halves of the reals"]["y"] == [pytest.approx(evaluations[0]["halves"])] * 2


def test_the_distance_has_a_band_of_its_noise_and_the_floor_of_two_halves() -> None:
    series = {"fd_digits": Series([1.0, 2.0, 3.0], [40.0, None, 10.0])}
    figure = json.loads(curves("", "", series, best=(3.0, 10.0), spread=0.05, floor=5.8).figure)
    distance, best, floor = figure["data"]
    assert (distance["low"], distance["high"]) == ([36.0, None, 9.0], [44.0, None, 11.0])
    assert (best["x"], floor["x"], floor["y"], figure["log_y"]) == ([3.0], [1.0, 3.0], [5.8, 5.8], True)
    plain = json.loads(curves("", "", series, best=(3.0, 10.0)).figure)
    assert [one["name"] for one in plain["data"]] == ["fd_digits", "best"]
    assert "low" not in plain["data"][0]


def test_it_shows_what_fixed_latents_became_and_what_was_set(trained: str, tmp_path: Path) -> None:
    seen = page(trained, tmp_path)
    # Four grids, the newest last, the reals, samples with their nearest reals, and the best release's.
    assert len(seen.pictures) == 7
    newest = Image.open(max(Path(trained, "samples").glob("fakes_0*")))
    assert seen.pictures[3].tobytes() == newest.tobytes()
    assert seen.pictures[4].tobytes() == Image.open(Path(trained, "samples/reals.png")).tobytes()
    assert "4 of 4 grids" in seen.shown
    rows = {
        row[0]: row[1:] for table in seen.tables for row in table if table[0] == ["key", "value", "default"]
    }
    assert rows["model.width"] == ["4", "64"]
    assert rows["data.augment"] == ["ada", "none"]
    assert "optim.d.beta1" not in rows  # as its loss has it
    assert seen.facts["optim.d.beta1"] == "0.0"
    assert (
        f"gan-dist train {trained}/config.yaml storage={Path(trained).parent} continue it for" in seen.shown
    )
    assert f"gan-dist best {trained} --to releases/faces" in seen.shown


def test_samples_stand_above_the_training_images_nearest_to_them(trained: str, tmp_path: Path) -> None:
    seen = page(trained, tmp_path)
    reals = RealImages(open_images("builtin://digits"), 16)
    rows = torch.cat([reals.row_group(index)[1].images for index in reals.groups]).flatten(1).int()
    with Image.open(max(Path(trained, "samples").glob("fakes_0*"))) as grid:
        samples = split_grid(grid, ImageSize.of(16), 64)[:, :1]
    for column, sample in enumerate(samples[[round(place * 63 / 7) for place in range(8)]]):
        squares = (rows - sample.flatten().int()).square().sum(1)
        assert f"{(squares.min() / 256) ** 0.5:.3g}" in seen.shown
        for row, expected in enumerate((sample, rows[squares.argmin()].reshape(1, 16, 16))):
            box = (2 + 66 * column, 2 + 66 * row, 66 + 66 * column, 66 + 66 * row)
            shown = seen.pictures[5].convert("L").crop(box).resize((16, 16), Image.Resampling.NEAREST)
            assert shown.tobytes() == expected.numpy().astype("uint8").tobytes()
    elsewhere = tmp_path / "faces"
    shutil.copytree(trained, elsewhere)
    file = elsewhere / "config.yaml"
    file.write_text(file.read_text().replace("builtin://digits", str(tmp_path / "absent")))
    said = f"They were not searched: data.path={tmp_path}/absent holds no image set"
    assert said in page(str(elsewhere), tmp_path).shown


def test_a_copy_is_continued_where_it_lies(trained: str, tmp_path: Path) -> None:
    copy = tmp_path / "old faces" / "copy"
    shutil.copytree(trained, copy)
    seen = page(str(copy), tmp_path)
    command = re.search(r"for longer(gan-dist train .*?)take the best", seen.shown)
    assert command
    _, verb, source, *overrides = shlex.split(command[1])
    assert verb == "train"
    again = load_config(source, overrides)
    assert (again.run_uri, again.train.kimg) == (str(copy), 0.512)
    require_same_run(again, again.run_uri)


def test_a_run_that_has_measured_nothing_says_so(tmp_path: Path) -> None:
    config = load_config("digits", [f"storage={tmp_path}", "name=young"])
    storage.write_bytes(storage.join(config.run_uri, "config.yaml"), to_yaml(config).encode())
    seen = page(config.run_uri, tmp_path)
    assert seen.facts["length"] == "0 kimg of 160 kimg recorded (0%)"
    assert "nobody works on it: interrupted" in seen.facts["state"]
    for said in ("Nothing was measured yet", "Nothing was recorded yet", "No samples yet"):
        assert said in seen.shown
    # An interrupt's record has no measurement.
    interrupted = {"images": 640, "kimg": 0.64, "loss_d": 1.0, "loss_g": None}
    storage.append_text(storage.join(config.run_uri, METRICS), json.dumps(interrupted) + "\n")
    seen = page(config.run_uri, tmp_path)
    assert "Nothing was measured yet" in seen.shown
    assert set(seen.traces) == {"loss_d"}


def test_a_run_that_ended_early_names_the_key_that_ended_it(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    settings = [f"storage={tmp_path}", "name=faces", *SMALL, "eval.target=1000000"]
    config = load_config("digits", settings)
    train(config, LocalContext(config.run_uri))
    seen = page(config.run_uri, tmp_path)
    assert seen.facts["length"].startswith("0.128 kimg of 160 kimg")
    assert seen.facts["state"] == "finished: ended early by eval.target=1e+06"


def test_a_long_run_is_drawn_by_few_points(tmp_path: Path) -> None:
    config = load_config("digits", [f"storage={tmp_path}", "name=dense"])
    uri = config.run_uri
    storage.write_bytes(storage.join(uri, "config.yaml"), to_yaml(config).encode())
    lines = "".join(f'{{"images": {images}, "loss_d": {images}.5}}\n' for images in range(64, 64 * 2501, 64))
    storage.write_bytes(storage.join(uri, METRICS), lines.encode())
    drawn = page(uri, tmp_path).traces["loss_d"]
    assert (len(drawn["y"]), drawn["y"][:2], drawn["points"]) == (500, [64.5, 384.5], 0)


def test_records_with_holes_are_drawn_with_holes(tmp_path: Path) -> None:
    config = load_config("digits", [f"storage={tmp_path}", "name=holes"])
    uri = config.run_uri
    storage.write_bytes(storage.join(uri, "config.yaml"), to_yaml(config).encode())
    lines = [
        '{"images": 64, "fd_digits": 4.0, "modes": 3.0}',
        '{"images": 128, "fd_digits": NaN, "modes": null}',
        '{"images": 192, "fd_di{"images": 192, "fd_digits": 1.0}',
        "[1, 2]",
        '{"fd_digits": 0.5}',
        '{"images": 256, "fd_digits": 3.0, "waited_s": 1.5, "odd": [1], "big": 1' + "0" * 400 + "}",
        '{"images": 320, "fd_digits": 0.25',
    ]
    storage.write_bytes(storage.join(uri, METRICS), "\n".join(lines).encode())
    seen = page(uri, tmp_path)
    assert seen.traces["fd_digits"]["y"] == [4.0, None, 3.0]
    assert seen.traces["modes"]["y"] == [3.0, None]
    assert "waited_s, seconds" in seen.shown
    assert "3 lines of metrics.jsonl are damaged" in seen.shown
    assert seen.facts["best fd_digits"].startswith("3 after 0.256 kimg")


def test_a_long_run_has_few_pictures_evenly_spread_and_not_too_large(tmp_path: Path) -> None:
    config = load_config("digits", [f"storage={tmp_path}", "name=long"])
    uri = config.run_uri
    storage.write_bytes(storage.join(uri, "config.yaml"), to_yaml(config).encode())
    for number in range(1, 62):
        buffer = io.BytesIO()
        Image.new("L", (1500, 1400), 4 * number).save(buffer, format="PNG")
        name = f"fakes_{number * 10:010.3f}.png"
        storage.write_bytes(storage.join(uri, "samples", name), buffer.getvalue())
    seen = page(uri, tmp_path)
    *earlier, newest = [round(picture.convert("L").getpixel((0, 0)) / 4) for picture in seen.pictures]  # type: ignore[operator]
    assert (newest, earlier[0], earlier[-1], len(earlier)) == (61, 1, 60, 23)
    assert {after - before for before, after in pairwise(earlier)} <= {2, 3}
    assert [max(picture.size) for picture in seen.pictures] == [*[512] * 23, 1024]
    assert "24 of 61 grids" in seen.shown
    Path(uri, "samples", "fakes_000610.000.png").write_bytes(b"\x89PNG")
    assert "1 of them cannot be read" in page(uri, tmp_path).shown


# A search


def test_every_trial_of_a_search_is_there_once_and_the_counts_add_up(tmp_path: Path) -> None:
    uri = search_with(plan_of(tmp_path))
    seen = page(uri, tmp_path)
    assert seen.facts["trials"] == "7 of 9 begun = 3 complete + 2 pruned + 1 failed + 1 running"
    rows = seen.table("trial")
    assert [row[0] for row in rows] == [str(number) for number in CURVES]
    states = [row[1] for row in rows]
    assert states == [
        "complete",
        "pruned",
        "failed: NonFiniteError: the loss",
        "complete",
        "pruned",
        "running",
        "complete",
    ]
    assert [row[2] for row in rows] == ["4.5", "25", "12", "3.5", "40", "11", "5.5"]
    assert [row[3] for row in rows] == ["0.32", "0.128", "0.064", "0.32", "0.064", "0.128", "0.32"]
    assert [row[-1] for row in rows] == [f"trials/{number:05d}" for number in CURVES]
    assert seen.marked[0][0] == "3"
    assert seen.facts["best"] == "fd_digits 3.5 of trial 3 after 0.32 kimg"
    assert seen.facts["process"].startswith("none")


def test_what_was_spent_and_saved_is_reckoned_from_the_trials(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "scale.workers=2", "scale.gpus_per_worker=0.5")
    seen = page(search_with(plan), tmp_path)
    assert seen.facts["trained"] == "1.344 kimg = 0.96 complete + 0.192 pruned + 0.064 failed + 0.128 running"
    # Two pruned trials of 320 images trained with 128 and 64.
    saved = "0.448 kimg = 0.64 kimg that 2 pruned trials would have had to their end - 0.192 kimg that they "
    saved += "had; 25%"
    assert seen.facts["saved by stopping early"].startswith(saved)
    # 1344 images at 100 images/s on 2 x 0.5 GPUs.
    hours = 1344 / 100 / 3600
    assert seen.facts["GPU-hours"].startswith(
        f"{hours:.3g} GPU-hours = {hours:.3g} hours of training x 2 workers x 0.5"
    )
    assert seen.facts["GPU-hours saved"].startswith(f"{448 / 100 / 3600:.3g}")
    assert (
        full_length(plan.config.train, plan.config.optim, {"train.kimg": 1.0, "train.batch_size": 100})
        == 1000
    )


def test_curves_and_values_of_all_trials_are_drawn(tmp_path: Path) -> None:
    seen = page(search_with(plan_of(tmp_path)), tmp_path)
    for state, count in (("complete", 3), ("pruned", 2), ("failed", 1), ("running", 1)):
        drawn = seen.group(f"{state} ({count})")
        mine = [curve for told, curve in CURVES.values() if told == state]
        assert len(drawn) == count
        finite = [[value for value in curve.values() if math.isfinite(value)] for curve in mine]
        assert [one["y"] for one in drawn] == finite
    (winner,) = seen.group("the winner, trial 3")
    assert winner["y"] == [*CURVES[3][1].values()]
    best = seen.traces["best so far"]
    assert best["y"] == [9.0, 7.0, 5.0, 4.5, 4.0, 3.5, 3.5]
    assert best["x"][-1] == 1.344
    # What each key did: a point a trial.
    (rate,) = [figure for figure in seen.figures if figure["x"] == "optim.g.lr"]
    assert rate["log_x"]
    assert {one["name"]: sorted(one["y"]) for one in rate["data"]} == {
        "pruned": [25.0, 40.0],
        "failed": [12.0],
        "running": [11.0],
        "complete": [4.5, 5.5],
        "the winner, trial 3": [3.5],
    }
    (loss,) = [figure for figure in seen.figures if figure["x"] == "loss.name"]
    assert loss["ticks"] == ["hinge", "wgan-gp"]
    assert sum(len(one["x"]) for one in loss["data"]) == 7
    assert "optim.g.lr" in seen.shown
    assert math.isclose(sum(seen.meters), 1.0)
    space = {row[0]: row[1] for table in seen.tables for row in table if table[0][0] == "key"}
    assert space["loss.gp"] == "{log: [1.0, 30.0]} when loss.name is wgan-gp"


def test_the_front_of_several_objectives_is_drawn_and_listed(tmp_path: Path) -> None:
    goals = "search.objectives={fd_digits: min, diversity: max, loss_d: {below: 2}}"
    uri = search_with(plan_of(tmp_path, goals))
    for study in (True, False):
        seen = page(uri, tmp_path)
        (drawn,) = [figure for figure in seen.figures if figure["x"] == "fd_digits (min)"]
        words = {one["name"]: one["words"] for one in drawn["data"]}
        assert words["the front"] == ["trial 3", "trial 6"]
        assert sorted(words["dominated"]) == [f"trial {number}" for number in (0, 1, 2, 4, 5)]
        assert words["beyond a constraint"] == []
        (rows,) = [table[1:] for table in seen.tables if table[0][:2] == ["trial", "fd_digits"]]
        assert rows == [["3", "3.5", "0.3", "1"], ["6", "5.5", "0.6", "1"]]
        assert seen.facts["objectives"] == "fd_digits min; diversity max; loss_d below 2"
        if study:
            assert "What matters" in seen.shown or "cannot be said" in seen.shown
            Path(uri, JOURNAL).unlink()


def test_forecasts_are_drawn_beside_what_came(tmp_path: Path) -> None:
    uri = search_with(plan_of(tmp_path))
    made = [{"trials": 4, "images": [800, 900, 1000], "value": None}]
    made += [{"trials": 6, "images": [850, 900, 950], "value": [2.0, 3.0, 3.5]}]
    record = {"metric": "fd_digits", "made": made, "came": {"trials": 9, "images": 910, "value": 3.25}}
    storage.write_bytes(storage.join(uri, "forecast.json"), to_json(record))
    seen = page(uri, tmp_path)
    value, images = [one["data"] for one in seen.figures if one["data"][0]["name"] == "forecast"]
    assert [value[0][key] for key in ("x", "low", "y", "high")] == [[6], [2.0], [3.0], [3.5]]
    assert (images[0]["y"], value[1]["y"], images[1]["y"]) == ([0.9, 0.9], [3.25] * 2, [0.91] * 2)
    Path(uri, "forecast.json").write_text("[")
    assert not [one for one in page(uri, tmp_path).figures if one["data"][0]["name"] == "forecast"]


def test_branches_of_a_population_begin_where_they_were_copied() -> None:
    study = create_study()
    rates = {"optim.g.lr": FloatDistribution(1e-5, 1e-1, log=True)}
    copy = {"name": "00001-1", "member": 1, "values": {"optim.g.lr": 0.002}, "parent": "00000", "images": 128}
    for rate, curve, copied in (
        (0.001, {64: 9.0, 128: 5.0, 192: 4.0}, {}),
        (0.01, {64: 9.5, 128: 30.0, 192: 3.0}, {"decision 128": copy}),
    ):
        given: dict[str, Any] = {"params": {"optim.g.lr": rate}, "distributions": rates, "user_attrs": copied}
        study.add_trial(create_trial(value=1.0, intermediate_values=curve, **given))
    trials = study.get_trials()
    drawn, table = lineage_blocks(trials, "fd_digits", "00001-1")
    assert isinstance(drawn, Chart)
    assert isinstance(table, Table)
    lines = {one["name"]: (one["group"], one["x"], one["y"]) for one in json.loads(drawn.figure)["data"]}
    assert lines == {
        "00000": ("the winner's lineage", [0.064, 0.128, 0.192], [9.0, 5.0, 4.0]),
        "00001": ("other branches", [0.064, 0.128], [9.5, 30.0]),
        "00001-1, copied from 00000": ("the winner's lineage", [0.128, 0.192], [5.0, 3.0]),
    }
    assert table.rows == [["00000", "0", "0.001"], ["00001-1", "0.128", "0.002"]]
    assert lineage_blocks(trials[:1], "fd_digits", "00000") == []


def test_a_search_without_a_whole_release_still_has_its_best(tmp_path: Path) -> None:
    uri = search_with(plan_of(tmp_path))
    for release in Path(uri, "trials").glob("*/best_*/manifest.json"):
        release.unlink()
    seen = page(uri, tmp_path)
    assert seen.facts["best"] == "fd_digits 3.5 of trial 3, of which there is no whole release"
    assert seen.marked[0][0] == "3"
    assert "has no release that is whole" in seen.shown


def test_a_study_is_read_while_another_process_writes_it(tmp_path: Path) -> None:
    uri = search_with(plan_of(tmp_path))
    journal = Path(uri, JOURNAL)
    with journal.open("a") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        writer.write('{"op_code": 4, "worker_')
        writer.flush()
        before = contents(uri)
        seen = page(uri, tmp_path)
        assert contents(uri) == before
    assert seen.facts["trials"].startswith("7 of 9 begun")


def test_what_a_trial_measured_as_it_was_interrupted_is_there(tmp_path: Path) -> None:
    uri = search_with(plan_of(tmp_path))
    for number in (1, 5):
        line = json.dumps(record(192, 2.0))
        storage.append_text(storage.join(trial_uri(uri, number), METRICS), line + "\n")
    seen = page(uri, tmp_path)
    rows = seen.table("trial")
    # The one that was pruned has ended as its study says.
    assert [rows[number][2:4] for number in (1, 5)] == [["25", "0.128"], ["2", "0.192"]]


def test_a_search_that_was_only_just_begun(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    study = ledger_of(plan)
    seen = page(plan.uri, tmp_path)
    assert seen.facts["trials"] == "0 of 9 begun"
    assert "Nothing was measured yet" in seen.shown
    study.next()
    seen = page(plan.uri, tmp_path)
    assert seen.facts["trials"] == "1 of 9 begun = 1 running"
    assert "has no measurement yet" in seen.shown


def test_a_damaged_study_is_refused_by_its_name(tmp_path: Path) -> None:
    uri = search_with(plan_of(tmp_path))
    journal = Path(uri, JOURNAL)
    whole = journal.read_bytes()
    for part, other in (
        (b'{"op_code"', b'{"op_c{'),
        (b'{"op_code":0', b'{"op_code":99'),
        (b'"param_name":"optim.g.lr"', b'"param_name":-Infinity'),
        (b'"step":64', b'"step":1e99'),
        (b'"intermediate_value":9.0', b'"intermediate_value":"9"'),
    ):
        assert part in whole
        journal.write_bytes(whole.replace(part, other, 1))
        with pytest.raises(StorageError, match=rf"{JOURNAL} is damaged"):
            page(uri, tmp_path)


def test_a_space_that_no_search_writes_is_refused(tmp_path: Path) -> None:
    uri = search_with(plan_of(tmp_path))
    journal, search = Path(uri, JOURNAL), Path(uri, "search.json")
    journal.write_bytes(journal.read_bytes().replace(b"FloatDistribution", b"FlatDistribution"))
    with pytest.raises(GanDistError, match=rf"{JOURNAL} is damaged"):
        page(uri, tmp_path)
    journal.unlink()
    search.write_text(json.dumps(json.loads(search.read_text()) | {"space": {"optim.g.lr": {}}}))
    with pytest.raises(CheckpointError, match=r"search\.json is damaged \(no space of a search"):
        page(uri, tmp_path)


def test_a_study_in_a_database_is_read_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    plan = plan_of(tmp_path, f"search.optuna_storage={url}")
    uri = search_with(plan)
    monkeypatch.setenv("STUDY_URL", url)
    seen = page(uri, tmp_path, "--optuna-storage", "env:STUDY_URL")
    assert seen.facts["trials"] == "7 of 9 begun = 3 complete + 2 pruned + 1 failed + 1 running"
    with pytest.raises(StorageError, match="names a variable that is not set"):
        page(uri, tmp_path, "--optuna-storage", "env:OTHER_URL")
    # Without it the trials' folders tell what they know, and no study is made.
    before = contents(uri)
    seen = page(uri, tmp_path)
    assert contents(uri) == before
    assert seen.facts["trials"] == "7 of 9 begun = 7 unknown"
    assert "--optuna-storage env:NAME reads it" in seen.shown
    rows = seen.table("trial")
    assert [row[2] for row in rows] == ["4.5", "25", "12", "3.5", "40", "11", "5.5"]
    assert seen.marked[0][0] == "3"
    other = plan_of(tmp_path / "other", "name=other")
    begin(other, "fd_digits")
    with pytest.raises(StorageError, match="has no study other"):
        page(other.uri, tmp_path, "--optuna-storage", url)
    with pytest.raises(StorageError, match="needs the Python package pymssql; install it"):
        page(uri, tmp_path, "--optuna-storage", "mssql+pymssql://me:pa55@127.0.0.1:1/gan")
    with pytest.raises(StorageError, match="there is no such file"):
        page(uri, tmp_path, "--optuna-storage", f"sqlite:///{tmp_path}/absent.db")
    assert not Path(tmp_path, "absent.db").exists()
    Path(tmp_path, "empty.db").touch()
    with pytest.raises(StorageError, match="there are no studies in it"):
        page(uri, tmp_path, "--optuna-storage", f"sqlite:///{tmp_path}/empty.db")
    assert Path(tmp_path, "empty.db").read_bytes() == b""


def test_repetitions_with_other_seeds_name_the_winner(tmp_path: Path) -> None:
    uri = search_with(plan_of(tmp_path))
    for name, value in (("00000-1", 3.0), ("00003-1", 6.5)):
        write_run(storage.join(uri, "replicates", name), [record(64, 9.0), record(320, value)])
    means = [
        {"trial": 0, "values": [4.5, 3.0]},
        {"trial": 3, "values": [3.5, 6.5]},
    ]
    storage.write_bytes(storage.join(uri, "replicates.json"), to_json(means))
    seen = page(uri, tmp_path)
    assert [row[0] for row in seen.marked] == ["0", "0"]
    assert seen.facts["best"].startswith("fd_digits 4.5 of trial 0")
    flat = [row for table in seen.tables for row in table]
    assert ["0", "3.75", "1.06066", "4.5, 3"] in flat
    assert ["3", "1", "6.5", "0.32", "replicates/00003-1"] in flat
    Path(uri, "replicates.json").write_text('[{"trial": 0}]')
    with pytest.raises(CheckpointError, match=rf"^{uri}/replicates\.json is damaged"):
        page(uri, tmp_path)


# What both have


def test_nothing_that_was_recorded_is_executed(tmp_path: Path) -> None:
    uri = search_with(plan_of(tmp_path), reason=HOSTILE)
    config = load_config(str(Path(uri, "config.yaml")))
    data = config.data.model_copy(update={"path": HOSTILE})
    Path(uri, "config.yaml").write_text(to_yaml(config.model_copy(update={"data": data})))
    seen = page(uri, tmp_path)
    assert seen.table("trial")[2][1] == f"failed: {HOSTILE}"
    assert ["data.path", HOSTILE, ""] in [row for table in seen.tables for row in table]
    run = trial_uri(uri, 0)
    Path(run, "config.yaml").write_text(to_yaml(config.model_copy(update={"data": data})))
    line = {"images": 384, "extractor": HOSTILE, HOSTILE: 1.5}
    storage.append_text(storage.join(run, METRICS), json.dumps(line) + "\n")
    seen = page(run, tmp_path)
    assert seen.facts["extractor"] == HOSTILE
    assert [name for name in seen.traces if "alert" in name] == [HOSTILE]
    assert seen.tags["img"] == 0


def test_pages_are_written_from_a_bucket_into_a_bucket(bucket: str, trained: str, tmp_path: Path) -> None:
    # Few files, since this store takes a tenth of a second for each.
    few = shutil.copytree(
        trained, tmp_path / "few", ignore=shutil.ignore_patterns("checkpoint_*", "tensorboard")
    )
    storage.copy_tree(search_with(plan_of(tmp_path), trials=2), f"{bucket}/runs/hunt")
    storage.copy_tree(str(few), f"{bucket}/runs/faces")
    before = {name: storage.list_names(f"{bucket}/runs/{name}") for name in ("hunt", "faces")}
    for name, fact in (("hunt", "2 of 9 begun = 1 complete"), ("faces", "finished")):
        out = f"{bucket}/pages/{name}.html"
        command = ["report", f"{bucket}/runs/{name}", "--out", out]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0
        assert f"runs/{name} is in {out}" in result.stdout
        assert fact in storage.read_text(out)
        assert storage.list_names(f"{bucket}/runs/{name}") == before[name]


def test_what_is_neither_a_run_nor_a_search_is_refused(trained: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is neither a search nor a run"):
        page(str(tmp_path), tmp_path)
    release = next(Path(trained).glob("best_*"))
    with pytest.raises(CheckpointError, match="is neither a search nor a run"):
        page(str(release), tmp_path)
    with pytest.raises(StorageError, match=r"metrics\.jsonl is a file"):
        page(f"{trained}/{METRICS}", tmp_path)
    with pytest.raises(GanDistError, match="is a run, which has no study; leave it out"):
        page(trained, tmp_path, "--optuna-storage", "env:STUDY_URL")
    with pytest.raises(GanDistError, match=r"metrics\.jsonl: what is written is an HTML page"):
        page(trained, tmp_path, "--out", f"{trained}/metrics.jsonl")
    assert not re.search("<html", Path(trained, METRICS).read_text())
    assert list(tmp_path.iterdir()) == []
