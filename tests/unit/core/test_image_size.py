"""Sizes as people write them, and how one fits into another."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from gan_dist.core.image_size import Fit, ImageSize, WrittenSize, border, crop_box, inner_size

SIZES = st.builds(ImageSize, st.integers(1, 600), st.integers(1, 600))


def test_sizes_are_written_with_the_width_first() -> None:
    size = ImageSize.of("512x384")
    assert (size.width, size.height, size.area, str(size), size.resolution) == (
        512,
        384,
        512 * 384,
        "512x384",
        "512x384",
    )
    assert (ImageSize.of(64), ImageSize.of(64).resolution) == ((64, 64), 64)
    assert TypeAdapter[int | str](WrittenSize).validate_python("64x64") == 64
    for wrong in ("512", "0x8", "8x", "8 x 8", "99999999999x8", "4294967296x8"):
        with pytest.raises(ValidationError):
            TypeAdapter(WrittenSize).validate_python(wrong)


@given(size=SIZES, target=SIZES)
@example(size=ImageSize(1, 1), target=ImageSize(1, 2))
def test_a_crop_is_centred_and_has_the_aspect_to_half_a_pixel(size: ImageSize, target: ImageSize) -> None:
    left, top, right, bottom = crop_box(size, target)
    height, width = bottom - top, right - left
    assert min(left, top) >= 0
    assert height >= 1 <= width
    assert abs(left - (size.width - right)) <= 1
    assert abs(top - (size.height - bottom)) <= 1
    narrower = abs(width - max(1, height * target.width / target.height)) <= 0.5
    lower = abs(height - max(1, width * target.height / target.width)) <= 0.5
    # Of a single pixel for a target of 2 x 1, both edges are kept.
    assert (height == size.height and narrower) or (width == size.width and lower)


@given(size=SIZES, target=SIZES)
def test_what_is_padded_fills_one_direction_and_keeps_the_aspect(size: ImageSize, target: ImageSize) -> None:
    inner = inner_size(size, target)
    assert inner.height <= target.height
    assert inner.width <= target.width
    is_wider = size.width * target.height > target.width * size.height
    filled, other = (1, 0) if is_wider else (0, 1)
    assert inner[filled] == target[filled]
    assert abs(inner[other] - max(1, target[filled] * size[other] / size[filled])) <= 0.5


def test_borders_have_the_colour_that_fit_names() -> None:
    assert border("pad", 3) == (0, 0, 0)
    assert border("pad", 4) == (255, 255, 255, 0)
    assert border("pad:white", 1) == (255,)
    assert border("pad:black", 4) == (0, 0, 0, 255)
    assert border("pad:Ff8000", 3) == (255, 128, 0)
    assert border("pad:ff0000", 1) == (76,)
    for wrong in ("pad:", "pad:red", "fill", "pad:fff", "crop:white"):
        with pytest.raises(ValidationError):
            TypeAdapter[str](Fit).validate_python(wrong)
