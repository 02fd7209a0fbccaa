"""Runs in Weights & Biases: its library writes them to a local file, and sends that where it is online."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import Any

import wandb
from PIL import Image

from gan_dist.artifacts.trackers import numbers
from gan_dist.artifacts.trackers.tracker import TrackedRun

INIT_S = 30.0


class WandbTracker:
    """The service that W&B's environment variables name; trials are a group, beside the run of the search."""

    def __init__(self, project: str | None) -> None:
        self._project = project or os.environ.get("WANDB_PROJECT") or "gan-dist"
        self.address = "Weights & Biases"
        self._runs: dict[str, wandb.Run] = {}

    @property
    def remedy(self) -> str:
        """The command that uploads what is in the local files."""
        folders = [run.settings.sync_dir for run in self._runs.values()]
        return f"`wandb sync {' '.join(folders[:3])}` uploads what they have" if folders else ""

    def open(self, run: TrackedRun) -> int:
        if run.id not in self._runs:
            self._runs[run.id] = wandb.init(
                project=self._project,
                id=run.id,
                name=run.name,
                group=run.parent.name if run.parent else None,
                job_type=None if run.uri and not run.parent else "trial" if run.parent else "search",
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(
                    silent=True,
                    console="off",
                    disable_git=True,
                    disable_code=True,
                    x_disable_stats=True,  # those of this process, which does not train
                    x_save_requirements=False,
                    init_timeout=INIT_S,
                ),
            )
        opened = self._runs[run.id]
        opened.config.update(run.settings, allow_val_change=True)  # type: ignore[no-untyped-call]
        opened.summary["state"] = "running"
        return run.images

    def log(self, run: TrackedRun, record: Mapping[str, Any], pictures: Mapping[str, bytes]) -> None:
        images = {}
        for name, content in pictures.items():
            with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
                images[f"samples/{name}"] = wandb.Image(picture)
        self._runs[run.id].log({**numbers(record), **images}, step=int(record["images"]), commit=True)

    def close(self, run: TrackedRun) -> None:
        opened = self._runs[run.id]
        opened.summary["state"] = run.state
        if run.reason:
            opened.summary["reason"] = run.reason
        if run.state == "interrupted":
            opened.mark_preempting()  # it goes on when its command is given again
        opened.finish(exit_code=int(run.state in ("failed", "interrupted")))
        del self._runs[run.id]
