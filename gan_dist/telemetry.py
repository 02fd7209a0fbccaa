"""What a run shows and writes down: the progress line, metrics.jsonl, TensorBoard events, sample grids."""

from __future__ import annotations

import io
import json
import math
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TextIO

import torch
from PIL import Image
from rich.text import Text
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torchvision.utils import make_grid

from gan_dist import storage
from gan_dist.screen import Screen

METRICS = "metrics.jsonl"
RATE_WINDOW_S = 30.0


@dataclass(frozen=True)
class Progress:
    """Where a run is: what its one line shows."""

    images: int
    total_images: int
    loss_d: float
    loss_g: float
    metric: str
    value: float | None
    best: float | None
    waited_s: float = 0.0
    """Seconds that this worker has waited for images."""

    def line(self, images_per_second: float) -> str:
        """Return the progress as one line of text."""
        parts = [f"{self.images / 1000:.1f}/{self.total_images / 1000:.1f} kimg"]
        parts.append(f"{images_per_second:,.0f} images/s")
        left = None
        if images_per_second > 0 and self.images < self.total_images:
            seconds = (self.total_images - self.images) / images_per_second
            left = timedelta(seconds=math.ceil(seconds))
            parts.append(f"{left} left")
        if self.value is not None:
            parts.append(f"{self.metric} {self.value:.2f}")
        if self.best is not None:
            parts.append(f"best {self.best:.2f}")
        # A narrow terminal cuts off what stands last.
        parts += [f"D {self.loss_d:.3f}", f"G {self.loss_g:.3f}"]
        if left is not None:
            parts.append(f"until {datetime.now().astimezone() + left:%H:%M:%S}")
        return "  ".join(parts)


class Rate:
    """Images a second over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def __call__(self, images: int) -> float:
        """Note that the clock shows `images` now, and return the rate."""
        now = time.monotonic()
        self._seen.append((now, images))
        while now - self._seen[0][0] > RATE_WINDOW_S:
            self._seen.popleft()
        began, first = self._seen[0]
        return (images - first) / (now - began) if now > began else 0.0


class ProgressLine(Screen):
    """Shows progress: one live line on a terminal, a line every `every_s` seconds elsewhere.

    Args:
        every_s: Seconds between lines where `stream` is no terminal.
        stream: Where to show it; standard error when None.
    """

    def __init__(self, every_s: float, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._every_s = every_s
        self._rate = Rate()
        self._shown_at = time.monotonic() - every_s
        self._shown = -1

    def status(self, text: str) -> None:
        """Show what is being done while there is no progress to show yet."""
        if self.is_live:
            self._show_line(text)
        else:
            self.note(text)

    def update(self, progress: Progress) -> None:
        """Show a run's progress."""
        line = progress.line(self._rate(progress.images))
        if self.is_live:
            self._show_line(line)
        elif self._is_due(progress):
            self._shown_at, self._shown = time.monotonic(), progress.images
            self.note(line)

    def _show_line(self, text: str) -> None:
        self.show(Text(text, overflow="ellipsis", no_wrap=True))

    def _is_due(self, progress: Progress) -> bool:
        ended = progress.images >= progress.total_images
        late = ended or time.monotonic() - self._shown_at >= self._every_s
        return late and progress.images > self._shown


class Records:
    """A run's `metrics.jsonl` and TensorBoard events, which a resume continues as if nothing had happened.

    Args:
        run_uri: The run's folder.
        images: Where the run starts on its clock; records beyond it, left by a killed process, are dropped.
    """

    def __init__(self, run_uri: str, images: int) -> None:
        self._uri = storage.join(run_uri, METRICS)
        self._events_uri = storage.join(run_uri, "tensorboard")
        if storage.exists(self._uri):
            kept = [record for record in read_records(run_uri) if record["images"] <= images]
            storage.write_bytes(self._uri, "".join(map(_line, kept)).encode())
        self._events = tempfile.TemporaryDirectory(prefix="gan-dist-events-")
        self._writer = SummaryWriter(self._events.name, purge_step=images + 1)

    def write(self, record: Mapping[str, object]) -> None:
        """Add one record; it holds `images`, and its numbers become TensorBoard scalars."""
        record = {**record, "time": datetime.now(UTC).isoformat(timespec="seconds")}
        storage.append_text(self._uri, _line(record))
        for key, value in record.items():
            if isinstance(value, float) and key != "kimg":
                self._writer.add_scalar(key, value, record["images"])
        self._writer.flush()
        storage.copy_tree(self._events.name, self._events_uri)

    def close(self) -> None:
        """Release the events' local copy."""
        self._writer.close()
        self._events.cleanup()


def _line(record: Mapping[str, object]) -> str:
    # JSON knows no NaN or infinity; a reader in another language must still get through the line.
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite) + "\n"


def read_records(run_uri: str) -> list[dict[str, Any]]:
    """Return the records of a run's metrics.jsonl; a last line that a kill cut short is left out.

    Raises:
        StorageError: there is no such file.
    """
    lines = storage.read_text(storage.join(run_uri, METRICS)).split("\n")
    return [json.loads(line) for line in lines[:-1]]


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Return uint8 images (n, C, H, W), C = 1 or 3, as one picture, near-square, with thin gaps.

    Small images are enlarged by a whole factor, so that a person can read them.
    """
    columns = columns or math.ceil(math.sqrt(len(images)))
    factor = max(1, 64 // images.shape[-1])
    enlarged = images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)
    grid = make_grid(enlarged, nrow=columns, padding=2, pad_value=32)
    return Image.fromarray(grid.permute(1, 2, 0).to("cpu", torch.uint8).contiguous().numpy())


def write_png(uri: str, picture: Image.Image) -> None:
    """Write a picture as PNG."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    storage.write_bytes(uri, buffer.getvalue())


def local_folder() -> Path:
    """Return a new local folder for files on their way to storage."""
    return Path(tempfile.mkdtemp(prefix="gan-dist-"))
