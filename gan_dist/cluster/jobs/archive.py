"""What a submitted job gets: the working directory without what is ignored, and this package.

`.gitignore` and `.rayignore` count as they do for `ray job submit --working-dir .`, in every folder. A job
that is submitted from a folder without `gan_dist/` gets the package that submits it, so that the code that
runs is the code that was tried here; the nodes need what the package depends on.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from pathspec import GitIgnoreSpec

from gan_dist.core.errors import ClusterError

MAX_BYTES = 100 * 1024**2
"""What Ray's dashboard takes (`DASHBOARD_CLIENT_MAX_SIZE` of Ray 2.60)."""
MAX_FILES = 20_000
IGNORE_FILES = (".gitignore", ".rayignore")
NEVER = (".git", ".venv", "venv", "__pycache__", ".env", "/runs/")
"""Ray's own, secrets, and where runs are kept."""
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Upload:
    """Files of a job's working directory, by their path in it."""

    files: Mapping[str, Path]

    @property
    def bytes(self) -> int:
        """Size before compression."""
        return sum(_size(path) for path in self.files.values())


def gather(folder: Path, wanted: Sequence[str] = ()) -> Upload:
    """Return what a job that is submitted from `folder` gets.

    Args:
        folder: The working directory.
        wanted: Files in it, by relative path, that are sent even if they are ignored.

    Raises:
        ClusterError: it is too much, with the largest files.
    """
    files: dict[str, Path] = {}
    if not (folder / PACKAGE.name / "__init__.py").exists():
        files |= {f"{PACKAGE.name}/{name}": path for name, path in _files(PACKAGE)}
    for name, path in _files(folder):
        files[name] = path
        if len(files) > MAX_FILES:
            raise ClusterError(_too_many(folder, files))
    files |= {name: folder / name for name in wanted}
    upload = Upload(files)
    if upload.bytes > MAX_BYTES:
        raise ClusterError(_too_large(folder, upload))
    return upload


def write_zip(upload: Upload, to: Path, secrets: Mapping[str, str]) -> None:
    """Write the files as an archive that is the same for the same files, so that it is uploaded once.

    Args:
        upload: The files.
        to: The archive.
        secrets: What none of them may hold, by the name to say instead.

    Raises:
        ClusterError: a file cannot be read, or it holds a secret.
    """
    with ZipFile(to, "w", ZIP_DEFLATED) as archive:
        for name, path in sorted(upload.files.items()):
            try:
                content = path.read_bytes()
                mode = path.stat().st_mode
            except OSError as error:
                raise ClusterError(
                    f"{path} cannot be read ({error.strerror}), and the job would miss it: name it in "
                    ".rayignore"
                ) from None
            for what, secret in secrets.items():
                if secret.encode() in content:
                    raise ClusterError(
                        f"{path} holds the value of {what}, and would be kept on the cluster: name it in "
                        ".rayignore"
                    )
            entry = ZipInfo(name)  # the time in it is a fixed one
            entry.compress_type = ZIP_DEFLATED
            entry.external_attr = mode << 16
            archive.writestr(entry, content)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the files below a folder that are sent, each with its path in it."""
    for path in _walk(folder, [(folder, GitIgnoreSpec.from_lines(NEVER))]):
        yield path.relative_to(folder).as_posix(), path


def _walk(folder: Path, ignored: list[tuple[Path, GitIgnoreSpec]]) -> Iterator[Path]:
    """Yield the files below a folder; each ignore file counts for what is below its own folder."""
    for name in IGNORE_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(errors="replace").splitlines()
            ignored = [*ignored, (folder, GitIgnoreSpec.from_lines(lines))]
    with os.scandir(folder) as entries:
        inside = sorted(entries, key=lambda entry: entry.name)
    for entry in inside:
        path, is_folder = Path(entry.path), entry.is_dir()
        if any(spec.match_file(_relative(path, base, is_folder)) for base, spec in ignored):
            continue
        if is_folder:
            # A link to a folder is followed, except to one that it lies in.
            if not (entry.is_symlink() and folder.resolve().is_relative_to(path.resolve())):
                yield from _walk(path, ignored)
        elif entry.is_file():
            yield path


def _relative(path: Path, base: Path, is_folder: bool) -> str:
    return path.relative_to(base).as_posix() + ("/" if is_folder else "")


def _size(path: Path) -> int:
    return path.stat().st_size


def _too_large(folder: Path, upload: Upload) -> str:
    largest = sorted(upload.files, key=lambda name: -_size(upload.files[name]))[:5]
    named = ", ".join(f"{name} ({_mib(_size(upload.files[name]))})" for name in largest)
    return (
        f"the working directory {folder} is {_mib(upload.bytes)}, and a job's may be {_mib(MAX_BYTES)}; the "
        f"largest files are {named}: name in .rayignore what the job does not need, or submit from another "
        "folder"
    )


def _too_many(folder: Path, files: Mapping[str, Path]) -> str:
    counts = Counter(PurePosixPath(name).parts[0] for name in files)
    named = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(3))
    return (
        f"the working directory {folder} has more than {MAX_FILES:,} files, most of them in {named}: name in "
        ".rayignore what the job does not need, or submit from another folder"
    )


def _mib(size: int) -> str:
    return f"{size / 1024**2:,.1f} MiB"
