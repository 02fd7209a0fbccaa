"""A process that writes a run's records for a tracker to follow, and that ends by a kill."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from PIL import Image

from gan_dist.artifacts import trackers
from gan_dist.artifacts.records import RecordWriter
from gan_dist.artifacts.trackers import Trackers

SECRET = "secret-that-must-not-be-kept"


def track(uri: str, start: int, name: str, *, killed: bool) -> None:
    """Write the records of a run from `start` images on, as a tracker sees them, and end by a kill."""
    writer = RecordWriter(uri, start, tensorboard=False)
    sent, trackers.END_S = Path(uri, "trackers", f"{name}.json"), 60.0
    with Trackers([name], uri, "run", None, print) as following:
        settings = {"train.kimg": 14 + start / 1000, "storage.path": f"s3://key:{SECRET}@bucket"}
        following.update("", "running", uri=uri, settings=settings)
        last = start + 5000
        for images in range(start + 1000, last + 1, 1000):
            record: dict[str, object] = {"images": images, "kimg": images / 1000, "loss_d": images / 1.0}
            if images % 2000 == 0:
                picture = Path(uri, "samples", f"fakes_{images / 1000:010.3f}.png")
                Image.new("L", (8, 8), images % 255).save(picture)
                record |= {"fd_digits": 1.0, "checkpoint": f"checkpoint_{images}"}
            writer.add(record)
        writer.write()()
        while killed and not (sent.exists() and f'"images": {last}' in sent.read_text()):
            time.sleep(0.05)
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        following.update("", "finished")


if __name__ == "__main__":
    track(sys.argv[1], int(sys.argv[2]), sys.argv[3], killed=sys.argv[4] == "killed")
