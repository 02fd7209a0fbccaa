"""What is served, without Ray Serve: queries, images made together, the release that is to be used."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import torch
from typer.testing import CliRunner

from gan_dist.cli import app
from gan_dist.cluster.serve.passes import Passes
from gan_dist.cluster.serve.query import ImageQuery, parse_image, parse_images
from gan_dist.cluster.serve.served import Served, find_place
from gan_dist.core.access import require_protected
from gan_dist.core.errors import DataError, GanDistError, NonFiniteError
from gan_dist.core.extras import MODULES
from gan_dist.models.generator import ImageShape
from tests.support.releases import untrained
from tests.support.searches import as_trial, measured_run, write_search
from tests.support.serving import measured, sampled

NAMED, PLAIN, LARGE = ImageShape(8, 1, 3, ("cat", "dog", "owl")), ImageShape(8, 1), ImageShape(1024, 3)


def test_a_query_is_an_image() -> None:
    assert parse_image(parse_qsl("seed=7&class=dog&truncation=0.7&token=x"), NAMED) == ImageQuery(7, 1, 0.7)
    assert parse_image([], PLAIN) == ImageQuery(0, None, 1.0)
    assert parse_image(parse_qsl("seed=8"), NAMED).label == 8 % 3  # as sample --seeds
    wanted = parse_images(parse_qsl("seed=4294967294&n=2&class=2"), NAMED)
    assert wanted == [ImageQuery(2**32 - 2, 2), ImageQuery(2**32 - 1, 2)]


@pytest.mark.parametrize(
    ("query", "shape", "said"),
    [
        ("seed=-1", PLAIN, "seed=-1 is no whole number from 0 to 4,294,967,295"),
        ("seed=4294967296", PLAIN, "seed=4294967296 is no whole number"),
        ("seed=1e3", PLAIN, "seed=1e3 is no whole number"),
        ("seed=%D9%A3", PLAIN, "is no whole number"),  # a three of another script
        ("sed=3", PLAIN, "there is no parameter sed; the nearest is seed"),
        ("seed=3&seed=4", PLAIN, "seed is given twice: 3 and 4"),
        ("class=3", PLAIN, "class 3: the generator was trained without classes"),
        ("class=3", NAMED, "class 3: the generator has the classes 0 to 2, named cat, dog, owl"),
        ("class=dgo", NAMED, "the nearest is dog"),
        ("truncation=nan", NAMED, "truncation=nan: a finite number is needed"),
        ("truncation=much", NAMED, "truncation=much: a finite number is needed"),
        ("n=0", PLAIN, "n=0 is no whole number from 1"),
        ("n=65&seed=5", PLAIN, "65 x 64 = 4,160 pixels; ask for n=64, then for those from seed=69 on"),
        ("n=17", LARGE, "one request makes 16 images of 1024x1024 at most, and these are 17 x 1,048,576"),
        ("n=2&seed=4294967295", PLAIN, "ask for n=1 or fewer"),
    ],
)
def test_a_query_that_cannot_be_answered_is_refused(query: str, shape: ImageShape, said: str) -> None:
    with pytest.raises(DataError) as refused:
        parse_images(parse_qsl(query), shape)
    assert said in str(refused.value)


@pytest.mark.parametrize("together", [True, False])
def test_an_image_is_that_of_sample_whatever_is_made_with_it(tmp_path: Path, *, together: bool) -> None:
    served = Served(measured(tmp_path, 0, 1.0))
    assert served._together
    served._together = together
    wanted = [ImageQuery(seed, seed * 3 % 4, (1.0, 0.5, 0.0)[seed % 3]) for seed in range(19)]
    expected = {one: sampled(served.release, one) for one in wanted}
    assert len(set(expected.values())) > 12
    for part in (wanted, wanted[::-1], wanted[3:4], wanted[5:8]):
        assert served.pictures(part) == [expected[one] for one in part]
    before = served.passes
    served.pictures([ImageQuery(seed, 0) for seed in range(16)])
    assert served.passes - before == (2 if together else 16)


def test_an_image_that_is_not_finite_takes_no_other_with_it(tmp_path: Path) -> None:
    served = Served(untrained(tmp_path))

    def breaks(_module: object, arguments: tuple[torch.Tensor, ...], images: torch.Tensor) -> torch.Tensor:
        broken = (arguments[0] == served.release.latents([0], 3)).all(1)
        return images.masked_fill(broken[:, None, None, None], torch.nan)

    served.release.generator.register_forward_hook(breaks)
    made = served.pictures([ImageQuery(seed, None) for seed in range(6)])
    assert [isinstance(one, NonFiniteError) for one in made] == [seed == 3 for seed in range(6)]
    assert made[4] == sampled(served.release, ImageQuery(4, None))


def test_those_who_ask_again_at_once_go_into_the_next_pass_together(tmp_path: Path) -> None:
    served = Served(untrained(tmp_path))
    before = served.passes
    passes = Passes(pass_s=20.0)  # of a large network: 10 s to ask again, and 0.05 s otherwise

    async def client(number: int) -> None:
        for one in range(3):
            seed = 8 * one + number
            assert await passes.image(served, ImageQuery(seed, None)) == images[seed]
            await asyncio.sleep(0.02 * number)

    async def ask() -> None:
        gone = asyncio.create_task(passes.image(served, ImageQuery(99, None)))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.gather(*map(client, range(8)))
        assert served.passes - before == 3
        alone = Passes(pass_s=20.0)
        async with asyncio.timeout(9):  # nobody else is waited for
            for seed in range(2):
                await alone.image(served, ImageQuery(seed, None))
        broken = passes.image(served, ImageQuery(-1, None))
        with pytest.raises(ValueError, match="non-negative"):
            await broken

    images = {seed: sampled(served.release, ImageQuery(seed, None)) for seed in range(24)}
    asyncio.run(ask())


def test_where_the_place_in_a_block_matters_images_are_made_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(untrained(tmp_path))
    generate = served.release.generator.forward

    def uneven(latents: torch.Tensor, classes: torch.Tensor | None) -> torch.Tensor:
        images: torch.Tensor = generate(latents, classes)
        images[-1] *= 1 + 2**-23  # one unit in the last place
        return images

    monkeypatch.setattr(served.release.generator, "forward", uneven)
    assert not served._is_independent_of_place()


def test_a_better_release_has_another_hash_and_place(tmp_path: Path) -> None:
    run = measured(tmp_path, 0, 2.0)
    first = find_place(run)
    assert first == find_place(run)
    measured(tmp_path, 1000, 1.0)
    assert find_place(run)[0] == f"{run}/best_000000001000"
    assert find_place(run)[1] != first[1]
    assert find_place(f"{run}/best_000000001000")[0] == f"{run}/best_000000001000"


def test_of_a_search_the_best_release_is_served(tmp_path: Path) -> None:
    search = str(tmp_path / "search")
    as_trial(measured_run(tmp_path), search, 3)
    write_search(search)
    served = Served(search)
    assert served.place == f"{search}/trials/00003/best_000000000000"
    assert (served.description["metric"], served.description["value"]) == ("fd_digits", 1.0)


@pytest.mark.parametrize(
    ("host", "token", "said"),
    [
        ("0.0.0.0", None, "--host 0.0.0.0 can be reached from other machines, and there is no token"),
        ("::", None, "can be reached from other machines"),
        ("example.org", None, "can be reached from other machines"),
        ("127.0.0.1", "secret", "a token of 6 characters can be guessed: 16 are needed"),
    ],
)
def test_an_address_that_others_reach_needs_a_token(host: str, token: str | None, said: str) -> None:
    with pytest.raises(GanDistError) as refused:
        require_protected(host, token)
    assert said in str(refused.value)
    for fine in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        require_protected(fine, None)
    require_protected(host, "0123456789abcdef")


def test_without_ray_serve_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULES, "serve", ("starlette", "nowhere"))
    with pytest.raises(GanDistError, match=r'serve needs nowhere.*pip install "gan-dist\[serve\]"'):
        CliRunner().invoke(app, ["serve", "runs/digits"], catch_exceptions=False)


def test_what_is_no_release_is_told_before_ray_starts(tmp_path: Path) -> None:
    with pytest.raises(GanDistError, match=r"has no manifest\.json"):
        CliRunner().invoke(app, ["serve", str(tmp_path)], catch_exceptions=False)
