"""Layers of StyleGAN2: equalised learning rates, styled convolutions, filters, minibatch deviation.

Karras et al. 2018 (Progressive GAN), 2019 (StyleGAN) and 2020 ("Analyzing and Improving the Image Quality of
StyleGAN"). All can be differentiated twice, and compute in float32 under autocast but for the convolutions.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist.models import init, noise
from gan_dist.models.layers import standard_normal

SLOPE = 0.2
GAIN = math.sqrt(2)
"""Factor after each leaky ReLU, which about preserves the second moment (He et al. 2015)."""
EPSILON = 1e-8


def activate(maps: Tensor) -> Tensor:
    """Return sqrt(2) times the leaky ReLU of slope 0.2."""
    return F.leaky_relu(maps, SLOPE) * GAIN


def normalise(vectors: Tensor) -> Tensor:
    """Return vectors, float (..., n), scaled to a second moment of 1: Karras et al. 2018, section 4.2."""
    return vectors * torch.rsqrt(vectors.square().mean(-1, keepdim=True) + EPSILON)


class Linear(nn.Module):
    """Linear layer with an equalised learning rate: Karras et al. 2018, section 4.1.

    Its weights are drawn from N(0, 1) and multiplied by 1 / sqrt(inputs) at each use, so that Adam's steps
    are as large, relative to the weights, in all layers. `lr_multiplier` scales these steps: weights are
    stored divided by it and multiplied at each use (Karras et al. 2019, appendix C).
    """

    def __init__(self, inputs: int, outputs: int, *, lr_multiplier: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.lr_multiplier = lr_multiplier
        self.initial_bias = bias
        self.weight = nn.Parameter(torch.normal(0.0, 1 / lr_multiplier, (outputs, inputs)))
        self.bias = nn.Parameter(torch.full((outputs,), bias / lr_multiplier))

    def forward(self, vectors: Tensor) -> Tensor:
        """Vectors float (..., inputs) to (..., outputs)."""
        gain = self.lr_multiplier / math.sqrt(self.weight.shape[1])
        return F.linear(vectors, self.weight * gain, self.bias * self.lr_multiplier)


class Conv2d(nn.Module):
    """Convolution with an equalised learning rate, then the activation; 1x1 keeps the edge, so does 3x3.

    With `halve` the maps pass through the filter first and the stride is 2. A `bias` comes with the
    activation: the layers without one are linear.
    """

    def __init__(self, before: int, after: int, edge: int, *, halve: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.normal(0.0, 1.0, (after, before, edge, edge)))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None
        self.filter = Filter() if halve else None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (N, before, H, W) to (N, after, H, W), or half that edge."""
        weight = equalised(self.weight)
        padding = weight.shape[2] // 2
        if self.filter is None:
            maps = F.conv2d(maps, weight, padding=padding)
        elif padding:
            maps = F.conv2d(self.filter(maps, padding=2), weight, stride=2)
        else:
            maps = F.conv2d(self.filter(maps, padding=1, stride=2), weight)
        return maps if self.bias is None else activate(maps + channels(self.bias, maps))


