"""Train the LeNet of the `digits` extractor: `python -m tools.train_lenet`.

Writes `gan_dist/assets/lenet.safetensors`, the same bytes at every run on one machine, and prints its hash
(to pin as `LENET_SHA256` in `gan_dist/evaluation/extractors/digits.py`), its accuracy, and the distance
between two halves of the real images. Needs scikit-learn, for its copy of the data; takes ten
seconds.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from gan_dist.evaluation.extractors.digits import LENET_PATH, Digits, LeNet, lenet_input
from gan_dist.evaluation.metrics.distances import frechet_distance
from gan_dist.evaluation.metrics.moments import Moments
from tools import make_digits

SEED = 0
EPOCHS = 50
BATCH = 64
SOURCE = (
    "UCI Optical Recognition of Handwritten Digits (Alpaydin and Kaynak 1998), scikit-learn's load_digits"
)


def digits() -> tuple[Tensor, Tensor]:
    """Return the built-in digits: images uint8 (N, 1, 8, 8), labels int64 (N,)."""
    rows = make_digits.digits()
    assert rows.labels is not None
    return torch.from_numpy(rows.pixels.reshape(-1, 1, 8, 8)), torch.from_numpy(rows.labels)


def held_out(count: int) -> Tensor:
    """Mask bool (count,) of the fifth of the images that training never sees: index divisible by 5."""
    return torch.arange(count) % 5 == 0


def train(images: Tensor, labels: Tensor) -> LeNet:
    """A LeNet trained on images float32 (N, 1, 16, 16) in [-1, 1] with labels int64 (N,)."""
    generator = torch.Generator().manual_seed(SEED)
    torch.manual_seed(SEED)  # the layers' default initialisation draws from the global generator
    network = LeNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    steps = EPOCHS * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(len(images), generator=generator), BATCH):
            loss = functional.cross_entropy(network(augment(images[rows], generator)), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return network


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Small rotations, scalings, shifts and noise, so that features change smoothly with the image."""
    count = len(images)

    def uniform(*shape: int) -> Tensor:
        return 2 * torch.rand(count, *shape, generator=generator) - 1

    angle, scale = uniform() * math.radians(10), 1 + 0.1 * uniform()
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(count, 2, 2)
    shift = uniform(2, 1) * (2 * 1.5 / LeNet.size)  # 1.5 pixels; a grid's coordinates span [-1, 1]
    grid = functional.affine_grid(
        torch.cat([rotation * scale[:, None, None], shift], dim=2), list(images.shape), align_corners=False
    )
    # Padding is zero, the background is -1.
    moved = functional.grid_sample(images + 1, grid, mode="bilinear", align_corners=False) - 1
    noise = 0.15 * torch.rand(count, 1, 1, 1, generator=generator)
    return moved + noise * torch.randn(images.shape, generator=generator)


def main() -> None:
    """Train, write the weights, and print what is worth knowing about them."""
    torch.set_num_threads(1)  # the order of sums, and so the bytes, depends on it
    images, labels = digits()
    test = held_out(len(images))
    network = train(lenet_input(images[~test]), labels[~test])
    with torch.no_grad():
        right = network.eval()(lenet_input(images[test])).argmax(dim=1) == labels[test]
    accuracy = right.double().mean().item()
    about = {
        "name": "LeNet of the digits extractor",
        "held_out_accuracy": round(accuracy, 4),
        "held_out": "index % 5 == 0",
        "seed": SEED,
        "epochs": EPOCHS,
        "source": SOURCE,
        "licence_of_data": "CC BY 4.0",
        "licence_of_weights": "Apache-2.0",
        "made_by": "python -m tools.train_lenet",
    }
    # One metadata key: safetensors does not keep the order of several, and the hash covers it.
    weights = save(network.state_dict(), metadata={"about": json.dumps(about)})
    LENET_PATH.write_bytes(weights)

    features = Digits(weights, torch.device("cpu"))(images).features
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    half = len(images) // 2
    floor = frechet_distance(Moments.of(features[order[:half]]), Moments.of(features[order[half:]]))
    trace = Moments.of(features).covariance().trace().item()
    sys.stdout.write(
        f"wrote {LENET_PATH}: {len(weights)} bytes, SHA-256 {hashlib.sha256(weights).hexdigest()}\n"
        f"accuracy on {int(test.sum())} held-out images {accuracy:.4f}\n"
        f"fd_digits between two random halves of the real images {floor:.4f} "
        f"(trace of the covariance {trace:.1f})\n"
    )


if __name__ == "__main__":
    main()
