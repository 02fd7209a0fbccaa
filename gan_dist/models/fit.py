"""What a network takes of a file of another network's weights: the tensors that fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from safetensors.torch import load as load_tensors
from torch import Tensor, nn

from gan_dist.core.storage.hashed_folder import parse_file

SHOWN = 4
"""Tensors that a message lists."""


@dataclass(frozen=True)
class Fit:
    """Tensors of a file that have the name, the shape and the type of one of a network's."""

    taken: Mapping[str, Tensor] = field(repr=False)
    """The file's tensors, by name."""
    left: Mapping[str, str]
    """What differs, by name, for all other tensors of the network and of the file."""
    share: float
    """Share of the network's numbers that are taken."""

    @property
    def has_weights(self) -> bool:
        """Whether more than biases, gains and counters are taken."""
        return any(tensor.dim() > 1 for tensor in self.taken.values())

    @property
    def tensors(self) -> int:
        """Tensors of the network and of the file together."""
        return len(self.taken) + len(self.left)

    def __str__(self) -> str:
        if not self.left:
            return f"all {self.tensors} tensors"
        listed = [f"{name} is {why}" for name, why in self.left.items()][:SHOWN]
        if self.left.keys() - list(self.left)[:SHOWN]:
            listed.append(f"{len(self.left) - SHOWN} more")
        numbers = f"{100 * self.share:.1f} % of its numbers"
        return f"{len(self.taken)} of {self.tensors} tensors, {numbers}; not {', '.join(listed)}"


def compare(network: nn.Module, content: bytes, uri: str, name: str) -> Fit:
    """Return what a network, which may be without memory, takes of the safetensors file `name` of a folder.

    Raises:
        CheckpointError: it is no such file.
    """
    found: dict[str, Tensor] = parse_file(uri, {name: content}, name, load_tensors)
    own: dict[str, Tensor] = dict(network.state_dict())
    left = {}
    for key in [*own, *(key for key in found if key not in own)]:
        here, there = (_form(one.get(key)) for one in (own, found))
        if here != there:
            left[key] = f"{there} there and {here} here"
    taken = {key: found[key] for key in own if key not in left}
    numbers = (sum(tensor.numel() for tensor in tensors.values()) for tensors in (taken, own))
    return Fit(taken, left, next(numbers) / next(numbers))


def _form(tensor: Tensor | None) -> str:
    if tensor is None:
        return "absent"
    kind = "" if tensor.is_floating_point() else f" of {tensor.dtype}"
    return ("x".join(map(str, tensor.shape)) or "a number") + kind
