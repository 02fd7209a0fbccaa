"""Extractors as a user would write them, for tests that name them by import path."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from gan_dist.evaluation.extractors.features import Features


class Means:
    """Channel means and deviations; nothing but what is required."""

    dim = 2
    hash = hashlib.sha256(b"means and deviations").hexdigest()

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, images: Tensor) -> Tensor:
        assert images.device == self.device
        values = images.double().flatten(1)
        return torch.stack([values.mean(1), values.std(1)], dim=1)


class Classifier(nn.Module):
    """A module with all that is optional; in training it would refuse batches of one."""

    name = "tiny-net"
    dim = 1
    classes = 3
    hash = hashlib.sha256(b"tiny").hexdigest()
    layer = "norm"
    resize = "none"

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1, device=device)

    def forward(self, images: Tensor) -> Features:
        features: Tensor = self.norm(images.float().flatten(1).mean(1, keepdim=True))
        return Features(features, features.expand(-1, 3))


class Wide(Means):
    """Returns more features than it says."""

    dim = 1


class Whole(Means):
    """Returns integers."""

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images).long()


class Listing(Means):
    """Returns no tensor."""

    def __call__(self, images: Tensor) -> Tensor:
        return super().__call__(images).tolist()  # type: ignore[return-value]


class Slow(Means):
    """Takes its time."""

    WAIT_S = 0.4

    def __call__(self, images: Tensor) -> Tensor:
        time.sleep(self.WAIT_S)
        return super().__call__(images)


class Nameless:
    """Lacks everything, and has a built-in extractor's name."""

    name = "inception"
    classes = -1

    def __init__(self, device: torch.device) -> None: ...


class Greedy(Means):
    """Wants more than the device."""

    def __init__(self, device: torch.device, weights: str) -> None:
        super().__init__(device)


class Fatal(Means):
    """Ends its process once in the life of a test's Ray, as the loss of a node would."""

    calls = 0

    def __call__(self, images: Tensor) -> Tensor:
        flag = Path(os.environ["RAY_TMPDIR"]) / "fatal-once"
        Fatal.calls += 1
        if Fatal.calls > 18 and not flag.exists():
            flag.touch()
            os._exit(1)
        return super().__call__(images)


NUMBER = 5
