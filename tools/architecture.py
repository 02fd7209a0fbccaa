"""Draw the rooms of the package and the imports between them: `python -m tools.architecture`.

Writes `docs/architecture.svg` from the imports in `gan_dist/` and the first sentence of every room's docs;
a test compares the two. Where a room reaches another through a third one, the direct arrow is not drawn.
"""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "gan_dist"
PICTURE = Path(__file__).parents[1] / "docs" / "architecture.svg"
FLOORS = (
    ("cli",),
    ("cluster", "doctor", "report"),
    ("training", "search"),
    ("evaluation", "artifacts"),
    ("data", "models"),
    ("config",),
    ("core",),
)
"""The rooms, the top floor first; a room imports from lower floors only."""
WIDTH, BOX_WIDTH, BOX_HEIGHT = 1000, 300, 88
STRIDE, STEP = BOX_WIDTH + 30, 134
"""Distance between two boxes of one floor, and between two floors."""
LINE = 42
"""Characters in a line of text within a box."""


def imported_rooms(file: Path) -> set[str]:
    """Return the rooms that a file imports from, its own included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("gan_dist.")}


def arrows() -> set[tuple[str, str]]:
    """Return (importing room, imported room) for all rooms of the package."""
    rooms = [room for floor in FLOORS for room in floor]
    return {
        (room, other)
        for room in rooms
        for file in (PACKAGE / room).rglob("*.py")
        for other in imported_rooms(file)
        if other in rooms and other != room
    }


def direct(all_arrows: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return the arrows between rooms that no longer way connects."""
    below: dict[str, set[str]] = {}
    for floor in reversed(FLOORS):
        for room in floor:
            targets = {other for one, other in all_arrows if one == room}
            below[room] = targets.union(*(below[other] for other in targets))
    return {
        (room, other)
        for room, other in all_arrows
        if not any(other in below[middle] for one, middle in all_arrows if one == room and middle != other)
    }


def sentence(room: str) -> str:
    """Return the first sentence of a room's docstring."""
    text = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or ""
    return " ".join(text.split("\n\n")[0].split())


def draw() -> str:
    """Return the picture as SVG."""
    corners = {
        room: ((WIDTH + 30 - len(floor) * STRIDE) // 2 + number * STRIDE, 16 + level * STEP)
        for level, floor in enumerate(FLOORS)
        for number, room in enumerate(floor)
    }
    height = 16 + (len(FLOORS) - 1) * STEP + BOX_HEIGHT + 16
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="#5b7083"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for room, other in sorted(direct(arrows())):
        (x, y), (to_x, to_y) = corners[room], corners[other]
        start = x + BOX_WIDTH // 2 + (to_x - x) // 8
        end = to_x + BOX_WIDTH // 2 + (x - to_x) // 8
        parts.append(
            f'<line x1="{start}" y1="{y + BOX_HEIGHT}" x2="{end}" y2="{to_y - 2}" stroke="#5b7083" '
            'stroke-width="1.5" marker-end="url(#head)"/>'
        )
    for room, (x, y) in corners.items():
        parts.append(
            f'<rect x="{x}" y="{y}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" '
            'fill="#eef3f7" stroke="#9fb2c3"/>'
        )
        parts.append(_text(x + 12, y + 22, f"{room}/", 'font-size="16" font-weight="bold"'))
        for number, line in enumerate(_wrapped(sentence(room))):
            parts.append(_text(x + 12, y + 42 + 16 * number, line, 'font-size="12"'))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: int, y: int, text: str, style: str) -> str:
    return f'<text x="{x}" y="{y}" fill="#24343f" {style}>{escape(text)}</text>'


def _wrapped(text: str) -> list[str]:
    """Return a text in at most three lines of `LINE` characters."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > LINE:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines[:3]


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(f"{len(arrows())} arrows between rooms, drawn in {PICTURE}")  # noqa: T201 - a script's only output
