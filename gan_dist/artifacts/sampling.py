"""Images of a release other than a grid: rows that interpolate, and a folder of single images."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.core.images import to_picture, write_png
from gan_dist.core.json_text import parse_json
from gan_dist.core.storage.hashed_folder import to_json
from gan_dist.core.threads import map_ahead
from gan_dist.models.generator import Release
from gan_dist.models.release import to_safetensors

RECORD = "sample.json"
"""Description of the images in a folder: the count and the seed (or that there is one a seed), the class, the
generator's hash."""
FORMAT = 1
TRUNCATION = "truncation"
"""Key of a truncation other than 1."""
WRITERS = 16
"""Images that are written at the same time: a bucket answers each in tens of milliseconds."""


def great_circle(start: Tensor, end: Tensor, steps: int) -> Tensor:
    """Return `steps` latents from `start` to `end`, float32 (steps, latent_dim), both ends among them.

    Their directions go along the great circle in equal angles: slerp of White 2016, "Sampling Generative
    Networks", a sin((1 - t) angle) / sin(angle) + b sin(t angle) / sin(angle). Their lengths go evenly from
    one to the other. A straight line would come nearer to the origin than Gaussian latents lie.

    Args:
        start: (latent_dim,).
        end: (latent_dim,). If it is opposite to `start`, the walk follows one of the circles through both.
        steps: At least 2.
    """
    a, b = (functional.normalize(latent.double(), dim=0) for latent in (start, end))
    # By a and the part of b perpendicular to it, which avoids the division by a sine.
    across = b - (a @ b) * a
    angle = torch.atan2(across.norm(), a @ b)
    if across.norm() < 1e-12:
        axis = int(a.abs().argmin())
        across = -a[axis] * a
        across[axis] += 1
    t = torch.linspace(0, 1, steps, dtype=torch.float64)[:, None]
    directions = torch.cos(t * angle) * a + torch.sin(t * angle) * functional.normalize(across, dim=0)
    walk = (torch.lerp(start.double().norm(), end.double().norm(), t) * directions).float()
    walk[0], walk[-1] = start, end
    return walk


def interpolate(
    release: Release, rows: int, steps: int, seed: int = 0, labels: Sequence[int] | None = None
) -> Tensor:
    """Return rows of images that change from one image to the next, uint8 (rows, steps, C, H, W).

    Row i goes from the latent of the seed's image i to that of image i + 1, along the great circle; of a
    mixture, it stays within the member that makes image i.

    `labels` are the classes of the rows, for a conditional generator; all classes in turn when absent.

    Raises:
        DataError: `rows` is below 1, or labels for a generator that has none, not `rows` of them, or not
            among its classes.
        NonFiniteError: a pixel is NaN or infinite.
    """
    classes = release.classes(rows, labels)
    ends = release.latents(range(rows + 1), seed)
    images = []
    for row in range(rows):
        member = release.member_of(ends[row])
        start, end = ends[row : row + 2, : member.latent_dim]
        walk = great_circle(start, end, steps)
        images.append(member.images(walk, None if classes is None else classes[row].expand(steps)))
    return torch.stack(images)


def file_name(number: int, digits: int = 8) -> str:
    """Return the name of an image's file; names sort as the numbers do."""
    return f"{number:0{digits}d}.png"


