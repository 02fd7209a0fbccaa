"""Releases in model repositories: written, read, refused; against a server that speaks the Hub's protocol."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants
from typer.testing import CliRunner

import gan_dist
from gan_dist.artifacts.best import find_best
from gan_dist.artifacts.publish import copy_release, find_release, publish
from gan_dist.cli import app
from gan_dist.cluster.serve.served import find_place
from gan_dist.config import load_config
from gan_dist.config.init import InitConfig
from gan_dist.core import storage
from gan_dist.core.errors import (
    AbsentError,
    CheckpointError,
    GanDistError,
    MissingPackageError,
    OutageError,
    StorageError,
    UntrustedCodeError,
)
from gan_dist.core.storage import hub as hub_files
from gan_dist.core.storage.hub import pinned
from gan_dist.evaluation.assess import Assessment
from gan_dist.evaluation.tasks import Request
from gan_dist.models import transfer
from tests.support.hub import Hub, commit_name, hub_server

# huggingface_hub's upload of large files by plain HTTP.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

TO = "hf://ann/digits"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A hub without repositories, a token that may write, and no downloads."""
    with hub_server() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_writes")
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "downloads"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        yield hub


def newest(hub: Hub) -> dict[str, bytes]:
    return hub.repositories["ann/digits"][-1]


def test_what_is_published_is_loaded_with_the_same_images(hub: Hub, run_uri: str, tmp_path: Path) -> None:
    found = find_best(run_uri)
    url = publish(found, TO)
    assert url == f"{hub.url}/ann/digits/commit/{commit_name('ann/digits', 1)}"
    assert newest(hub).keys() == {
        *(".gitattributes", "README.md", "manifest.json", "config.yaml", "shape.json", "metrics.json"),
        *("samples.png", "generator.safetensors"),
    }
    loaded = gan_dist.load(TO)
    assert torch.equal(loaded.sample(3), gan_dist.load(run_uri).sample(3))
    assert loaded.record == gan_dist.load(run_uri).record
    # From a copy of it, and with what init.from needs; the hashes of the first are not those of the second.
    both = {**found.contents, "discriminator.safetensors": found.contents["generator.safetensors"]}
    copy_release(replace(found, contents=both), str(tmp_path / "copy"), with_discriminator=True)
    publish(find_release(str(tmp_path / "copy")), TO, with_discriminator=True)
    assert "discriminator.safetensors" in newest(hub)
    source = transfer.read_source(InitConfig(source=f"{TO}@main"))
    assert source.sha256 == transfer.read_source(InitConfig(source=str(tmp_path / "copy"))).sha256
    publish(found, TO)
    assert "discriminator.safetensors" not in newest(hub)


def test_a_revision_stays_what_it_was_and_no_other_file_is_downloaded(hub: Hub, run_uri: str) -> None:
    found = find_best(run_uri)
    publish(found, TO)
    first = pinned(TO)
    assert first == f"{TO}@{commit_name('ann/digits', 1)}"
    publish(replace(found, contents={**found.contents, "samples.png": b"others"}), TO)
    hub.put("ann/digits", {**newest(hub), "model.py": b"raise SystemExit", "README.md": b"edited there"})
    assert pinned(TO) != first
    assert find_place(first)[1] != find_place(TO)[1] == find_place(pinned(TO))[1]  # what a server looks at
    for uri in (first, TO):
        assert torch.equal(gan_dist.load(uri).sample(1), gan_dist.load(run_uri).sample(1))
    assert {"model.py", "README.md"} & {*hub.read} == set()
    assert gan_dist.load(TO)  # not downloaded again
    assert hub.read.count("generator.safetensors") == 1
    hub.failing = 503
    assert gan_dist.load(first)  # what is downloaded needs no hub
    assert pinned("runs/digits") == "runs/digits"


def test_the_same_again_makes_no_commit_of_other_bits(hub: Hub, run_uri: str) -> None:
    for _ in range(2):
        publish(find_best(run_uri), TO)
    first, second = hub.repositories["ann/digits"][1:]
    assert first == second


