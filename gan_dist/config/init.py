"""The part of a configuration that says with which weights a run begins."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from gan_dist.config.section import ConflictError, Section

Role: TypeAlias = Literal["generator", "discriminator", "average"]
"""One of the networks of a run."""


class InitConfig(Section):
    """The weights that the run begins with: those of an earlier run in place of random ones.

    The clock, the optimizers and the augmentation's strength begin at 0 all the same.
    """

    # `from` is a word of Python, so the field has another name than the key.
    model_config = ConfigDict(serialize_by_alias=True, validate_by_alias=True, validate_by_name=True)

    source: Annotated[str | None, Field(alias="from", min_length=1)] = None
    """Run, checkpoint or release, a folder, URI or `hf://user/name`, whose weights are taken where names and
    shapes are the same; of a run its best release or, before its first measurement, its newest checkpoint.
    Random weights when absent. The run's folder keeps a copy, so the source is read once only."""
    networks: Annotated[tuple[Role, ...], Field(min_length=1)] | None = None
    """Which networks are taken; all that the source has when absent. A release's generator is both the
    generator and the average; an average that is not taken begins as the generator."""
    freeze_d: Annotated[int, Field(ge=0)] = 0
    """Stages of the discriminator, from the image side on, that keep the source's weights (Mo et al. 2020,
    Freeze the Discriminator)."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Hash of the source's weights, by which another source at the same place is refused; recorded when
    absent. It is that of the output of `sha256sum` for its `average`, `discriminator` and
    `generator.safetensors`, those that there are, in this order."""

    @model_validator(mode="after")
    def _has_source(self) -> InitConfig:
        keys = tuple(f"init.{key}" for key in ("networks", "freeze_d", "sha256") if getattr(self, key))
        if self.source is None and keys:
            raise ConflictError(
                f"{' and '.join(keys)} concern the weights of init.from, which is not set",
                f"set init.from to a run, a checkpoint or a release, or leave out {' and '.join(keys)}",
                keys=("init.from", *keys),
            )
        return self
