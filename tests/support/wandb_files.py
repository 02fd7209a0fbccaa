"""The files that Weights & Biases' library writes where it is offline: records in LevelDB's log format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2 as messages

BLOCK, HEADER = 32768, 7
FULL, LAST = 1, 4
"""Kinds of chunks that end a record."""


def records(path: Path) -> Iterator[Any]:
    """Yield the records of a `.wandb` file."""
    content, at, parts = path.read_bytes(), HEADER, b""
    assert content[:4] == b":W&B"
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts += content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (FULL, LAST):
            record: Any = getattr(messages, "Record")()  # noqa: B009
            record.ParseFromString(parts)
            parts = b""
            yield record
