"""JSON from files that anybody may have written."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field

LARGEST = 10**15
"""More images than any run sees; floats hold every integer up to it."""
Clock = Annotated[int, Field(ge=0, le=LARGEST)]
"""Images seen, in a file."""


def parse_json(text: str | bytes) -> Any:
    """Return what JSON says.

    Raises:
        ValueError: it is none, or nested so deep that Python cannot read it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Return the object that JSON describes.

    Raises:
        ValueError: it is none, nested too deep, describes something else, or names halves of characters.
    """
    found = parse_json(text)
    if not isinstance(found, dict):
        raise ValueError("it is no JSON object")
    if (b"\\u" if isinstance(text, bytes) else "\\u") in text:  # type: ignore[operator]
        # Half a character, as \ud800 is, can be written nowhere.
        json.dumps(found, ensure_ascii=False).encode()
    return found


def is_clock(value: object) -> bool:
    """Return whether a value of a file may be the images that a run has seen."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST
