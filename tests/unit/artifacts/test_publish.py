"""A release handed on: copied bit for bit or not at all, with a card that says what is known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import gan_dist
from gan_dist.artifacts.best import BestRelease, find_best
from gan_dist.artifacts.model_card import model_card
from gan_dist.artifacts.publish import copy_release
from gan_dist.config import load_config
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, StorageError
from gan_dist.core.storage.hashed_folder import read_folder, to_json, write_folder
from tests.support.searches import (
    SMALL,
    as_trial,
    files,
    flip_bit,
    record,
    trial_uri,
    write_run,
    write_search,
)


def test_a_copy_is_bit_for_bit_and_can_be_used(run_uri: str, tmp_path: Path) -> None:
    found, to = find_best(run_uri), tmp_path / "out"
    assert copy_release(found, str(to))
    copied = files(to)
    assert copied.keys() == {*found.contents, "README.md", "manifest.json"}
    for name, content in files(Path(found.release)).items():
        assert name == "manifest.json" or copied[name] == content
    there, here = gan_dist.load(run_uri), gan_dist.load(str(to))
    assert torch.equal(there.sample(4), here.sample(4))
    assert copy_release(found, str(to)) is False
    assert files(to) == copied


def test_from_a_bucket_and_into_it(run_uri: str, bucket: str, tmp_path: Path) -> None:
    search, out = storage.join(bucket, "searches", "faces"), storage.join(bucket, "out")
    write_search(search)
    as_trial(run_uri, search, 3)
    write_run(trial_uri(search, 4), [record(64, 9.0)], record(64, 9.0))
    found = find_best(search)
    assert (found.trial, found.trials, found.value) == (3, 2, 1.0)
    assert (found.name, found.parent) == ("faces", storage.join(bucket, "searches"))
    assert copy_release(found, out)
    assert not copy_release(found, out)
    assert copy_release(found, str(tmp_path / "out"))
    assert torch.equal(gan_dist.load(out).sample(2), gan_dist.load(run_uri).sample(2))
    assert files(tmp_path / "out")["README.md"] == storage.read_bytes(storage.join(out, "README.md"))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("replacing", [False, True])
def test_an_interrupted_copy_is_no_release_and_the_same_again_completes_it(
    replacing: bool, run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, write = find_best(run_uri), storage.write_bytes
    earlier = replace(found, contents={**found.contents, "generator.safetensors": b"earlier"})
    for writes in range(len(found.contents) + 2):
        to = str(tmp_path / str(writes))
        if replacing:
            assert copy_release(earlier, to)
        left = iter(range(writes))

        def dying(uri: str, content: bytes, left: Any = left) -> None:
            if next(left, None) is None:
                raise Killed
            write(uri, content)

        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", dying)
            with pytest.raises(Killed):
                copy_release(found, to)
        if replacing:
            assert read_folder(to, ["release"])[1]["generator.safetensors"] == b"earlier"
        else:
            with pytest.raises(CheckpointError):
                gan_dist.load(to)
        assert copy_release(found, to)
        assert read_folder(to, ["release"])[1].items() >= found.contents.items()


def test_an_earlier_copy_is_replaced_and_a_damaged_one_mended(run_uri: str, tmp_path: Path) -> None:
    found, to = find_best(run_uri), str(tmp_path / "out")
    copy_release(replace(found, contents={**found.contents, "samples.png": b"other"}), to)
    storage.write_bytes(storage.join(to, "grid.png"), b"mine")
    assert copy_release(found, to)
    flip_bit(Path(to))
    assert copy_release(found, to)
    assert read_folder(to, ["release"])[1]["samples.png"] == found.contents["samples.png"]
    assert Path(to, "grid.png").read_bytes() == b"mine"


@pytest.mark.parametrize("kind", ["a file", "a run", "a run's release", "a checkpoint", "a damaged manifest"])
def test_a_folder_with_something_else_is_refused_and_left_as_it_is(
    kind: str, run_uri: str, tmp_path: Path
) -> None:
    to = tmp_path / "out"
    to.mkdir()
    match kind:
        case "a file":
            (to / "README.md").write_text("mine")
        case "a run":
            write_run(str(to), [record(64, 1.0)])
        case "a run's release":
            write_folder(str(to), "release", SMALL.items())
        case "a checkpoint":
            write_folder(str(to), "checkpoint", {**SMALL, "README.md": b""}.items())
        case _:
            (to / "manifest.json").write_text("[]")
    before = files(to)
    with pytest.raises(
        StorageError, match="and no release that `gan-dist best` put there; give --to another"
    ):
        copy_release(find_best(run_uri), str(to))
    assert files(to) == before


# The model card.


def page(found: BestRelease, folder: str = "out") -> tuple[dict[str, Any], str]:
    """Return a card's front matter and its text."""
    _, front, text = model_card(found, folder).split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_says_what_is_known(run_uri: str, tmp_path: Path) -> None:
    search = str(tmp_path / "faces")
    write_search(search)
    as_trial(run_uri, search, 12)
    found = find_best(search)
    measured = {
        "samples": 1797,
        "extractor": "digits",
        "extractor_sha256": "ab" * 32,
        "resize": "bilinear 32",
    }
    settings = ["loss.r1=0.5", "loss.penalty_every=4", "data.augment=ada", "loss.instance_noise=0.1"]
    settings += ["init.from=runs/cats", f"init.sha256={'cd' * 32}", "init.freeze_d=2"]
    overridden = load_config(storage.join(found.release, "config.yaml"), settings)
    found = replace(found, record={**found.record, **measured}, config=overridden)
    front, text = page(found, "my faces")
    assert front["library_name"] == "gan-dist"
    assert "base_model" not in front  # what it was begun with is no repository
    parameters = sum(p.numel() for p in gan_dist.load(run_uri).generator.parameters())
    for said in (
        "# faces, trial 12\n",
        "![Generated images](samples.png)",
        "| makes | images of 8x8 pixels, 1 channel (grey) |",
        "| data | `builtin://digits`, 1,797 images |",
        "CC BY 4.0",
        f"| generator | resnet, {parameters:,} parameters, latents of 32 numbers |",
        f"| begun with | weights of `runs/cats`, SHA-256 `{'cd' * 32}` |",
        "| frozen | the first 2 stages of the discriminator, from the image side on |",
        "| loss | rpgan |",
        "| penalties | r1 0.5, r2 0.3, every 4 updates |",
        "| stabilised by | instance_noise 0.1 |",
        "| augmentation | ada |",
        "| training | 0 kimg (thousands of images seen) in batches of 64, seed 0 |",
        "| fd_digits | 1 (lower is better), of 1,797 generated images |",
        f"| extractor | digits, SHA-256 `{'ab' * 32}` |",
        "| resizing | bilinear 32 |",
        "| written by | gan-dist ",
        'release = gan_dist.load("my faces")',
        "`gan-dist sample 'my faces'`",
        "gan-dist train 'my faces/config.yaml' name=faces-best storage=runs train.kimg=160",
    ):
        assert said in text


