"""Generators measured: numbered images, statistics kept beside the set, a release assessed."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from gan_dist.cli import app
from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.errors import CapacityError, DataError, NonFiniteError
from gan_dist.data.batches.loader import open_images
from gan_dist.data.builtin import DIGITS
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import write_set
from gan_dist.data.shards.verify import Without
from gan_dist.evaluation.assess import assess
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.extractors.digits import load_digits
from gan_dist.evaluation.images import BLOCK, GeneratedImages, RealImages, block_slices
from gan_dist.evaluation.metrics.class_scores import DigitModes
from gan_dist.evaluation.reference import Reference, ReferenceCache, statistics_key
from gan_dist.evaluation.scores import compute_scores, require_possible, score_names
from gan_dist.evaluation.statistics import FeatureStatistics, stored_features
from gan_dist.evaluation.tasks import Request, Task, run_here
from gan_dist.models import release
from gan_dist.models.generator import pieces
from gan_dist.training.context import LocalContext
from gan_dist.training.evaluator import Evaluator, Measurement
from gan_dist.training.preflight import prepare
from tests.support.gloo import run_gloo
from tests.support.parts import Exhausting
from tests.support.releases import request_of, untrained

pytestmark = pytest.mark.usefixtures("no_network")

CPU = torch.device("cpu")
ALL = ("kid", "is", "pr", "dc", "memorisation")


@pytest.fixture
def digits(tmp_path: Path) -> str:
    """The digits as a user's own set, of 1,797 images in 15 row groups."""
    shutil.copytree(DIGITS, tmp_path / "digits")
    return str(tmp_path / "digits")


