"""A configuration while it is put together: what set each key, and all that is wrong, in sentences."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gan_dist.config.keys import brief, choices, expectation, fit, leaves, nearest_key, sections, shown
from gan_dist.config.papers import PAPERS
from gan_dist.config.schema import SHORTHAND, LossConfig, RunConfig
from gan_dist.config.yamltext import UnreadableYaml, check_tag, compose, is_number, plain_value

SPACE = "search.space."


class Origin(NamedTuple):
    """Where something was set, ordered: the file's lines, then overrides, then what concerns the whole."""

    rank: int
    position: int
    text: str


@dataclass
class Draft:
    """What has been set so far, and what is wrong with it; a key in `blamed` need not be called missing."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    problems: list[tuple[Origin, str]] = field(default_factory=list)
    blamed: set[str] = field(default_factory=set)
    loss: object = LossConfig().name

    def sentences(self) -> list[str]:
        """Return all problems, origin first, in the order of their origins."""
        return [
            f"{origin.text}: {said}" for origin, said in sorted(self.problems, key=lambda problem: problem[0])
        ]

    def read_file(self, label: str, text: str) -> bool:
        """Take in a file's text; False if it could not be read as a mapping at all."""

        def where(node: yaml.Node) -> Origin:
            line = node.start_mark.line + 1
            return Origin(0, line, f"{label}:{line}")

        try:
            node = compose(text)
        except UnreadableYaml as error:
            self.problems.append((Origin(0, error.line, f"{label}:{error.line}"), str(error)))
            return False
        if node is None:
            return True
        if not isinstance(node, yaml.MappingNode):
            kind = "a list" if isinstance(node, yaml.SequenceNode) else shown(node.value)
            self.problems.append((where(node), f"a configuration is a mapping of keys to values, not {kind}"))
            return False
        self._mapping("", node, where, {})
        self._follow_paper()
        return True

    def read_override(self, index: int, override: str) -> None:
        """Take in one `key=value`, which replaces what was set before."""
        key, equals, text = override.partition("=")
        key = key.strip()
        origin = Origin(1, index, f"override {brief(override)}")
        if not key or not equals:
            self.problems.append((origin, "an override is written key=value"))
            return
        try:
            node = compose(text if text.strip() else "null")
        except UnreadableYaml as error:
            self.problems.append((origin, f"the value is {error}; text with such characters needs quotes"))
            return
        if node is None or text[node.end_mark.index :].strip():
            self.problems.append(
                (origin, "what follows # is a comment in YAML; text that holds # needs quotes")
            )
            return
        self._entry(key, node, lambda _: origin, {}, origin)

    def validate(self, label: str, stem: str) -> RunConfig | None:
        """Return the finished configuration; None if there are problems, all of them then in `problems`."""
        whole = Origin(2, 0, label)
        self._follow_paper()
        values = {"name": stem} | self.values
        tree: dict[str, Any] = {}
        for key in [key for key, section in sections().items() if section.required] + list(values):
            *parents, name = key.split(".")
            inner = tree
            for parent in parents:
                inner = inner.setdefault(parent, {})
            inner[name] = values.get(key, {})
        try:
            # Strict, and as JSON: lists may then stand for tuples, while text still cannot stand for numbers.
            config = RunConfig.model_validate_json(json.dumps(tree), strict=True)
        except ValidationError as error:
            rules = not self.problems and all(_leaf_of(one) is None for one in error.errors())
            told: set[str] = set()
            for one in error.errors():
                leaf = _leaf_of(one)
                if leaf is None and rules:
                    said = _rule(one)
                    set_by = [
                        self.origins[key] for key in re.findall(r"\w+(?:\.\w+)+", said) if key in self.origins
                    ]
                    self.problems.append((max(set_by, default=whole), said))
                elif leaf is not None and leaf not in told and not self._explained(leaf, one):
                    told.add(leaf)
                    self.problems.append((self.origins.get(leaf, whole), self._misfit(leaf, one, values)))
            return None
        return None if self.problems else config

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

    def _mapping(
        self,
        prefix: str,
        node: yaml.MappingNode,
        where: Callable[[yaml.Node], Origin],
        seen: dict[str, Origin],
    ) -> None:
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                self._entry(f"{prefix}{key.value}", value, where, seen, where(key))
            else:
                self.problems.append((where(key), "a key must be plain text"))

    def _entry(
        self,
        key: str,
        node: yaml.Node,
        where: Callable[[yaml.Node], Origin],
        seen: dict[str, Origin],
        origin: Origin,
    ) -> None:
        if key in SHORTHAND and isinstance(node, yaml.ScalarNode) and (node.value or node.style):
            key = SHORTHAND[key]
        section = sections().get(key) if key else None
        if section is None and key not in leaves():
            self.problems.append((origin, self._unknown(key, isinstance(node, yaml.MappingNode))))
            return
        if key in seen:
            on_line = f", first on line {seen[key].position}" if origin.rank == 0 else ""
            self.problems.append((origin, f"{key} is set twice{on_line}"))
        seen.setdefault(key, origin)
        try:
            if section is None:
                value = plain_value(node)
                self.values[key] = fit(value, leaves()[key])
                self.origins[key] = origin
                return
            check_tag(node)
            value = node.value if isinstance(node, yaml.MappingNode) else plain_value(node)
        except UnreadableYaml as error:
            self.blamed.add(key)
            self.problems.append((origin, f"{key} {error}"))
            return
        if isinstance(node, yaml.MappingNode):
            self._mapping(f"{key}.", node, where, seen)
        elif value is None and section.nullable:
            self.values = {at: kept for at, kept in self.values.items() if not at.startswith(f"{key}.")}
        elif value is not None or node.value:  # a heading with nothing under it yet says nothing
            self.blamed.add(key)
            such_as = next(leaf for leaf in leaves() if leaf.startswith(f"{key}."))
            said = f"{key} must be a section with keys such as {such_as}, not {shown(value)}"
            self.problems.append((origin, said))

    def _explained(self, leaf: str, error: ErrorDetails) -> bool:
        above = (key for key in self.blamed if f"{leaf}.".startswith(f"{key}."))
        return error["type"] == "missing" and any(above)

    def _unknown(self, key: str, is_section: bool) -> str:
        written = brief(key) or "''"
        if key.startswith(SPACE):
            self.blamed.add(SPACE.rstrip("."))
            varied = f"search={{space: {{{written.removeprefix(SPACE)}: ...}}}}"
            return f"{written} is not a key; what varies is given as a whole, as in {varied}"
        near = nearest_key(written, is_section)
        if near is not None:
            self.blamed.add(near)
            return f"{written} is not a key; the nearest is {near}"
        parent = key
        while parent and parent not in sections():
            parent = parent.rpartition(".")[0]
        return (
            f"{written} is not a key; {parent or 'a configuration'} has {', '.join(sections()[parent].names)}"
        )

    def _misfit(self, key: str, error: ErrorDetails, values: dict[str, object]) -> str:
        schema = leaves()[key]
        if error["type"] == "missing":
            about = " ".join(schema.get("description", "").split()).rstrip(".")
            return f"{key} is missing" + (f" ({about})" if about else "")
        if "error" in error.get("ctx", {}):
            said = _rule(error)
            return said if key in said else f"{key}: {said}"
        value, depth = values.get(key), len(key.split("."))
        inside = len(error["loc"]) > depth and isinstance(value, list)
        if len(error["loc"]) > depth and isinstance(value, dict):
            item = str(error["loc"][depth])
            key, value, schema = f"{key}.{item}", value.get(item), schema.get("additionalProperties", {})
        expected = expectation(schema)
        if error["type"] == "finite_number":
            expected = expected.replace("number", "finite number", 1)
        wrong = error["input"] if inside else value
        against = f"; {shown(wrong)} is not" if inside else f", not {shown(wrong)}"
        said = f"{key} must be {expected}{against}"
        near = difflib.get_close_matches(wrong, choices(schema), 1) if isinstance(wrong, str) else []
        if near and len(choices(schema)) > 1:
            said += f"; the nearest is {near[0]}"
        elif isinstance(wrong, str) and error["type"] in ("int_type", "float_type") and is_number(wrong):
            said += "; leave out the quotes"
        elif error["type"] == "string_type" and isinstance(wrong, bool | int | float):
            said += "; in quotes it is text"
        if key == "name" and key not in self.origins:  # the stem, which nobody wrote as a name
            said += ", which is the file's name; set name"
        return said


def _leaf_of(error: ErrorDetails) -> str | None:
    keys = [".".join(str(part) for part in error["loc"][:end]) for end in range(1, len(error["loc"]) + 1)]
    return next((key for key in keys if key in leaves()), None)


def _rule(error: ErrorDetails) -> str:
    where = ".".join(str(part) for part in error["loc"])
    return str(error.get("ctx", {}).get("error", f"{where}: {error['msg']}"))
