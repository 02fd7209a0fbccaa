"""StyleGAN2 (Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"), configuration F.

The generator adds up colours of all resolutions (skips), the discriminator is residual (section 4.1). At
1024x1024 with `width=32`, `max_width=512` and `latent_dim=512` both have the authors' numbers of parameters.
Conditional networks are those of Karras et al. 2020, "Training Generative Adversarial Networks with Limited
Data" (appendix D.1), but for the discriminator, which has an unconditional logit beside the projection, as
in Miyato and Koyama 2018. Noise is a function of the latent (`noise.py`), not of a random state.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from gan_dist.config.section import Positive, Probability, Section
from gan_dist.models import base, init, noise
from gan_dist.models.sizes import NetworkSize
from gan_dist.models.styled import StyledGenerator
from gan_dist.models.stylegan2_layers import (
    RECIPE,
    Constant,
    Conv2d,
    Filter,
    Linear,
    StyledConv,
    ToImage,
    activate,
    append_deviation,
    full_precision,
    normalise,
)

MAPPING_LR = 0.01
"""Learning rate of the mapping network relative to the others' (Karras et al. 2019, appendix C)."""


class Mapping(nn.Module):
    """Latents z, and classes if there are any, to w: linear layers with leaky ReLUs.

    A class is a vector as long as z; each is scaled to a second moment of 1, and both are the input.
    """

    def __init__(self, latent_dim: int, w_dim: int, layers: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(classes, latent_dim) if classes else None
        widths = [latent_dim * (2 if classes else 1), *[w_dim] * layers]
        self.layers = nn.ModuleList(Linear(*pair, lr_multiplier=MAPPING_LR) for pair in pairwise(widths))

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Latents float32 (B, ..., latent_dim) and labels int64 (B,) to w, float32 (B, ..., w_dim)."""
        with full_precision(latents):
            vectors = normalise(latents)
            if self.embed is not None:
                of_class = normalise(self.embed(labels)).to(vectors.dtype)
                if latents.ndim == 3:
                    of_class = of_class[:, None].expand_as(vectors)
                vectors = torch.cat([vectors, of_class], -1)
            for layer in self.layers:
                vectors = activate(layer(vectors))
        return vectors


class Generator(StyledGenerator):
    """The mapping network and the synthesis network.

    Convolutions take the w of an image in turn, and the colours of a resolution share that of the next
    convolution. The noise is that of the image's latent, or of the first one if it has several.
    """

    recipe: ClassVar[init.Recipe] = RECIPE
    tanh = False

    def __init__(
        self,
        latent_dim: int,
        size: NetworkSize,
        *,
        w_dim: int = 512,
        mapping_layers: int = 8,
        noisy: bool = True,
        style_mixing: float = 0.9,
    ) -> None:
        super().__init__(latent_dim, size)
        widths = size.widths(size.halvings + 1)[::-1]
        self.styles = 2 * len(widths)
        self.style_mixing = style_mixing
        self.mapping = Mapping(latent_dim, w_dim, mapping_layers, size.classes)
        self.start = Constant(widths[0], size.base)
        convolutions = [StyledConv(widths[0], widths[0], w_dim, layer=0, noisy=noisy)]
        for before, after in pairwise(widths):
            layer = len(convolutions)
            convolutions += [
                StyledConv(before, after, w_dim, layer=layer, up=True, noisy=noisy),
                StyledConv(after, after, w_dim, layer=layer + 1, noisy=noisy),
            ]
        self.convolutions = nn.ModuleList(convolutions)
        self.colours = nn.ModuleList(ToImage(width, size.channels, w_dim) for width in widths)
        self.filter = Filter()

    def map(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        w: Tensor = self.mapping(latents, labels)
        return w if w.ndim == 3 else w[:, None].expand(-1, self.styles, -1)

    def from_w(self, w: Tensor, latents: Tensor) -> Tensor:
        seeds = noise.seeds(latents)
        of_layers = w.unbind(1)
        maps: Tensor = self.convolutions[0](self.start(w.shape[0]), of_layers[0], seeds)
        images: Tensor = self.colours[0](maps, of_layers[1])
        for stage, colours in enumerate(self.colours):
            if stage:
                for layer in (2 * stage - 1, 2 * stage):
                    maps = self.convolutions[layer](maps, of_layers[layer], seeds)
                images = self.filter.up(images) + colours(maps, of_layers[2 * stage + 1])
        return images

    def latent_weight(self) -> Tensor:
        affines = [layer.get_submodule("affine") for layer in (*self.convolutions, *self.colours)]
        return torch.cat([affine.get_parameter("weight") for affine in affines])


class Block(nn.Module):
    """Two convolutions 3x3, the second to half the edge, beside a 1x1 convolution of the filtered maps."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = Conv2d(before, before, 3)
        self.conv2 = Conv2d(before, after, 3, halve=True)
        self.shortcut = Conv2d(before, after, 1, halve=True, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (N, before, H, W) to (N, after, H/2, W/2), the sum over sqrt(2)."""
        inner: Tensor = self.conv2(self.conv1(maps))
        shortcut: Tensor = self.shortcut(maps)
        return (shortcut + inner) * math.sqrt(0.5)


class Discriminator(base.ProjectionDiscriminator):
    """Residual blocks to 4x4, minibatch standard deviation, a convolution and two linear layers.

    The deviation is over `stddev_group` consecutive images (or packs); with 1 there is none. Labels are
    compared with the output of the first linear layer, over the square root of its length.
    """

    recipe: ClassVar[init.Recipe] = RECIPE

    def __init__(self, size: NetworkSize, *, pack: int = 1, stddev_group: int = 4) -> None:
        super().__init__(size, pack)
        widths = size.widths(size.halvings + 1)
        last = widths[-1]
        self.stddev_group = stddev_group
        self.first = Conv2d(pack * size.channels, widths[0], 1)
        self.blocks = nn.Sequential(*(Block(*pair) for pair in pairwise(widths)))
        self.last = Conv2d(last + (stddev_group > 1), last, 3)
        self.linear = Linear(last * size.base.area, last)
        self.out = Linear(last, 1)
        self.embed = nn.Embedding(size.classes, last) if size.classes else None

    def stages(self) -> Sequence[nn.Module]:
        """A stage is a block, the first one with the convolution before it."""
        first, *others = self.blocks
        return [nn.Sequential(self.first, first), *others]

    def feature_maps(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(self.first(images))
        return maps

    def logits_and_features(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        if self.stddev_group > 1:
            maps = append_deviation(maps, self.stddev_group)
        maps = self.last(maps)
        features = activate(self.linear(maps.flatten(1)))
        logits: Tensor = self.out(features)
        return logits.squeeze(1), features * features.shape[1] ** -0.5


class Settings(Section):
    """Keys of `model.settings`."""

    mapping_layers: Positive = 8
    """Layers of the mapping network from z to w."""
    w_dim: Positive = 512
    """Length of w."""
    style_mixing: Probability = 0.9
    """Probability that an image of the training has the styles of two latents."""
    noise: bool = True
    """Noise at every position of the generator's maps, with a learned strength for each layer."""


class StyleGAN2(base.Architecture):
    """`model.name=stylegan2`."""

    Settings = Settings
    options = frozenset({"stddev_group"})
    power_of_two = True

    def generator(self) -> Generator:
        chosen = self.settings
        return Generator(
            self.model.latent_dim,
            self.size,
            w_dim=chosen.w_dim,
            mapping_layers=chosen.mapping_layers,
            noisy=chosen.noise,
            style_mixing=chosen.style_mixing,
        )

    def discriminator(self) -> Discriminator:
        return Discriminator(self.size, pack=self.model.pack, stddev_group=self.model.group)
