"""A conditional generator makes the digits that it is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gan_dist.config import load_config
from gan_dist.evaluation.extractors.digits import load_digits
from gan_dist.models import release
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train


@pytest.mark.soak
def test_nine_of_ten_digits_are_those_that_were_asked_for(tmp_path: Path) -> None:
    settings = ["model.conditional=true", "scale.workers=1", "data.cache=memory", "train.kimg=40"]
    config = load_config("digits", ["name=run", f"storage={tmp_path}", *settings])
    torch.set_num_threads(2)
    train(config, LocalContext(config.run_uri))
    generator = release.load(config.run_uri)
    asked = [number % 10 for number in range(1000)]
    found = load_digits(torch.device("cpu")).classify(generator.sample(1000, 1, asked)).argmax(1)
    assert (found == torch.tensor(asked)).double().mean() >= 0.9
    # Asked for nothing, it makes all classes in turn.
    assert torch.equal(generator.sample(1000, 1), generator.sample(1000, 1, asked))
