"""Statistics of a set's images, computed once and kept beside the set."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, DataError, StorageError
from gan_dist.core.storage.hashed_folder import read_folder, to_json, write_folder
from gan_dist.data.builtin import PREFIX
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.data.shards.verify import Without
from gan_dist.evaluation.extractors.features import Extractor
from gan_dist.evaluation.images import Reals
from gan_dist.evaluation.metrics.moments import Moments
from gan_dist.evaluation.statistics import FeatureStatistics

FOLDER = "statistics"
KEY = "key.json"
TENSORS = "statistics.safetensors"


@dataclass(frozen=True)
class Reference:
    """What generated images are compared with."""

    moments: Moments
    distance: float
    """Root mean squared distance between two images, in grey levels."""
    labels: Tensor
    """int64 (classes,): how many images of each class there are."""
    features: Tensor
    """float32 (k, d): those of some of the images; k may be 0."""
    numbers: Tensor
    """int64 (k,): which images these are."""

    @classmethod
    def of(cls, tally: FeatureStatistics) -> Reference:
        """Return the statistics of a set that has been seen in whole.

        Raises:
            DataError: the extractor sees no difference between its images.
        """
        moments, reservoir = tally.moments, tally.reservoir
        if moments.count > 1 and not moments.m2.diagonal().any():
            raise DataError(
                f"all {moments.count} images of the set have the same features: nothing can be compared with "
                "them",
                "look at the set, or use another eval.extractor",
            )
        none = (torch.zeros(0, len(moments.mean)), torch.zeros(0, dtype=torch.int64))
        features, numbers = none if reservoir is None else (reservoir.features, reservoir.indices)
        return cls(moments, tally.spread.distance, tally.labels.cpu(), features.cpu(), numbers.cpu())


def statistics_key(
    images: ImageSet, extractor: Extractor, resolution: int, keep: int
) -> dict[str, str | int]:
    """Return all that statistics depend on; another value of any of these makes them another's."""
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
        "features": keep,
    }


class Cache:
    """A set's statistics beside its shards, a folder for each key; built-in sets have none.

    Args:
        data_path: The set.
        key: As `statistics_key` gives it.
    """

    def __init__(self, data_path: str, key: dict[str, str | int]) -> None:
        self._key = to_json(key)
        name = f"{str(key['extractor']).replace(':', '.')}-{hashlib.sha256(self._key).hexdigest()[:16]}"
        self._uri = None if data_path.startswith(PREFIX) else storage.join(data_path, FOLDER, name)

    def load(self) -> Reference | None:
        """Return what is kept under the key, or None where there is nothing whole."""
        if self._uri is None:
            return None
        try:
            _, contents = read_folder(self._uri, ["statistics"])
        except (CheckpointError, StorageError):
            # Where a store does not let its contents be listed, it refuses what is not there.
            return None
        if contents.get(KEY) != self._key:
            return None
        tensors = load_tensors(contents[TENSORS])
        return Reference(
            Moments(int(tensors["count"]), tensors["mean"], tensors["m2"]),
            float(tensors["distance"]),
            tensors["labels"],
            tensors["features"],
            tensors["numbers"],
        )

    def save(self, reference: Reference) -> str | None:
        """Keep statistics; returns a sentence where that is not possible, which is no reason to stop."""
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
        }
        content = save_tensors({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
        try:
            write_folder(self._uri, "statistics", {TENSORS: content, KEY: self._key})
        except StorageError as error:
            return f"the set's statistics are computed anew each time, for they cannot be kept: {error}"
        return None


def tally_groups(
    tally: FeatureStatistics, extractor: Extractor, reals: Reals, groups: range
) -> FeatureStatistics:
    """Add row groups of a set to a tally, and return it."""
    for index in groups:
        first, batch = reals.group(index)
        tally.add(extractor, first, batch.images, batch.labels, "real")
    return tally
