"""The built-in sets: what their rows are, and what is said of addresses that name none."""

from __future__ import annotations

import pickle

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits

from gan_dist.core.errors import DataError
from gan_dist.data.batches.readers import read_all
from gan_dist.data.builtin import SHAPES, Shapes, StackedDigits, open_builtin
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.data.shards.rows import Rows

Images = npt.NDArray[np.uint8]


def labels_of(rows: Rows) -> npt.NDArray[np.int64]:
    assert rows.labels is not None
    return rows.labels


def pictures(rows: Rows, resolution: int) -> Images:
    """Pixels as (n, R, R, C)."""
    return rows.pixels.reshape(len(rows), resolution, resolution, -1)


def shapes(resolution: int = 64, count: int = 3000) -> Shapes:
    images = open_builtin(f"builtin://shapes?count={count}&resolution={resolution}")
    assert isinstance(images, Shapes)
    return images


def test_digits_are_those_of_scikit_learn_row_by_row() -> None:
    images = open_builtin("builtin://digits")
    rows, source = read_all(images), load_digits()
    assert len(rows) == images.manifest.count == 1797
    # 17 levels of grey, spread so that they can be told apart and undone.
    np.testing.assert_array_equal(np.rint(rows.pixels / 255 * 16), source.data)
    assert set(np.unique(rows.pixels)) == {round(level * 255 / 16) for level in range(17)}
    np.testing.assert_array_equal(labels_of(rows), source.target)
    manifest = images.manifest
    assert (manifest.height, manifest.width, manifest.channels) == (8, 8, 1)
    assert manifest.classes == tuple("0123456789")
    assert "CC BY 4.0" in manifest.license
    assert "Kaynak" in manifest.attribution


@pytest.mark.parametrize(("written", "classes"), [("0-4", "01234"), ("5-9", "56789"), ("7", "7")])
def test_some_digits_are_rows_of_the_digits_in_order(written: str, classes: str) -> None:
    digits, images = open_builtin("builtin://digits"), open_builtin(f"builtin://digits?classes={written}")
    every, some = read_all(digits), read_all(pickle.loads(pickle.dumps(images)))
    kept = [row for row, label in enumerate(labels_of(every)) if str(label) in classes]
    np.testing.assert_array_equal(some.pixels, every.pixels[kept])
    np.testing.assert_array_equal(labels_of(some) + int(classes[0]), labels_of(every)[kept])
    assert (images.manifest.classes, images.manifest.count) == (tuple(classes), len(kept))
    assert images.manifest.license == digits.manifest.license
    assert images.manifest.fingerprint() != digits.manifest.fingerprint()


