"""Files of a user that Ray's processes would import in place of Python's or a library's own modules.

Ray puts a command's working directory in front of all others where its workers look for modules, and a
job's directory even where they begin to.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.machinery import FrozenImporter, PathFinder
from pathlib import Path, PurePosixPath

from gan_dist.core.errors import ClusterError

PACKAGE = Path(__file__).parents[1]
IMPORTS = """
import json, sys
package, is_job, *names = sys.argv[1:]
sys.path.append(package)
import ray
if is_job == "False":
    names = [name for name in names if name not in sys.modules]
if names:
    import gan_dist.cluster.train.driver, gan_dist.cluster.tune.driver, gan_dist.cluster.evaluation_pool
    import gan_dist.data.batches.ray_reader, gan_dist.data.packing.ray_pack, gan_dist.training.loop
    import botocore.session, PIL.Image, s3fs, tensorboard, torchvision
print(json.dumps([name for name in names if name in sys.modules]))
"""
"""Prints which modules a worker imports; outside a job, after Ray, which comes before the directory."""
TIMEOUT_S = 120.0


def require_no_shadows(folder: Path, job: Iterable[str] | None = None) -> None:
    """Raise a ClusterError that names the files of a working directory in place of a module that is needed.

    `job` are the paths in it that a job gets, for one that is submitted.
    """
    files = job if job is not None else list(_modules_in(folder))
    suspects = {name: file for file in files if (name := _module(file)) and _is_taken(name, file, folder)}
    if not suspects:
        return
    folders = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(_outside(folder, folders))}
    command = [sys.executable, "-P", "-c", IMPORTS, str(PACKAGE.parent), str(job is not None), *suspects]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, env=environment, timeout=TIMEOUT_S
        )
        names = sorted(json.loads(done.stdout.splitlines()[-1]))
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return  # what is wrong with Python here is said where it is used
    if names:
        one = names[0]
        what = f"{folder / suspects[one]} would be imported by Ray's processes in place of the module {one}"
        more = f", and so would {', '.join(suspects[name] for name in names[1:])}" if names[1:] else ""
        remedy = "rename it, or " + ("start from another folder" if job is None else "name it in .rayignore")
        raise ClusterError(what + more, remedy)


def _modules_in(folder: Path) -> Iterator[str]:
    """Yield the files of a folder that may stand in for modules; nothing where it cannot be read."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                yield entry.name
            elif entry.name in sys.stdlib_module_names and Path(entry.path, "__init__.py").is_file():
                yield f"{entry.name}/__init__.py"


def _module(file: str) -> str | None:
    """Return the name without dots by which a file is imported, as a module or a package; None if by none."""
    path = PurePosixPath(file)
    name = path.parent.name if path.stem == "__init__" else path.stem
    depth = 2 if path.stem == "__init__" else 1
    return name if path.suffix == ".py" and len(path.parts) == depth else None


def _is_taken(name: str, file: str, folder: Path) -> bool:
    """Return whether a module of Python's has this name, or an installed one, whose fork a folder may be."""
    if name == PACKAGE.name or name in sys.builtin_module_names or FrozenImporter.find_spec(name):
        return False  # found before any folder is looked into
    if name not in sys.stdlib_module_names and "/" in file:
        return False
    return PathFinder.find_spec(name, _outside(folder, filter(None, sys.path))) is not None


def _outside(folder: Path, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if not Path(path).resolve().is_relative_to(folder.resolve())]
