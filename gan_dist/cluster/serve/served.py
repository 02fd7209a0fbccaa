"""A generator that is served: found in its folder, and its images made several at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from gan_dist.artifacts.best import find_best, rank_runs
from gan_dist.artifacts.records import distance_name
from gan_dist.artifacts.sampling import images_of_seeds
from gan_dist.cluster.serve.query import ImageQuery
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError, NonFiniteError
from gan_dist.core.images import to_picture, to_png
from gan_dist.core.storage import hub
from gan_dist.core.storage.hashed_folder import MANIFEST, checkpoint_names
from gan_dist.models.generator import BLOCK, Release
from gan_dist.models.release import BEST, SEARCH, load, read_best
from gan_dist.models.styled import StyledGenerator


def find_place(uri: str) -> tuple[str, str]:
    """Return the folder of the generator to use, and a hash that changes when that becomes another one.

    It is the best release of a search or of a run, a run's newest checkpoint before its first measurement,
    the newest commit of a model repository, or `uri` itself.

    Raises:
        CheckpointError: a search has no measurement yet, or its or a run's files are damaged.
        StorageError: a file cannot be read.
    """
    if hub.is_hub(uri):
        place = hub.pinned(uri)
        return place, hashlib.sha256(place.encode()).hexdigest()
    names = storage.list_names(uri)
    place = uri
    if SEARCH in names:
        place = rank_runs(uri).best[0].release
        if not storage.exists(storage.join(place, MANIFEST)):
            place = find_best(uri).release
    elif BEST in names:
        place = storage.join(uri, read_best(uri)["release"])
    elif MANIFEST not in names and (newest := checkpoint_names(uri)[:1]):
        place = storage.join(uri, newest[0])
    manifest = storage.join(place, MANIFEST)
    content = storage.read_bytes(manifest) if storage.exists(manifest) else b""
    return place, hashlib.sha256(content + place.encode()).hexdigest()


class Served:
    """A generator, and images of it as PNG files with the bytes that `gan-dist sample` writes."""

    def __init__(self, uri: str, trust: Collection[str] = ()) -> None:
        self.place, self.hash = find_place(uri)
        self.release = load(self.place, trust=trust)
        self.styled = isinstance(self.release.generator, StyledGenerator)
        # Of one truncated generator, those of other psi take the mean w.
        self._base = self.release.truncated(0.5) if self.styled else self.release
        self._together = self._is_independent_of_place()
        self.passes = self.images = 0
        """Passes through the network so far, and images made."""

    @property
    def description(self) -> dict[str, object]:
        """Its folder, hash and measurements, what it makes, and how much it has made."""
        release, shape = self.release, self.release.shape
        metric = distance_name([release.record])
        return {
            "release": storage.redact(self.place),
            "hash": self.hash,
            "metric": metric,
            "value": release.record[metric] if metric else None,
            "measured": dict(release.record),
            "network": release.config.model.name,
            "size": str(shape.size),
            "channels": shape.channels,
            "classes": list(shape.class_names) or shape.classes,
            "truncation": self.styled,
            "images": self.images,
            "passes": self.passes,
        }

    def truncated(self, psi: float) -> Release:
        """Return the generator with a truncation; raise a DataError if it has no styles."""
        return self._base.truncated(psi)

    def pictures(self, wanted: Sequence[ImageQuery]) -> list[bytes | GanDistError]:
        """Return an image of each query as PNG, or the error that it has: other images do without it.

        At most BLOCK images are made in one pass through the network.
        """
        made: dict[int, bytes | GanDistError] = {}
        for psi in dict.fromkeys(one.truncation for one in wanted):
            group = [index for index, one in enumerate(wanted) if one.truncation == psi]
            release = self.truncated(psi)
            for start in range(0, len(group), BLOCK):
                part = group[start : start + BLOCK]
                made |= zip(part, self._pass(release, [wanted[index] for index in part]), strict=True)
        return [made[index] for index in range(len(wanted))]

    def _pass(self, release: Release, wanted: Sequence[ImageQuery]) -> list[bytes | GanDistError]:
        self.images += len(wanted)
        if self._together and len(wanted) > 1:
            self.passes += 1
            try:
                images = release.images(*self._block(wanted))[: len(wanted)]
            except NonFiniteError:
                pass  # some of them: which, each by itself tells
            else:
                return [to_png(to_picture(image)) for image in images]
        return [self._alone(release, one) for one in wanted]

    def _alone(self, release: Release, one: ImageQuery) -> bytes | GanDistError:
        self.passes += 1
        try:
            (image,) = images_of_seeds(release, [one.seed], one.label)
        except NonFiniteError as error:
            return error
        return to_png(to_picture(image))

    def _block(self, wanted: Sequence[ImageQuery]) -> tuple[Tensor, Tensor | None]:
        """Return latents and classes of BLOCK images; beyond those of the queries, the first again."""
        full = [*wanted, *[wanted[0]] * (BLOCK - len(wanted))]
        latents = torch.cat([self.release.latents([0], one.seed) for one in full])
        if not self.release.shape.classes:
            return latents, None
        return latents, torch.tensor([one.label for one in full], dtype=torch.int64)

    @torch.no_grad()
    def _is_independent_of_place(self) -> bool:
        """Return whether an image has the same float32 bits at every place in a block, beside any others.

        Kernels for matrices may treat the rows of a block's end differently. `sample` has the image of a
        seed at the first place; where others differ, images cannot be made together.
        """
        classes = max(1, self.release.shape.classes)
        some = [ImageQuery(seed, seed % classes) for seed in range(BLOCK)]
        first, shifted = (self.release.generator(*self._block(one)) for one in (some, some[-1:] + some[:-1]))
        return torch.equal(first, shifted.roll(-1, 0))
