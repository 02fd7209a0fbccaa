"""Layers that several architectures share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

Layer = TypeVar("Layer", bound=nn.Module)


class ConditionalBatchNorm(nn.Module):
    """Batch norm with a gain and a bias for every class (de Vries et al. 2017, section 4.1).

    `weight` and `bias` are float32 (classes, channels), 1 and 0 at first; the statistics are common to all
    classes. This is the generator's conditioning in Miyato and Koyama 2018.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.weight = nn.Parameter(torch.ones(classes, channels))
        self.bias = nn.Parameter(torch.zeros(classes, channels))

    def forward(self, maps: Tensor, labels: Tensor) -> Tensor:
        """Maps float (B, channels, H, W) and labels int64 (B,) to maps of the same shape."""
        normal: Tensor = self.norm(maps)
        rows = (F.embedding(labels, table).to(normal.dtype) for table in (self.weight, self.bias))
        gain, bias = (row[:, :, None, None] for row in rows)
        return normal * gain + bias


Norm: TypeAlias = nn.BatchNorm2d | nn.SyncBatchNorm | ConditionalBatchNorm


def standard_normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return float32 numbers from N(0, 1), on the generator's device."""
    return torch.normal(0.0, 1.0, shape, generator=generator, device=generator.device, dtype=torch.float32)


def batch_norm(channels: int, classes: int) -> nn.Module:
    """Return batch norm, conditional if there are classes."""
    return ConditionalBatchNorm(channels, classes) if classes else nn.BatchNorm2d(channels)


def call(layer: nn.Module, maps: Tensor, labels: Tensor | None) -> Tensor:
    """Return `layer(maps)`, with the labels if the layer is conditional."""
    result: Tensor = layer(maps, labels) if isinstance(layer, ConditionalBatchNorm) else layer(maps)
    return result


def doubled(maps: Tensor) -> Tensor:
    """Return maps (B, C, H, W) at twice the resolution, (B, C, 2H, 2W), by repeating pixels."""
    return F.interpolate(maps, scale_factor=2.0, mode="nearest")


class SpectralNorm(nn.Module):
    """Parametrisation of a weight (out, ...): weight / sigma, the largest singular value of (out, the rest).

    Miyato et al. 2018, algorithm 1: one power iteration per update, in `update_spectral_norms`; sigma is the
    same for all uses of the weight in between. The state is named as by
    `torch.nn.utils.parametrizations.spectral_norm`. Unlike that one, which iterates at every use in training,
    it computes in float32 under autocast, where sigma would have eight bits, and draws nothing from torch's
    global generator.
    """

    _u: Tensor
    _v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.frozen = False
        """Whether the vectors, and with them sigma, stay as they are."""
        matrix = weight.detach().flatten(1)
        for name, length in zip(("_u", "_v"), matrix.shape, strict=True):
            self.register_buffer(name, F.normalize(matrix.new_ones(length), dim=0))

    @torch.no_grad()
    def draw(self, generator: torch.Generator) -> None:
        """Set both vectors to random directions."""
        for vector in (self._u, self._v):
            vector.copy_(F.normalize(standard_normal(vector.shape, generator), dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight divided by its largest singular value."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight / torch.dot(self._u, weight.flatten(1).mv(self._v))

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """Make one power iteration towards the vectors of the weight's largest singular value."""
        if self.frozen:
            return
        matrix = weight.flatten(1)
        self._u.copy_(F.normalize(matrix.mv(self._v), dim=0))
        self._v.copy_(F.normalize(matrix.t().mv(self._u), dim=0))


def spectral(layer: Layer, on: bool = True) -> Layer:
    """Return `layer`, its weight under spectral normalisation if `on`."""
    if on:
        weight = layer.get_parameter("weight")
        parametrize.register_parametrization(layer, "weight", SpectralNorm(weight), unsafe=True)
    return layer


def update_spectral_norms(network: nn.Module) -> None:
    """Make one power iteration in every layer under spectral normalisation.

    Not to be called between a forward pass and its backward pass: the vectors change in place.
    """
    for layer in network.modules():
        if isinstance(layer, parametrize.ParametrizationList):
            for norm in layer:
                if isinstance(norm, SpectralNorm):
                    norm.iterate(layer.original)


def freeze(layer: nn.Module) -> None:
    """Keep every tensor of a layer as it is, in training too.

    Its parameters require no gradient. Spectral normalisation divides by the sigma of the vectors that it has
    now. Batch norm goes on to use the statistics of the batch, as the layers behind it are used to, and its
    running statistics, of which training makes no use, stay.
    """
    layer.requires_grad_(False)
    for inner in layer.modules():
        if isinstance(inner, SpectralNorm):
            inner.frozen = True
        elif isinstance(inner, nn.BatchNorm2d | nn.SyncBatchNorm):
            inner.track_running_stats = False


def changing_buffers(network: nn.Module) -> Iterator[Tensor]:
    """Yield the buffers of a network in order, without those that `freeze` keeps as they are."""
    for layer in network.modules():
        kept = isinstance(layer, SpectralNorm) and layer.frozen
        if isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
            kept = not layer.track_running_stats
        if not kept:
            yield from layer.buffers(recurse=False)
