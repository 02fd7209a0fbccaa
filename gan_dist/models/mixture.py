"""Several generators as one, whose images are a weighted mixture of theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from gan_dist.core.json_text import Clock

MIXTURE = "mixture.json"
"""File of a release that is a mixture: what it consists of."""


def member_files(number: int) -> tuple[str, str]:
    """Return the names of a member's weights and configuration in a release."""
    return f"member-{number}.safetensors", f"member-{number}.yaml"


class Mixture(nn.Module):
    """A mixture of generators. Its latents have one number more than the longest of the members'.

    The last number z picks the member: the thresholds between them are the quantiles Phi^-1 of the sums of
    their weights, so that z from N(0, 1) picks each as often as its weight says. The others are the member's
    latent; one with shorter latents takes the first of them. No member sees the number that picks it, so its
    images are distributed as they are without the others, and moments of the mixture are those of the
    members in the proportion of the weights.
    """

    def __init__(
        self, members: Sequence[nn.Module], weights: Sequence[float], latent_dims: Sequence[int]
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights, self.latent_dims = tuple(weights), tuple(latent_dims)
        self.latent_dim = max(latent_dims) + 1
        self.tanh = all(getattr(member, "tanh", True) for member in members)
        shares = torch.tensor(self.weights, dtype=torch.float64)
        self.register_buffer("thresholds", torch.special.ndtri(shares.cumsum(0)[:-1] / shares.sum()).float())

    def picked(self, latents: Tensor) -> Tensor:
        """Return the number of the member that makes each image, int64 (n,)."""
        thresholds: Tensor = self.get_buffer("thresholds")
        return (latents[:, -1:] > thresholds).sum(1)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images float32 (n, C, H, W) of latents (n, latent_dim), n at least 1, and labels (n,)."""
        picked = self.picked(latents)
        if torch.compiler.is_exporting():
            return self._from_all(latents, labels, picked)
        made = []
        for number in range(len(self.members)):
            rows = (picked == number).nonzero().flatten()
            if len(rows):
                made.append(self._images(number, latents[rows], None if labels is None else labels[rows]))
        return torch.cat(made)[picked.argsort(stable=True).argsort()]

    def _from_all(self, latents: Tensor, labels: Tensor | None, picked: Tensor) -> Tensor:
        """Return the images by a graph without branches, in which every member makes all images."""
        images = self._images(0, latents, labels)
        for number in range(1, len(self.members)):
            is_its = (picked == number)[:, None, None, None]
            images = torch.where(is_its, self._images(number, latents, labels), images)
        return images

    def _images(self, number: int, latents: Tensor, labels: Tensor | None) -> Tensor:
        images: Tensor = self.members[number](latents[:, : self.latent_dims[number]], labels)
        return images


class Member(BaseModel):
    """A generator of a mixture, in `mixture.json`."""

    model_config = ConfigDict(frozen=True)

    weight: Annotated[float, Field(gt=0, lt=1)]
    """Its share of the images."""
    source: str
    """Release that it was copied from."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Hash of its weights, those of the source's `generator.safetensors`."""
    trial: int | None
    images: Clock
    """Images that it was trained with."""
    value: float
    """Distance by which its search has ranked it."""


class MixtureFile(BaseModel):
    """The `mixture.json` of a release."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = 1
    members: Annotated[tuple[Member, ...], Field(min_length=2)]
    """The heaviest first, whose configuration is the release's `config.yaml` too."""
    seed: int
    """Seed of the halves of the reference, and of the latents."""
    held_out: float
    """Distance of the mixture from the half of the reference that had no part in the choice."""
    single: float
    """Distance of the search's best release from the same half."""
    chosen: float
    """Distance of the mixture from the half by which it was chosen, from its members' moments."""
    real: float
    """Distance between the two halves."""

    @model_validator(mode="after")
    def _whole(self) -> MixtureFile:
        total = sum(member.weight for member in self.members)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the weights add up to {total:g}, not to 1")
        return self
