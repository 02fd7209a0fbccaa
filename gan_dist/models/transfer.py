"""The weights that a run begins with (`init.from`): read, compared with its networks, kept in its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from shlex import quote

from torch import nn

from gan_dist.config import InitConfig, ModelConfig, differing_keys, load_config
from gan_dist.config.init import Role
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, ConfigError, GanDistError
from gan_dist.core.json_text import parse_object
from gan_dist.core.storage.hashed_folder import (
    checkpoint_names,
    delete_folder,
    parse_file,
    read_folder,
    to_json,
    write_folder,
)
from gan_dist.models import Discriminator, Generator
from gan_dist.models.fit import SHOWN, Fit, compare
from gan_dist.models.mixture import MIXTURE
from gan_dist.models.release import CONFIG, read_generator_folder

FOLDER = "init"
"""Folder, in that of a run, with the weights that it began with."""
KIND = "copy of initial weights"
RECORD = "source.json"
ROLES: tuple[Role, ...] = ("average", "discriminator", "generator")


@dataclass(frozen=True)
class Source:
    """Weights of earlier networks."""

    uri: str
    """Folder in which they were found."""
    sha256: str
    """As `init.sha256`."""
    config: bytes = field(repr=False)
    """The `config.yaml` beside them."""
    weights: Mapping[Role, bytes] = field(repr=False)
    """Safetensors files by the network that each is for. Without an average, the generator is one too."""


def read_source(init: InitConfig) -> Source:
    """Return the weights that `init.from` names and `init.networks` asks for.

    Raises:
        CheckpointError: there are none, or they are damaged, or of a mixture, or without a network that is
            asked for, or others than `init.sha256` says.
        StorageError: the source's store cannot be read.
    """
    given = str(init.source)
    try:
        uri, kind, contents = read_generator_folder(given)
        config = parse_file(uri, contents, CONFIG, bytes)
    except GanDistError as error:
        raise type(error)(
            [replace(one, where="init.from", keys=("init.from",)) for one in error.problems]
        ) from None
    if MIXTURE in contents:
        raise CheckpointError(
            f"init.from={storage.redact(given)} is a mixture of generators, and a run begins with one",
            f"give one of the releases that its {MIXTURE} names as `source`, or a run",
            keys=("init.from",),
        )
    files = {role: contents[_file(role)] for role in ROLES if _file(role) in contents}
    digests = (f"{hashlib.sha256(content).hexdigest()}  {_file(role)}\n" for role, content in files.items())
    sha256 = hashlib.sha256("".join(digests).encode()).hexdigest()
    if init.sha256 not in (None, sha256):
        raise CheckpointError(
            f"init.from={storage.redact(given)} has weights whose hash is {sha256}, and init.sha256 is "
            f"{init.sha256}: they have changed",
            "give init.from the weights that are meant (a release or a checkpoint does not change as a run "
            "does), or another init.sha256 if these are",
            keys=("init.from", "init.sha256"),
        )
    wanted = {*(init.networks or ROLES)}
    if kind == "release" and "generator" in wanted:
        wanted.discard("average")  # it will be like the generator
    elif kind == "release" and "generator" in files:
        files["average"] = files["generator"]
    if init.networks and (missing := sorted(wanted - files.keys())):
        raise _without(missing, uri, kind)
    return Source(uri, sha256, config, {role: content for role, content in files.items() if role in wanted})


def _without(missing: Sequence[str], uri: str, kind: str) -> CheckpointError:
    shown = storage.redact(uri)
    remedy = "give a checkpoint, which has all three, or leave init.networks out"
    if kind == "release":
        again = f"gan-dist best RUN --with-discriminator --to {quote(shown)}"
        remedy = f"write it with one: {again}; or {remedy}"
    return CheckpointError(
        f"init.networks asks for the {' and the '.join(missing)}, and the {kind} {shown} has none",
        remedy,
        keys=("init.networks", "init.from"),
    )


def _file(role: Role) -> str:
    return f"{role}.safetensors"


def keep(init: InitConfig, run_uri: str) -> InitConfig:
    """Copy the weights of `init.from` into a run's folder; return `init` with their hash.

    A run that has a checkpoint or the copy does not read its source again: that may change or be gone.

    Raises what `read_source` does.
    """
    if init.source is None:
        return init
    sha256 = _recorded(run_uri)
    if sha256 is None:
        source = _kept(init, run_uri)
        if source is None:
            source = read_source(init)
            delete_folder(storage.join(run_uri, FOLDER))
            contents = {_file(role): content for role, content in source.weights.items()}
            contents |= {CONFIG: source.config, RECORD: to_json(_record(init, source))}
            write_folder(storage.join(run_uri, FOLDER), KIND, contents.items())
        sha256 = source.sha256
    return init.model_copy(update={"sha256": init.sha256 or sha256})


def _record(init: InitConfig, source: Source) -> dict[str, object]:
    networks = init.networks and list(init.networks)
    return {"from": storage.redact(str(init.source)), "networks": networks, "sha256": source.sha256}


def _recorded(run_uri: str) -> str | None:
    """Return the hash in the configuration of a run's newest checkpoint; None without one."""
    for name in checkpoint_names(run_uri):
        with suppress(GanDistError):  # a damaged one, which the loop passes over
            if sha256 := load_config(storage.join(run_uri, name, CONFIG)).init.sha256:
                return sha256
    return None


