"""Commands of the README and of the pages in docs/."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path


def shell_lines(page: Path) -> Iterator[str]:
    """Yield the lines of a page's blocks of shell commands, without comments."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        if language in ("", "sh"):
            yield from (re.sub(r"\s+#.*", "", line) for line in block.splitlines())