def test_the_card_says_nothing_that_is_not_known(run_uri: str, tmp_path: Path) -> None:
    found = find_best(run_uri)
    nowhere = found.config.data.model_copy(update={"path": str(tmp_path / "gone")})
    _, text = page(replace(found, config=found.config.model_copy(update={"data": nowhere})))
    assert f"| data | `{tmp_path}/gone` |" in text
    assert "# run\n" in text
    assert "| fd_digits | 1 (lower is better) |" in text
    for unknown in ("extractor", "resizing", "classes", "licence", "None", "null"):
        assert unknown not in text


def test_the_card_names_classes(run_uri: str) -> None:
    found = find_best(run_uri)
    model = found.config.model.model_copy(update={"conditional": True})
    shape = to_json({"resolution": 8, "channels": 1, "classes": 10})
    conditional = found.config.model_copy(update={"model": model})
    _, text = page(replace(found, config=conditional, contents={**found.contents, "shape.json": shape}))
    assert "| classes | 10: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 |" in text


def test_the_python_of_the_card_runs(run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy_release(find_best(run_uri), str(tmp_path / "my 'fäces' 🙂"))
    code = (tmp_path / "my 'fäces' 🙂" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    assert (tuple(names["images"].shape), names["images"].dtype) == ((64, 1, 8, 8), torch.uint8)


R3GAN = [
    "model.name=r3gan",
    "optim.schedule=cosine",
    "optim.decay_kimg=160",
    "optim.end_factor=0.25",
    "loss.penalty_end_factor=0.1",
    "optim.d.beta2_start=0.9",
    "optim.d.beta2=0.99",
    "data.augment=ada",
    "data.augment_p=0.3",
    "data.mirror=true",
]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ["optim.schedule=linear", "optim.decay_kimg=160"],
            ["linear over 160 kimg: learning rates to 0 of themselves |"],
        ),
        (["optim.schedule=constant"], ["constant |"]),
        (
            R3GAN,
            [
                "cosine over 160 kimg: learning rates to 0.25 of themselves, penalties to 0.1 of themselves, "
                "beta2 (discriminator) from 0.9 to 0.99, augmentation from 0 |",
                "| augmentation | ada with a probability of 0.3, reals mirrored at random |",
            ],
        ),
        (
            ["data.augment=ada", "loss.r1={0: 1, 40: 0.1}"],
            ["constant |", "| `loss.r1` | 1 from 0 kimg on, 0.1 from 40 kimg on |"],
        ),
        (
            [
                "data.augment={ada: {color: 0.5, blit: 1}}",
                "loss.name=hinge",
                "loss.lecam=0.3",
                "loss.top_k=0.5",
            ],
            [
                "constant |",
                "| augmentation | {ada: {flip: 1, shift: 1, color: 0.5}} |",
                "| stabilised by | lecam 0.3, top_k 0.5 |",
            ],
        ),
    ],
)
def test_the_card_says_how_values_change(settings: list[str], said: list[str], run_uri: str) -> None:
    found = find_best(run_uri)
    config = load_config(storage.join(found.release, "config.yaml"), settings)
    _, text = page(replace(found, config=config))
    assert f"| schedule | {said[0]}" in text
    for line in said[1:]:
        assert line in text
    assert ("| augmentation |" in text) == (len(said) > 1)
