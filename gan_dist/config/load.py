"""From a preset, a YAML file or a URI, and `key=value` overrides to a checked `RunConfig`, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from enum import IntEnum
from functools import reduce
from operator import getitem
from typing import NamedTuple, TypeAlias

import yaml

from gan_dist.config import earlier, fields
from gan_dist.config.fields import (
    SectionKeys,
    convert_integers,
    flatten,
    format_value,
    is_leaf,
    leaves,
    schema_of,
    sections,
    shorten,
)
from gan_dist.config.loss_defaults import loss_defaults
from gan_dist.config.loss_optim import LossConfig
from gan_dist.config.machine import AUTO, AUTO_KEYS, Machine, resolve, this_machine
from gan_dist.config.messages import check, unknown_key
from gan_dist.config.schedules import written
from gan_dist.config.schema import SECTION_SHORTCUTS, RunConfig
from gan_dist.config.section import Section
from gan_dist.config.source import preset_names, printable, read_text, stem
from gan_dist.config.yaml12 import UnreadableYaml, check_tag, compose, dump, plain_value
from gan_dist.core.errors import ConfigError, Problem, StorageError


def load_config(source: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the configuration that `source` and `overrides` describe.

    `source` is a preset's name, the path of a YAML file (1 MiB at most) or a URI such as
    `s3://bucket/run.yaml`. An override is `key=value` with a dotted key and a value in YAML:
    `optim.g.lr=1e-4`, `data.resolution=null`, `train={kimg: 5, batch_size: 32}`. Of two overrides of one key
    the later wins, as in a shell. Where nothing sets `name`, it is the preset's or the file's name without
    its suffix.

    Types are not converted: text is no number, a number is no text and a bool is neither; `1` may stand for
    `1.0` and `64.0` for `64`. Rules between several keys are checked once every key by itself is right. Keys
    that are `auto`, as AUTO_KEYS are where nothing sets them, get the values that suit this machine.

    Raises:
        ConfigError: with all problems, in the order of the file's lines and then of the overrides.
    """
    return read_settings(source, overrides).config()


def read_settings(source: str, overrides: Sequence[str] = ()) -> ConfigBuilder:
    """Return what `source` and `overrides` set, as in `load_config`; `config()` raises their problems."""
    label = f"preset {source}" if source in preset_names() else printable(source) or "''"
    builder = ConfigBuilder(label, stem(source))
    try:
        builder.readable = builder.read_file(read_text(source, label))
    except (ConfigError, StorageError) as error:
        builder.problems += [(Origin(Layer.FILE, 0, ""), problem) for problem in error.problems]
        builder.readable = False
    for index, text in enumerate(overrides):
        builder.read_override(index, text)
    return builder


def to_yaml(config: Section) -> str:
    """Return every key of a configuration as YAML, in the order of `schema.py`, as `load_config` reads it."""
    tree = config.model_dump(mode="json")
    for key, points in tree.pop("schedules", {}).items():
        *above, name = key.split(".")
        reduce(getitem, above, tree)[name] = written(points)
    return dump(tree)


class Layer(IntEnum):
    """What sets a key; a later layer replaces what an earlier one set."""

    FILE = 0
    OVERRIDE = 1
    WHOLE = 2
    """No layer: origin of the problems of the whole configuration, which come last."""


class Origin(NamedTuple):
    """Place where a key was set; origins are ordered as a user wrote them."""

    layer: Layer
    position: int
    """Line in the file, or number of the override."""
    text: str
    """The place in a message, such as `my.yaml:5`."""


OriginOf: TypeAlias = Callable[[yaml.Node], Origin]


