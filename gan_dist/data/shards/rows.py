"""Images as arrays: rows of pixels with their labels, over whatever memory they lie in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Some images of a set: `pixels` uint8 (n, H*W*C), `labels` int64 (n,) or None."""

    pixels: Pixels
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | npt.NDArray[np.intp]) -> Rows:
        return Rows(self.pixels[index], None if self.labels is None else self.labels[index])

    def put(self, at: slice | npt.NDArray[np.intp], rows: Rows) -> None:
        """Copy `rows` to the rows `at` of these."""
        self.pixels[at] = rows.pixels
        if self.labels is not None and rows.labels is not None:
            self.labels[at] = rows.labels

    @staticmethod
    def empty(count: int, size: int, *, labelled: bool) -> Rows:
        """Allocate rows."""
        labels = np.empty(count, dtype=np.int64) if labelled else None
        return Rows(np.empty((count, size), dtype=np.uint8), labels)

    @staticmethod
    def concatenate(parts: list[Rows]) -> Rows:
        """Join parts of the same set; a single part is returned as it is, without a copy."""
        if len(parts) == 1:
            return parts[0]
        labels = [part.labels for part in parts if part.labels is not None]
        pixels = np.concatenate([part.pixels for part in parts])
        return Rows(pixels, np.concatenate(labels) if labels else None)


def table_rows(table: pa.Table) -> Rows:
    """Return a table's images as arrays over its own memory."""
    column = table.column("pixels")
    # Combining copies, even where there is nothing to combine.
    pixels = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    size = pixels.type.byte_width
    flat = np.frombuffer(pixels.buffers()[1], dtype=np.uint8)
    values = flat[pixels.offset * size : (pixels.offset + len(pixels)) * size].reshape(len(pixels), size)
    labels = table.column("label").to_numpy() if "label" in table.column_names else None
    return Rows(values, labels)


def rows_table(rows: Rows) -> pa.Table:
    """Return images as a table over their own memory; the inverse of `table_rows`."""
    count, size = rows.pixels.shape
    buffer = pa.py_buffer(np.ascontiguousarray(rows.pixels))
    columns = {"pixels": pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), count, [None, buffer])}
    if rows.labels is not None:
        columns["label"] = pa.array(rows.labels)
    return pa.table(columns)


def checksum(rows: Rows) -> str:
    """Return the XXH3-128 of rows' pixels and labels; a CRC32 would cost more than the reading."""
    state = xxhash.xxh3_128(np.ascontiguousarray(rows.pixels).data)
    if rows.labels is not None:
        state.update(np.ascontiguousarray(rows.labels).data)
    return state.hexdigest()
