"""Files changed at random, as damage and an attacker change them; pure functions of a random generator."""

from __future__ import annotations

import io
import os
import re
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

NUMBERS = (
    *(
        "-1",
        "0",
        "1",
        "2",
        "0.5",
        "1e400",
        "-1e400",
        "1e-400",
        "NaN",
        "Infinity",
        "-Infinity",
        ".nan",
        ".inf",
    ),
    *("99999999999999999999999", "-99999999999999999999999", "1" * 400, "1" * 5000, "9223372036854775807"),
    *("4611686018427387904", "4294967296", "null", "true", "[]", "{}", "[[[[[]]]]]", '{"a": {"b": [1]}}'),
    *("[" * 2000 + "]" * 2000, '"12"', '"text"', "1:30", "010", "0x10"),
)
TEXTS = (
    *("../../x", "/etc/passwd", "/dev/zero", "..", ".", "", "a/b", "\\u0000", "\\ud800", "a\\nb", "x" * 5000),
    *(
        "s3://",
        "~nobody/x",
        "\\u202e",
        "{}",
        "%s%n",
        "<script>alert(1)</script>",
        "NaN",
        "-1",
        "café",
        "file:///x",
    ),
)
TAR = tarfile.BLOCKSIZE


def mutated_bytes(content: bytes, chance: Random) -> bytes:
    """Return bytes with one kind of damage."""
    data = bytearray(content)
    at, size = chance.randrange(len(data) + 1), 1 << chance.randrange(13)
    kind = chance.choice(("flip", "cut", "grow", "zero", "swap", "word", "word", "repeat", "drop", "noise"))
    if kind == "flip":
        for _ in range(chance.choice((1, 1, 8, 64)) if data else 0):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "grow":
        data += chance.choice((bytes(size), chance.randbytes(size), bytes(data)))
    elif kind == "zero":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif kind == "swap":
        other = chance.randrange(len(data) + 1)
        first, second = sorted((at, other))
        size = min(size, second - first, len(data) - second)
        data[first : first + size], data[second : second + size] = (
            data[second : second + size],
            data[first : first + size],
        )
    elif kind == "word":
        width = chance.choice((1, 2, 4, 8))
        value = chance.choice((0, 1, (1 << 8 * width) - 1, 1 << (8 * width - 1), (1 << 8 * width) // 3))
        place = chance.choice((at, chance.randrange(64), len(data) - chance.randrange(1, 65)))
        data[max(0, place) : max(0, place) + width] = value.to_bytes(width, chance.choice(("little", "big")))
    elif kind == "repeat":
        data[at:at] = data[at : at + size]
    elif kind == "drop":
        del data[at : at + size]
    else:
        data[at : at + size] = chance.randbytes(len(data[at : at + size]))
    return bytes(data)


def mutated_text(content: bytes, chance: Random) -> bytes:
    """Return JSON, YAML or CSV with some values replaced by ones that nobody expects, or damaged."""
    if chance.random() < 0.25:
        return mutated_bytes(content, chance)
    text = content.decode(errors="surrogateescape")
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        tokens = list(re.finditer(r'"[^"\n]*"|(?<=[:,\[ ])-?\d[\d.e+-]*|(?<=: )\S+|[A-Za-z_]+', text))
        if not tokens:
            return content
        token = chance.choice(tokens)
        quote = '"' if token[0].startswith('"') else ""
        new = chance.choice(NUMBERS) if chance.random() < 0.6 else f"{quote}{chance.choice(TEXTS)}{quote}"
        text = text[: token.start()] + new + text[token.end() :]
    return text.encode(errors="surrogateescape")


def mutated_safetensors(content: bytes, chance: Random) -> bytes:
    """Return a safetensors file with a header that lies, or damage."""
    size = int.from_bytes(content[:8], "little")
    if chance.random() < 0.4:
        return mutated_bytes(content, chance)
    header = mutated_text(content[8 : 8 + size], chance)
    length = len(header) if chance.random() < 0.9 else chance.choice((0, 1, 2**31, 2**60, 2**64 - 1))
    return length.to_bytes(8, "little") + header + content[8 + size :]


def mutated_png(content: bytes, chance: Random) -> bytes:
    """Return a PNG with damage, of which the checksums may know nothing."""
    data = bytearray(mutated_bytes(content, chance))
    at = 8
    while chance.random() < 0.7 and at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        end = at + 8 + size
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4)
        at = end + 4
    return bytes(data)


def mutated_tar(content: bytes, chance: Random) -> bytes:
    """Return a tar with damage, or with headers that lie and whose checksums are right."""
    if chance.random() < 0.4:
        return mutated_bytes(content, chance)
    data = bytearray(content)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        member = chance.choice(tar.getmembers())
    start = member.offset
    name = chance.choice(TEXTS).encode()[:99]
    place, new = chance.choice(
        (
            (0, name),
            (124, b"%011o" % chance.choice((0, 1, 2**32, 8**11 - 1))),
            (124, b"\x80" + (2**60).to_bytes(11)),
            (124, b"\xff" * 12),
            (156, bytes([chance.choice(b"0123456789xgKLSDMVN\0\xff")])),
            (157, name),
            (345, name),
            (chance.randrange(500), chance.randbytes(8)),
        )
    )
    data[start + place : start + place + len(new)] = new
    header = data[start : start + 148] + b" " * 8 + data[start + 156 : start + TAR]
    data[start + 148 : start + 156] = b"%06o\0 " % sum(header)
    return bytes(data)


def change_file(file: Path, outside: Path, chance: Random, mutated: Callable[[bytes, Random], bytes]) -> None:
    """Change a file's content, or at times what it is: a link, a folder, a pipe, nothing, another's name."""
    if chance.random() < 0.9:
        file.write_bytes(mutated(file.read_bytes(), chance))
        return
    kind = chance.choice(("link", "link", "gone", "folder", "empty", "pipe", "device", "loop", "name"))
    if kind == "name":
        name = chance.choice(("..x", " ", "a\nb", "-n", "x" * 200, "\udcff", "%00", ".hidden"))
        file.rename(file.with_name(name + chance.choice(("", file.suffix))))
        return
    file.unlink()
    if kind == "link":
        file.symlink_to(outside if chance.random() < 0.5 else os.path.relpath(outside, file.parent))
    elif kind == "folder":
        file.mkdir()
    elif kind == "empty":
        file.touch()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "device":
        file.symlink_to("/dev/zero")
    elif kind == "loop":
        file.symlink_to(file.name)
