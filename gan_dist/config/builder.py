"""A configuration while it is read: a file and overrides, key by key, and where each key was set.

What is wrong with a key or a value is worded in `objections.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import yaml

from gan_dist.config.fields import Section, brief, fit, leaves, sections, shown
from gan_dist.config.loss_defaults import PAPERS
from gan_dist.config.loss_optim import LossConfig
from gan_dist.config.messages import Objection, check, unknown_key
from gan_dist.config.schema import SHORTHAND, RunConfig
from gan_dist.config.yaml12 import UnreadableYaml, check_tag, compose, plain_value


class Rank(IntEnum):
    """What sets a key; the later wins. Problems are told in this order."""

    FILE = 0
    OVERRIDE = 1
    WHOLE = 2
    """Nothing by itself: what concerns the whole configuration."""


class Origin(NamedTuple):
    """Where something was set; origins are ordered as a user wrote them."""

    rank: Rank
    position: int
    """The line in the file, or the override's number."""
    text: str
    """What a sentence about it begins with, such as `my.yaml:5`."""


class Problem(NamedTuple):
    """Something that is wrong, and where."""

    origin: Origin
    sentence: str


@dataclass
class Source:
    """The file, or the override, that is being read."""

    origin_of: Callable[[yaml.Node], Origin]
    """Where one of its nodes stands."""
    keys: dict[str, Origin] = field(default_factory=dict)
    """What it has set so far, to find what it sets twice."""


