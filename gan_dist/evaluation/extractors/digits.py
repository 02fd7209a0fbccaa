"""The extractor `digits`: a small classifier of handwritten digits, shipped with the package."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor, nn
from torch.nn import functional

from gan_dist.core.errors import CheckpointError
from gan_dist.evaluation.extractors.features import Features, check_images, exact

LENET_PATH = Path(__file__).parents[2] / "assets" / "lenet.safetensors"
"""Weights of the `digits` extractor; `tools/train_lenet.py` made them."""

LENET_SHA256 = "e0ad31e8e0e2ff08d15ffd3aba4b26bf7562d4fde696e37c6b507fcc19971837"
"""Hash of that file: other weights give other distances."""


class LeNet(nn.Module):
    """A small relative of LeNet-5 (LeCun et al. 1998) for 16x16 grey images: 46,730 parameters.

    Padded 5x5 convolutions of 16 and 32 channels with average pooling, a layer of 64 features, 10 classes.
    GELU in place of tanh: unbounded, so that bad images are far away, and smooth.
    """

    size = 16
    dim = 64
    digits = 10

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 32, 5, padding=2)
        self.hidden = nn.Linear(32 * 4 * 4, self.dim)
        self.classes = nn.Linear(self.dim, self.digits)

    def features(self, images: Tensor) -> Tensor:
        """Return penultimate activations float32 (B, 64) of images float32 (B, 1, 16, 16) in [-1, 1]."""
        maps = functional.avg_pool2d(functional.gelu(self.conv1(images)), 2)  # (B, 16, 8, 8)
        maps = functional.avg_pool2d(functional.gelu(self.conv2(maps)), 2)  # (B, 32, 4, 4)
        return functional.gelu(self.hidden(maps.flatten(1)))

    def forward(self, images: Tensor) -> Tensor:
        """Return class logits float32 (B, 10) of images float32 (B, 1, 16, 16) in [-1, 1]."""
        logits: Tensor = self.classes(self.features(images))
        return logits


def lenet_input(images: Tensor) -> Tensor:
    """Return images uint8 (B, C, H, W) as the input of the LeNet: float32 (B, 1, 16, 16) in [-1, 1].

    C is 1 or 3; three channels are averaged to grey. Any resolution is resized bilinearly with antialiasing.
    Raises as `check_images` does.
    """
    check_images(images, Digits.name)
    grey = images.float().mean(dim=1, keepdim=True)
    edge = (LeNet.size, LeNet.size)
    resized = functional.interpolate(grey, edge, mode="bilinear", align_corners=False, antialias=True)
    return resized / 127.5 - 1.0


class Digits:
    """Features and classes of handwritten digits.

    Images of three channels are averaged to grey; to classify stacked digits, where each channel is a digit,
    pass the channels as separate images (3B, 1, H, W). `weights` are the content of a file that
    `tools/train_lenet.py` wrote.
    """

    name = "digits"
    metric = "fd_digits"
    dim = LeNet.dim
    classes = LeNet.digits
    layer = "hidden"
    resize = f"bilinear-antialias {LeNet.size}"

    def __init__(self, weights: bytes, device: torch.device) -> None:
        self.hash = hashlib.sha256(weights).hexdigest()
        self._device = device
        self._network = LeNet()
        self._network.load_state_dict(load(weights))
        self._network.to(device)

    def __call__(self, images: Tensor) -> Features:
        """Return features (B, 64) and logits (B, 10) of images uint8 (B, 1 or 3, H, W).

        Raises as `lenet_input` does.
        """
        with exact(self._device):
            features = self._network.features(lenet_input(images.to(self._device)))
            return Features(features, self._network.classes(features))

    def classify(self, images: Tensor) -> Tensor:
        """Return logits float32 (B, 10) of images uint8 (B, 1 or 3, H, W). Raises as `lenet_input` does."""
        with exact(self._device):
            logits: Tensor = self._network(lenet_input(images.to(self._device)))
            return logits


def load_digits(device: torch.device, path: Path = LENET_PATH) -> Digits:
    """Return the digits extractor.

    Raises CheckpointError if the file of weights at `path` is missing or is another file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror}", "it is part of the package: install gan-dist again"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != LENET_SHA256:
        raise CheckpointError(
            f"{path} has SHA-256 {found} and should have {LENET_SHA256}: the file is damaged or was replaced",
            "install gan-dist again",
        )
    return Digits(content, device)