def test_the_card_is_one_that_the_hub_reads(hub: Hub, run_uri: str) -> None:
    found = find_best(run_uri)
    config = load_config(storage.join(found.release, "config.yaml"), ["init.from=hf://bob/faces@v2"])
    publish(replace(found, config=config), TO)
    card = ModelCard(newest(hub)["README.md"].decode())
    data: Any = card.data
    assert (data.license, data.library_name, data.pipeline_tag, data.datasets, data.base_model) == (
        *("cc-by-4.0", "gan-dist", "unconditional-image-generation", ["digits"], "bob/faces"),
    )
    results = {
        one.metric_type: (one.metric_value, one.dataset_name, one.task_type) for one in data.eval_results
    }
    assert results["fd_digits"] == (1.0, "digits", "unconditional-image-generation")
    assert data.model_name == "run"
    assert f'gan_dist.load("{TO}")' in card.text
    assert (
        "hf download ann/digits config.yaml --local-dir ann/digits\ngan-dist train ann/digits/config.yaml"
        in card.text
    )


@pytest.mark.parametrize(
    ("given", "front"),
    [
        ("MIT", {"license": "mit"}),
        ("My own terms", {"license": "other", "license_name": "My own terms"}),
    ],
)
def test_a_licence_is_as_the_hub_writes_it(given: str, front: dict[str, str], hub: Hub, run_uri: str) -> None:
    publish(find_best(run_uri), TO, license_name=given, private=True)
    data: Any = ModelCard(newest(hub)["README.md"].decode()).data
    assert {key: getattr(data, key) for key in front} == front
    assert hub.private == {"ann/digits"}


