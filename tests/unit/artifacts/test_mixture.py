"""A mixture of a search's generators: its distance, its choice, its files, and that all verbs take it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import gan_dist
from gan_dist.artifacts import directions, points, walks
from gan_dist.artifacts.inversion import invert, psnr
from gan_dist.artifacts.model_card import model_card
from gan_dist.artifacts.publish import find_release
from gan_dist.artifacts.sampling import images_of_seeds, interpolate
from gan_dist.cli import app
from gan_dist.config.init import InitConfig
from gan_dist.core import rng
from gan_dist.core.errors import CheckpointError, DataError, GanDistError
from gan_dist.evaluation.assess import assess
from gan_dist.evaluation.metrics.distances import frechet_distance
from gan_dist.evaluation.metrics.moments import Moments
from gan_dist.evaluation.mixture import choose
from gan_dist.evaluation.tasks import EvaluationWorker, MeasureGenerated, run_here
from gan_dist.models.generator import Release
from gan_dist.models.mixture import Mixture
from gan_dist.models.transfer import read_source
from tests.support.releases import mixture_of, request_of, rewrite
from tests.support.searches import as_trial, files, measured_run, write_search

ALIKE = ["eval.samples=256", "model.width=4", "model.max_width=8"]
TRIALS = [[], ["model.latent_dim=16"], ["model.name=dcgan", "model.latent_dim=8"]]


def search_of(folder: Path, trials: list[list[str]]) -> str:
    """Write a search whose trials have untrained generators."""
    search = str(folder / "search")
    write_search(search)
    for number, settings in enumerate(trials):
        run = measured_run(folder / f"runs{number}", *ALIKE, *settings, seed=number)
        as_trial(run, search, number)
    return search


def call(*arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, [*arguments, "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return told


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> str:
    return search_of(tmp_path_factory.mktemp("searches"), TRIALS)


@pytest.fixture(scope="module")
def written(search: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    to = tmp_path_factory.mktemp("releases") / "mixture"
    call("best", search, "--mixture", "3", "--to", str(to))
    return to


@pytest.fixture(scope="module")
def mixed(search: str, tmp_path_factory: pytest.TempPathFactory) -> Release:
    """A mixture of all trials by halves, thirds and sixths."""
    runs = [f"{search}/trials/{number:05d}" for number in range(len(TRIALS))]
    to = tmp_path_factory.mktemp("releases") / "thirds"
    return gan_dist.load(mixture_of(runs, (1 / 2, 1 / 3, 1 / 6), to))


def test_the_card_of_a_mixture_says_the_same_at_another_place(written: Path) -> None:
    found, name = find_release(str(written)), "hf://ann/mixed"
    before, after = ((written / "README.md").read_text(), model_card(found, name))
    assert (
        before.replace('"mixture"', f'"{name}"')
        .replace("sample mixture", f"sample {name}")
        .replace("evaluate mixture", f"evaluate {name}")
        .replace("export mixture", f"export {name}")
        == after
    )
    assert "pipeline_tag: unconditional-image-generation\n" in after
    assert found.metric == "fd_digits"


def features(count: int, seed: int) -> Tensor:
    """Return features that are skewed, and of another mean and covariance for each seed."""
    across = rng.normal((6, 6), seed, "across")
    return rng.normal((count, 6), seed, "features").exp() @ across + 10 * seed


def test_moments_of_a_mixture_are_those_of_mixed_features() -> None:
    counts, real = (700, 200, 100), Moments.of(features(500, 9))
    parts = [features(count, seed) for seed, count in enumerate(counts)]
    mixed = Moments.mixed([Moments.of(part) for part in parts], [count / 1000 for count in counts])
    together = Moments.of(torch.cat(parts))
    assert mixed.count == 1000
    measured = frechet_distance(together, real)
    assert frechet_distance(mixed, real) == pytest.approx(measured, rel=1e-12)
    # Weights that are not those of the counts: each part as often as its weight says.
    again = Moments.of(torch.cat([*[parts[0]] * 2, *[parts[1]] * 7, *[parts[2]] * 14]))
    equal = Moments.mixed([Moments.of(part) for part in parts], [1 / 3] * 3)
    assert frechet_distance(equal, real) == pytest.approx(frechet_distance(again, real), rel=1e-3)


def test_the_choice_is_about_as_near_as_any_weights() -> None:
    parts = [features(400, seed) for seed in range(4)]
    candidates = [Moments.of(part) for part in parts]
    real = Moments.of(torch.cat([parts[1], parts[2], parts[2], parts[3]]))
    weights, distance = choose(candidates, real, most=3)
    assert list(weights.values()) == sorted(weights.values(), reverse=True)
    assert sum(weights.values()) == pytest.approx(1)
    alone = min(frechet_distance(one, real) for one in candidates)
    assert weights.keys() == {1, 2, 3}
    assert distance < 0.01 * alone
    two, farther = choose(candidates, real, most=2)
    assert len(two) == 2
    assert distance < farther < alone


def test_each_image_is_made_by_one_member_as_often_as_its_weight_says(mixed: Release) -> None:
    mixture = mixed.generator
    assert isinstance(mixture, Mixture)
    picked = mixture.picked(rng.normal((60_000, mixed.latent_dim), 0, "many"))
    shares = torch.bincount(picked) / len(picked)
    assert torch.allclose(shares, torch.tensor([1 / 2, 1 / 3, 1 / 6]), atol=0.01)
    assert mixed.latent_dim == 33
    latents = mixed.latents(range(40), seed=3)
    images = mixture(latents)
    for row, number in enumerate(mixture.picked(latents).tolist()):
        member = mixture.members[number]
        alone = member(latents[row : row + 1, : mixture.latent_dims[number]])
        assert torch.allclose(images[row : row + 1], alone, atol=1e-5)


def test_a_seeds_image_is_the_same_in_any_batch_and_in_parts_of_an_evaluation(written: Path) -> None:
    release = gan_dist.load(str(written))
    whole = release.sample(20, seed=5)
    for count in (1, 7, 13):
        assert torch.equal(release.sample(count, seed=5), whole[:count])
    assert torch.equal(torch.cat([*release.stream(20, 5, first=11)]), whole[11:])
    assert torch.equal(next(images_of_seeds(release, [5])), whole[0])
    worker = EvaluationWorker(request_of(str(written)), gpu=False)
    cuts = [
        MeasureGenerated(0, start, stop, torch.empty(0)) for start, stop in ((0, 600), (0, 256), (256, 600))
    ]
    at_once, *parts = (cut(worker) for cut in cuts)
    assert torch.equal(at_once.spread.sums, parts[0].spread.sums + parts[1].spread.sums)


def test_a_release_of_a_mixture_is_measured_as_its_members_moments_say(written: Path) -> None:
    described = json.loads((written / "mixture.json").read_text())
    assert len(described["members"]) >= 2
    for number, member in enumerate(described["members"]):
        own = (Path(member["source"]) / "generator.safetensors").read_bytes()
        assert (written / f"member-{number}.safetensors").read_bytes() == own
    assert described["held_out"] < described["single"]
    assert described["held_out"] == pytest.approx(described["chosen"], rel=0.1)
    release = gan_dist.load(str(written))
    assert release.record["fd_digits"] == described["held_out"]
    found = assess(request_of(str(written)), run_here).figures
    assert found["fd_digits"] == pytest.approx(described["held_out"], rel=0.1)
    card = (written / "README.md").read_text()
    assert f"{described['members'][0]['weight']:.0%} of the images; trial " in card
    assert f"{described['held_out']:.6g} (lower is better)" in card


def test_walks_and_rows_stay_within_one_member(mixed: Release) -> None:
    mixture = mixed.generator
    assert isinstance(mixture, Mixture)
    around = points.of_seeds(mixed, range(6))
    around = replace(around, images=255 - around.images)  # a point's own image is not made again
    picked = mixture.picked(around.latents)
    assert len(set(picked.tolist())) > 1
    member, within = points.within_member(mixed, around)
    assert member.generator is mixture.members[int(picked[0])]
    same = picked == picked[0]
    assert torch.equal(within.images[same], around.images[same])
    frames = torch.stack([*walks.walk(mixed, around, 3)])
    assert torch.equal(frames[::3], within.images)
    rows = interpolate(mixed, 3, 4, seed=1)
    assert (rows[:, 0].int() - mixed.sample(3, seed=1).int()).abs().max() <= 1
    with pytest.raises(
        DataError, match=r"directions needs one generator, and this release is a mixture of 3"
    ):
        directions.directions(mixed, 1)
    with pytest.raises(DataError, match=r"mixing of styles needs one generator"):
        mixed.styles  # noqa: B018
    with pytest.raises(DataError, match=r"truncation 0\.5 needs a generator with styles"):
        mixed.truncated(0.5)


def test_an_image_of_a_mixture_is_found_again_in_all_its_members(mixed: Release) -> None:
    mixture = mixed.generator
    assert isinstance(mixture, Mixture)
    latents = mixed.latents(range(20), seed=2)
    picked = mixture.picked(latents)
    row = int((picked == 2).nonzero()[0])  # the lightest
    picture = mixed.images(latents[row : row + 1], None)[0]
    found = invert(mixed, picture, steps=30)
    assert int(mixture.picked(found.latents)) == 2
    assert psnr(found.images[0], picture) > 30


def test_members_of_a_conditional_mixture_get_their_classes(tmp_path: Path) -> None:
    conditional = ["model.conditional=true"]
    search = search_of(tmp_path, [conditional, conditional])
    release = gan_dist.load(call("best", search, "--mixture", "2", "--to", f"{tmp_path}/mixture")["dir"])
    mixture, labels = release.generator, [3, 7, 7, 1, 0, 9, 3, 3]
    assert isinstance(mixture, Mixture)
    latents = release.latents(range(8), seed=1)
    images = release.sample(8, seed=1, labels=labels)
    for row, number in enumerate(mixture.picked(latents).tolist()):
        alone = replace(release, generator=mixture.members[number])
        expected = alone.images(latents[row : row + 1, :-1], torch.tensor(labels[row : row + 1]))
        assert (images[row].int() - expected[0].int()).abs().max() <= 1


def test_truncation_is_of_each_member(tmp_path: Path) -> None:
    styled = ["model.name=stylegan2", "model.settings.w_dim=8", "model.latent_dim=8"]
    search = search_of(tmp_path, [styled, styled])
    runs = [f"{search}/trials/{number:05d}" for number in range(2)]
    members = [gan_dist.load(run) for run in runs]
    mixed = gan_dist.load(mixture_of(runs, (0.5, 0.5), tmp_path / "mixture"))
    mixture, truncated = mixed.generator, mixed.truncated(0.0)
    assert isinstance(mixture, Mixture)
    latents = rng.normal((8, 9), 0, "latents")
    picked = mixture.picked(latents).tolist()
    images = truncated.images(latents, None)
    for number, member in enumerate(members):
        alone = member.truncated(0.0).images(latents[:1, :-1], None)
        rows = [row for row, one in enumerate(picked) if one == number]
        assert (images[rows].int() - alone.int()).abs().max() <= 1
    again = truncated.truncated(1).generator.state_dict()
    assert all(torch.equal(again[name], weights) for name, weights in mixture.state_dict().items())


def test_a_copy_takes_the_place_of_another_and_leaves_nothing_of_it(
    search: str, written: Path, tmp_path: Path
) -> None:
    to = tmp_path / "mixture"
    call("best", search, "--to", str(to))
    single = files(to)
    call("best", search, "--mixture", "3", "--to", str(to))
    assert files(to) == files(written)
    call("best", search, "--to", str(to))
    assert files(to) == single


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mixture", "4"], "--mixture 4 needs --to DIR"),
        (["--mixture", "4", "--to", "out", "--retrain"], "--mixture 4 and --retrain do not go together"),
        (
            ["--mixture", "4", "--to", "out", "--with-discriminator"],
            "--mixture 4 and --with-discriminator do not go together",
        ),
        (["--mixture", "4", "--to", "out"], "is of the trials of a search, and .*/run is none"),
        (["--mixture", "4", "--to", "."], "is of the trials of a search"),
    ],
)
def test_what_no_mixture_can_be_made_of_is_said(
    arguments: list[str], message: str, run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GanDistError, match=message) as caught:
        CliRunner().invoke(app, ["best", run_uri, *arguments], catch_exceptions=False)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_other_shapes_are_passed_over_and_one_release_is_no_mixture(run_uri: str, tmp_path: Path) -> None:
    search = search_of(tmp_path, [[]])
    as_trial(run_uri, search, 1)
    rewrite(Path(search, "trials/00001/best_000000000000"), "shape.json", b'{"resolution": 8, "channels": 3}')
    message = (
        r"needs the releases of 2 trials at least, and .* has 1: .*00001.* is passed over: its images have"
    )
    with pytest.raises(CheckpointError, match=message):
        call("best", search, "--mixture", "2", "--to", str(tmp_path / "out"))


def test_a_run_cannot_begin_with_a_mixture(written: Path) -> None:
    with pytest.raises(CheckpointError, match=r"init\.from=.* is a mixture of generators") as caught:
        read_source(InitConfig(source=str(written)))
    assert caught.value.problems[0].keys == ("init.from",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"members": []}, "at least 2 items"),
        ({"members": [0.5, 0.6]}, "the weights add up to 1.1, not to 1"),
        ({"members": [0.5, float("nan")]}, "members"),
        ({"members": [1.5, -0.5]}, "less than 1"),
        ({"format": 2}, "Input should be 1"),
    ],
)
def test_a_made_up_description_is_refused(
    change: dict[str, object], message: str, written: Path, tmp_path: Path
) -> None:
    for name, content in files(written).items():
        (tmp_path / name).write_bytes(content)
    described = json.loads((written / "mixture.json").read_text())
    if isinstance(weights := change.get("members"), list):
        first = described["members"][0]
        change = {"members": [{**first, "weight": weight} for weight in weights]}
    rewrite(tmp_path, "mixture.json", json.dumps({**described, **change}).encode())
    with pytest.raises(CheckpointError, match=r"mixture\.json holds something else") as caught:
        gan_dist.load(str(tmp_path))
    assert message in str(caught.value)
