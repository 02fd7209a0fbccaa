"""Releases in model repositories of the Hugging Face Hub: `hf://user/name`, or `hf://user/name@revision`.

huggingface_hub knows the token (`hf auth login`, HF_TOKEN), the address (HF_ENDPOINT) and where downloads go.
Only files that a release's manifest names are read, and none is run.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from gan_dist.core import extras
from gan_dist.core.errors import AbsentError, CheckpointError, GanDistError, OutageError, StorageError
from gan_dist.core.storage.hashed_folder import MANIFEST, read_manifest
from gan_dist.core.storage.redaction import reason, redact

SCHEME = "hf://"
_NAME = r"(?!\w*\.git\b)[A-Za-z0-9](?:(?!--|\.\.)[A-Za-z0-9_.-]){0,94}(?<![.-])"
_PART = r"(?!\.)[\w.-]+"
_URI = re.compile(rf"hf://({_NAME}/{_NAME})(?:@({_PART}(?:/{_PART})*))?/?", re.ASCII)
_OF_THE_HUB = ".gitattributes"
"""File that the Hub puts into every new repository."""
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN to one that may"


class Repository(NamedTuple):
    """A model repository."""

    id: str
    """`user/name`."""
    revision: str | None = None
    """Branch, tag or commit; the branch `main` if None."""


def is_hub(uri: str) -> bool:
    """Return whether a URI is one of the Hub's."""
    return uri.startswith(SCHEME)


def parse(uri: str) -> Repository:
    """Return the repository of a URI; raise a StorageError if it names none."""
    if found := _URI.fullmatch(uri):
        return Repository(found[1], found[2])
    remedy = "write hf://user/name, or hf://user/name@v1 for a branch, a tag or a commit"
    raise StorageError(f"{redact(uri)} is not the name of a model repository", remedy)


def pinned(uri: str) -> str:
    """Return the URI of the commit that a repository has now; any other path or URI as it is.

    Raises what `download` does.
    """
    if not is_hub(uri):
        return uri
    return f"{SCHEME}{parse(uri).id}@{_fetch(uri, [MANIFEST]).name}"


def download(uri: str, kinds: Sequence[str]) -> str:
    """Return the local folder with the files of a repository that is a folder of one of these kinds.

    What was downloaded before is not downloaded again, and what its manifest does not name not at all. Hashes
    are for the reader to check.

    Raises:
        MissingPackageError: huggingface_hub is not installed.
        CheckpointError: the repository holds no folder of these kinds.
        AbsentError: there is no such repository or revision, or this token does not see it.
        OutageError: the Hub does not answer, and the files were not downloaded before.
        StorageError: the Hub refuses the token, or the URI names no repository.
    """
    folder = _fetch(uri, [MANIFEST])
    manifest = read_manifest(str(folder), kinds)
    return str(_fetch(f"{SCHEME}{parse(uri).id}@{folder.name}", manifest.files))


def _fetch(uri: str, names: Collection[str]) -> Path:
    """Return the folder of a revision, named by its commit, with these of its files."""
    repository = parse(uri)
    with _typed(uri) as api:
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        folder = Path()
        for name in names:
            try:
                file = api.hf_hub_download(repository.id, name, revision=repository.revision)
            except LocalEntryNotFoundError:
                raise
            except EntryNotFoundError:
                what = f"{uri} is not a release: it has no {name}"
                raise CheckpointError(what, "give a repository that gan-dist publish has written") from None
            folder = Path(file).parent
    return folder


def upload(uri: str, contents: Mapping[str, bytes], message: str, *, replace: bool, private: bool) -> str:
    """Write a release's files, its manifest among them, as one commit of a repository; return its URL.

    A repository that is not there is made. Of one that holds a release, files that the new release has not
    are deleted. Nothing is written before the token and the repository have been looked at.

    Args:
        uri: The repository; its branch `main` is written.
        contents: Files by name.
        message: Of the commit.
        replace: Delete all that a repository holds that holds no release.
        private: Make a new repository that only its owners see.

    Raises:
        MissingPackageError: huggingface_hub is not installed.
        OutageError: the Hub does not answer; the same call again completes what was begun.
        StorageError: no token, one without the right to write, or a repository with other contents.
    """
    repository = parse(uri)
    if repository.revision:
        raise StorageError(
            f"{uri} names a revision, and a new commit is written", f"leave @{repository[1]} out"
        )
    with _typed(uri) as api:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete
        from huggingface_hub.errors import RepositoryNotFoundError

        token = api.whoami().get("auth", {}).get("accessToken", {})
        if token.get("role") == "read":
            raise StorageError(f"{uri}: the token {token.get('displayName', '')} may only read", LOG_IN)
        there: set[str] = set()
        head = None
        with suppress(RepositoryNotFoundError):
            info = api.model_info(repository.id)
            head, there = info.sha, {file.rfilename for file in info.siblings or []} - {_OF_THE_HUB}
        stale = _replaced(uri, there, replace=replace) - contents.keys()
        api.create_repo(repository.id, private=private, exist_ok=True)
        commit = api.create_commit(
            repository.id,
            [
                *(CommitOperationAdd(name, content) for name, content in contents.items()),
                *(CommitOperationDelete(name, is_folder=False) for name in sorted(stale)),
            ],
            commit_message=message,
            parent_commit=head,  # another's commit in between is not written over
        )
    return str(commit.commit_url)


def _replaced(uri: str, there: set[str], *, replace: bool) -> set[str]:
    """Return which of a repository's files a new release takes the place of."""
    if MANIFEST in there:
        with suppress(CheckpointError):
            return {*read_manifest(str(_fetch(uri, [MANIFEST])), ["release"]).files} & there
    if there and not replace:
        more = ", ..." if len(there) > 3 else ""
        raise StorageError(
            f"{uri} holds {', '.join(sorted(there)[:3])}{more}, and no release of gan-dist",
            "give --to another name, or add --replace, which deletes them (their history stays)",
        )
    return there


@contextmanager
def _typed(uri: str) -> Iterator[Any]:
    """Yield the client of the Hub, and raise its errors as those of this package."""
    extras.require("hub", uri)
    from huggingface_hub import HfApi, errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its client's library
    from huggingface_hub.utils.tqdm import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    except GanDistError:
        raise
    except errors.LocalTokenNotFoundError:
        raise StorageError(f"{uri} needs a token, and there is none", LOG_IN) from None
    except errors.RepositoryNotFoundError:
        what = f"{uri}: there is no such model repository, or this token does not see it"
        raise AbsentError(what, f"correct the name, or {LOG_IN}") from None
    except errors.RevisionNotFoundError:
        raise AbsentError(f"{uri}: the repository has no such revision", "name one that it has") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        what = f"{uri}: the Hub answers {status} ({error.server_message or reason(error)})"
        if status in (401, 403):
            raise StorageError(what, f"the token may not do this: {LOG_IN}") from None
        if status == 412:
            raise StorageError(what, "somebody has written it meanwhile: look at it, and try again") from None
        raise (OutageError if status == 429 or status >= 500 else StorageError)(what, "try again") from None
    except (HTTPError, OSError, RuntimeError) as error:  # a connection, or an upload that broke off
        why = reason(error.__cause__ or error)
        raise OutageError(f"{uri}: the Hub does not answer ({why})", "try again") from None
