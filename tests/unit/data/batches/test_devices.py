"""A step on another device than the CPU: PyTorch's meta device, whose tensors do not mix with the CPU's."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from gan_dist.config import load_config
from gan_dist.data.batches.loader import Batch
from gan_dist.models.generator import ImageShape
from gan_dist.training.context import LocalContext
from gan_dist.training.state import new_state
from gan_dist.training.step import Step

SMALL = [
    *("name=run", "storage=x", "data.resolution=16", "model.width=16", "train.batch_size=8"),
    "train.precision=fp32",
]
LOSSES = {
    "both slopes": ["loss.name=rpgan", "loss.r1=1", "loss.r2=1", "loss.instance_noise=0.1"],
    "one slope": ["loss.name=nonsaturating", "loss.r1=1", "train.accumulate=2", "optim.clip_norm=1"],
    "unit norms": ["loss.name=wgan-gp", "loss.dragan=1", "model.pack=2"],
    "classes": ["loss.name=hinge", "model.conditional=true"],
}


@pytest.fixture
def meta(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """The device, without what it does not know: autocast, fused optimizers, values."""
    autocast, adam = torch.autocast, torch.optim.Adam

    def unfused(*arguments: Any, fused: bool, **options: Any) -> torch.optim.Adam:
        assert fused
        return adam(*arguments, **options)

    monkeypatch.setattr(
        torch,
        "autocast",
        lambda kind, **options: nullcontext() if kind == "meta" else autocast(kind, **options),
    )
    monkeypatch.setattr(torch.optim, "Adam", unfused)
    monkeypatch.setattr(torch, "isfinite", lambda _: True)
    return torch.device("meta")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["none", "diffaugment", "ada"])
@pytest.mark.parametrize("model", ["dcgan", "resnet", "r3gan"])
def test_a_step_stays_on_its_device(model: str, kind: str, loss: str, meta: torch.device) -> None:
    config = load_config("digits", [*SMALL, f"model.name={model}", f"data.augment={kind}", *LOSSES[loss]])
    classes = 10 if config.model.conditional else 0
    state = new_state(
        config.model,
        config.optim,
        ImageShape(16, 3, classes),
        meta,
        seed=config.seed,
        channels_last=config.train.channels_last,
    )
    state.augment.p = 0.5
    step = Step(config, state, LocalContext("unused", device=meta))
    labels = torch.zeros(8, dtype=torch.int64) if classes else None
    batch = Batch(torch.zeros(8, 3, 16, 16, dtype=torch.uint8), labels)
    scalars = step.discriminator_phase(batch) | step.generator_phase(batch)
    step.update_average()
    assert {name: value.device for name, value in scalars.items()} == dict.fromkeys(scalars, meta)
    networks = (state.generator, state.discriminator, state.average)
    assert {weights.device for network in networks for weights in network.parameters()} == {meta}
