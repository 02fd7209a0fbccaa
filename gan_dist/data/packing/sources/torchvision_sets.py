"""The image sets that torchvision knows: `torchvision://CIFAR10?split=test`."""

from __future__ import annotations

import difflib
import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from gan_dist.core.errors import DataError
from gan_dist.core.storage.filesystems import expand_home
from gan_dist.data.packing.decode import RejectedError
from gan_dist.data.packing.sources.items import UNLABELLED, Item, Reader, Source, SourceOptions

TORCHVISION = "torchvision://"


class _Kind(NamedTuple):
    """How torchvision's class is asked for a part of the set, and where it keeps the labels."""

    parameter: str | None
    labels: str | None


SETS = {
    **dict.fromkeys(
        ("CIFAR10", "CIFAR100", "FashionMNIST", "KMNIST", "MNIST", "USPS"), _Kind("train", "targets")
    ),
    **dict.fromkeys(("Country211", "ImageNet", "LFWPeople", "Places365"), _Kind("split", "targets")),
    **dict.fromkeys(
        ("DTD", "FGVCAircraft", "Flowers102", "Food101", "OxfordIIITPet"), _Kind("split", "_labels")
    ),
    **dict.fromkeys(("STL10", "SVHN"), _Kind("split", "labels")),
    **dict.fromkeys(("GTSRB", "Imagenette"), _Kind("split", "_samples")),
    **dict.fromkeys(("Caltech101", "Caltech256"), _Kind(None, "y")),
    # CelebA's 40 attributes are no classes: it is packed without labels.
    "CelebA": _Kind("split", None),
    "EuroSAT": _Kind(None, "targets"),
    "SUN397": _Kind(None, "_labels"),
}


def open_torchvision(uri: str, options: SourceOptions) -> Source:
    """Return one of torchvision's sets, in its own order and with its own numbering of classes.

    Raises:
        DataError: torchvision has no such set or part, or its files are not there.
    """
    name, _, text = uri.removeprefix(TORCHVISION).partition("?")
    name, query = name.rstrip("/"), dict(parse_qsl(text, keep_blank_values=True))
    if name not in SETS:
        lower = {known.lower(): known for known in SETS}
        near = difflib.get_close_matches(name.lower(), lower, n=1)
        hint = f"did you mean {lower[near[0]]}?" if near else f"it knows {', '.join(sorted(SETS))}"
        raise DataError(f"{uri}: there is no set {name!r} from torchvision that can be packed", hint)
    kind = SETS[name]
    allowed = {"split"} if kind.parameter else set()
    if set(query) - allowed:
        raise DataError(f"{uri}: {name} takes {'only ?split=' if allowed else 'no parameters'}")
    split = query.get("split")
    if kind.parameter == "train" and split not in (None, "train", "test"):
        raise DataError(f"{uri}: the splits of {name} are train and test, not {split}")
    root = str(expand_home(options.root).absolute())
    origin = TorchvisionSet(name, split, root)
    images = _load(uri, origin, download=options.download)
    labels = None if options.no_labels or kind.labels is None else _labels(images, kind.labels)
    items = [
        Item(f"{name}#{index}", name, index, 0, UNLABELLED if labels is None else labels[index])
        for index in range(len(images))
    ]
    return Source(origin, items, None if labels is None else _classes(images, labels), [], [])


def _load(uri: str, origin: TorchvisionSet, *, download: bool) -> Any:
    try:
        return origin.load(download=download)
    except ImportError as error:
        raise DataError(
            f"{uri}: torchvision needs {error.name or error} to read this set", "install it"
        ) from None
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        remedy = "give its folder with --root, or fetch it with --download"
        raise DataError(f"{uri} cannot be opened in {origin.root} ({error})", remedy) from None


def _labels(images: Any, attribute: str) -> list[int] | None:
    values = getattr(images, attribute)
    labels = [int(value[1] if attribute == "_samples" else value) for value in values]
    return None if not labels or min(labels) < 0 else labels


def _classes(images: Any, labels: list[int]) -> tuple[str, ...]:
    names = getattr(images, "classes", None) or getattr(images, "categories", None) or []
    # ImageNet's names are tuples of synonyms.
    classes = [name if isinstance(name, str) else name[0] for name in names]
    count = max(len(classes), max(labels) + 1)
    return tuple(classes) if len(classes) == count else tuple(map(str, range(count)))


@dataclass(frozen=True)
class TorchvisionSet:
    """A set whose files are in a folder that every node of a cluster can read."""

    name: str
    split: str | None
    root: str
    readers = 1

    def load(self, *, download: bool = False) -> Any:
        """Return torchvision's own object."""
        from torchvision import datasets

        chosen: dict[str, object] = {"download": True} if download else {}
        parameter = SETS[self.name].parameter
        if self.split is not None and parameter is not None:
            chosen[parameter] = self.split == "train" if parameter == "train" else self.split
        return getattr(datasets, self.name)(self.root, **chosen)

    def open(self) -> Reader:
        """Return what reads items, as uncompressed pictures."""
        images = _open_set(self)

        def read(item: Item) -> bytes:
            buffer = io.BytesIO()
            try:
                picture = images[item.at or 0][0]
                if picture.mode == "CMYK":
                    picture = picture.convert("RGB")
                # Some of torchvision's sets leave the decoding to this.
                picture.save(buffer, format="PNG" if picture.mode in ("LA", "RGBA", "P") else "PPM")
            except Exception as error:
                # Torchvision decodes by itself, and lets through whatever a decoder raises.
                raise RejectedError(f"damaged: {error}") from None
            return buffer.getvalue()

        return read


@lru_cache(maxsize=1)
def _open_set(origin: TorchvisionSet) -> Any:
    return origin.load()
