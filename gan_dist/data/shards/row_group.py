"""Row groups whose values lie in a file as they lie in memory: read as they are, hashed on the way.

A shard's columns are neither compressed nor dictionary-encoded. Where a row group's column is a single page,
its values are the last bytes of the column's chunk. The manifest keeps where that is, since a damaged footer
may say anything: over some of them Arrow ends the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from gan_dist.data.shards.rows import Rows

LARGEST_PAGE = 2**30
"""Bytes of a page; Parquet's own limit is twice that."""
CHUNK = 2**21
"""Bytes that are read at once, then hashed and passed on while a processor's cache has them."""


def single_pages(group_rows: int, size: int) -> dict[str, Any]:
    """Return the options of Parquet's writer that make a row group's column a single page.

    Args:
        group_rows: Images in a row group.
        size: Bytes of an image.

    Returns:
        No options where such a page would be too large.
    """
    if group_rows * size > LARGEST_PAGE:
        return {}
    return {"data_page_size": LARGEST_PAGE, "max_rows_per_page": group_rows}


def offsets(footer: pq.FileMetaData, column: int, width: int) -> tuple[int, ...]:
    """Return where each row group's values of `width` bytes begin in a file written with single pages."""
    found = []
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        chunk = group.column(column)
        found.append(chunk.data_page_offset + chunk.total_compressed_size - group.num_rows * width)
    return tuple(found)


class RowGroupExtent(NamedTuple):
    """Where `rows` images of `size` bytes are: offsets in bytes, `labels` None where they have none."""

    rows: int
    size: int
    pixels: int
    labels: int | None

    @property
    def end(self) -> int:
        """The offset of the first byte behind it."""
        return self.pixels + self.rows * self.size if self.labels is None else self.labels + 8 * self.rows

    def is_within(self, size: int) -> bool:
        """Return whether a file of `size` bytes can hold it: pixels, and labels behind them."""
        after_pixels = self.pixels + self.rows * self.size
        return self.end <= size and (self.labels is None or after_pixels <= self.labels)

    def read(
        self,
        path: Path,
        state: xxhash.xxh3_128 | None,
        look: Callable[[npt.NDArray[np.int64]], None] | None = None,
    ) -> Iterator[tuple[int, Rows]]:
        """Yield the row group of a local file in parts of about `CHUNK` bytes, which share their memory.

        Args:
            path: The file.
            state: Is given all that is read: at the end it has the row group's `checksum`.
            look: Is shown the labels of all rows, if there are any, before the first part.

        Yields:
            The number of a part's first row, and the part, which the next one overwrites.

        Raises:
            OSError: the file cannot be read, or ends before the row group does.
        """
        some = np.empty((min(self.rows, max(1, CHUNK // self.size)), self.size), dtype=np.uint8)
        labels = None if self.labels is None else np.empty(self.rows, dtype=np.int64)
        with path.open("rb", buffering=0) as file:
            if labels is not None and self.labels is not None:
                _read_into(file, self.labels, labels)
                if look:
                    look(labels)
            for first in range(0, self.rows, len(some)):
                pixels = some[: self.rows - first]
                _read_into(file, self.pixels + first * self.size, pixels)
                if state:
                    state.update(pixels.data)
                last = first + len(pixels)
                yield first, Rows(pixels, None if labels is None else labels[first:last])
        if state and labels is not None:
            state.update(labels.data)

    def within(self, content: pa.Buffer) -> Rows:
        """Return the row group over `content`, the bytes of its file from `pixels` to `end`.

        Raises:
            ValueError: there are too few.
        """
        pixels = np.frombuffer(content, dtype=np.uint8, count=self.rows * self.size)
        if self.labels is None:
            return Rows(pixels.reshape(self.rows, self.size), None)
        labels = np.frombuffer(content, np.int64, self.rows, self.labels - self.pixels)
        return Rows(pixels.reshape(self.rows, self.size), labels.copy())  # in a file they are not aligned


def _read_into(file: FileIO, offset: int, values: npt.NDArray[Any]) -> None:
    file.seek(offset)
    left = values.reshape(-1).view(np.uint8).data
    while left:
        count = file.readinto(left)
        if not count:
            raise OSError(f"it ends at byte {file.tell()}, inside the row group")
        left = left[count:]