def write_images(
    release: Release,
    folder: str,
    n: int,
    seed: int = 0,
    label: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write the images of `release.sample` as PNG files: grey, RGB, or RGB and alpha.

    A call after an interruption continues with the first missing image. Beside the images the folder has
    `sample.json`, which describes them.

    Args:
        release: The generator.
        folder: Absent, empty, or the result of an earlier call with the same arguments or a smaller `n`.
        n: Number of images.
        seed: Seed of the latents.
        label: Class of all images; all classes in turn when absent.
        progress: Called with the number of images written so far.

    Raises:
        DataError: `n` is below 1, or a label for a generator that has none, or not among its classes.
        NonFiniteError: a pixel is NaN or infinite.
        StorageError: the folder holds something else, or cannot be written.
    """
    labels = None if label is None else [label] * n
    release.classes(n, labels)
    record = _record(release, label) | {"n": n, "seed": seed}
    names = _require_free(folder, record)
    first = next((number for number in range(n) if file_name(number) not in names), n)
    images = (image for block in release.stream(n, seed, labels, first=first) for image in block)
    _write_all(folder, names, record, enumerate(images, start=first), lambda done: progress(first + done))


def images_of_seeds(release: Release, seeds: Sequence[int], label: int | None = None) -> Iterator[Tensor]:
    """Yield image 0 of each seed, uint8 (C, H, W), with the bits of `release.sample(1, seed, [class])`.

    The class is `label`; when absent, for a conditional generator, the seed modulo the number of classes.
    """
    classes = release.shape.classes
    for seed in seeds:
        labels = [seed % classes if label is None else label] if classes else None
        yield release.sample(1, seed, labels)[0]


def write_images_of_seeds(
    release: Release,
    folder: str,
    seeds: Sequence[int],
    label: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> None:
    """Write image 0 of each seed as `<seed>.png`, the number in ten digits, beside `sample.json`.

    A call after an interruption writes what is missing, and one with other seeds adds theirs.

    Raises:
        DataError: a label for a generator that has none, or not among its classes.
        NonFiniteError: a pixel is NaN or infinite.
        StorageError: the folder holds something else, or cannot be written.
    """
    release.classes(1, None if label is None else [label])
    record = _record(release, label) | {"seeds": "one image each"}
    names = _require_free(folder, record)
    missing = [seed for seed in dict.fromkeys(seeds) if file_name(seed, 10) not in names]
    done = len(seeds) - len(missing)
    numbered = zip(missing, images_of_seeds(release, missing, label), strict=True)
    _write_all(folder, names, record, numbered, lambda more: progress(done + more), digits=10)


def _record(release: Release, label: int | None) -> dict[str, object]:
    weights = hashlib.sha256(to_safetensors(release.truncated(1).generator.state_dict())).hexdigest()
    truncation = {} if release.truncation == 1 else {TRUNCATION: release.truncation}
    return {"format": FORMAT, "label": label, "generator_sha256": weights, **truncation}


def _write_all(
    folder: str,
    names: set[str],
    record: Mapping[str, object],
    numbered: Iterable[tuple[int, Tensor]],
    progress: Callable[[int], None],
    digits: int = 8,
) -> None:
    """Write numbered images and, before them, the record if it is not among the folder's names."""
    progress(0)
    if RECORD not in names:
        storage.write_bytes(storage.join(folder, RECORD), to_json(record))

    def write(pair: tuple[int, Tensor]) -> None:
        number, image = pair
        write_png(storage.join(folder, file_name(number, digits)), to_picture(image))

    with ExitStack() as stack:
        for done, _ in enumerate(map_ahead(stack, write, numbered, WRITERS), start=1):
            progress(done)


def _require_free(folder: str, record: Mapping[str, Any]) -> set[str]:
    """Return the names in a folder of these images; without `sample.json` if that has a smaller `n`."""
    # A process that was killed may have left a hidden partial file.
    names = [name for name in storage.list_names(folder) if not name.startswith(".")]
    if not names:
        return set()
    holds = f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}, and no {RECORD} of `gan-dist sample`"
    if RECORD in names:
        earlier: Any = None
        with suppress(ValueError):
            earlier = parse_json(storage.read_bytes(storage.join(folder, RECORD)))
        if earlier == record:
            return set(names)
        holds = f"a damaged {RECORD}"
        if isinstance(earlier, dict):
            keys = [*record, *({TRUNCATION} & earlier.keys() - record.keys())]
            differing = [key for key in keys if earlier.get(key) != record.get(key)]
            if differing == ["n"] and isinstance(earlier.get("n"), int) and earlier["n"] < record["n"]:
                return set(names) - {RECORD}
            holds = "; ".join(
                f"images of {key} {str(earlier.get(key))[:12]}, not {str(record.get(key))[:12]}"
                for key in differing
            )
    raise StorageError(
        f"{storage.redact(folder)} holds {holds}", "give --out another folder, or empty this one"
    )
