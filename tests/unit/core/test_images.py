"""Grids of images: every pixel where it belongs, colours unchanged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from gan_dist.core.image_size import ImageSize
from gan_dist.core.images import image_grid, lay_on_white, split_grid, to_picture


def test_a_grid_shows_every_image_in_reading_order() -> None:
    images = torch.zeros(6, 1, 16, 16, dtype=torch.uint8)
    images[4] = 255
    picture = np.asarray(image_grid(images, columns=3).convert("L"))
    factor, gap = 4, 2
    edge = 16 * factor
    assert picture.shape == (2 * (edge + gap) + gap, 3 * (edge + gap) + gap)
    row, column = 1, 1
    top, left = gap + row * (edge + gap), gap + column * (edge + gap)
    assert (picture[top : top + edge, left : left + edge] == 255).all()
    assert (picture == 255).sum() == edge * edge


def test_a_grid_of_oblong_images_is_near_square_and_lies_on_white() -> None:
    images = torch.zeros(8, 4, 8, 16, dtype=torch.uint8)
    images[:, 0], images[4:, 3] = 200, 255
    picture = np.asarray(image_grid(images))
    assert picture.shape == (4 * (32 + 2) + 2, 2 * (64 + 2) + 2, 3)
    assert tuple(picture[10, 10]) == (255, 255, 255)
    assert tuple(picture[-10, -10]) == (200, 0, 0)


@pytest.mark.parametrize(("count", "height", "width"), [(64, 16, 16), (7, 8, 16), (5, 96, 40), (1, 3, 90)])
def test_a_grid_is_taken_apart_into_its_images(count: int, height: int, width: int) -> None:
    images = torch.arange(count * 3 * height * width).view(count, 3, height, width).mul(37).to(torch.uint8)
    assert torch.equal(split_grid(image_grid(images), ImageSize(height, width), count), images)
    with pytest.raises(ValueError, match="is not a grid of"):
        split_grid(image_grid(images), ImageSize(height, width + 7), count)


def test_images_on_white_are_those_of_pillow() -> None:
    images = torch.randint(
        0, 256, (1, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    picture = to_picture(images[0])
    assert picture.mode == "RGBA"
    composed = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    found = lay_on_white(images)[0].movedim(0, -1).int()
    assert (found - torch.from_numpy(np.array(composed)).int()).abs().max() <= 1
    assert lay_on_white(images[:, :3]).shape == (1, 3, 32, 32)


def test_colours_stay_what_they_are() -> None:
    red = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    red[:, 0] = 200
    picture = np.asarray(image_grid(red))
    assert tuple(picture[30, 30]) == (200, 0, 0)