class Sparse(nn.Module):
    """A generator of 8x8 images: a line across noise; `nan_after` calls, it breaks."""

    def __init__(self, nan_after: int | None = None) -> None:
        super().__init__()
        self.left = nan_after

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        images = latents.repeat(1, 64 // latents.shape[1]).view(-1, 1, 8, 8).tanh()
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                images[3, 0, 0, 0] = torch.nan
        return images


# Numbered images


def test_an_image_does_not_depend_on_how_many_are_asked_for() -> None:
    fakes = GeneratedImages(Sparse(), 4, 8, None, seed=3)
    whole = torch.cat([fakes.block(index, CPU)[part] for index, part in block_slices(0, 1000)])
    some = torch.cat([fakes.block(index, CPU)[part] for index, part in block_slices(BLOCK, 700)])
    assert whole.shape == (1000, 1, 8, 8)
    assert torch.equal(some, whole[BLOCK:700])
    assert not torch.equal(whole[:BLOCK], replace(fakes, draw=1).block(0, CPU))
    assert not torch.equal(whole[:BLOCK], replace(fakes, seed=4).block(0, CPU))


class Wide(nn.Module):
    """Images of a resolution, each of one grey; it notes how many it is asked for at a time."""

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.asked: list[int] = []

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        self.asked.append(len(latents))
        grey = (latents[:, :1] / 9 + labels[:, None] / 99)[:, :, None, None]
        return grey.expand(-1, 1, self.resolution, self.resolution)


@pytest.mark.parametrize(("resolution", "at_a_time"), [(8, 256), (128, 256), (256, 64), (1024, 8)])
def test_large_images_are_made_a_few_at_a_time(resolution: int, at_a_time: int) -> None:
    count = 2 * at_a_time
    latents, labels = torch.randn(count, 4), torch.arange(count) % 10
    generator = Wide(resolution)
    made = torch.cat([images[..., 0, 0] for images in pieces(generator, latents, labels, resolution**2)])
    assert generator.asked == [at_a_time] * 2
    assert torch.equal(made, Wide(1)(latents, labels)[..., 0, 0])


def test_a_block_of_large_images_is_that_of_small_ones() -> None:
    classes, generator = torch.ones(3), Wide(256)
    large = GeneratedImages(generator, 4, 256, classes, seed=3).block(1, CPU)
    assert generator.asked == [64] * 4
    assert large.shape == (BLOCK, 1, 256, 256)
    assert torch.equal(large[..., :1, :1], GeneratedImages(Wide(1), 4, 1, classes, seed=3).block(1, CPU))


def test_a_generator_that_is_not_finite_is_refused_with_its_images() -> None:
    fakes = GeneratedImages(Sparse(nan_after=1), 4, 8, None, seed=0)
    fakes.block(0, CPU)
    with pytest.raises(NonFiniteError, match=r"generated images 256 to 511 .*earlier checkpoint"):
        fakes.block(1, CPU)


def test_real_images_are_numbered_as_the_set_lists_them(digits: str) -> None:
    reals = RealImages(open_images(digits), 8)
    listed = torch.cat([reals.row_group(index)[1].images for index in reals.groups])
    assert len(listed) == reals.total == 1797
    for number in (0, 127, 128, 1000, 1796):
        assert torch.equal(reals.image(number), listed[number])


# Statistics beside the set


def computed(path: str, keep: int = 0) -> Reference:
    extractor, reals = load_digits(CPU), RealImages(open_images(path), 8)
    statistics = FeatureStatistics.empty(
        extractor, reals.total, stored=keep, image_values=64, classes=10, device=CPU
    )
    statistics.add_row_groups(extractor, reals, reals.groups)
    return Reference.of(statistics)


def test_statistics_are_kept_and_come_back_to_the_bit(digits: str) -> None:
    extractor = load_digits(CPU)
    cache = ReferenceCache(digits, statistics_key(open_images(digits), extractor, 8, 50))
    assert cache.load() is None
    reference = computed(digits, keep=50)
    assert cache.save(reference) is None
    again = cache.load()
    assert again is not None
    assert (again.moments.count, again.distance) == (1797, reference.distance)
    for name in ("labels", "features", "numbers"):
        assert torch.equal(getattr(again, name), getattr(reference, name))
    assert torch.equal(again.moments.mean, reference.moments.mean)
    assert torch.equal(again.moments.m2, reference.moments.m2)


def test_any_change_misses(digits: str) -> None:
    images, extractor = open_images(digits), load_digits(CPU)

    def other(name: str) -> dict[str, str | int]:
        changed = load_digits(CPU)
        setattr(changed, name, "another")
        return statistics_key(images, changed, 8, 0)

    ReferenceCache(digits, statistics_key(images, extractor, 8, 0)).save(computed(digits))
    key = statistics_key(images, extractor, 8, 0)
    assert ReferenceCache(digits, key).load() is not None
    for name in key:
        assert ReferenceCache(digits, {**key, name: "another"}).load() is None, name
    # What a user would change ends up in the key.
    others = [
        statistics_key(images, extractor, 16, 0),
        statistics_key(images, extractor, 8, 10),
        *(other(name) for name in ("name", "hash", "layer", "resize")),
        statistics_key(Without(images, [2]), extractor, 8, 0),
        statistics_key(Without(images, [3]), extractor, 8, 0),
    ]
    found = open_images(digits)
    found.manifest = images.manifest.model_copy(update={"count": 5})
    others.append(statistics_key(found, extractor, 8, 0))
    assert len({json.dumps(one) for one in [key, *others]}) == len(others) + 1


def test_damaged_statistics_count_as_none(digits: str) -> None:
    cache = ReferenceCache(digits, statistics_key(open_images(digits), load_digits(CPU), 8, 0))
    cache.save(computed(digits))
    (file,) = Path(digits).glob("statistics/*/statistics.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert cache.load() is None


def test_a_set_that_cannot_be_written_to_is_no_obstacle(digits: str) -> None:
    Path(digits, "statistics").write_text("a file where a folder would be")
    cache = ReferenceCache(digits, statistics_key(open_images(digits), load_digits(CPU), 8, 0))
    warning = cache.save(computed(digits))
    assert warning is not None
    assert "computed anew each time" in warning


def test_a_set_without_differences_is_refused() -> None:
    extractor = load_digits(CPU)
    statistics = FeatureStatistics.empty(extractor, 20, stored=0, image_values=64, device=CPU)
    statistics.add(extractor, 0, torch.full((20, 1, 8, 8), 9, dtype=torch.uint8), None, "real")
    with pytest.raises(DataError, match="all 20 images of the set have the same features"):
        Reference.of(statistics)


def test_a_second_run_does_not_read_the_set_again(digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(digits)
    first = Evaluator(settings, open_images(digits), LocalContext("unused"))
    images = open_images(digits)
    monkeypatch.setattr(images, "read_group", lambda group: pytest.fail(f"read group {group}"))
    second = Evaluator(settings, images, LocalContext("unused"))
    assert (second(Sparse()), second.settings) == (first(Sparse()), first.settings)
    assert first.settings["halves"] == pytest.approx(5.786, abs=0.001)  # benchmarks/halves.jsonl: 5.790


# Ranks


def config(path: str, *overrides: str) -> RunConfig:
    every = ["eval.metrics=[kid,is,pr,dc,memorisation]", "eval.samples=700", "model.latent_dim=4", "name=x"]
    return load_config("digits", [f"data.path={path}", *every, *overrides])


def measured(settings: RunConfig) -> Measurement:
    torch.set_num_threads(1)
    images = open_images(settings.data.path)
    return Evaluator(settings, images, LocalContext("unused"))(Sparse())


@pytest.mark.parametrize("world_size", [4, pytest.param(2, marks=pytest.mark.soak)])
def test_all_metrics_of_several_ranks_are_those_of_one(world_size: int) -> None:
    settings = config("builtin://digits")
    one = measured(settings)
    scores = ("kid", "is", "precision", "recall", "density", "coverage", "fd")
    others = {"diversity", "modes", "copying_z", "copied_share"}
    assert set(one.figures) == {f"{name}_digits" for name in scores} | others
    for found in run_gloo(measured, world_size, settings):  # three blocks: of four ranks one has none
        assert found.figures == pytest.approx(one.figures, rel=1e-9)


def test_too_few_images_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    settings = config("builtin://digits", "eval.samples=63")
    with caplog.at_level(logging.WARNING, "gan_dist"):
        Evaluator(settings, open_images(settings.data.path), LocalContext("unused"))
    assert "63 images are fewer than the extractor's 64 features" in caplog.text
    assert "rank 62" in caplog.text


def test_what_an_extractor_cannot_tell_is_refused() -> None:
    with pytest.raises(DataError, match="`is` needs class probabilities and the extractor random has none"):
        require_possible(load_extractor("random", CPU), ("is",), 10)
    require_possible(load_extractor("random", CPU), ("kid",), 10)


def test_a_set_of_one_image_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    rows = Rows(torch.zeros(1, 8 * 8, dtype=torch.uint8).numpy(), None)
    write_set(str(tmp_path / "one"), iter([rows]), group_rows=1, height=8, width=8, channels=1)
    one = config(str(tmp_path / "one"), f"storage={tmp_path}/runs", "eval.metrics=[]")
    with pytest.raises(DataError, match=r"needs at least 2 .* of one kind there is 1; take a larger set"):
        prepare(one)


@pytest.mark.parametrize(("metric", "fewest"), [("is", 10), ("pr", 4), ("dc", 6), ("kid", 2)])
def test_too_few_images_for_a_metric_are_refused_before_anything_is_computed(
    trained: str, metric: str, fewest: int
) -> None:
    with pytest.raises(DataError, match=f"`{metric}` needs at least {fewest} generated"):
        assess(replace(request_of(trained, (metric,)), samples=fewest - 1), run_here)
    assert assess(replace(request_of(trained, (metric,)), samples=fewest), run_here).figures


# Releases


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    return untrained(tmp_path_factory.mktemp("run"))


def test_an_assessment_tells_means_spreads_and_conditions(trained: str) -> None:
    seen: list[tuple[int, int]] = []
    found = assess(
        replace(request_of(trained, ALL), repeats=3), run_here, lambda *progress: seen.append(progress)
    )
    figures = found.figures
    values = []
    for draw in range(3):
        settings = load_config("digits", ["eval.samples=600", "seed=1"])
        evaluator = Evaluator(settings, open_images("builtin://digits"), LocalContext("unused"))
        values.append(evaluator(release.load(trained).generator, draw).distance)
    mean = sum(values) / 3
    assert figures["fd_digits"] == pytest.approx(mean, rel=1e-9)
    spread = (sum((value - mean) ** 2 for value in values) / 2) ** 0.5
    assert figures["fd_digits_std"] == pytest.approx(spread, rel=1e-6)
    assert figures["samples"] == 600
    assert figures["extractor_sha256"] == load_digits(CPU).hash
    for name in ("fd_digits_infinity", "kid_digits", "is_digits", "precision_digits", "coverage_digits"):
        assert isinstance(figures[name], float)
    assert figures["copying_reference"] == "leave-one-out"
    assert found.nearest is not None
    assert seen[-1] == (1797 + 3 * 600 + 1797,) * 2
    assert seen == sorted(seen)


def test_another_seed_draws_other_images_and_the_same_one_the_same(trained: str) -> None:
    first, again, other = (
        assess(replace(request_of(trained), seed=seed), run_here).figures["fd_digits"] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_conditional_release_is_asked_for_classes_as_often_as_the_set_has_them(tmp_path: Path) -> None:
    rows = open_images("builtin://digits").read_group(0)
    assert rows.labels is not None
    few = Rows(rows.pixels, np.minimum(rows.labels, 2))
    uri, classes = str(tmp_path / "few"), tuple(map(str, range(10)))
    write_set(uri, iter([few]), group_rows=64, height=8, width=8, channels=1, classes=classes)
    made = untrained(tmp_path, "model.conditional=true")
    found = assess(request_of(made, data=uri), run_here)
    asked_for = ["model.conditional=true", "eval.samples=600", "seed=1", f"data.path={uri}"]
    settings = load_config("digits", asked_for)
    evaluator = Evaluator(settings, open_images(uri), LocalContext("unused"))
    asked = evaluator(release.load(made).generator)
    assert found.figures["fd_digits"] == pytest.approx(asked.distance, rel=1e-9)


def test_a_set_that_was_not_trained_on_is_held_out(trained: str, tmp_path: Path) -> None:
    negatives = Rows(255 - open_images("builtin://digits").read_group(0).pixels, None)
    write_set(str(tmp_path), iter([negatives]), group_rows=64, height=8, width=8, channels=1, classes=None)
    found = assess(request_of(trained, ("memorisation",), str(tmp_path)), run_here)
    assert found.figures["copying_reference"] == "held-out"


def test_copying_in_training_is_that_of_an_evaluation_where_the_set_has_no_more_images(trained: str) -> None:
    settings = load_config("digits", ["eval.samples=1797", "seed=1", "eval.metrics=[memorisation]"])
    evaluator = Evaluator(settings, open_images("builtin://digits"), LocalContext("unused"))
    asked = evaluator(release.load(trained).generator).figures
    found = assess(replace(request_of(trained, ("memorisation",)), samples=1797), run_here).figures
    for name in ("copying_z", "copied_share"):
        assert asked[name] == pytest.approx(found[name], rel=1e-9)


def test_a_copy_of_the_training_set_is_the_training_set(trained: str, digits: str) -> None:
    here_and_there = [
        assess(request_of(trained, ("memorisation",), data), run_here).figures
        for data in ("builtin://digits", digits)
    ]
    for figures in here_and_there:
        assert figures["copying_reference"] == "leave-one-out"
    assert here_and_there[0]["copying_z"] == here_and_there[1]["copying_z"]


def test_a_set_without_the_classes_of_a_conditional_generator_is_refused(tmp_path: Path) -> None:
    made = untrained(tmp_path, "model.conditional=true")
    with pytest.raises(DataError, match=r"have 5 classes and the generator's have 10, .* with the labels"):
        assess(request_of(made, data="builtin://digits?classes=5-9"), run_here)


def test_another_number_of_channels_is_refused(trained: str) -> None:
    with pytest.raises(DataError, match="have 3 channels and the generator's have 1; pack the set with"):
        assess(request_of(trained, data="builtin://shapes?count=64&resolution=8"), run_here)


@pytest.mark.parametrize(
    ("metrics", "remedy"),
    [
        ((), "use --gpus-per-worker 1 where workers share a GPU"),
        (("kid", "pr"), "use fewer of --metrics fid,kid,pr, --samples below 600, --gpus-per-worker 1"),
    ],
)
def test_an_evaluation_that_memory_does_not_hold_names_what_makes_it_smaller(
    metrics: tuple[str, ...], remedy: str, trained: str, tmp_path: Path
) -> None:
    def run_tasks(request: Request, tasks: Sequence[Task]) -> Iterator[object]:
        return run_here(request, [Exhausting(tmp_path) for _ in tasks])

    asked = f"--metrics {','.join(('fid', *metrics))} with --samples 600"
    with pytest.raises(
        CapacityError, match=rf"{asked} \(torch says: .*Tried to allocate 2\.00 GiB.*{remedy}"
    ):
        assess(request_of(trained, metrics), run_tasks)


def test_a_release_and_its_set_are_reached_by_the_backend_that_is_asked_for(
    trained: str, bucket: str
) -> None:
    storage.copy_tree(trained, f"{bucket}/run")
    storage.copy_tree(str(DIGITS), f"{bucket}/digits")
    chosen = ["--backend", "s3fs", "--data", f"{bucket}/digits", "--samples", "64"]
    result = CliRunner().invoke(app, ["evaluate", f"{bucket}/run", *chosen])
    assert result.exit_code == 0, result.output
    assert storage.options().backend == "s3fs"


def test_the_command_prints_figures_and_writes_the_picture(trained: str, tmp_path: Path) -> None:
    picture = tmp_path / "nearest.png"
    arguments = [trained, "--samples", "300", "--metrics", "fid,pr,memorisation", "--out", str(picture)]
    arguments += ["--extractor", "auto"]
    result = CliRunner().invoke(app, ["evaluate", *arguments, "--json"])
    found = json.loads(result.stdout.splitlines()[-1])
    assert {"fd_digits", "precision_digits", "copying_z", "extractor", "samples"} <= set(found)
    assert found["nearest"] == str(picture)
    assert Image.open(picture).width > 8 * 64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metrics", "fid,kdi"], "kdi is not one of fid, kid, is, pr, dc, memorisation"),
        (["--extractor", "digit"], "the nearest is digits"),
        (["--extractor", "inception"], "GAN_DIST_INCEPTION_WEIGHTS"),
        (["--extractor", "random", "--metrics", "is"], "has none"),
        (["--data", "nowhere"], "nowhere holds no image set"),
        (["--samples", "4", "--metrics", "dc"], "needs at least 6 generated"),
        (["--samples", "4", "--metrics", "is"], "needs at least 10 generated"),
        (["--workers", "9999"], "--workers 9999 needs 9999 x 1 = 9999 CPUs; this machine has"),
        (
            ["--gpus-per-worker", "1.5"],
            "--gpus-per-worker 1.5: Ray reserves a part of one GPU, or whole ones",
        ),
        (["--gpus-per-worker", "99"], "needs 1 x 1 = 1 CPUs and 1 x 99 = 99 GPUs; this machine has"),
        (["--cpus-per-worker", "9999"], "needs 1 x 9999 = 9999 CPUs; this machine has"),
        (
            ["--metrics", "memorisation", "--out", f"{__file__}/a.png", "--data", "nowhere"],
            "a file, or in one",
        ),
        (["--out", "nearest.jpg"], "--out nearest.jpg: pictures are written as PNG, not .jpg"),
    ],
)
def test_what_cannot_be_measured_is_said(
    trained: str, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    result = CliRunner().invoke(app, ["evaluate", trained, *arguments])
    assert result.exit_code != 0
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("option", "values"), [("--cpus-per-worker", "0 -1 nan inf"), ("--gpus-per-worker", "-1 nan inf")]
)
def test_numbers_out_of_range_are_refused(option: str, values: str) -> None:
    for value in values.split():
        result = CliRunner().invoke(app, ["evaluate", "runs/digits", option, value])
        assert (result.exit_code, option in result.stderr) == (2, True)


def test_features_are_kept_only_for_metrics_that_need_them() -> None:
    assert stored_features((), 100) == stored_features(("is",), 100) == 0
    assert stored_features(("is", "dc"), 100) == 100
    assert stored_features(("kid",), 10**6) == 10_000


def test_merged_statistics_are_those_of_all_their_images() -> None:
    extractor, (_, batch) = load_digits(CPU), RealImages(open_images("builtin://digits"), 8).row_group(0)
    images, labels = batch.images, batch.labels
    assert labels is not None

    def statistics(start: int, stop: int) -> FeatureStatistics:
        found = FeatureStatistics.empty(
            extractor,
            len(images),
            stored=50,
            image_values=64,
            classes=10,
            inception_score=True,
            modes=DigitModes(extractor, 1, CPU),
            device=CPU,
        )
        found.add(extractor, start, images[start:stop], labels[start:stop], "real")
        return found

    def parts(found: FeatureStatistics) -> list[Tensor]:
        assert found.modes
        assert found.inception_score
        assert found.reservoir
        return [
            found.moments.mean,
            found.spread.sums,
            found.labels,
            found.modes.sums,
            found.inception_score.scores,
            found.reservoir.features,
        ]

    merged, whole = statistics(0, 100), statistics(0, len(images))
    merged.merge(statistics(100, len(images)))
    torch.testing.assert_close(parts(merged), parts(whole))


def test_golden_numbers() -> None:
    """Odd digits against even ones, of the set's order: what a change of a metric would change."""
    extractor, images = load_digits(CPU), RealImages(open_images("builtin://digits"), 8)
    listed = torch.cat([images.row_group(index)[1].images for index in images.groups])
    halves = []
    for half in (listed[::2], listed[1::2]):
        statistics = FeatureStatistics.empty(
            extractor, len(half), stored=len(half), image_values=64, inception_score=True, device=CPU
        )
        statistics.add(extractor, 0, half, None, "real")
        halves.append(statistics)
    found = compute_scores(halves[1], Reference.of(halves[0]), extractor, ("kid", "is", "pr", "dc"))
    assert found == pytest.approx(GOLDEN, rel=1e-4)
    assert {*found} == {*score_names(extractor, ("kid", "is", "pr", "dc"), modes=False)}


GOLDEN = {
    "fd_digits": 3.6006402,
    "diversity": 1.0019295,
    "is_digits": 8.9887302,
    "kid_digits": -16.251207,
    "precision_digits": 0.90534521,
    "recall_digits": 0.91323693,
    "density_digits": 0.97906459,
    "coverage_digits": 0.94994438,
}
