"""The verb `train`: what it refuses before anything is started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("optimised", ["2", *(pytest.param(o, marks=pytest.mark.soak) for o in ("", "1"))])
def test_a_batch_that_does_not_divide_is_refused_with_optimised_python_too(
    optimised: str, tmp_path: Path
) -> None:
    """Asserts are gone there: what is checked by one would be found by a worker, on the cluster."""
    settings = ["train.batch_size=64", "scale.workers=3", f"storage={tmp_path}/runs"]
    done = subprocess.run(
        [sys.executable, "-m", "gan_dist", "train", "digits", *settings],
        env={**os.environ, "PYTHONOPTIMIZE": optimised},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "must divide by scale.workers=3: 64 / 3 = 21.3333; use 63 or 66" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()
