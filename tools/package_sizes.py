"""What `pip install gan-dist` and each of its extras take on disk, by the packages of this environment.

    python -m tools.package_sizes

torch and what only torch brings (on Linux CUDA's libraries) stand in lines of their own. An extra's line has
what it adds to `gan-dist` alone.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import Distribution, distribution
from pathlib import Path

import typer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def project() -> Mapping[str, list[str]]:
    """Return the requirements of the project by extra; those of `gan-dist` alone have an empty name."""
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"": read["dependencies"], **read["optional-dependencies"]}


def closure(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Return the installed packages, by name, that requirements bring on this machine, themselves included.

    Raises a PackageNotFoundError if one is not installed.
    """
    extras = project()
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    todo = [(Requirement(one), {""}) for one in requirements]
    while todo:
        requirement, asked = todo.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": one}) for one in asked):
            continue
        name = canonicalize_name(requirement.name)
        if name == "gan-dist":
            todo += [(Requirement(one), {""}) for extra in requirement.extras for one in extras[extra]]
            continue
        for extra in {"", *requirement.extras}:
            if (name, extra) not in seen:
                seen.add((name, extra))
                found[name] = distribution(name)
                todo += [(Requirement(one), {extra}) for one in found[name].requires or []]
    return found


def megabytes(packages: Iterable[Distribution]) -> float:
    """Return the size of packages' files in MB (10^6 bytes), without compiled Python."""
    paths = (file for package in packages for file in package.files or [] if file.suffix != ".pyc")
    located = (Path(str(file.locate())) for file in paths)
    return sum(path.stat().st_size for path in located if path.is_file()) / 1e6


def main() -> None:
    """Print a line for each."""
    extras = project()
    alone = closure(extras[""])
    others = closure(one for one in extras[""] if not re.match(r"torch\b", one))
    torch = alone.keys() - others.keys()
    cuda = {name for name in torch if re.match("nvidia|cuda|triton", name)}
    shown = {
        "gan-dist without torch": others.values(),
        "torch": [alone[name] for name in torch - cuda],
        "torch's CUDA libraries": [alone[name] for name in cuda],
    }
    for extra in filter(None, extras):
        added = closure(extras[extra])
        shown[f"gan-dist[{extra}]"] = [added[name] for name in added.keys() - alone.keys()]
    for name, packages in shown.items():
        typer.echo(f"{name:<25} {megabytes(packages):>7,.0f} MB  {len([*packages]):>3} packages")


if __name__ == "__main__":
    main()
