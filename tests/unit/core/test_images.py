"""Grids of images: every pixel where it belongs, colours unchanged."""

from __future__ import annotations

import numpy as np
import torch

from gan_dist.core.images import image_grid


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


def test_colours_stay_what_they_are() -> None:
    red = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    red[:, 0] = 200
    picture = np.asarray(image_grid(red))
    assert tuple(picture[30, 30]) == (200, 0, 0)
