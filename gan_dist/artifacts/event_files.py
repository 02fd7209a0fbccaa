"""TensorBoard events of a run: the numbers of its records in groups, and its sample grids."""

from __future__ import annotations

import io
import logging
import re
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from gan_dist.artifacts.trackers import numbers
from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.core.threads import map_ahead

LOG = logging.getLogger("gan_dist")
FOLDER, SAMPLES = "tensorboard", "samples"
SEGMENT_BYTES = 4 * 2**20
"""Size from which on a new file is begun: object stores cannot append, so the last file is uploaded whole."""
LARGEST_EDGE = 768
"""Edge in pixels to which grids are reduced."""
READERS = 16
_FAKES = re.compile(r"fakes_(\d+\.\d+)\.png")
TAGS = (
    (r"loss_(d|g)", lambda match: f"Loss/{match[1].upper()}"),
    (r"loss_(reconstruction)", r"Loss/\1"),
    (r"(real|fake)_accuracy", r"Accuracy/\1"),
    (r"(grad|weight)_norm_(d|g)", lambda match: f"Norms/{match[1]}_{match[2].upper()}"),
    (r"s_per_kimg|images_per_second|wait_share", r"Timing/\g<0>"),
    (r"peak_memory_gib", r"Resources/\g<0>"),
    (r"images|augment_p|path_length|quarantined", r"Progress/\g<0>"),
    (r"\w+", r"Metrics/\g<0>"),
)
"""Patterns of the keys of numbers in records, and the tag of each."""


class EventFiles:
    """Writes the events of a run; those of the run's earlier processes are replaced.

    They are made again from the run's `records` and the grids beside them, so that a resumed run has no point
    twice. The step of an event is the images seen divided by `images_per_step`, rounded down; of several
    values of one tag that would have the same step the first one is written.
    """

    def __init__(self, run_uri: str, records: Sequence[Mapping[str, Any]], images_per_step: int) -> None:
        self._failed = False
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="gan-dist-events-")
        except OSError as error:
            raise StorageError(
                f"there is no room for temporary files ({error})", "free some, or set TMPDIR"
            ) from None
        self._run_uri, self._uri = run_uri, storage.join(run_uri, FOLDER)
        self._images_per_step = images_per_step
        for name in storage.list_names(self._uri):
            if name.startswith("events.out.tfevents."):
                with suppress(StorageError):  # TensorBoard drops their points by the new file's `purge_step`
                    storage.delete_file(storage.join(self._uri, name))
        self._steps: dict[str, int] = {}  # the last of each tag
        self._sizes: dict[str, int] = {}  # of uploaded files
        # A TensorBoard that has read the earlier files drops what they had from this step on.
        self._writer = SummaryWriter(self._folder.name, purge_step=0)
        for record in records:
            self.add(record)
        if records:
            self._add_earlier_pictures(records[-1]["images"])

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the numbers of a record, which has the keys `images` and `time`."""
        at = datetime.fromisoformat(record["time"]).timestamp() if "time" in record else None
        for key, value in numbers(record).items():
            tag = tag_of(key)
            if (step := self._next_step(tag, record["images"])) is not None:
                self._try(partial(self._writer.add_scalar, tag, value, step, walltime=at))

    def add_picture(self, name: str, picture: Image.Image, images: int) -> None:
        """Add a grid of samples."""
        step = self._next_step(f"Samples/{name}", images)
        if step is not None:
            reduced = picture.convert("RGB")
            reduced.thumbnail((LARGEST_EDGE, LARGEST_EDGE))
            pixels = np.asarray(reduced)
            self._try(partial(self._writer.add_image, f"Samples/{name}", pixels, step, dataformats="HWC"))

    def upload(self) -> Callable[[], None]:
        """Return a call that copies what was added until now to the run's folder; any thread may call it."""
        files: list[Path] = []

        def flush() -> None:
            self._writer.flush()
            files.extend(sorted(Path(self._folder.name).iterdir()))
            if files[-1].stat().st_size > SEGMENT_BYTES:
                self._writer.close()
                self._writer = SummaryWriter(self._folder.name)

        self._try(flush)
        return lambda: self._copy(files)

    def _try(self, write: Callable[[], object]) -> None:
        """Write an event, unless that has failed before: a run that goes on makes its events anew."""
        if self._failed:
            return
        try:
            write()
        except OSError as error:
            self._failed = True
            LOG.warning("warning: no more events for TensorBoard: %s: %s", tempfile.gettempdir(), error)

    def _copy(self, files: Iterable[Path]) -> None:
        for file in files:
            content = file.read_bytes()
            if self._sizes.get(file.name) != len(content):
                storage.write_bytes(storage.join(self._uri, file.name), content)
                self._sizes[file.name] = len(content)

    def close(self) -> None:
        """Delete the local copy."""
        self._try(self._writer.close)
        self._folder.cleanup()

    def _next_step(self, tag: str, images: int) -> int | None:
        step = images // self._images_per_step
        if step <= self._steps.get(tag, -1):
            return None
        self._steps[tag] = step
        return step

    def _add_earlier_pictures(self, images: int) -> None:
        folder = storage.join(self._run_uri, SAMPLES)
        found = [match for name in storage.list_names(folder) if (match := _FAKES.fullmatch(name))]
        kept = [match for match in found if round(float(match[1]) * 1000) <= images]
        with ExitStack() as stack:
            files = (storage.join(folder, match[0]) for match in kept)
            contents = map_ahead(stack, storage.read_bytes, files, READERS)
            for match, content in zip(kept, contents, strict=True):
                with (
                    suppress(OSError, SyntaxError, ValueError),  # a damaged picture
                    Image.open(io.BytesIO(content), formats=["PNG"]) as picture,
                ):
                    self.add_picture("fakes", picture, round(float(match[1]) * 1000))


def tag_of(key: str) -> str:
    """Return the tag of a number in a record, such as `Loss/D`."""
    pattern, tag = next((pattern, tag) for pattern, tag in TAGS if re.fullmatch(pattern, key))
    return re.sub(pattern, tag, key)
