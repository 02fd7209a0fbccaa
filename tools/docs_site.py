"""Hooks of the documentation's site: its pages about keys, commands and errors, made from the code.

`mkdocs build --strict` calls them (mkdocs.yml). Nothing that they make is in the repository.
"""

from __future__ import annotations

import ast
import os
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import typer

from gan_dist.config.fields import describe_allowed, format_value, leaves
from gan_dist.core import errors

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gan_dist"
OUTSIDE = ("benchmarks/README.md", "benchmarks/chaos.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
"""Files outside docs/ that the site has under the same names."""
PICTURES = ("benchmarks/demo/samples.png",)


def on_config(config: Any) -> Any:
    """List all decisions in the navigation."""
    names = [f"decisions/{path.name}" for path in sorted((ROOT / "docs/decisions").glob("0*.md"))]
    config.nav[-1]["The project"].insert(1, {"Decisions": ["decisions/README.md", *names]})
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from the code, and those from outside docs/."""
    from mkdocs.structure.files import File

    made = {"configuration": configuration_page(), "commands": commands_page(), "errors": errors_page()}
    for name, text in made.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    for name in (*OUTSIDE, *PICTURES):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page whose links to files lead to the site's pages; of other files only the names stay."""
    source = Path(page.file.abs_src_path or "/")
    if not source.is_relative_to(ROOT):
        return markdown

    def moved(found: re.Match[str]) -> str:
        text, (link, mark, anchor) = found.group(1), found.group(2).partition("#")
        if "://" in link or not link:
            return found.group()
        target = _on_site((source.parent / link).resolve().relative_to(ROOT))
        if target is None:
            return text
        return f"[{text}]({os.path.relpath(target, Path(page.file.src_uri).parent)}{mark}{anchor})"

    return re.sub(r"\[([^\[\]]*)\]\(([^()\s]+)\)", moved, markdown)


def _on_site(path: Path) -> Path | None:
    """Return where the site has a file of the checkout, None if it has it not."""
    if path == Path("docs/decisions"):
        return Path("decisions/README.md")
    if path == Path("README.md"):
        return Path("index.md")
    if path.parts[0] == "docs":
        return path.relative_to("docs")
    return path if str(path) in (*OUTSIDE, *PICTURES) else None


KEYS = """\
# Configuration keys

Made from the classes in `gan_dist/config/`. A key stands in a YAML file, or as `key=value` on the command
line; `gan-dist train --schema` prints the same as a JSON Schema.
"""
COMMANDS = """\
# Commands

Made from the commands' help, which `gan-dist VERB -h` prints.
"""
ERRORS = """\
# Messages of errors

Every message that the code can end with, by the error's kind; … stands for names, values and numbers.
[Troubleshooting](../troubleshooting.md) says more about each kind.
"""


def configuration_page() -> str:
    """Return the page of all keys of a configuration, made from the schema."""
    lines = [KEYS]
    section = None
    for key, schema in leaves().items():
        above = key.rpartition(".")[0].partition(".")[0] or "the run"
        if above != section:
            section = above
            lines += [f"## {section}", "", "| key | value | default | meaning |", "| --- | --- | --- | --- |"]
        default = f"`{format_value(schema['default'])}`" if "default" in schema else "-"
        about = _cell(schema.get("description", ""))
        lines.append(f"| `{key}` | {_allowed(schema)} | {_cell(default)} | {about} |")
    return "\n".join(lines) + "\n"


def _allowed(schema: dict[str, Any]) -> str:
    text = describe_allowed(schema)
    return _cell(re.sub(r"matches (\S+)", r"matches `\1`", text))


def commands_page() -> str:
    """Return the page of all commands, made from their help."""
    from gan_dist.cli import app

    group: Any = typer.main.get_command(app)
    lines = [COMMANDS]
    for name, command in sorted(group.commands.items()):
        if command.hidden:
            continue
        usage = " ".join(command.collect_usage_pieces(command.context_class(command, info_name=name)))
        lines += [f"## {name}", "", f"`gan-dist {name} {usage}`", "", _paragraphs(command.help or ""), ""]
        rows = [
            f"| `{', '.join([*option.opts, *option.secondary_opts])}` | {_cell(option.help or '')} |"
            for option in command.params
            if option.param_type_name == "option" and not option.hidden
        ]
        lines += ["| option | meaning |", "| --- | --- |", *rows, ""]
    return "\n".join(lines) + "\n"


def errors_page() -> str:
    """Return the page of all errors' messages, made from the places in the code that raise them."""
    lines = [ERRORS]
    for kind, found in sorted(messages().items()):
        lines += [f"## {kind}", "", f"[What it means](../troubleshooting.md#{kind.lower()})", ""]
        lines += ["| message | remedy | from |", "| --- | --- | --- |"]
        lines += [f"| {_cell(what)} | {_cell(remedy)} | `{where}` |" for what, remedy, where in sorted(found)]
        lines.append("")
    return "\n".join(lines) + "\n"


def messages() -> dict[str, set[tuple[str, str, str]]]:
    """Return each kind of error's messages: what is wrong, the remedy, and the file that raises it."""
    kinds = {name for name, value in vars(errors).items() if _is_kind(value)}
    found: dict[str, set[tuple[str, str, str]]] = defaultdict(set)
    for path in sorted(PACKAGE.rglob("*.py")):
        where = str(path.relative_to(PACKAGE))
        for scope in ast.walk(ast.parse(path.read_text())):
            if isinstance(scope, ast.FunctionDef):
                for kind, what, remedy in _raised(scope, kinds):
                    found[kind].add((what, remedy, where))
    return found


def _is_kind(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, errors.GanDistError)


def _raised(function: ast.FunctionDef, kinds: set[str]) -> Iterator[tuple[str, str, str]]:
    texts = {
        target.id: _text(node.value, {})
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            kind = {"Problem": "ConfigError"}.get(node.func.id, node.func.id)
            given = [_text(argument, texts) for argument in node.args[:2]]
            if kind in kinds and given and given[0].strip("… "):
                yield kind, given[0], given[1] if len(given) > 1 else ""


def _text(node: ast.expr, known: dict[str, str]) -> str:
    """Return a message's text as far as it is written in the code."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(_text(part, known) for part in parts)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _text(left, known) + _text(right, known)
        case ast.Name(id=name):
            return known.get(name, "…")
    return "…"


def _cell(text: str) -> str:
    """Return text as the cell of a table; code between backticks stays as it is."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    plain = [part.replace("<", "&lt;").replace("[", "&#91;") for part in parts[::2]]
    return "`".join(part for pair in zip_longest(plain, parts[1::2]) for part in pair if part is not None)


def _paragraphs(text: str) -> str:
    """Return a help's text as Markdown; what is indented stays as it stands."""
    return re.sub(r"(?m)^\x08$", "", text).strip()
