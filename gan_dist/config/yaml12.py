"""YAML for configurations: plain values only, numbers of YAML 1.2, and nodes that know their lines.

PyYAML reads YAML 1.1, where `1e-4` is text, `no` is false, `010` is eight and `1:30` is ninety. Nothing here
constructs Python objects, and aliases are refused, so a small file cannot become a large one.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_DEPTH = 32
_TAG = "tag:yaml.org,2002:"
_INT = r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"
_FLOAT = r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
_RESOLVERS = (
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    ("int", _INT, [*"-+0123456789"]),
    ("float", _FLOAT, [*"-+.0123456789"]),
)


class UnreadableYaml(ValueError):  # noqa: N818 - it is always turned into a ConfigError
    """Text that is not YAML, with the line of the problem (from 1); or a node that is no plain value."""

    def __init__(self, what: str, remedy: str = "", line: int = 1) -> None:
        self.remedy, self.line = remedy, line
        super().__init__(what)


class _Loader(yaml.SafeLoader):
    """Reads nodes, without aliases and down to MAX_DEPTH."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self.check_event(yaml.AliasEvent):
            raise _unreadable("aliases (*name) are refused", mark.line, mark.column, "write the value out")
        if self.depth == MAX_DEPTH:
            raise _unreadable(f"more than {MAX_DEPTH} levels of nesting", mark.line, mark.column)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _unreadable(what: str, line: int, column: int, remedy: str = "") -> UnreadableYaml:
    return UnreadableYaml(f"not readable as YAML at column {column + 1}: {what}", remedy, line + 1)


# Not in the class's body, because PyYAML's stubs take it for a variable of instances.
_Loader.yaml_implicit_resolvers = {}


class _Dumper(yaml.SafeDumper):
    """Keeps YAML 1.1's rules beside ours: text is quoted where either would take it for another type."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # PyYAML writes breaks such as U+0085 as they are, and reads them back as spaces; only "" has escapes.
    return dumper.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


for _name, _pattern, _first in _RESOLVERS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(f"^(?:{_pattern})$"), _first)


def is_number(text: str) -> bool:
    """Return whether `text` without quotes is a number in YAML 1.2."""
    return re.fullmatch(f"{_INT}|{_FLOAT}", text) is not None


def dump(value: object, *, flow: bool = False) -> str:
    """Return plain values as YAML in their own order, on one line if `flow`.

    `compose` and `plain_value` read them back.
    """
    return str(
        yaml.dump(
            value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10**9, default_flow_style=flow
        )
    )


def compose(text: str) -> yaml.Node | None:
    """Return the nodes of one document, each with its line; None if it is empty.

    Raises:
        UnreadableYaml: `text` is not YAML, uses an alias or nests more than MAX_DEPTH levels.
    """
    loader = _Loader("")
    try:
        loader = _Loader(text)
        node: yaml.Node | None = loader.get_single_node()
        return node
    except UnreadableYaml:
        raise
    except (ValueError, OverflowError) as error:
        # PyYAML lets these through, for instance for the escape "\\UFFFFFFFF".
        raise _unreadable("a number or escape is out of range", loader.line, loader.column) from error
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        code = ord(error.character) if isinstance(error.character, str) else error.character
        line, column = before.count("\n"), len(before) - before.rfind("\n") - 1
        raise _unreadable(f"U+{code:04X} is not allowed", line, column) from error
    except yaml.MarkedYAMLError as error:
        context = None if error.context == "while scanning for the next token" else error.context
        what = ", ".join(part for part in (context, error.problem) if part)
        if "'\\t'" in what:
            what += " (YAML is indented with spaces)"
        mark = error.problem_mark or error.context_mark or loader.get_mark()
        raise _unreadable(what, mark.line, mark.column) from error


def check_tag(node: yaml.Node) -> None:
    """Raise UnreadableYaml for a node with a tag other than those of plain values."""
    known = {
        yaml.ScalarNode: [_TAG + name for name in ("str", "null", "bool", "int", "float")],
        yaml.SequenceNode: [_TAG + "seq"],
        yaml.MappingNode: [_TAG + "map"],
    }
    if node.tag not in known[type(node)]:
        tag = " ".join(node.tag.replace(_TAG, "!!").split())[:80]
        raise UnreadableYaml(f"has the tag {tag}; a configuration holds plain values only")


def plain_value(node: yaml.Node) -> Any:
    """Return the value of a node: text, number, bool, None, list, or dict with text as keys.

    Raises:
        UnreadableYaml: it has another tag, a scalar that does not fit its tag, or the same key twice.
    """
    check_tag(node)
    if isinstance(node, yaml.SequenceNode):
        return [plain_value(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise UnreadableYaml("has a key that is not plain text")
            if key.value in mapping:
                raise UnreadableYaml(f"has the key {key.value} twice")
            mapping[str(_scalar("str", key.value))] = plain_value(value)
        return mapping
    try:
        return _scalar(node.tag.removeprefix(_TAG), node.value)
    except (ValueError, KeyError):
        text = node.value if len(node.value) <= 40 else f"{node.value[:39]}…"
        kind = node.tag.replace(_TAG, "!!")
        raise UnreadableYaml(f"holds {text!r}, which cannot be read as {kind}") from None


def _scalar(kind: str, text: str) -> str | int | float | bool | None:
    if kind == "int":
        number = int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
        str(number)  # refuses thousands of digits, which `int` does in base 10 alone
        return number
    if kind == "float":
        return float(re.sub(r"\.(?=[inIN])", "", text))
    if kind == "bool":
        return {"true": True, "false": False}[text.lower()]
    if kind == "null":
        return None
    text.encode()  # an escape can write half a surrogate pair, which is no text
    return text
