"""Renew uPlot, which draws the charts of reports: `python -m tools.fetch_uplot [VERSION]`, with npm.

It is a third party's, under the MIT licence, and is shipped as it was published; `origin.json` beside it has
its version and the hashes of its files.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import gan_dist

FOLDER = Path(gan_dist.__file__).parent / "assets" / "uplot"
FILES = ("dist/uPlot.iife.min.js", "dist/uPlot.min.css", "LICENSE")


def main(version: str) -> None:
    """Write the files of a version of uPlot, and their origin."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--json", f"uplot@{version}"]
        done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        (packed,) = json.loads(done.stdout)
        with tarfile.open(Path(folder, packed["filename"])) as archive:
            archive.extractall(folder, filter="data")
        contents = {Path(name).name: Path(folder, "package", name).read_bytes() for name in FILES}
    FOLDER.mkdir(exist_ok=True)
    for name, content in contents.items():
        (FOLDER / name).write_bytes(content)
    origin = {
        "package": "uplot (npm)",
        "version": packed["version"],
        "integrity": packed["integrity"],
        "license": "MIT",
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    (FOLDER / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["1.6.32"])
