"""The audit log of a run, `audit.jsonl`: one entry a checkpoint, each with a hash that covers the one before.

An entry says from which images, configuration and code a state came, and what was measured of it. Each
checkpoint has its own entry too, as `audit.json`, so that a run continues its chain from what it loads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

import gan_dist
from gan_dist.artifacts.records import finite
from gan_dist.core import host, storage
from gan_dist.core.errors import AbsentError, CheckpointError

LOG, ENTRY = "audit.jsonl", "audit.json"
TENSORS = ("generator", "discriminator", "average", "optimizer_g", "optimizer_d")
"""Names of the tensor files of a checkpoint, without their suffix."""


class Entry(BaseModel):
    """What is known of a checkpoint. All hashes are SHA-256 in hexadecimal digits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: str
    """Its name."""
    images: int
    state: str
    """Hash of the hashes of its tensors' files and of its `state.json`."""
    average: str
    """Hash of the averaged generator's weights: a release of them has a file with this hash."""
    config: str
    """Hash of its `config.yaml`."""
    data: str
    """Fingerprint of the image set."""
    code: Mapping[str, str]
    """Versions of gan-dist and torch, and a hash of gan-dist's source."""
    machine: str
    """Kind of processor or GPU, and the threads of a worker: bits are promised on equal ones."""
    workers: int
    figures: Mapping[str, object]
    """Measurements of this state; empty between evaluations."""
    previous: str
    """Hash of the entry before; empty for a run's first."""
    hash: str = ""
    """Hash of all of the above."""

    def sealed(self) -> Entry:
        """Return the entry with its hash."""
        return self.model_copy(update={"hash": self._digest()})

    @property
    def is_sealed(self) -> bool:
        """Whether its hash is that of its content."""
        return self.hash == self._digest()

    def _digest(self) -> str:
        content = json.dumps(self.model_dump(exclude={"hash"}), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode()).hexdigest()


def state_hash(files: Mapping[str, str]) -> str:
    """Return the hash of a checkpoint's state, from the hashes of its files by their names."""
    names = [*(f"{name}.safetensors" for name in TENSORS), "state.json"]
    return hashlib.sha256("".join(files[name] for name in names).encode()).hexdigest()


def code() -> dict[str, str]:
    """Return versions of gan-dist and torch, and the hash of gan-dist's source files."""
    found = host.versions()
    root = Path(gan_dist.__file__).parent
    source = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        source.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return {"gan-dist": found["gan-dist"], "torch": found["torch"], "source": source.hexdigest()}


def machine(device: torch.device) -> str:
    """Return the kind of a worker's device and, of a processor, its instructions and the threads in use."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    instructions, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"{host.processor()}, {instructions}, {threads} {'thread' if threads == 1 else 'threads'}"


def read_log(run_uri: str) -> list[Entry]:
    """Return the entries of a run's log; none where it has no log.

    Raises:
        CheckpointError: a line is no entry.
        StorageError: the log cannot be read.
    """
    uri = storage.join(run_uri, LOG)
    try:
        content = storage.read_bytes(uri)
    except AbsentError:
        return []
    lines = content.split(b"\n")[:-1]  # behind the last end of line a kill may leave a part
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(Entry.model_validate_json(line))
        except ValidationError as error:
            what = f"{storage.redact(uri)} is damaged in line {number} ({error.errors()[0]['msg']})"
            raise CheckpointError(what, "restore the file") from None
    return entries


def read_entry(checkpoint_uri: str) -> Entry | None:
    """Return the entry of a checkpoint; None where it has none, as those of version 0.1."""
    try:
        return Entry.model_validate_json(storage.read_bytes(storage.join(checkpoint_uri, ENTRY)))
    except (AbsentError, ValidationError):
        return None


def first_break(entries: Sequence[Entry]) -> str:
    """Return what is wrong with the first entry whose hash or predecessor is wrong; nothing if none is."""
    previous = ""
    for number, entry in enumerate(entries, 1):
        if not entry.is_sealed:
            return f"line {number} ({entry.checkpoint}) was changed: its hash is not that of its content"
        if entry.previous != previous:
            return f"line {number} ({entry.checkpoint}) does not follow the one before it"
        previous = entry.hash
    return ""


class AuditLog:
    """Writes a run's log; a resumed run continues it behind the checkpoint that it has loaded.

    Args:
        run_uri: The run's folder.
        loaded: URI of the checkpoint that was loaded; empty where the run begins.
        data: Fingerprint of the image set.
        machine: See `Entry.machine`.
        workers: Number of workers.
    """

    def __init__(self, run_uri: str, loaded: str, *, data: str, machine: str, workers: int) -> None:
        self._uri = storage.join(run_uri, LOG)
        self._data, self._machine, self._workers, self._code = data, machine, workers, code()
        last = read_entry(loaded) if loaded else None
        self._previous = last.hash if last else ""
        content = storage.read_bytes(self._uri) if storage.exists(self._uri) else b""
        self._content = content
        with suppress(CheckpointError):  # a damaged log stays as it is, for an audit to find
            self._content = b"".join(map(_line, _until(read_log(run_uri), last)))
        if self._content != content:
            storage.write_bytes(self._uri, self._content)

    def entry(
        self, checkpoint: str, images: int, files: Mapping[str, str], figures: Mapping[str, object]
    ) -> Entry:
        """Return the next entry, from the hashes of a checkpoint's files by their names."""
        return Entry(
            checkpoint=checkpoint,
            images=images,
            state=state_hash(files),
            average=files["average.safetensors"],
            config=files["config.yaml"],
            data=self._data,
            code=self._code,
            machine=self._machine,
            workers=self._workers,
            figures=finite(figures),
            previous=self._previous,
        ).sealed()

    def add(self, entry: Entry) -> None:
        """Write an entry, whose checkpoint is whole; a call that has failed may be repeated."""
        content = self._content + _line(entry)
        storage.write_bytes(self._uri, content)
        self._content, self._previous = content, entry.hash


def _until(entries: list[Entry], last: Entry | None) -> list[Entry]:
    """Return the entries up to that of a loaded checkpoint, which is added if a kill came before its line."""
    if last is None:
        return []
    hashes = [entry.hash for entry in entries]
    if last.hash in hashes:
        return entries[: hashes.index(last.hash) + 1]
    before = hashes.index(last.previous) + 1 if last.previous in hashes else 0
    return [*entries[:before], last]


def _line(entry: Entry) -> bytes:
    return entry.model_dump_json().encode() + b"\n"
