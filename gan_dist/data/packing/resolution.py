"""The edge at which images are packed where nobody says: what most of them have, and a network can make."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from gan_dist.core.errors import DataError
from gan_dist.core.storage import redact
from gan_dist.core.threads import map_ahead
from gan_dist.data.packing.decode import RejectedError, shorter_edge
from gan_dist.data.packing.sources.items import Item, Source, counted

SMALLEST = 8
"""Edge in pixels below which no network works."""
SAMPLED = 200
SAMPLED_BYTES = 64 * 2**20
"""Images whose sizes are looked at, and bytes that may be read for it; twenty images always are."""


def choose_resolution(uri: str, source: Source, largest: int, notes: list[str]) -> int:
    """Return the largest power of two that nine of ten images have in both directions, within bounds.

    Of evenly spaced images the headers are read. Where images are smaller than `SMALLEST`, `notes` says so.

    Raises:
        DataError: none of these images can be read.
    """
    sample = _sample(source.items)
    with ExitStack() as stack:
        read = source.origin.open()

        def edge_of(item: Item) -> int | None:
            try:
                return shorter_edge(read(item))
            except RejectedError:
                return None

        found = list(map_ahead(stack, edge_of, sample, source.origin.readers))
    edges = sorted(edge for edge in found if edge is not None)
    if not edges:
        raise DataError(
            f"none of {counted(len(sample), 'image')} of {redact(uri)} that were looked at can be "
            f"read, such as {sample[0].name}",
            "gan-dist pack lists the reason for each",
        )
    tenth = edges[len(edges) // 10]
    if tenth < SMALLEST:
        notes.append(f"images of {tenth} pixels and the like are enlarged to {SMALLEST}x{SMALLEST}")
    return max(SMALLEST, min(1 << (tenth.bit_length() - 1), largest))


def _sample(items: Sequence[Item]) -> list[Item]:
    mean = sum(item.size for item in items) / len(items)
    count = min(len(items), SAMPLED, max(20, int(SAMPLED_BYTES / mean)) if mean else SAMPLED)
    return [items[n * len(items) // count] for n in range(count)]
