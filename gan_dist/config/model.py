"""The part of a configuration that describes the two networks."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gan_dist.config.section import ConflictError, ImportPath, Positive, Section, Setting

USUAL_GROUPS = {"stylegan2": 4}
"""Values of `model.stddev_group` where it is absent, by `model.name`; 1 for others."""


class ModelConfig(Section):
    """The two networks."""

    name: Literal["dcgan", "resnet", "r3gan", "stylegan2", "fastgan"] | ImportPath = "dcgan"
    """Architecture of generator and discriminator, or your own class of them as `package.module:Class`."""
    settings: dict[str, Setting] = Field(default={})
    """Keys of that architecture alone, such as `model.settings.depth`; its class says which there are."""
    latent_dim: Positive = 100
    """Length of the latent vector z, drawn from N(0, 1)."""
    width: Positive = 64
    """Channels next to the image; every halving of the resolution doubles them."""
    max_width: Positive | None = None
    """Channels at most, however low the resolution; unlimited when absent."""
    blocks: Positive = 1
    """Residual blocks at every resolution (`r3gan`; its authors use 2)."""
    group_width: Positive = 16
    """Channels of a group of the 3x3 convolutions (`r3gan`; its authors use 32 for ImageNet)."""
    variant: Literal["published", "tanh"] | None = None
    """`r3gan`: the networks as `published`, whose images may leave [-1, 1], which is where nothing else is
    set; or those of versions up to 0.2, with `tanh` and another conditional logit. Other networks have
    none."""
    attention: bool = False
    """Self-attention in both networks at a quarter of the resolution (`resnet`)."""
    spectral_norm: bool | None = None
    """Spectral normalisation of the discriminator's weights; when absent, `resnet` has it."""
    conditional: bool = False
    """Both networks get the class: needs a labelled set. The discriminator uses projection."""
    pack: Positive = 1
    """Images of one kind that the discriminator judges together (PacGAN)."""
    stddev_group: Positive | None = None
    """Images, or packs, over which the discriminator sees the standard deviation (`stylegan2`); 1 for none.
    When absent, `stylegan2` has 4."""

    @property
    def group(self) -> int:
        """Images, or packs, whose logits depend on one another: `stddev_group`, or what is usual."""
        return self.stddev_group or USUAL_GROUPS.get(self.name, 1)

    @model_validator(mode="before")
    @classmethod
    def _variant_is_named(cls, values: object) -> object:
        if isinstance(values, dict) and values.get("name") == "r3gan" and values.get("variant") is None:
            return {**values, "variant": "published"}
        return values

    @model_validator(mode="after")
    def _variant_agrees(self) -> ModelConfig:
        if self.variant is not None and self.name != "r3gan":
            raise ConflictError(
                f"model.variant={self.variant}: there is one model.name={self.name}",
                "set model.variant=null, or use model.name=r3gan",
                keys=("model.variant", "model.name"),
            )
        return self
