"""The extractor `random`: convolutions with random weights, for images unlike photographs.

The features of a trained network suit its training images; Naeem et al. 2020 therefore embed other images
with a VGG16 of random weights. This network is smaller, fast on a CPU, and needs no file: its weights are the
same on every machine.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor
from torch.nn import functional

from gan_dist.core import rng
from gan_dist.evaluation.extractors.features import Features, check_images, exact

SIZE = 64
"""Edge in pixels that images are resized to."""
SMALLEST = 8
"""Shortest edge of an image, in pixels."""
WIDTHS = (32, 32, 64, 128, 256)
"""Channels of the layers; each halves the edge, from 32 to 2 pixels."""
SEED = 0
"""Seed of the weights. Another seed is another extractor."""


class RandomFeatures:
    """Channel means after each of five 3x3 convolutions with stride 2 and ReLU, 512 in all.

    Early layers describe texture and colour, late ones the composition. Weights are uniform with variance
    2 / fan-in (He et al. 2015), without biases. Uniform and not normal or orthogonal: PyTorch's
    normal numbers differ in the last bit between CPUs, and so do LAPACK's factors.
    """

    name = "random"
    metric = "fd_random"
    dim = sum(WIDTHS)
    classes = 0
    layer = "all"
    resize = f"bilinear-antialias {SIZE}"

    def __init__(self, device: torch.device) -> None:
        weights = _weights()
        content = b"".join(weight.numpy().astype("<f4").tobytes() for weight in weights)
        self.hash = hashlib.sha256(content).hexdigest()
        self._device = device
        self._weights = [weight.to(device) for weight in weights]

    def __call__(self, images: Tensor) -> Features:
        """Return features (B, 512) of images uint8 (B, 1 or 3, H, W); one channel is repeated to three.

        Any resolution from 8 is resized bilinearly with antialiasing. Raises as `check_images` does.
        """
        check_images(images, self.name, smallest=SMALLEST)
        colour = images.to(self._device).expand(-1, 3, -1, -1).float()
        with exact(self._device):
            maps = functional.interpolate(colour, (SIZE, SIZE), mode="bilinear", antialias=True) / 127.5 - 1
            means = []
            for weight in self._weights:
                maps = functional.conv2d(maps, weight, stride=2, padding=1).relu_()
                means.append(maps.mean(dim=(2, 3)))
            return Features(torch.cat(means, dim=1), None)


def _weights() -> list[Tensor]:
    """Return the layers' weights, float32 (out, in, 3, 3), on the CPU; the same bits on every machine."""
    inputs = (3, *WIDTHS)
    weights = []
    for layer, width in enumerate(WIDTHS):
        numbers = rng.uniform((width, inputs[layer], 3, 3), SEED, "random-features", layer)
        bound = math.sqrt(6 / (inputs[layer] * 9))
        weights.append(numbers.mul_(2).sub_(1).mul_(bound))
    return weights
