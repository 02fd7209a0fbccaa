"""Checks of what one configuration needs: storage, clock, images, extractor, networks, an earlier run."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import torch

from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError, StorageError
from gan_dist.core.findings import Finding, findings_of
from gan_dist.core.storage.filesystems import endpoint_and_region
from gan_dist.core.storage.redaction import reason
from gan_dist.data.batches.loader import open_images
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.scores import require_possible
from gan_dist.training.loop import image_shape, require_same_run
from gan_dist.training.preflight import summarise

SKEW_REFUSED_S = 15 * 60
"""S3 refuses a request that is so much older or newer than its clock says (`RequestTimeTooSkewed`)."""
SKEW_NOTED_S = 60
CLOCK = "timedatectl set-ntp true, or start chronyd: let this machine's clock follow a time server"


def rights(config: RunConfig) -> Iterator[Finding]:
    """Write, read, list and delete a small file where runs are kept; nothing stays."""
    folder = config.storage.path
    marker = storage.join(folder, f".doctor-{uuid.uuid4().hex}")
    name = marker.partition("?")[0].rpartition("/")[2]
    content = name.encode()
    doing = "looked for"
    with storage.remove_created_folders(folder):
        try:
            empty = not storage.exists(folder)
            doing = "written"
            storage.write_bytes(marker, content)
            doing = "read"
            if storage.read_bytes(marker) != content:
                raise StorageError("what was written is not what is read", "use another storage.path")
            doing = "listed"
            if name not in storage.list_names(folder):
                raise StorageError("what was written is not in the listing", "use another storage.path")
            doing = "deleted"
            storage.delete_file(marker)
            if storage.exists(marker):
                raise StorageError("what was deleted is still there", "use another storage.path")
            if empty:
                storage.delete_empty_folder(folder)
        except GanDistError as error:
            if doing == "written" and "://" not in folder:  # the marker's name means nothing to a user
                refused = str(error).replace(marker, folder)
                error = StorageError(f"{refused}", "give another storage=...")
            left = _left_behind(marker) if doing not in ("looked for", "written") else ""
            for found in findings_of(
                "storage", error.problems, "checkpoints, records and releases are kept there"
            ):
                what = f"{found.what} (a file could not be {doing}{left})"
                yield Finding("storage", "error", what, found.why, found.remedy)
            return
    yield Finding("storage", "ok", f"{storage.redact(folder)} can be written, read, listed and deleted from")


def _left_behind(marker: str) -> str:
    """Delete the marker after a failure; say so where that fails too."""
    try:
        storage.delete_file(marker)
    except GanDistError:
        return f"; {storage.redact(marker)} stays behind"
    return ""


def clock(config: RunConfig, wait_s: float) -> Iterator[Finding]:
    """This machine's clock against the object store's, by the date of an answer."""
    uri = config.storage.path if config.storage.path.startswith("s3://") else config.data.path
    if not uri.startswith("s3://"):
        yield Finding("clock", "ok", "no object store whose clock matters")
        return
    endpoint, region = endpoint_and_region(uri.partition("?")[2])
    url = endpoint or f"https://s3.{region or 'us-east-1'}.amazonaws.com"
    before = time.time()
    try:
        date = _date(url, wait_s)
    except OSError as error:
        what = f"{_host(url)} did not tell the time: {reason(error)}"
        remedy = "check the endpoint: AWS_ENDPOINT_URL, AWS_PROFILE, or endpoint_override in the URI"
        yield Finding("clock", "warning", what, "S3 refuses requests that are 15 minutes off", remedy)
        return
    skew = (before + time.time()) / 2 - date
    off = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {_host(url)}"
    if abs(skew) >= SKEW_REFUSED_S:
        why = "the store refuses every request that is 900 s off (RequestTimeTooSkewed)"
        yield Finding("clock", "error", off, why, CLOCK)
    elif abs(skew) >= SKEW_NOTED_S:
        yield Finding("clock", "warning", off, "at 900 s the store refuses every request", CLOCK)
    else:
        yield Finding("clock", "ok", f"within {max(1, round(abs(skew)))} s of {_host(url)}")


def _date(url: str, wait_s: float) -> float:
    """Return the time that a server tells; an answer that refuses tells it as well."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=wait_s) as answer:
            told = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        told = error.headers.get("Date")
    if told is None:
        raise OSError("its answer has no date")
    return parsedate_to_datetime(told).timestamp()


def _host(url: str) -> str:
    return re.sub(r"^\w+://(?:[^/@]*@)?([^/]*).*", r"\1", url)


def contents(config: RunConfig) -> Iterator[Finding]:
    """What `gan-dist train` looks at before it starts anything: images, extractor, networks, earlier run."""
    found = [*_images(config), *_extractor(config)]
    yield from found
    if all(one.level != "error" for one in found):
        yield from _beginning(config)


def _images(config: RunConfig) -> Iterator[Finding]:
    try:
        found = open_images(config.data.path)
        shape = image_shape(config, found)
    except GanDistError as error:
        yield from findings_of("data", error.problems, "there is nothing to train on")
        return
    manifest = found.manifest
    what = f"{manifest.count} images of {manifest.height}x{manifest.width}x{manifest.channels}"
    yield Finding("data", "ok", f"{what}, read at {shape.resolution}x{shape.resolution}")


def _extractor(config: RunConfig) -> Iterator[Finding]:
    """The network that measures; of Inception, that its weights are there and the right ones."""
    weights = config.eval.inception_weights
    try:
        found = load_extractor(config.eval.extractor, torch.device("cpu"), inception_weights=weights)
        require_possible(found, config.eval.metrics, config.eval.samples)
    except GanDistError as error:
        yield from findings_of("extractor", error.problems, "no evaluation is possible without it")
        return
    yield Finding("extractor", "ok", f"{found.name}, for {found.metric}, hash {found.hash[:12]}")


def _beginning(config: RunConfig) -> Iterator[Finding]:
    try:
        sizes = summarise(config)
        if config.search is None:
            require_same_run(config, config.run_uri)
    except GanDistError as error:
        yield from findings_of("run", error.problems, "gan-dist refuses to begin it")
        return
    networks = f"{sizes.generator_parameters} and {sizes.discriminator_parameters} parameters"
    length = f"{sizes.images} images, {sizes.epochs:.1f} epochs"
    yield Finding("run", "ok", f"networks of {networks}; {length}")