def test_stacked_digits_carry_the_label_of_their_three_channels() -> None:
    digits = read_all(open_builtin("builtin://digits"))
    known: dict[bytes, set[int]] = {}
    for pixels, label in zip(digits.pixels, labels_of(digits), strict=True):
        known.setdefault(pixels.tobytes(), set()).add(int(label))
    rows = open_builtin("builtin://stacked-digits").read_group(3)
    for picture, label in zip(pictures(rows, 8), labels_of(rows), strict=True):
        for channel, digit in enumerate((*divmod(int(label) // 10, 10), int(label) % 10)):
            assert digit in known[picture[:, :, channel].tobytes()]


def test_stacked_digits_have_all_thousand_classes_evenly() -> None:
    images = open_builtin("builtin://stacked-digits")
    assert images.manifest.count == 60_000
    assert images.manifest.classes == tuple(f"{number:03d}" for number in range(1000))
    rows = read_all(images)
    counts = np.bincount(labels_of(rows), minlength=1000)
    assert len(counts) == 1000
    assert counts.min() > 0
    # The digits themselves are not quite equally frequent, by 174 to 183 of 1,797.
    share = np.bincount(load_digits().target) / 1797
    expected = 60_000 * np.einsum("i,j,k->ijk", share, share, share).ravel()
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert abs(chi_square - 999) < 4 * (2 * 999) ** 0.5


def test_stacked_digits_begin_alike_whatever_their_number() -> None:
    few, many = (open_builtin(f"builtin://stacked-digits?count={count}") for count in (1500, 5000))
    np.testing.assert_array_equal(few.read_group(0).pixels, many.read_group(0).pixels)
    np.testing.assert_array_equal(few.read_group(1).pixels, many.read_group(1).pixels[:476])


@pytest.mark.parametrize("uri", ["builtin://stacked-digits?count=2500", "builtin://shapes?count=2500"])
def test_a_row_is_the_same_however_it_is_asked_for(uri: str) -> None:
    images = open_builtin(uri)
    assert isinstance(images, Shapes | StackedDigits)
    assert images.group_rows == (1024, 1024, 452)
    whole = read_all(images)
    indices = np.array([2499, 0, 1024, 1023, 77, 77])
    picked = images.rows(indices)
    np.testing.assert_array_equal(picked.pixels, whole.pixels[indices])
    np.testing.assert_array_equal(labels_of(picked), labels_of(whole)[indices])


@pytest.mark.parametrize(
    "uri",
    ["builtin://digits", "builtin://stacked-digits?count=900", "builtin://shapes?count=90&resolution=9"],
)
def test_sets_travel_to_other_processes(uri: str) -> None:
    images = open_builtin(uri)
    before = images.read_group(0)
    copied: ImageSet = pickle.loads(pickle.dumps(images))
    assert copied.manifest == images.manifest
    np.testing.assert_array_equal(copied.read_group(0).pixels, before.pixels)
    assert len(pickle.dumps(images)) < 60_000


def covered(picture: Images, factors: dict[str, npt.NDArray[np.float32]], index: int) -> float:
    """The share of a picture that its shape covers, from the channel in which it stands out most."""
    background = np.rint(255 * factors["background"][index].astype(np.float64))
    foreground = np.rint(255 * factors["foreground"][index].astype(np.float64))
    channel = int(np.argmax(foreground - background))
    return float((picture[:, :, channel].mean() - background[channel]) / (foreground - background)[channel])


def test_circles_cover_their_area() -> None:
    images = shapes()
    factors = images.factors(np.arange(1024))
    rows = images.read_group(0)
    circles = np.flatnonzero(factors["shape"] == 0)[:200]
    assert len(circles) == 200
    for index in circles:
        area = float(np.pi * factors["size"][index] ** 2)
        assert covered(pictures(rows, 64)[index], factors, int(index)) == pytest.approx(area, rel=0.02)


@pytest.mark.parametrize(
    ("shape", "area"),
    # Half an edge of 0.8 sizes; an inscribed circle of 0.6 sizes.
    [(1, 4 * 0.8**2), (2, 3 * 3**0.5 * 0.6**2)],
    ids=["square", "triangle"],
)
def test_squares_and_triangles_cover_their_area(shape: int, area: float) -> None:
    images = shapes(128, 300)
    indices = np.arange(300)
    factors = images.factors(indices)
    # Those that reach over the edge are left out: the corner of the largest lies 1.2 sizes from the centre.
    inside = np.minimum.reduce([factors["x"], 1 - factors["x"], factors["y"], 1 - factors["y"]])
    chosen = indices[(factors["shape"] == shape) & (inside > 1.21 * factors["size"])]
    assert len(chosen) > 20
    rows, sizes = images.rows(chosen), factors["size"][chosen]
    for picture, index, size in zip(pictures(rows, 128), chosen, sizes, strict=True):
        assert covered(picture, factors, int(index)) == pytest.approx(float(area * size**2), rel=0.02)


@pytest.mark.parametrize("resolution", [16, 17, 32, 64, 100, 128])
def test_shapes_have_their_colours_at_any_resolution(resolution: int) -> None:
    images = shapes(resolution, 200)
    assert (images.manifest.height, images.manifest.width, images.manifest.channels) == (*[resolution] * 2, 3)
    rows, factors = images.read_group(0), images.factors(np.arange(200))
    assert rows.pixels.shape == (200, resolution * resolution * 3)
    drawn = pictures(rows, resolution)
    every = np.arange(200)
    centre = (
        every,
        (factors["y"] * resolution).astype(int),
        (factors["x"] * resolution).astype(int),
    )
    # At 16 pixels the smallest triangle's centre may lie at a corner of its pixel, of which it covers 94 %.
    within = 1 if resolution > 17 else 0.06 * 255
    assert np.abs(drawn[centre] - 255 * factors["foreground"]).max() <= within
    assert np.abs(drawn[:, 0, 0] - 255 * factors["background"]).max() <= 0.51
    assert np.abs(drawn[:, -1, -1] - 255 * factors["background"]).max() <= 0.51


def test_shapes_are_labelled_and_their_factors_spread() -> None:
    images = shapes(16, 3000)
    rows, factors = read_all(images), images.factors(np.arange(3000))
    assert images.manifest.classes == SHAPES
    np.testing.assert_array_equal(labels_of(rows), factors["shape"])
    assert np.bincount(labels_of(rows)).min() > 900
    for name, low, high in [("x", 0.3, 0.7), ("y", 0.3, 0.7), ("size", 0.12, 0.28)]:
        values = factors[name]
        assert low <= values.min() < values.max() <= high
        assert abs(values.mean() - (low + high) / 2) < 4 * (high - low) / 12**0.5 / 3000**0.5
    table = np.column_stack([values for name, values in factors.items()])
    correlation = np.corrcoef(table, rowvar=False) - np.eye(table.shape[1])
    assert np.abs(correlation).max() < 5 / 3000**0.5
    # Every shape is brighter than its ground, so that it can be seen.
    assert (factors["foreground"].min(1) > factors["background"].max(1)).all()


def test_shapes_may_be_wider_than_high_and_have_no_ground() -> None:
    grounded, alone = (
        open_builtin(f"builtin://shapes?count=40&resolution=24x12{more}") for more in ("", "&channels=4")
    )
    manifest = alone.manifest
    assert (manifest.height, manifest.width, manifest.channels) == (12, 24, 4)
    assert manifest.fingerprint() != grounded.manifest.fingerprint()
    pixels = alone.read_group(0).pixels.reshape(40, 12, 24, 4)
    assert (pixels[pixels[..., 3] == 0] == [255, 255, 255, 0]).all()
    # A shape's centre is between 0.3 and 0.7 of either edge, and its area about that of the square image's.
    columns = (pixels[..., 3].sum(1) * np.arange(24)).sum(1) / pixels[..., 3].sum((1, 2))
    assert (columns.min() > 5, columns.max() < 18, np.ptp(columns) > 6) == (True, True, True)
    square = shapes(12, 40).read_group(0).pixels.reshape(40, 12, 12, 3)
    flat = grounded.read_group(0).pixels.reshape(40, 12, 24, 3)
    assert np.array_equal(square[:, 0, 0], flat[:, 0, 0])


def test_shapes_do_not_change_with_the_number_of_images() -> None:
    np.testing.assert_array_equal(
        shapes(32, 40).read_group(0).pixels, shapes(32, 3000).read_group(0).pixels[:40]
    )


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        (
            "builtin://mnist",
            "data.path=builtin://mnist: there is no such set; built in are digits, stacked-digits and shapes",
        ),
        (
            "builtin://",
            "data.path=builtin://: there is no such set; built in are digits, stacked-digits and shapes",
        ),
        (
            "builtin://digits/train",
            "data.path=builtin://digits/train: there is no such set; "
            "built in are digits, stacked-digits and shapes",
        ),
        (
            "builtin://[",
            "data.path=builtin://[: there is no such set; built in are digits, stacked-digits and shapes",
        ),
        (
            "builtin://digits?count=5",
            "data.path=builtin://digits?count=5: count is no parameter of this set; it has: classes",
        ),
        *(
            (
                f"builtin://digits?classes={wrong}",
                f"data.path=builtin://digits?classes={wrong}: classes must be one of 0 to 9 or a range of "
                f"them such as 5-9, not '{wrong}'",
            )
            for wrong in ("", "5-", "9-5", "0-10", "a")
        ),
        (
            "builtin://shapes?size=5&colour=red",
            "data.path=builtin://shapes?size=5&colour=red: colour, size is no parameter of this set; "
            "it has: count, resolution, channels",
        ),
        (
            "builtin://stacked-digits?count=0",
            "data.path=builtin://stacked-digits?count=0: count must be a whole number from 1 to 999999999, "
            "not '0'",
        ),
        (
            "builtin://shapes?resolution=64px",
            "data.path=builtin://shapes?resolution=64px: resolution must be a whole number "
            "from 1 to 999999999, not '64px'",
        ),
        (
            "builtin://shapes?count",
            "data.path=builtin://shapes?count: count must be a whole number from 1 to 999999999, not ''",
        ),
        (
            "builtin://shapes?count=-3",
            "data.path=builtin://shapes?count=-3: count must be a whole number from 1 to 999999999, not '-3'",
        ),
        (
            "builtin://shapes?count=10000000000",
            "data.path=builtin://shapes?count=10000000000: count must be a whole number "
            "from 1 to 999999999, not '10000000000'",
        ),
    ],
)
def test_addresses_that_name_no_set_say_what_there_is(uri: str, message: str) -> None:
    with pytest.raises(DataError) as caught:
        open_builtin(uri)
    assert str(caught.value) == message
