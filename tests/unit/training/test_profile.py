"""Profiling: weights stay as they are, every phase has its time, and what cannot be written stops nothing."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from gan_dist.training.flops import FlopCounter, peak_flops
from gan_dist.training.profile import PHASES
from tests.support.gloo import run_gloo
from tests.unit.training.test_training import assert_same_bits, config, run, run_on_ranks, tensors

LENGTH = ["train.kimg=0.32", "loss.r1=1"]


def test_a_profiled_run_of_two_workers_has_the_same_bits_its_phases_and_a_trace(tmp_path: Path) -> None:
    plain = config(tmp_path / "plain", *LENGTH)
    profiled = config(tmp_path / "profiled", *LENGTH, "profile.steps=3")
    run_gloo(run_on_ranks, 2, plain, profiled)
    assert_same_bits(tensors(plain), tensors(profiled))
    folder = tmp_path / "profiled" / "run" / "profile"
    result = json.loads((folder / "profile.json").read_text())
    phases = result["phases_ms"]
    assert tuple(phases) == PHASES
    assert all(phases[name] > 0 for name in PHASES if name != "evaluation")
    assert sum(phases.values()) == pytest.approx(result["covered"] * result["step_ms"])
    assert result["covered"] <= 1
    # Gradients of all weights of both networks, the scalars and whether to stop.
    sizes = {name: value.numel() for name, value in tensors(plain).items()}
    weights = sum(size for name, size in sizes.items() if name.startswith(("generator.", "discriminator.")))
    assert 0 < result["all_reduce_bytes"] <= 4 * (2 * weights + 16)
    assert result["sent_bytes"] == result["all_reduce_bytes"]
    assert result["flops_per_image"] > 1e5
    (trace,) = folder.glob("trace_*.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    named = {event["name"] for event in events if event.get("name", "").startswith("gan-dist: ")}
    assert named == {f"gan-dist: {name}" for name in PHASES if name != "evaluation"}
    assert "images/s over 3 steps" in (folder / "table.txt").read_text()


def test_an_evaluation_is_a_phase_and_its_arithmetic_is_not_that_of_a_step(tmp_path: Path) -> None:
    found = []
    for name, every in (("seldom", 0.256), ("often", 0.032)):
        settings = config(tmp_path / name, *LENGTH, "profile.steps=3", f"eval.every_kimg={every}")
        run(settings)
        found.append(json.loads((tmp_path / name / "run" / "profile" / "profile.json").read_text()))
    assert found[0]["flops_per_image"] == found[1]["flops_per_image"]
    assert found[0]["phases_ms"]["evaluation"] == 0 < found[1]["phases_ms"]["evaluation"]


def test_a_folder_that_takes_no_trace_is_a_warning_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = config(tmp_path, *LENGTH, "profile.steps=2")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile").write_text("a file where the folder would be")
    with caplog.at_level(logging.WARNING, "gan_dist"):
        assert run(settings).finished
    said = [one.getMessage() for one in caplog.records if "profile.steps" in one.getMessage()]
    assert len(said) == 3
    assert "was not written, and the run goes on" in said[0]


UNKNOWN = (
    *("NVIDIA L40", "NVIDIA H200 NVL", "NVIDIA RTX A1000", "NVIDIA T400 4GB", "NVIDIA A10G"),
    "NVIDIA GeForce RTX 4090 Laptop GPU",
)


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("Tesla V100-SXM2-16GB", 15.7),
        ("Tesla T4", 8.1),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362),
        *((other, None) for other in UNKNOWN),
    ],
)
def test_a_gpu_has_the_peak_of_its_own_data_sheet_or_none(
    name: str, tflops: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    peak, source = peak_flops(torch.device("cuda"), bf16=True)
    assert peak == (tflops and pytest.approx(1e12 * tflops))
    assert ("not in the table" in source) == (tflops is None)


def test_operations_are_counted_forward_and_backward() -> None:
    counter, layers = FlopCounter(), nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))
    counter.enter()
    layers(torch.ones(11, 7)).sum().backward()
    counter.exit()
    layers(torch.ones(11, 7))
    # The first layer's gradient with respect to its input is not computed.
    assert counter.total == 2 * 11 * (2 * 7 * 5 + 3 * 5 * 3)
    peak, source = peak_flops(torch.device("cpu"), bf16=False)
    assert peak is not None
    assert peak > 0
    assert "products of 1024x1024" in source


def test_where_records_go_changes_no_weight(tmp_path: Path) -> None:
    usual, nowhere = config(tmp_path / "usual", *LENGTH), config(tmp_path / "nowhere", *LENGTH, "log.to=[]")
    for one in (usual, nowhere):
        run(one)
    assert_same_bits(tensors(usual), tensors(nowhere))
    assert (tmp_path / "usual" / "run" / "tensorboard").exists()
    assert not (tmp_path / "nowhere" / "run" / "tensorboard").exists()
