"""A model hub on this machine: what huggingface_hub asks of the Hub to write and read models."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote

from tests.support.web import serving

TOKENS = {"hf_writes": "write", "hf_reads": "read", "hf_elsewhere": "fineGrained"}
"""Roles of tokens; what a fine-grained one may do is known to the Hub alone: this may write nothing here."""
MAKES = ("hf_writes",)
Files = dict[str, bytes]


@dataclass
class Hub:
    """What the server has, and what it was asked for."""

    url: str = ""
    repositories: dict[str, list[Files]] = field(default_factory=dict)
    """Commits of each repository, the newest last."""
    objects: dict[str, bytes] = field(default_factory=dict)
    """Large files by their SHA-256."""
    private: set[str] = field(default_factory=set)
    writes: list[str] = field(default_factory=list)
    """Requests that would change something."""
    read: list[str] = field(default_factory=list)
    """Files that were downloaded."""
    failing: int = 0
    """Status of all answers; 0 for those that are right."""

    def put(self, name: str, files: Files) -> None:
        """Add a commit."""
        self.repositories.setdefault(name, []).append(files)


def commit_name(name: str, number: int) -> str:
    """Return the name of a repository's commit, as a hash."""
    return hashlib.sha1(f"{name} {number}".encode()).hexdigest()


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve a hub without repositories on a port of this machine."""
    hub = Hub()
    with serving(type("Handler", (_Handler,), {"hub": hub})) as url:
        hub.url = url
        yield hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, content: Any = b"", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    @property
    def role(self) -> str | None:
        return TOKENS.get(self.token)

    @property
    def token(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ")

    def find(self, name: str, revision: str) -> tuple[str, Files] | None:
        """The commit and the files of a revision, or None after an answer that there is none."""
        commits = self.hub.repositories.get(name)
        if commits is None or (name in self.hub.private and self.role is None):
            code = 404 if self.role else 401
            self.answer(code, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")
            return None
        names = {commit_name(name, number): number for number in range(len(commits))}
        number = names.get(revision, len(commits) - 1 if revision == "main" else None)
        if number is None:
            self.answer(404, {"error": "Invalid rev id"}, X_Error_Code="RevisionNotFound")
            return None
        return commit_name(name, number), commits[number]

    def do_GET(self) -> None:
        if self.hub.failing:
            return self.answer(self.hub.failing, {"error": "it is down"})
        path = unquote(self.path.partition("?")[0])
        if path == "/api/whoami-v2":
            if self.role is None:
                return self.answer(401, {"error": "Invalid credentials in Authorization header"})
            token = {"displayName": self.token, "role": self.role}
            return self.answer(200, {"name": "ann", "auth": {"type": "access_token", "accessToken": token}})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if commit := self.find(found[1], found[2] or "main"):
                siblings = [{"rfilename": name} for name in commit[1]]
                self.answer(200, {"id": found[1], "sha": commit[0], "siblings": siblings})
            return None
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if commit := self.find(found[1], found[2]):
                self.send_file(*commit, found[3])
            return None
        return self.answer(501)

    do_HEAD = do_GET  # noqa: N815

    def send_file(self, commit: str, files: Files, name: str) -> None:
        if name not in files:
            return self.answer(
                404, {"error": "Entry not found"}, X_Error_Code="EntryNotFound", X_Repo_Commit=commit
            )
        if self.command == "GET":
            self.hub.read.append(name)
        etag = hashlib.sha256(files[name]).hexdigest()
        return self.answer(200, files[name], ETag=f'"{etag}"', X_Repo_Commit=commit)

    def do_POST(self) -> None:
        path, body = unquote(self.path.partition("?")[0]), self.body()
        if self.hub.failing:
            return self.answer(self.hub.failing, {"error": "it is down"})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        self.hub.writes.append(path)
        if self.token not in MAKES:
            return self.answer(403, {"error": "Forbidden: this token may not write here"})
        if path == "/api/repos/create":
            wanted = json.loads(body)
            name = f"{wanted['organization']}/{wanted['name']}"
            if name in self.hub.repositories:
                known = {"error": "You already created this model repo", "url": f"{self.hub.url}/{name}"}
                return self.answer(409, known)
            self.hub.put(name, {".gitattributes": b"*.safetensors filter=lfs\n"})
            if wanted.get("visibility") == "private":
                self.hub.private.add(name)
            return self.answer(200, {"url": f"{self.hub.url}/{name}", "name": name})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", path):
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": modes})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.answer(
                200, {"transfer": "basic", "objects": [*map(self.upload, json.loads(body)["objects"])]}
            )
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            return self.commit(found[1], [json.loads(line) for line in body.splitlines()])
        return self.answer(501)

    def upload(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """What to do to upload a large file, of which the server may have the content already."""
        if wanted["oid"] in self.hub.objects:
            return wanted
        return {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/objects/{wanted['oid']}"}}}

    def do_PUT(self) -> None:
        content = self.body()
        digest = hashlib.sha256(content).hexdigest()
        assert self.path == f"/objects/{digest}"
        self.hub.objects[digest] = content
        self.answer(200)

    def commit(self, name: str, lines: list[dict[str, Any]]) -> None:
        found = self.find(name, "main")
        if found is None:
            return None
        head, files = found[0], {**found[1]}
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header" if value.get("parentCommit", head) != head:
                    return self.answer(412, {"error": "A commit has happened since"})
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.hub.objects[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        self.hub.put(name, files)
        new = commit_name(name, len(self.hub.repositories[name]) - 1)
        url = f"{self.hub.url}/{name}/commit/{new}"
        return self.answer(200, {"success": True, "commitOid": new, "commitUrl": url})