@dataclass
class ConfigBuilder:
    """What a file and overrides have set so far, and what is wrong with it.

    Reading goes on after a problem, so that a user is told of all of them at once.
    """

    values: dict[str, object] = field(default_factory=dict)
    """What is set, by dotted key; sections are not in it, and keys that nothing sets are not."""
    origins: dict[str, Origin] = field(default_factory=dict)
    """Where each of these was set last; what only comes with a loss has no origin."""
    problems: list[Problem] = field(default_factory=list)
    """What is wrong, as it was found."""
    excused: set[str] = field(default_factory=set)
    """Keys and sections that were meant, a problem says, but not set: they are not called missing as well."""
    loss: object = LossConfig().name
    """The loss whose usual settings are among `values`."""

    def sentences(self) -> list[str]:
        """Return all problems, origin first, in the order of their origins."""
        in_order = sorted(self.problems, key=lambda problem: problem.origin)
        return [f"{problem.origin.text}: {problem.sentence}" for problem in in_order]

    def refuse(self, origin: Origin, sentence: str) -> None:
        """Note that something is wrong."""
        self.problems.append(Problem(origin, sentence))

    def read_file(self, label: str, text: str) -> bool:
        """Take in a file's text; False if it could not be read as a mapping at all."""

        def on_line(line: int) -> Origin:
            return Origin(Rank.FILE, line, f"{label}:{line}")

        source = Source(lambda node: on_line(node.start_mark.line + 1))
        try:
            node = compose(text)
        except UnreadableYaml as error:
            self.refuse(on_line(error.line), str(error))
            return False
        if node is None:
            return True
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else shown(node.value)
            self.refuse(source.origin_of(node), f"a configuration is a mapping of keys to values, not {kind}")
            return False
        self._mapping("", node, source)
        self._follow_paper()
        return True

    def read_override(self, index: int, override: str) -> None:
        """Take in one `key=value`, which replaces what was set before."""
        key, equals, text = override.partition("=")
        key = key.strip()
        origin = Origin(Rank.OVERRIDE, index, f"override {brief(override)}")
        if not key or not equals:
            self.refuse(origin, "an override is written key=value")
            return
        try:
            node = compose(text if text.strip() else "null")
        except UnreadableYaml as error:
            self.refuse(origin, f"the value is {error}; text with such characters needs quotes")
            return
        if node is None or text[node.end_mark.index :].strip():
            self.refuse(origin, "what follows # is a comment in YAML; text that holds # needs quotes")
            return
        self._entry(key, node, origin, Source(lambda _: origin))

    def finish(self, label: str, stem: str) -> RunConfig | None:
        """Return the finished configuration; None if there are problems, all of them then in `problems`.

        Args:
            label: What a sentence about the whole configuration begins with.
            stem: The run's name where nothing sets it.
        """
        self._follow_paper()
        config, objections = check({"name": stem} | self.values)
        whole, rules_wait = Origin(Rank.WHOLE, 0, label), bool(self.problems)
        for objection in objections:
            if objection.key is None and not rules_wait:
                named = re.findall(r"\w+(?:\.\w+)+", objection.sentence)
                set_by = [self.origins[key] for key in named if key in self.origins]
                self.refuse(max(set_by, default=whole), objection.sentence)
            elif objection.key is not None and not self._is_excused(objection):
                from_stem = objection.key == "name" and "name" not in self.origins
                hint = ", which is the file's name; set name" if from_stem else ""
                self.refuse(self.origins.get(objection.key, whole), objection.sentence + hint)
        return None if self.problems else config

    def _is_excused(self, objection: Objection) -> bool:
        above = (f"{objection.key}.".startswith(f"{key}.") for key in self.excused)
        return objection.missing and any(above)

    def _follow_paper(self) -> None:
        """Where the loss is changed, let what its paper sets take the place of what was set before.

        A file comes before the overrides, which count as one however they are ordered; what is set where
        the loss is named, or later, stays.
        """
        before, loss = self.loss, self.values.get("loss.name", LossConfig().name)
        self.loss = loss
        if loss == before or not isinstance(loss, str):
            return
        rank = self.origins["loss.name"].rank
        for key, value in PAPERS.get(loss, {}).items():
            if key not in self.origins or self.origins[key].rank < rank:
                self.values[key] = value

    def _mapping(self, prefix: str, node: yaml.MappingNode, source: Source) -> None:
        """Take in what stands under a section; `prefix` is its key and a dot, or empty."""
        for key, value in node.value:
            origin = source.origin_of(key)
            if isinstance(key, yaml.ScalarNode):
                self._entry(f"{prefix}{key.value}", value, origin, source)
            else:
                self.refuse(origin, "a key must be plain text")

    def _entry(self, key: str, node: yaml.Node, origin: Origin, source: Source) -> None:
        """Take in what stands under a key, whatever key that is."""
        if key in SHORTHAND and isinstance(node, yaml.ScalarNode) and (node.value or node.style):
            key = SHORTHAND[key]
        section = sections().get(key) if key else None
        if section is None and key not in leaves():
            sentence, meant = unknown_key(key, isinstance(node, yaml.MappingNode))
            self.refuse(origin, sentence)
            self.excused |= {meant} if meant else set()
            return
        if key in source.keys:
            first = f", first on line {source.keys[key].position}" if origin.rank is Rank.FILE else ""
            self.refuse(origin, f"{key} is set twice{first}")
        source.keys.setdefault(key, origin)
        try:
            if section is None:
                self.values[key] = fit(plain_value(node), leaves()[key])
                self.origins[key] = origin
            else:
                self._section(key, section, node, origin, source)
        except UnreadableYaml as error:
            self.refuse(origin, f"{key} {error}")
            self.excused.add(key)

    def _section(self, key: str, section: Section, node: yaml.Node, origin: Origin, source: Source) -> None:
        """Take in what stands under a section's key, a mapping if all is right.

        Raises:
            UnreadableYaml: it asks for anything other than a plain value.
        """
        check_tag(node)
        if isinstance(node, yaml.MappingNode):
            self._mapping(f"{key}.", node, source)
            return
        value = plain_value(node)
        if value is None and section.nullable:
            self.values = {at: kept for at, kept in self.values.items() if not at.startswith(f"{key}.")}
        elif value is not None or node.value:  # a heading with nothing under it yet says nothing
            such_as = next(leaf for leaf in leaves() if leaf.startswith(f"{key}."))
            self.refuse(origin, f"{key} must be a section with keys such as {such_as}, not {shown(value)}")
            self.excused.add(key)