@dataclass
class ConfigBuilder:
    """Values that a file and overrides have set so far, and their problems.

    Reading goes on after a problem, so that a user sees all of them at once.
    """

    label: str
    stem: str
    """The file's name in messages, and the configuration's where nothing sets it."""
    readable: bool = True
    values: dict[str, object] = field(default_factory=dict)
    """Values by dotted key, without sections and without keys that nothing sets."""
    origins: dict[str, Origin] = field(default_factory=dict)
    """Where each key was set last; values that came with a loss have no origin."""
    problems: list[tuple[Origin, Problem]] = field(default_factory=list)
    """Problems in the order of reading. A key of a problem counts as meant: it is not reported as missing."""
    seen: dict[str, Origin] = field(default_factory=dict)
    """Keys and sections that the file, or the override, that is being read has set so far."""
    loss: object = LossConfig().name
    """The loss whose defaults are among `values`."""
    machine: Callable[[], Machine] = this_machine
    """What keys that are `auto` go by; called when all others are right."""
    recorded: Mapping[str, object] = field(default_factory=dict)
    """Values of the run's earlier processes, by dotted key; taken by keys that are `auto`, or newer."""
    searching: bool = False
    """Whether the configuration is one of a search's trials."""

    def refuse(self, origin: Origin, problem: Problem) -> None:
        """Add a problem."""
        self.problems.append((origin, replace(problem, where=origin.text)))

    def with_values(self, values: Mapping[str, object]) -> ConfigBuilder:
        """Return a copy with further values by dotted key, as if overrides had set them."""
        builder = deepcopy(self)
        for key, value in values.items():
            text = f"override {shorten(fields.override(key, value))}"
            builder.values[key] = convert_integers(value, schema_of(key))
            builder.origins[key] = Origin(Layer.OVERRIDE, sys.maxsize, text)
        return builder

    def config(self) -> RunConfig:
        """Return the configuration, or raise a ConfigError with all problems."""
        builder = self.with_values({})  # a loss's defaults must not stay for one that is set later
        config = builder._finish() if self.readable else None
        if config is None:
            in_order = sorted(builder.problems, key=lambda found: found[0])
            raise ConfigError([problem for _, problem in in_order])
        return config

    def read_file(self, text: str) -> bool:
        """Read a file's text; return False if it is no mapping at all."""

        def at_line(line: int) -> Origin:
            return Origin(Layer.FILE, line, f"{self.label}:{line}")

        try:
            node = compose(text)
        except UnreadableYaml as error:
            self.refuse(at_line(error.line), Problem(str(error), error.remedy))
            return False
        if node is None:
            return True
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else format_value(node.value)
            what = f"a configuration is a mapping of keys to values, not {kind}"
            self.refuse(at_line(node.start_mark.line + 1), Problem(what))
            return False
        self._read_mapping("", node, lambda node: at_line(node.start_mark.line + 1))
        self.recorded = earlier.missing(self.values)
        self._apply_loss_defaults()
        return True

    def read_override(self, index: int, override: str) -> None:
        """Read one `key=value`, which replaces what was set before."""
        key, equals, text = override.partition("=")
        key = key.strip()
        origin = Origin(Layer.OVERRIDE, index, f"override {shorten(override)}")
        if not key or not equals:
            self.refuse(origin, Problem("an override is written key=value"))
            return
        try:
            node = compose(text if text.strip() else "null")
        except UnreadableYaml as error:
            self.refuse(origin, Problem(f"the value is {error}", "text with such characters needs quotes"))
            return
        if node is None or text[node.end_mark.index :].strip():
            what = "what follows # is a comment in YAML"
            self.refuse(origin, Problem(what, "text that holds # needs quotes"))
            return
        self.seen = {}
        self._read_key(key, node, origin, lambda _: origin)

    def _finish(self) -> RunConfig | None:
        """Return the configuration; None if there are `problems`."""
        self._apply_loss_defaults()
        config, refused = self._check()
        wrong = bool(self.problems)
        meant = {key for _, problem in self.problems for key in problem.keys}
        for problem in refused:
            set_at = [self.origins[key] for key in problem.keys if key in self.origins]
            is_rule, key = len(problem.keys) > 1, problem.keys[0]
            excused = not set_at and any(f"{key}.".startswith(f"{above}.") for above in meant)
            if excused or (is_rule and wrong):
                continue
            if key == "name" and not set_at:
                what = f"{problem.what}, which is the file's name"
                problem = replace(problem, what=what, remedy="set name")
            self.refuse(max(set_at, default=Origin(Layer.WHOLE, 0, self.label)), problem)
        return None if self.problems else config

    def open_keys(self) -> set[str]:
        """Return the keys that are `auto`."""
        return {key for key in AUTO_KEYS if self.values.get(key, AUTO) == AUTO}

    def record(self) -> dict[str, object]:
        """Return the values of a run's `config.yaml` for `recorded`; raise a ConfigError if it is wrong."""
        return {**flatten(self.config()), **self.recorded}

    def draft(self) -> RunConfig | None:
        """Return the configuration with RunConfig's defaults for what is `auto`; None if it is wrong."""
        builder = self.with_values({})
        builder._apply_loss_defaults()
        return None if builder.problems or not builder.readable else check(builder.known_values())[0]

    def known_values(self) -> dict[str, object]:
        """Return the values by dotted key, without those that are `auto`."""
        open_keys = self.open_keys()
        return {"name": self.stem} | {key: at for key, at in self.values.items() if key not in open_keys}

    def _check(self) -> tuple[RunConfig | None, list[Problem]]:
        """Return the configuration or its problems; a machine is looked at if no key by itself is wrong."""
        values, open_keys = self.known_values(), self.open_keys()
        values |= {key: self.recorded[key] for key in open_keys & self.recorded.keys()}
        values |= earlier.applicable(values, self.recorded)
        config, refused = check(values)
        if open_keys <= values.keys() or self.problems or any(len(one.keys) == 1 for one in refused):
            return config, refused
        return check(values | resolve(values, self.machine(), trial=self.searching))

    def _apply_loss_defaults(self) -> None:
        """If the loss has changed, set its defaults where no key of its layer, or of a later one, is set."""
        before, loss = self.loss, self.values.get("loss.name", LossConfig().name)
        self.loss = loss
        if loss == before or not isinstance(loss, str):
            return
        layer = self.origins["loss.name"].layer
        for key, value in loss_defaults(loss).items():
            if key not in self.origins or self.origins[key].layer < layer:
                self.values[key] = value

    def _read_mapping(self, prefix: str, node: yaml.MappingNode, origin_of: OriginOf) -> None:
        """Read the keys of a section; `prefix` is its key and a dot, or empty."""
        for key, value in node.value:
            origin = origin_of(key)
            if isinstance(key, yaml.ScalarNode):
                self._read_key(f"{prefix}{key.value}", value, origin, origin_of)
            else:
                self.refuse(origin, Problem("a key must be plain text"))

    def _read_key(self, key: str, node: yaml.Node, origin: Origin, origin_of: OriginOf) -> None:
        if key in SECTION_SHORTCUTS and isinstance(node, yaml.ScalarNode) and (node.value or node.style):
            key = SECTION_SHORTCUTS[key]
        section = sections().get(key) if key else None
        if section is None and not is_leaf(key):
            self.refuse(origin, unknown_key(key, isinstance(node, yaml.MappingNode)))
            return
        if key in self.seen:
            first = f", first on line {self.seen[key].position}" if origin.layer is Layer.FILE else ""
            self.refuse(origin, Problem(f"{key} is set twice{first}"))
        self.seen.setdefault(key, origin)
        try:
            if section is None:
                self.values[key] = convert_integers(plain_value(node), schema_of(key))
                self.origins[key] = origin
            else:
                self._read_section(key, section, node, origin, origin_of)
        except UnreadableYaml as error:
            self.refuse(origin, Problem(f"{key} {error}", error.remedy, keys=(key,)))

    def _read_section(
        self, key: str, section: SectionKeys, node: yaml.Node, origin: Origin, origin_of: OriginOf
    ) -> None:
        """Read the node of a section: a mapping, or null for a section that may be absent."""
        check_tag(node)
        if isinstance(node, yaml.MappingNode):
            self._read_mapping(f"{key}.", node, origin_of)
            return
        value = plain_value(node)
        if value is None and section.nullable:
            self.values = {at: kept for at, kept in self.values.items() if not at.startswith(f"{key}.")}
        elif value is not None or node.value:  # a heading with nothing under it yet sets nothing
            such_as = next((leaf for leaf in leaves() if leaf.startswith(f"{key}.")), f"{key}.depth")
            what = f"{key} must be a section with keys such as {such_as}, not {format_value(value)}"
            self.refuse(origin, Problem(what, keys=(key,)))
