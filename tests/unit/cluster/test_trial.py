"""What a trial takes of its process, and what it leaves to the next one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gan_dist.cluster.tune.trial import release_memory, trial_device
from gan_dist.core.errors import CapacityError


class Network(nn.Module):
    """One layer; older versions of PyTorch compile none of their own by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layer(images)
        return found


@pytest.mark.filterwarnings("ignore")
def test_nothing_compiled_is_left_to_the_next_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    def trial(width: int) -> None:
        network = Network(width)
        network.compile(backend=backend, dynamic=False)
        network(torch.zeros(1, width))
        release_memory()

    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    for width in range(1, 5):
        trial(width)
        assert len(compiled) == width


def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert trial_device(0.5) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CapacityError, match=r"scale\.gpus_per_worker=0\.5: there is a GPU, .* newer driver"):
        trial_device(0.5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert trial_device(0.5) == "cuda"
    assert trial_device(0.0) == "cpu"
