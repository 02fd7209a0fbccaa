"""Commands of the README and of the pages in docs/, and the files that these commands name."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.support.s3 import put_object

MINE = """\
model: {width: 4, max_width: 8, latent_dim: 8}
data: {path: 'builtin://digits'}
train: {batch_size: 32}
eval: {extractor: digits}
scale: {workers: 1, cpus_per_worker: 1, gpus_per_worker: 0}
"""


def shell_lines(page: Path) -> Iterator[str]:
    """Yield the lines of a page's blocks of shell commands, without comments."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if language in ("", "sh"):
            yield from (re.sub(r"\s+#.*", "", line) for line in block.splitlines() if line[0] != "#")


def inline_commands(page: Path) -> Iterator[str]:
    """Yield the commands within a page's sentences that say more than a verb, without dots for words."""
    for found in re.findall(r"`(gan-dist\s[a-z]+\s[^-`][^`]*)`", page.read_text()):
        if "..." not in found:
            yield " ".join(found.split())


def saved_blocks(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the files that a page tells its readers to save: their names and contents."""
    pattern = r"^Save this as `([\w.]+)`:\n\n```\w+\n(.*?)^```"
    yield from re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL)


def python_blocks(page: Path) -> Iterator[str]:
    """Yield a page's blocks of Python that are no files to save."""
    pattern = r"^([^\n]*)\n\n```python\n(.*?)^```"
    for before, block in re.findall(pattern, page.read_text(), re.MULTILINE | re.DOTALL):
        if not before.startswith("Save this as"):
            yield block


def picture(number: int, mode: str = "RGB") -> bytes:
    """Return a PNG of 24x20 pixels of noise."""
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").convert(mode).save(buffer := io.BytesIO(), format="PNG")
    return buffer.getvalue()


def write_pictures(folder: Path, *names: str, mode: str = "RGB") -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number, mode))


def write_sources(folder: Path, home: Path, endpoint: str, bucket: str) -> None:
    """Write what the pages' commands read into a folder, a home folder and a bucket."""
    names = [f"{number:03d}.png" for number in range(64)]
    write_pictures(home / "photos", *names)
    write_pictures(home / "logos", *names, mode="RGBA")
    write_pictures(home / "faces", *(f"{'abcd'[number % 4]}/{name}" for number, name in enumerate(names)))
    write_pictures(folder, "photo.png", "me.jpg", "you.jpg")
    write_pictures(folder / "photos", "cat/a.png", "dog/b.png")
    (folder / "labels.csv").write_text("path,label\ncat/a.png,x\ndog/b.png,x\n")
    write_pictures(folder / "imagefolder", "train/a.png", "test/b.png")
    for split, name in (("train", "a"), ("test", "b")):
        text = f"file_name,label\n{name}.png,{name}\n"
        (folder / "imagefolder" / split / "metadata.csv").write_text(text)
    with zipfile.ZipFile(folder / "faces.zip", "w") as archive:
        for name in ("cat/a.png", "dog/b.png"):
            archive.writestr(name, picture(1))
    (folder / "tars").mkdir()
    with tarfile.open(folder / "tars" / "a.tar", "w") as tar:
        for name, content in (("a.png", picture(1)), ("a.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (folder / "clone").mkdir()
    for split, hues in (("train", ["red", "blue"]), ("test", ["red"])):
        columns = {"image": [picture(1)] * len(hues), "hue": hues, "label": ["x"] * len(hues)}
        pq.write_table(pa.table(columns), folder / "clone" / f"{split}-00000-of-00001.parquet")
    (folder / "bedroom_train_lmdb").mkdir()
    with lmdb.open(str(folder / "bedroom_train_lmdb")) as database, database.begin(write=True) as writing:
        writing.put(b"k", picture(1))
    for name in names:
        put_object(endpoint, f"{bucket}/photos/{name}", (home / "photos" / name).read_bytes())
    put_object(endpoint, f"{bucket}/faces.zip", (folder / "faces.zip").read_bytes())


def write_configurations(folder: Path) -> None:
    """Write the configurations that the pages call a reader's own."""
    (folder / "my.yaml").write_text(MINE)
    search = "search: {trials: 1, space: {optim.g.lr: {log: [1e-4, 1e-2]}}}\n"
    (folder / "my-search.yaml").write_text(MINE + search)
    (folder / "prices.yaml").write_text("local: 0.1\n")
