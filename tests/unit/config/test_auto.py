"""Settings by formulas: those that docs/auto.md shows, and that every one of them is a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_dist.config.auto import (
    FEWEST_AT_A_TIME,
    auto_preset,
    images_at_a_time,
    memory_resolution,
    penalty,
)
from gan_dist.config.fields import flatten, override
from gan_dist.config.load import load_config

DOCUMENT = Path(__file__).parents[3] / "docs" / "auto.md"
GB = 10**9


def table(heading: str) -> list[dict[str, str]]:
    """Return the rows of the table under a heading of docs/auto.md, by column."""
    section = DOCUMENT.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], map(str.strip, line), strict=True)) for line in lines[2:]]


@pytest.mark.parametrize("row", table("Examples"), ids=lambda row: "-".join(list(row.values())[:4]))
def test_examples_are_what_the_function_returns(row: dict[str, str]) -> None:
    gpu_bytes = int(row["GB each"]) * GB if row["GB each"].isdigit() else None
    sizes = {"resolution": int(row["edge"]), "images": int(row["images"].replace(",", ""))}
    found = auto_preset(**sizes, gpus=int(row["GPUs"]), gpu_bytes=gpu_bytes)
    shown = {
        "network": f"{found['model.name']} {found['model.width']} to {found['model.max_width']}",
        "r1, r2": f"{found['loss.r1']:g}",
        "batch": str(found["train.batch_size"]),
        "accumulate": str(found.get("train.accumulate", 1)),
        "augment": str(found["data.augment"]) + (f" {p:g}" if (p := found.get("data.augment_p")) else ""),
        "kimg": f"{found['train.kimg']:g}",
        "measured every": f"{found['eval.every_kimg']:g}",
        "of": str(found["eval.samples"]),
    }
    assert {name: row[name] for name in shown} == shown


@pytest.mark.parametrize("row", table("Memory"), ids=lambda row: row["GB"])
def test_resolutions_are_those_that_fit(row: dict[str, str]) -> None:
    gpu_bytes = int(row["GB"]) * GB
    assert memory_resolution(gpus=1, gpu_bytes=gpu_bytes) == int(row["resolution"])
    for edge in (32, 64, 128, 256):
        assert int(row[f"at {edge}"]) == images_at_a_time(edge, gpu_bytes)


@settings(deadline=None)
@given(
    resolution=st.sampled_from([8, 16, 32, 64, 128, 256, 512]),
    images=st.integers(1, 10**7),
    gpus=st.sampled_from([0, 1, 2, 3, 4, 7, 8, 16, 512]),
    gpu_bytes=st.none() | st.integers(1, 200 * GB),
)
def test_every_result_is_a_configuration_whose_batch_is_shared(
    resolution: int, images: int, gpus: int, gpu_bytes: int | None
) -> None:
    found = auto_preset(resolution=resolution, images=images, gpus=gpus, gpu_bytes=gpu_bytes)
    overrides = [override(key, value) for key, value in found.items()]
    config = load_config("shapes", [*overrides, "scale.workers=1"])
    assert {key: flatten(config)[key] for key in found} == found
    batch, accumulate = config.train.batch_size, config.train.accumulate
    assert batch == min(256 if config.model.name == "r3gan" else 64, 1 << (images.bit_length() - 1)) <= images
    for workers in (1, 2, 4, 8):
        if workers <= min(gpus, batch):
            assert batch % (workers * accumulate) == 0
    if accumulate > 1:  # no more portions than memory needs
        portion = batch // (1 << (min(gpus, batch).bit_length() - 1)) // accumulate
        assert portion <= max(1, images_at_a_time(resolution, gpu_bytes)) < 2 * portion


def test_penalties_are_near_those_that_r3gans_authors_publish() -> None:
    published = {32: (0.05, 0.5), 64: (1, 2), 256: (150, 150)}
    for resolution, (least, most) in published.items():
        assert 0.85 * least <= penalty(resolution) <= most


def test_a_resolution_holds_enough_images_and_the_next_does_not() -> None:
    for gigabytes in range(1, 40):
        resolution = memory_resolution(gpus=2, gpu_bytes=gigabytes * GB)
        if resolution > 32:
            assert images_at_a_time(resolution, gigabytes * GB) >= FEWEST_AT_A_TIME
        if resolution < 256:
            assert images_at_a_time(2 * resolution, gigabytes * GB) < FEWEST_AT_A_TIME
    assert memory_resolution(gpus=0, gpu_bytes=None) == 64
    assert memory_resolution(gpus=1, gpu_bytes=None) == memory_resolution(gpus=1, gpu_bytes=16 * GB)
