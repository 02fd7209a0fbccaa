"""Places of row groups in a Parquet file, found by its own footer and page headers.

For sets packed before their manifest listed the places, and to say in what a file differs from its manifest.
Parsed in Python, where damage is an error: over some damaged footers Arrow's parser ends the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np

from gan_dist.data.shards.row_group import LABEL_BYTES, RowGroupExtent, Run, ShardFile, UnreadableError

TAIL_BYTES = 2**16
"""Bytes fetched from a store to read a footer; a longer footer is fetched again in whole."""
PAGE_HEADER_BYTES = 256
MAGIC = b"PAR1"

# Parquet's numbers (parquet.thrift): types of columns, type of a page, encoding, codec.
_INT64, _FIXED_LEN_BYTE_ARRAY = 2, 7
_DATA_PAGE = _PLAIN = _UNCOMPRESSED = 0
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError, OverflowError, RecursionError)


class _ColumnChunk(NamedTuple):
    """The pages of a column of one row group: bytes [begin, end) of the file."""

    begin: int
    end: int
    codec: int


class _RowGroup(NamedTuple):
    rows: int
    chunks: dict[str, _ColumnChunk]


class Footer(NamedTuple):
    """Contents of a shard by its own account: bytes of a value in each column, and the row groups."""

    columns: dict[str, int]
    groups: tuple[_RowGroup, ...]

    def extent(self, file: ShardFile, number: int) -> RowGroupExtent:
        """Return where a row group of a file with a column `pixels` is, by its pages' headers.

        Raises:
            UnreadableError: its pages are not as this package writes them.
        """
        rows, chunks = self.groups[number]
        file.prefetch(min(chunk.begin for chunk in chunks.values()), max(c.end for c in chunks.values()))
        runs = {name: tuple(_page_runs(file, chunks[name], rows, self.columns[name])) for name in chunks}
        return RowGroupExtent(rows, self.columns["pixels"], runs["pixels"], runs.get("label"))


def read_footer(file: ShardFile) -> Footer:
    """Return what a Parquet file says that it contains.

    Raises:
        UnreadableError: it has no footer that can be read.
    """
    try:
        if file.size < 12:
            raise ValueError("the file is too short to have one")
        file.prefetch(max(0, file.size - TAIL_BYTES), file.size)
        length = int.from_bytes(_read(file, file.size - 8, 4), "little")
        if _read(file, file.size - 4, 4) != MAGIC or length > file.size - 12:
            raise ValueError("the file does not end as Parquet files do")
        return _parse_footer(_struct(BytesIO(_read(file, file.size - 8 - length, length))), file.size)
    except _MALFORMED as error:
        raise UnreadableError(f"its footer is damaged: {error}") from None


def _parse_footer(fields: dict[int, Any], size: int) -> Footer:
    columns = {}
    for element in fields[2][1:]:
        width = {_INT64: LABEL_BYTES, _FIXED_LEN_BYTE_ARRAY: element.get(2, 0)}.get(element[1], 0)
        columns[element[4].decode()] = width
    groups = []
    for group in fields[4]:
        chunks = {}
        for column in (chunk[3] for chunk in group[1]):
            chunk = _ColumnChunk(begin=column[9], end=column[9] + column[7], codec=column[4])
            if not 0 <= chunk.begin <= chunk.end <= size:
                raise ValueError("a column lies outside the file")
            chunks[column[3][0].decode()] = chunk
        if chunks.keys() != columns.keys():
            raise ValueError("a row group lacks a column")
        groups.append(_RowGroup(group[3], chunks))
    return Footer(columns, tuple(groups))


def _page_runs(file: ShardFile, chunk: _ColumnChunk, rows: int, width: int) -> Iterator[Run]:
    """Yield the values of each page of a column: they are a page's last bytes."""
    at = chunk.begin
    while rows > 0:
        try:
            source = BytesIO(_read(file, at, min(PAGE_HEADER_BYTES, chunk.end - at)))
            header = _struct(source)
            kind, size, (count, encoding) = header[1], header[3], (header[5][1], header[5][2])
        except _MALFORMED:
            raise UnreadableError(f"its page header at byte {at} is not valid thrift") from None
        values = at + source.tell()
        at = values + size
        if (kind, encoding, chunk.codec) != (_DATA_PAGE, _PLAIN, _UNCOMPRESSED) or width < 1:
            raise UnreadableError(f"its page before byte {at} is not plain, uncompressed values")
        if not 0 < count <= rows or not values <= at - count * width <= at <= chunk.end:
            raise UnreadableError(f"its page before byte {at} does not hold the values that its header says")
        yield Run(at - count * width, count)
        rows -= count


def _read(file: ShardFile, offset: int, size: int) -> bytes:
    content = np.empty(max(0, size), dtype=np.uint8)
    file.read_into(offset, content)
    return content.tobytes()


# Thrift's compact protocol. What these raise over malformed bytes: `_MALFORMED`.


def _struct(source: BytesIO) -> dict[int, Any]:
    """Return the next struct's fields by their numbers."""
    fields: dict[int, Any] = {}
    number = 0
    while head := source.read(1)[0]:
        number = number + (head >> 4) if head >> 4 else _integer(source)
        kind = head & 15
        fields[number] = kind == 1 if kind in (1, 2) else _value(source, kind)
    return fields


def _value(source: BytesIO, kind: int) -> Any:
    if kind in (1, 2, 3):  # booleans of a list, and bytes
        return source.read(1)[0]
    if kind in (4, 5, 6):
        return _integer(source)
    if kind in (7, 8):
        count = 8 if kind == 7 else _varint(source)
        if len(content := source.read(count)) < count:
            raise ValueError("it ends inside a value")
        return content
    if kind in (9, 10):
        head = source.read(1)[0]
        count = head >> 4 if head >> 4 < 15 else _varint(source)
        return [_value(source, head & 15) for _ in range(count)]
    if kind == 12:
        return _struct(source)
    raise ValueError(f"thrift has no type {kind} here")


def _varint(source: BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = source.read(1)[0]
        value |= (byte & 127) << shift
        if byte < 128:
            return value
    raise ValueError("a number is too long")


def _integer(source: BytesIO) -> int:
    value = _varint(source)
    return (value >> 1) ^ -(value & 1)
