"""Settings for a user's own pictures, and the resolution that a machine can train, by formulas.

The numbers of R3GAN are those of its authors' `train.py` (Huang et al. 2024), those of the small networks
the preset `digits`. The rules are shaped as StyleGAN2-ADA's `--cfg=auto` (Karras et al. 2020): the penalty
goes by the resolution, the batch by the set, the memory by the GPU; labels and mirroring are left to the
user. `docs/auto.md` has the arithmetic, with examples and what was measured.
"""

from __future__ import annotations

MAX_RESOLUTION = 256
CPU_RESOLUTION = 64
"""Largest resolution that is chosen for CPUs, where time is the limit and not memory."""
SMALL_SET = 20_000
"""Images below which a discriminator soon knows every one (Karras et al. 2020, figure 1)."""
MAP_BYTES = 100
"""Bytes of a training step for each number of the maps between R3GAN's blocks; measured."""
RESERVED_BYTES = 2 * 10**9
"""Memory that CUDA, the weights and the optimizers take of a GPU."""
UNKNOWN_GPU_BYTES = 16 * 10**9
"""Memory that a GPU is taken to have where it is unknown."""
FEWEST_AT_A_TIME = 4
"""Images that a GPU should hold at a time at least; with fewer most of it is idle."""
_HALF_WIDTH = 384
"""Half of the most channels that R3GAN's authors use."""


def auto_preset(*, resolution: int, images: int, gpus: int, gpu_bytes: int | None) -> dict[str, object]:
    """Return settings, by dotted key, for a run on pictures of which only these sizes are known.

    GPUs train R3GAN at half of its authors' width; CPUs, and pictures of less than 32 pixels, a small ResNet.
    Labels (`model.conditional`) and mirrored pictures (`data.mirror`) are used only if the user says so.

    Args:
        resolution: Edge of the images in pixels, a power of two of at least 8.
        images: Images in the set, at least 1.
        gpus: GPUs of the run; 0 is for CPUs.
        gpu_bytes: Memory of the smallest of them in bytes; None where it is unknown.
    """
    large = gpus > 0 and resolution >= 32
    batch = _power_of_two(min(images, 256 if large else 64))
    gamma = penalty(resolution)
    settings: dict[str, object] = {
        "data.mirror": False,
        "loss.name": "rpgan",
        "loss.r1": gamma,
        "loss.r2": gamma,
        "train.batch_size": batch,
    }
    if large:
        accumulate = _accumulate(resolution, batch, gpus, gpu_bytes)
        return settings | _r3gan(resolution, images) | {"train.accumulate": accumulate}
    return settings | _small_resnet(resolution, images)


def penalty(resolution: int) -> float:
    """Return gamma, the weight of R1 and R2, for images of a resolution: max(0.25, 2 (R / 64)^3).

    R3GAN's authors use 0.05 (CIFAR-10) and 0.5 (ImageNet) at 32 pixels, 1 (ImageNet) and 2 (FFHQ) at 64 and
    150 (FFHQ) at 256; the preset `digits` 0.3 at 8.
    """
    return max(0.25, 2.0 * (resolution / 64) ** 3)


def memory_resolution(*, gpus: int, gpu_bytes: int | None) -> int:
    """Return the largest power of two, up to MAX_RESOLUTION, at which a GPU holds FEWEST_AT_A_TIME images.

    Without GPUs it is CPU_RESOLUTION: 256 pixels would take sixteen times as long an image as 64.

    Args:
        gpus: GPUs of the run; 0 is for CPUs.
        gpu_bytes: Memory of the smallest of them in bytes; None where it is unknown.
    """
    resolution = MAX_RESOLUTION if gpus else CPU_RESOLUTION
    while gpus and resolution > 32 and images_at_a_time(resolution, gpu_bytes) < FEWEST_AT_A_TIME:
        resolution //= 2
    return resolution


def images_at_a_time(resolution: int, gpu_bytes: int | None) -> int:
    """Return how many images a step of `auto_preset`'s R3GAN can hold on a GPU at once.

    An image takes MAP_BYTES times two blocks times the channels times the pixels of the maps at every
    resolution, down to 4x4; nine tenths of the GPU without RESERVED_BYTES are there for them.
    """
    width, maps, edge = _width(resolution), 0, resolution
    while edge >= 4:
        maps += 2 * width * edge**2
        width, edge = min(2 * width, _HALF_WIDTH), edge // 2
    room = 0.9 * (UNKNOWN_GPU_BYTES if gpu_bytes is None else gpu_bytes) - RESERVED_BYTES
    return max(0, int(room / (MAP_BYTES * maps)))


def _width(resolution: int) -> int:
    """Return channels next to the image: half of R3GAN's authors' 768 at 32, 384 at 64, 96 at 256."""
    return min(_HALF_WIDTH, 32 * _HALF_WIDTH // resolution)


def _accumulate(resolution: int, batch: int, gpus: int, gpu_bytes: int | None) -> int:
    """Return the portions in which each GPU computes its part of a batch, so that one fits its memory."""
    each, portions = batch // _power_of_two(min(gpus, batch)), 1
    while each // portions > max(1, images_at_a_time(resolution, gpu_bytes)):
        portions *= 2
    return portions


def _r3gan(resolution: int, images: int) -> dict[str, object]:
    """Return R3GAN's networks and schedule, its authors' for FFHQ but for the width and the average."""
    rate = {"lr": 2e-4, "beta1": 0.0, "beta2_start": 0.9, "beta2": 0.99}
    return {
        "model.name": "r3gan",
        "model.latent_dim": 64,
        "model.width": _width(resolution),
        "model.max_width": _HALF_WIDTH,
        "model.blocks": 2,
        "data.augment": "ada",
        "data.augment_p": None if images < SMALL_SET else 0.3,
        "loss.penalty_end_factor": 0.1,
        **{f"optim.{network}.{key}": value for network in "gd" for key, value in rate.items()},
        "optim.schedule": "cosine",
        "optim.decay_kimg": 20_000.0,
        "optim.end_factor": 0.25,
        "ema.half_life_kimg": 500.0,
        "train.kimg": 20_000.0,
        "eval.every_kimg": 200.0,
        "eval.samples": min(max(images, 2048), 10_000),
    }


def _small_resnet(resolution: int, images: int) -> dict[str, object]:
    """Return networks and rates as in the preset `digits`, narrower where there are more pixels."""
    rate = {"lr": 8e-4, "beta1": 0.5, "beta2": 0.99}
    return {
        "model.name": "resnet",
        "model.latent_dim": 64,
        "model.width": max(16, 384 // resolution),
        "model.max_width": 96,
        "model.spectral_norm": False,
        "data.augment": "ada" if images < SMALL_SET else "none",
        **{f"optim.{network}.{key}": value for network in "gd" for key, value in rate.items()},
        "ema.half_life_kimg": 5.0,
        "train.kimg": 160.0,
        "eval.every_kimg": 10.0,
        "eval.samples": min(max(images, 1000), 2000),
    }


def _power_of_two(limit: int) -> int:
    """Return the largest power of two up to `limit`; from 8 on 1, 2, 4 and 8 workers divide it."""
    return 1 << (limit.bit_length() - 1)
