"""The archive of a submitted job: the working directory without ignored files, and this package.

`.gitignore` and `.rayignore` apply as for `ray job submit --working-dir .`, in every folder. A job that is
submitted from a folder without `gan_dist/` gets the package that submits it, so that it runs the code that
was tried here; the nodes need the package's dependencies. Secrets must not travel with a job: Ray logs its
command and shows it to all who have the token.
"""

from __future__ import annotations

import codecs
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from heapq import nlargest
from pathlib import Path, PurePosixPath
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from pathspec import GitIgnoreSpec

from gan_dist.core.errors import ClusterError
from gan_dist.core.storage.redaction import SECRET_WORDS, holds_secret

LOG = logging.getLogger("gan_dist")
MAX_BYTES = 100 * 1024**2
"""Limit of Ray's dashboard (`DASHBOARD_CLIENT_MAX_SIZE` of Ray 2.60)."""
MAX_FILES = 20_000
IGNORE_FILES = (".gitignore", ".rayignore")
ALWAYS_IGNORED = (".git", ".venv", "venv", "__pycache__", ".env", "/runs/")
"""Ray's own list, secrets, and the folder of runs."""
IGNORE_REMEDY = "name in .rayignore what the job does not need, or submit from another folder"
PACKAGE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Upload:
    """Files of a job's working directory, by their path in it."""

    files: Mapping[str, Path]

    @property
    def bytes(self) -> int:
        """Size before compression."""
        return sum(map(_size, self.files.values()))


def collect_files(folder: Path, required: Sequence[str] = ()) -> Upload:
    """Return the files of a job that is submitted from `folder`; those in `required` even if ignored.

    Raises:
        ClusterError: they are too many or too large, with the largest, or one cannot be read.
    """
    files: dict[str, Path] = {}
    if not (folder / PACKAGE.name / "__init__.py").exists():
        files |= {f"{PACKAGE.name}/{name}": path for name, path in _files(PACKAGE)}
    for name, path in _files(folder):
        files[name] = path
        if len(files) > MAX_FILES:
            counts = Counter(PurePosixPath(name).parts[0] for name in files)
            named = ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(3))
            what = (
                f"the working directory {folder} has more than {MAX_FILES:,} files, most of them in {named}"
            )
            raise ClusterError(what, IGNORE_REMEDY)
    upload = Upload(files | {name: folder / name for name in required})
    if upload.bytes > MAX_BYTES:
        largest = nlargest(5, [(_size(path), name) for name, path in upload.files.items()])
        named = ", ".join(f"{name} ({_mib(size)})" for size, name in largest)
        what = f"the working directory {folder} is {_mib(upload.bytes)}, and a job's may be {_mib(MAX_BYTES)}"
        raise ClusterError(f"{what}; the largest files are {named}", IGNORE_REMEDY)
    return upload


def write_zip(upload: Upload, to: Path, secrets: Mapping[str, str]) -> None:
    """Write the files as an archive; equal files make equal bytes, so that Ray uploads them once.

    Raises:
        ClusterError: a file cannot be read, or it holds one of the values of `secrets`.
    """
    with ZipFile(to, "w", ZIP_DEFLATED) as archive:
        for name, path in sorted(upload.files.items()):
            try:
                content = path.read_bytes()
                mode = path.stat().st_mode
            except OSError as error:
                raise _unreadable(path, error) from None
            for secret, value in secrets.items():
                if value.encode() in content:
                    what = f"{path} holds the value of {secret}, and would be kept on the cluster"
                    raise ClusterError(what, "name it in .rayignore")
            entry = ZipInfo(name)  # its time is a constant
            entry.compress_type = ZIP_DEFLATED
            entry.external_attr = mode << 16
            archive.writestr(entry, content)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    top = _Folder(folder, (folder.resolve(),), ((folder, GitIgnoreSpec.from_lines(ALWAYS_IGNORED)),))
    for path in _walk(top):
        name = path.relative_to(folder).as_posix()
        try:
            name.encode()
        except UnicodeEncodeError:
            what = f"{folder} holds a name that is not UTF-8 ({os.fsencode(name)!r})"
            raise ClusterError(what, "rename it, or name it in .rayignore") from None
        yield name, path