@pytest.mark.parametrize(
    ("token", "held", "to", "said"),
    [
        ("hf_reads", None, TO, "the token hf_reads may only read; log in with `hf auth login`"),
        ("hf_nobody", None, TO, "the Hub answers 401 (.*); the token may not do this"),
        ("", None, TO, "needs a token, and there is none; log in with `hf auth login`, or set HF_TOKEN"),
        ("hf_writes", {"a.bin": b"1", "README.md": b"mine"}, TO, "holds README.md, a.bin, and no release"),
        ("hf_writes", {"manifest.json": b"{}"}, TO, "holds manifest.json, and no release of gan-dist"),
        ("hf_writes", None, f"{TO}@v1", "names a revision, and a new commit is written; leave @v1 out"),
        ("hf_writes", None, "hf://digits", "is not the name of a model repository; write hf://user/name"),
        ("hf_writes", None, "hf://ann/../x", "is not the name of a model repository"),
        ("hf_writes", None, "hf://ann/a--b", "is not the name of a model repository"),
        ("hf_writes", None, "hf://ann/digits.git", "is not the name of a model repository"),
        ("hf_writes", None, "hf://ann/digits.", "is not the name of a model repository"),
        ("hf_writes", None, f"{TO}@../../x", "is not the name of a model repository"),
        ("hf_writes", None, "hf://datasets/ann/digits", "is not the name of a model repository"),
    ],
)  # fmt: skip
def test_what_cannot_be_published_is_refused_before_anything_is_written(
    token: str,
    held: dict[str, bytes] | None,
    to: str,
    said: str,
    hub: Hub,
    run_uri: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if held is not None:
        hub.put("ann/digits", {".gitattributes": b"", **held})
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(StorageError, match=said.replace("(.*)", r"\(.*\)")):
        publish(find_best(run_uri), to)
    assert hub.writes == []


def test_a_token_without_rights_here_is_refused_by_the_hub(
    hub: Hub, run_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_elsewhere")
    with pytest.raises(StorageError, match=r"answers 403 \(.*may not write here.*the token may not do this"):
        publish(find_best(run_uri), TO)
    assert (hub.writes, hub.repositories) == (["/api/repos/create"], {})


def test_replace_puts_a_release_in_place_of_what_is_there(hub: Hub, run_uri: str) -> None:
    hub.put("ann/digits", {".gitattributes": b"", "model.bin": b"1"})
    publish(find_best(run_uri), TO, replace=True)
    assert "model.bin" not in newest(hub)
    assert ".gitattributes" in newest(hub)
    # Beside a release, what somebody has added stays.
    hub.put("ann/digits", {**newest(hub), "notes.txt": b"mine"})
    publish(find_best(run_uri), TO, replace=True)
    assert newest(hub)["notes.txt"] == b"mine"


def test_a_commit_of_somebody_else_in_between_is_not_written_over(
    hub: Hub, run_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(find_best(run_uri), TO)
    theirs = {**newest(hub), "notes.txt": b"theirs"}

    replaced = hub_files._replaced

    def slow(uri: str, there: set[str], *, replace: bool) -> set[str]:
        hub.put("ann/digits", theirs)
        return replaced(uri, there, replace=replace)

    monkeypatch.setattr(hub_files, "_replaced", slow)
    with pytest.raises(StorageError, match="somebody has written it meanwhile: look at it, and try again"):
        publish(find_best(run_uri), TO)
    assert newest(hub) == theirs


def damaged(files: dict[str, bytes]) -> dict[str, bytes]:
    return {**files, "generator.safetensors": files["generator.safetensors"][:-1] + b"?"}


def test_what_cannot_be_loaded_is_said(hub: Hub, run_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(find_best(run_uri), TO)
    whole = newest(hub)

    def refused(kind: type[GanDistError], said: str, uri: str = TO) -> None:
        with pytest.raises(kind, match=said):
            gan_dist.load(uri)

    hub.put("ann/digits", damaged(whole))
    refused(CheckpointError, "hf://ann/digits: .*generator.safetensors is damaged: its sha256")
    hub.put("ann/digits", {name: content for name, content in whole.items() if name != "shape.json"})
    refused(CheckpointError, "hf://ann/digits@.* is not a release: it has no shape.json")
    hub.put("ann/digits", {"model.bin": b"1"})
    refused(CheckpointError, "hf://ann/digits is not a release: it has no manifest.json")
    refused(AbsentError, "the repository has no such revision", f"{TO}@v9")
    refused(AbsentError, "no such model repository, or this token does not see it", "hf://ann/gone")
    hub.private.add("ann/digits")
    monkeypatch.setenv("HF_TOKEN", "")
    refused(
        AbsentError, "no such model repository, or this token does not see it; correct the name, or log in"
    )
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # before it is asked again
    refused(OutageError, "hf://bob/new: the Hub does not answer", "hf://bob/new")
    monkeypatch.setattr("gan_dist.core.extras.find_spec", lambda _: None)
    refused(MissingPackageError, re.escape('pip install "gan-dist[hub]"'))


def test_verbs_take_a_repository_where_they_take_a_release(
    hub: Hub, run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*arguments: str) -> str:
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    told = json.loads(call("publish", run_uri, "--to", TO, "--json").splitlines()[-1])
    assert (told["repository"], told["url"][: len(hub.url)]) == (TO, hub.url)
    for source, out in ((run_uri, "a.png"), (TO, "b.png")):
        call("sample", source, "--n", "2", "--out", str(tmp_path / out))
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    # Workers are given the commit, not the branch.
    asked: list[Request] = []

    def measure(request: Request, _: object) -> Assessment:
        asked.append(request)
        return Assessment({}, None, ())

    monkeypatch.setattr("gan_dist.cli.evaluate._measure", measure)
    call("evaluate", TO)
    assert [request.source for request in asked] == [f"{TO}@{told['url'].rpartition('/')[2]}"]
    with pytest.raises(GanDistError, match="--to releases/a is no model repository"):
        call("publish", run_uri, "--to", "releases/a")


@pytest.mark.usefixtures("hub")
def test_code_that_a_repository_names_is_not_run(run_uri: str) -> None:
    found = find_best(run_uri)
    config = found.contents["config.yaml"].replace(b"name: resnet", b"name: own_networks:Small")
    assert config != found.contents["config.yaml"]
    publish(replace(found, contents={**found.contents, "config.yaml": config}), TO)
    with pytest.raises(UntrustedCodeError, match="--trust own_networks:Small"):
        gan_dist.load(TO)