def _kept(init: InitConfig, run_uri: str) -> Source | None:
    """Return the copy in a run's folder, if there is one of what `init` asks for."""
    uri = storage.join(run_uri, FOLDER)
    try:
        _, contents = read_folder(uri, [KIND])
    except CheckpointError:
        return None
    record = parse_file(uri, contents, RECORD, parse_object)
    weights = {role: contents[_file(role)] for role in ROLES if _file(role) in contents}
    config = parse_file(uri, contents, CONFIG, bytes)
    source = Source(uri, str(record.get("sha256")), config, weights)
    same = record == _record(init, source) and init.sha256 in (None, source.sha256)
    return source if same else None


@dataclass(frozen=True)
class Beginning:
    """The weights that a run begins with, or has begun with."""

    sha256: str | None = None
    """As `init.sha256`; None of random ones."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What a run that begins now takes, by subject; empty where it takes nothing, or has begun already."""


def check(
    init: InitConfig,
    model: ModelConfig,
    generator: Generator,
    discriminator: Discriminator,
    run_uri: str | None = None,
) -> Beginning:
    """Return what a run takes of its source; a source that it has begun with is not read again.

    The networks may be without memory. What is frozen of the discriminator is, from then on.

    Raises:
        CheckpointError: what `read_source` raises, or nothing of the source fits these networks.
        ConfigError: the discriminator has fewer stages than are to be frozen, or these do not fit.
    """
    discriminator.freeze(init.freeze_d)
    if init.source is None:
        return Beginning()
    if run_uri and checkpoint_names(run_uri):
        return Beginning(_recorded(run_uri))
    source = (run_uri and _kept(init, run_uri)) or read_source(init)
    fits = _fits(source, init, model, {"generator": generator, "discriminator": discriminator})
    words = {"init": f"{storage.redact(source.uri)}, init.sha256={source.sha256}"}
    words |= {f"init_{role}": str(fit) for role, fit in fits.items()}
    if "average" not in fits and "generator" in fits:
        words["init_average"] = "as the generator"
    if earlier := _model_of(source):
        others = [f"{key} was {old}, is {new}" for key, old, new in differing_keys(earlier, model)]
        words |= {"init_model": "; ".join(others)} if others else {}
    if init.freeze_d:
        words["init_frozen"] = f"{init.freeze_d} of the discriminator's {len(discriminator.stages())} stages"
    return Beginning(source.sha256, words)


def load(init: InitConfig, model: ModelConfig, networks: Mapping[str, nn.Module], run_uri: str) -> None:
    """Set the tensors of a run's three networks, in place, to those of its source that fit.

    They are read from the run's folder or, where somebody deleted that copy, from the source. Raises what
    `check` does.
    """
    source = _kept(init, run_uri) or read_source(init)
    fits = _fits(source, init, model, networks)
    for role, fit in fits.items():
        own = networks[role].state_dict()
        for name, tensor in fit.taken.items():
            own[name].copy_(tensor)
    if "average" not in fits:
        networks["average"].load_state_dict(networks["generator"].state_dict())


def _fits(
    source: Source, init: InitConfig, model: ModelConfig, networks: Mapping[str, nn.Module]
) -> dict[Role, Fit]:
    """Return what networks take of a source; an average that is not among them is like the generator."""
    fits = {
        role: compare(networks.get(role, networks["generator"]), content, source.uri, _file(role))
        for role, content in source.weights.items()
    }
    _require_same_architecture(source, model, fits)
    taken = fits["discriminator"].taken if "discriminator" in fits else {}
    parameters = networks["discriminator"].named_parameters()
    frozen = [name for name, weights in parameters if not weights.requires_grad]
    if random := [name for name in frozen if name not in taken]:
        raise ConfigError(
            f"init.freeze_d={init.freeze_d} keeps {', '.join(random[:SHOWN])} of the discriminator, and what "
            f"is taken of {storage.redact(source.uri)} has no such tensors: they would stay random",
            "freeze fewer stages, or give a source whose discriminator has them",
            keys=("init.freeze_d", "init.from", "init.networks"),
        )
    return fits


def _require_same_architecture(source: Source, model: ModelConfig, fits: Mapping[Role, Fit]) -> None:
    """Raise a CheckpointError for a source of another `model.name`, or of which no weights fit."""
    earlier = _model_of(source) or model
    if earlier.name == model.name and any(fit.has_weights for fit in fits.values()):
        return
    shown = storage.redact(source.uri)
    what = f"{shown} has networks of model.name={earlier.name}, and this run of model.name={model.name}"
    if earlier.name == model.name:
        differing = "; ".join(
            f"model.{key} was {old}, is {new}" for key, old, new in differing_keys(earlier, model)
        )
        what = f"no weights of {shown} fit these networks ({differing or 'the images have another shape'})"
    fitting = [f"{role} {name}" for role, fit in fits.items() for name in fit.taken]
    listed = ", ".join([*fitting[:SHOWN], *(["..."] if len(fitting) > SHOWN else [])])
    total = sum(fit.tensors for fit in fits.values())
    raise CheckpointError(
        f"{what}; {len(fitting)} of {total} tensors fit{f': {listed}' if listed else ''}",
        "use its settings of model, or give another init.from",
        keys=("init.from", "model.name"),
    )


def _model_of(source: Source) -> ModelConfig | None:
    """Return the section `model` that a source was trained with; None if this version cannot read it."""
    with suppress(GanDistError):
        return load_config(storage.join(source.uri, CONFIG)).model
    return None