class _Folder(NamedTuple):
    """A folder to walk through.

    `way` is where it and the folders on the way to it really are, in front of each link; `ignored` are the
    patterns that apply, each with the folder that they are relative to.
    """

    path: Path
    way: tuple[Path, ...]
    ignored: tuple[tuple[Path, GitIgnoreSpec], ...]


def _walk(folder: _Folder) -> Iterator[Path]:
    """Yield the files below a folder; each ignore file applies to its own folder."""
    try:
        with os.scandir(folder.path) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise _unreadable(folder.path, error) from None
    ignored = folder.ignored
    left_out: set[str] = set()
    for name in IGNORE_FILES:
        try:
            if (folder.path / name).is_file():
                ignored = (*ignored, (folder.path, _patterns((folder.path / name).read_bytes())))
        except OSError as error:
            LOG.warning("warning: %s is passed over, as by git: %s", folder.path / name, error.strerror)
            left_out.add(name)
    for entry in inside:
        path = Path(entry.path)
        is_folder, failed = False, None
        try:
            is_folder = entry.is_dir()
        except OSError as error:  # such as a link in a circle, to which patterns for files apply
            failed = error
        if entry.name in left_out or _is_ignored(path, ignored, "/" if is_folder else ""):
            continue
        if failed:
            raise _unreadable(path, failed)
        if is_folder:
            way = _way(path, entry, folder.way)
            if way is not None:
                yield from _walk(_Folder(path, way, ignored))
        elif entry.is_file():
            yield path


def _way(path: Path, entry: os.DirEntry[str], way: tuple[Path, ...]) -> tuple[Path, ...] | None:
    """Return the way to a folder; None for a link to one that it lies in, which would be walked for ever."""
    if not entry.is_symlink():
        return (*way[:-1], way[-1] / entry.name)
    target = path.resolve()
    return None if any(real.is_relative_to(target) for real in way) else (*way, target)


def _is_ignored(path: Path, ignored: Iterable[tuple[Path, GitIgnoreSpec]], end: str) -> bool:
    return any(spec.match_file(path.relative_to(base).as_posix() + end) for base, spec in ignored)


def _patterns(content: bytes) -> GitIgnoreSpec:
    """Return an ignore file's patterns; lines that are none match nothing, as in git."""
    patterns = []
    for line in os.fsdecode(content.removeprefix(codecs.BOM_UTF8)).split("\n"):
        with suppress(ValueError, re.error):
            GitIgnoreSpec.from_lines([line.removesuffix("\r")])
            patterns.append(line.removesuffix("\r"))
    return GitIgnoreSpec.from_lines(patterns)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> ClusterError:
    what = f"{path} cannot be read ({error.strerror}), and the job would miss it"
    return ClusterError(what, "name it in .rayignore")


def _mib(size: int) -> str:
    return f"{size / 1024**2:,.1f} MiB"


_SETTING = re.compile(rf"(?i)://[^\s]*[?&][^=&]*(?:{SECRET_WORDS}|signature|\bsig\b)[^=&]*=[^&\s]")
_AWS_KEY = re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")


def require_no_secrets(texts: Iterable[tuple[str, str]], known: Mapping[str, str]) -> None:
    """Raise a ClusterError that names a text that holds a secret: a `known` value, or what looks like one."""
    for name, text in texts:
        if secret := _secret_in(text, known):
            raise ClusterError(
                f"{name} holds {secret}, which all who may list jobs would see, and Ray's files keep",
                "set it as a variable of the nodes instead, before `ray start`: the usual AWS variables for "
                "a store, and any, with search.optuna_storage=env:NAME, for a database",
            )


def keep_credentials_from_trials() -> None:
    """Stop Ray Tune from copying this process's AWS credentials into every trial's runtime environment.

    Ray 2.60 logs runtime environments (`runtime_env_agent.log`) and shows them on its dashboard. Nodes have
    credentials of their own.
    """
    from ray.tune.execution.class_cache import ENV_VARS_TO_PROPAGATE

    ENV_VARS_TO_PROPAGATE.difference_update(
        {name for name in ENV_VARS_TO_PROPAGATE if name.startswith("AWS_")}
    )


def _secret_in(text: str, known: Mapping[str, str]) -> str | None:
    for name, value in known.items():
        if value in text:
            return f"the value of {name}"
    if holds_secret(text):
        return "a URL with a password"
    if _SETTING.search(text):
        return "a URL with a secret among its settings"
    return "the id of an AWS key" if _AWS_KEY.search(text) else None
