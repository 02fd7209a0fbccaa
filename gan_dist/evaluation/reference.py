"""Statistics of the real images that generated ones are compared with; computed once for each set."""

from __future__ import annotations

import hashlib
import json
import math
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, DataError, StorageError
from gan_dist.core.image_size import ImageSize
from gan_dist.core.storage.hashed_folder import parse_file, read_folder, to_json, write_folder
from gan_dist.data.builtin import PREFIX
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.data.shards.verify import Without
from gan_dist.evaluation.extractors.features import Extractor
from gan_dist.evaluation.metrics.memorisation import (
    CopyingTest,
    NearestNeighbours,
    choose_queries,
    copying_test,
)
from gan_dist.evaluation.metrics.moments import Moments
from gan_dist.evaluation.metrics.subsets import halves_distance
from gan_dist.evaluation.statistics import FeatureStatistics

FOLDER = "statistics"
KEY = "key.json"
TENSORS = "statistics.safetensors"


@dataclass(frozen=True)
class Reference:
    """Statistics of all images of a set."""

    moments: Moments
    distance: float
    """Root mean squared distance between two images, in grey levels."""
    labels: Tensor
    """int64 (classes,): number of images of each class."""
    features: Tensor
    """float32 (k, d): features of k of the images; k may be 0."""
    numbers: Tensor
    """int64 (k,): numbers of these images."""
    halves: float = math.nan
    """Mean Frechet distance between two random halves of the set; NaN of fewer than 4 images, and in
    statistics of an earlier version."""

    @property
    def floor(self) -> dict[str, float]:
        """`halves` as a figure of a record; nothing where it is NaN."""
        return {} if math.isnan(self.halves) else {"halves": self.halves}

    @classmethod
    def of(cls, statistics: FeatureStatistics) -> Reference:
        """Return the reference of a set's statistics. Raises DataError if all features are equal."""
        moments, reservoir = statistics.moments, statistics.reservoir
        if moments.count > 1 and not moments.m2.diagonal().any():
            raise DataError(
                f"all {moments.count} images of the set have the same features, and nothing can be compared "
                "with them",
                "look at the set, or use another eval.extractor",
                keys=("data.path", "eval.extractor"),
            )
        none = (torch.zeros(0, len(moments.mean)), torch.zeros(0, dtype=torch.int64))
        features, numbers = none if reservoir is None else (reservoir.features, reservoir.indices)
        halves, labels = statistics.subsets, statistics.labels.cpu()
        between = math.nan if halves is None else halves_distance(moments, halves)
        return cls(moments, statistics.spread.distance, labels, features.cpu(), numbers.cpu(), between)

    @cached_property
    def spacing(self) -> Tensor:
        """float64 (q,): distances of some of the images with features to the nearest other one."""
        features, numbers = choose_queries(self.features, self.numbers)
        nearest = NearestNeighbours(features, numbers)
        nearest.update(self.numbers, self.features)
        return nearest.distances

    def copying(self, features: Tensor) -> CopyingTest:
        """Return whether images with features (n, d) are copies of those whose features are here."""
        queries, _ = choose_queries(features.cpu(), torch.arange(len(features)))
        nearest = NearestNeighbours(queries)
        nearest.update(self.numbers, self.features)
        return copying_test(nearest.distances, self.spacing)


def statistics_key(
    images: ImageSet, extractor: Extractor, resolution: int | str, stored: int, fit: str = "crop"
) -> dict[str, str | int]:
    """Return what a set's statistics depend on; `stored` is the number of images with stored features.

    `fit` is the value of `data.fit`, which matters where the set's aspect is not that of `resolution`.
    """
    own, size = images.manifest.size, ImageSize.of(resolution)
    fitted = {} if own.width * size.height == own.height * size.width else {"fit": fit}
    kept = images.kept if isinstance(images, Without) else None
    return {
        "format": 1,
        "images": images.manifest.fingerprint(),
        "split": "all" if kept is None else hashlib.sha256(json.dumps(kept).encode()).hexdigest(),
        "extractor": extractor.name,
        "extractor_sha256": extractor.hash,
        "layer": extractor.layer,
        "resize": extractor.resize,
        "resolution": resolution,
        "dtype": "float32 features, float64 moments",
        "features": stored,
        **fitted,
        **alpha_setting(images.manifest.channels),
    }


def alpha_setting(channels: int) -> dict[str, str]:
    """Return what records say of how images with alpha are measured; nothing for others."""
    return {"alpha": "laid on white"} if channels == 4 else {}


def _parse(content: bytes) -> Reference:
    tensors = load_tensors(content)
    return Reference(
        Moments(int(tensors["count"]), tensors["mean"], tensors["m2"]),
        float(tensors["distance"]),
        tensors["labels"],
        tensors["features"],
        tensors["numbers"],
        float(tensors.get("halves", math.nan)),
    )


class ReferenceCache:
    """Statistics stored beside the shards of a set, a folder for each key; a built-in set has none."""

    def __init__(self, data_path: str, key: dict[str, str | int]) -> None:
        self._key = to_json(key)
        name = f"{str(key['extractor']).replace(':', '.')}-{hashlib.sha256(self._key).hexdigest()[:16]}"
        self._uri = None if data_path.startswith(PREFIX) else storage.join(data_path, FOLDER, name)

    def load(self) -> Reference | None:
        """Return the statistics with this key, or None if they are absent or damaged."""
        if self._uri is None:
            return None
        try:
            _, contents = read_folder(self._uri, ["statistics"])
        except (CheckpointError, StorageError):
            # A store that refuses listings refuses an absent file as well.
            return None
        if contents.get(KEY) != self._key:
            return None
        with suppress(CheckpointError):
            return parse_file(self._uri, contents, TENSORS, _parse)
        return None

    def save(self, reference: Reference) -> str | None:
        """Write the statistics; return a warning if the set cannot be written to, which is no error."""
        if self._uri is None:
            return None
        moments = reference.moments
        tensors = {
            "count": torch.tensor(moments.count),
            "mean": moments.mean,
            "m2": moments.m2,
            "distance": torch.tensor(reference.distance, dtype=torch.float64),
            "labels": reference.labels,
            "features": reference.features,
            "numbers": reference.numbers,
            "halves": torch.tensor(reference.halves, dtype=torch.float64),
        }
        content = save_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        try:
            write_folder(self._uri, "statistics", {TENSORS: content, KEY: self._key}.items())
        except StorageError as error:
            return f"the set's statistics are computed anew each time, for they cannot be kept: {error}"
        return None