class Filter(nn.Module):
    """The low-pass filter (1, 3, 3, 1) in both directions: Karras et al. 2020, appendix B."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        row = (1 / 8, 3 / 8, 3 / 8, 1 / 8)
        kernel = torch.tensor([[[[one * other for one in row] for other in row]]])
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, maps: Tensor, *, padding: int, stride: int = 1) -> Tensor:
        """Return maps (N, C, H, W) filtered with zeros around them."""
        return F.conv2d(maps, self._kernels(maps), stride=stride, padding=padding, groups=maps.shape[1])

    def up(self, maps: Tensor) -> Tensor:
        """Maps float (N, C, H, W) to (N, C, 2H, 2W): zeros between the pixels, then the filter."""
        kernels = 4 * self._kernels(maps)
        return F.conv_transpose2d(maps, kernels, stride=2, padding=1, groups=maps.shape[1])

    def _kernels(self, maps: Tensor) -> Tensor:
        return self.kernel.to(maps.dtype).expand(maps.shape[1], 1, -1, -1)


class StyledConv(nn.Module):
    """Convolution 3x3 whose weights depend on w, noise, bias, leaky ReLU: Karras et al. 2020, section 2.2.

    Input channel i of the weights is multiplied by the style s_i, and output channel o divided
    by its norm sqrt(sum_ik (s_i w_oik)^2 + epsilon). Here the maps are multiplied instead,
    before and after the convolution, which is the same: one convolution serves the whole batch, and an image
    does not depend on the others. With `up` the convolution doubles the edge, and the filter follows. Noise
    is one number for each position, common to all channels, times a learned strength.
    """

    def __init__(
        self, before: int, after: int, w_dim: int, *, layer: int, up: bool = False, noisy: bool = True
    ) -> None:
        super().__init__()
        self.layer = layer
        self.affine = Linear(w_dim, before, bias=1.0)
        self.weight = nn.Parameter(torch.normal(0.0, 1.0, (after, before, 3, 3)))
        self.bias = nn.Parameter(torch.zeros(after))
        self.strength = nn.Parameter(torch.zeros(())) if noisy else None
        self.filter = Filter() if up else None

    def forward(self, maps: Tensor, w: Tensor, seeds: Tensor) -> Tensor:
        """Maps float (B, before, H, W) to (B, after, H, W), or twice that edge.

        Args:
            maps: Feature maps.
            w: float32 (B, w_dim).
            seeds: int64 (B,), of the noise.
        """
        with full_precision(w):
            weight = equalised(self.weight)
            styles: Tensor = self.affine(w)
            norms_sq = F.linear(styles.square(), weight.square().sum((2, 3)))
            factors = torch.rsqrt(norms_sq + EPSILON)
        maps = maps * channels(styles, maps)
        if self.filter is None:
            maps = F.conv2d(maps, weight, padding=1)
        else:
            maps = F.conv_transpose2d(maps, weight.transpose(0, 1), stride=2)
            maps = self.filter(maps, padding=1) * 4
        maps = maps * channels(factors, maps)
        if self.strength is not None:
            numbers = noise.normal(seeds, self.layer, *maps.shape[2:])
            maps = maps + (numbers.to(self.strength.dtype) * self.strength).to(maps.dtype)
        return activate(maps + channels(self.bias, maps))


class ToImage(nn.Module):
    """Maps to colours: a 1x1 convolution with styles, without demodulation, and a bias."""

    def __init__(self, before: int, after: int, w_dim: int) -> None:
        super().__init__()
        self.affine = Linear(w_dim, before, bias=1.0)
        self.weight = nn.Parameter(torch.normal(0.0, 1.0, (after, before, 1, 1)))
        self.bias = nn.Parameter(torch.zeros(after))

    def forward(self, maps: Tensor, w: Tensor) -> Tensor:
        """Maps float (B, before, H, W) and w float32 (B, w_dim) to colours (B, after, H, W)."""
        with full_precision(w):
            styles: Tensor = self.affine(w)
        colours = F.conv2d(maps * channels(styles, maps), equalised(self.weight))
        return colours + channels(self.bias, colours)


class Constant(nn.Module):
    """The generator's start: learned maps (width, h, w), the same for all images."""

    def __init__(self, width: int, base: tuple[int, int]) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.normal(0.0, 1.0, (width, *base)))

    def forward(self, count: int) -> Tensor:
        """Return maps (count, width, h, w)."""
        return self.maps.expand(count, -1, -1, -1)


def append_deviation(maps: Tensor, group: int) -> Tensor:
    """Return maps with a further channel: the minibatch standard deviation, Karras et al. 2018, section 3.

    The standard deviation of each number over `group` consecutive images, averaged over all numbers, is the
    value of that channel for these images. Consecutive ones, so that a group is the same however the batch is
    divided among workers.

    Args:
        maps: float (N, C, H, W).
        group: Images of a group; with 1 the channel is 0 (the square root of `EPSILON`).

    Raises:
        ValueError: N does not divide by `group`.
    """
    count, _, height, width = maps.shape
    if count % group:
        raise ValueError(f"{count} images do not divide into groups of {group}")
    variance = maps.unflatten(0, (-1, group)).var(1, correction=0)
    deviation = (variance + EPSILON).sqrt().flatten(1).mean(1)
    channel = deviation.repeat_interleave(group).view(-1, 1, 1, 1).expand(-1, 1, height, width)
    return torch.cat([maps, channel], 1)


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast; none where there is none, which an exporter would trace."""
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def equalised(weight: Tensor) -> Tensor:
    """Return a convolution's weight, float (out, in, h, w), over the square root of an output's inputs."""
    return weight / math.sqrt(weight[0].numel())


def channels(numbers: Tensor, maps: Tensor) -> Tensor:
    """Return a number for each channel, (C,) or (B, C), in the type and for the positions of maps."""
    return numbers.to(maps.dtype)[..., None, None]


def _linear(layer: Linear, generator: torch.Generator) -> None:
    init.normal(layer, generator, std=1 / layer.lr_multiplier)
    nn.init.constant_(layer.bias, layer.initial_bias / layer.lr_multiplier)


_unit = partial(init.normal, std=1.0)


def _styled(layer: StyledConv | ToImage, generator: torch.Generator) -> None:
    _linear(layer.affine, generator)
    _unit(layer, generator)
    if isinstance(layer, StyledConv) and layer.strength is not None:
        nn.init.zeros_(layer.strength)


def _constant(layer: Constant, generator: torch.Generator) -> None:
    layer.maps.copy_(standard_normal(layer.maps.shape, generator))


RECIPE: init.Recipe = {
    StyledConv: _styled,
    ToImage: _styled,
    Constant: _constant,
    Linear: _linear,
    Conv2d: _unit,
    nn.Embedding: _unit,
}
"""All weights from N(0, 1), divided by the learning rate's multiplier; biases of styles 1, all others 0;
strengths of noise 0 (Karras et al. 2019, appendix C)."""
