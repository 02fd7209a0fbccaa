"""Sets that `gan-dist train IMAGES` packs: their resolution and folder, and images that change or go."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gan_dist.config import load_config
from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.packing.task import begin_packing
from gan_dist.data.packing.training_set import (
    LISTING,
    Beginning,
    TrainingSet,
    Wanted,
    find_training_set,
    source_name,
    write_listing,
)
from gan_dist.data.shards.shard_set import ShardSet
from tests.support.packing import pack_here, save_photos


def found(folder: Path, run: Beginning, resolution: int | None = None, largest: int = 256) -> TrainingSet:
    return find_training_set(str(folder), run, Wanted(resolution), largest)


def packed(images: TrainingSet) -> TrainingSet:
    assert images.packing is not None
    write_listing(images.path, images.packing.source)
    manifest = pack_here(images.packing.source, images.path, images.packing.plan)
    assert manifest.model_dump(
        exclude={"shards", "settings", "packer_version"}
    ) == images.manifest.model_dump(exclude={"shards", "settings", "packer_version"})
    return replace(images, manifest=manifest, packing=None)


def begun(run: Beginning, images: TrainingSet) -> Beginning:
    """Return a run that has been started on a set."""
    return replace(run, config=load_config("digits", [f"data.path={images.path}"]))


@pytest.fixture
def run(tmp_path: Path) -> Beginning:
    return Beginning(str(tmp_path / "runs"), "photos")


def test_oblong_sets_with_alpha_are_sets_of_their_own(tmp_path: Path) -> None:
    folder = save_photos(tmp_path / "photos", 4)
    run = Beginning(str(tmp_path / "runs"), "photos")
    wanted = Wanted("16x8", "pad", 4)
    first = packed(find_training_set(str(folder), run, wanted, 256))
    manifest = first.manifest
    assert (manifest.height, manifest.width, manifest.channels) == (8, 16, 4)
    assert (manifest.settings["fit"], "crop" in manifest.settings) == ("pad", False)
    assert find_training_set(str(folder), run, wanted, 256).packing is None
    pixels = ShardSet(first.path).read_group(0).pixels.reshape(-1, 8, 16, 4)
    assert (pixels[:, :, :4, 3] == 0).all()
    for other in (Wanted("16x8", "crop", 4), Wanted("16x8", "pad", 3), Wanted("8x16", "pad", 4), Wanted()):
        assert find_training_set(str(folder), run, other, 256).path != first.path
    # A run that began with it goes on with it, whatever is not asked again.
    for again in (Wanted(), Wanted(None, None, 4), wanted):
        assert find_training_set(str(folder), begun(run, first), again, 256).path == first.path


@pytest.mark.parametrize(
    ("edges", "largest", "resolution"),
    [
        ((64, 64), 256, 64),
        ((63, 63), 256, 32),
        ((300, 600), 256, 256),
        ((300, 600), 64, 64),
        ((5, 5), 256, 8),
    ],
)
def test_the_resolution_is_what_nine_of_ten_images_have(
    edges: tuple[int, int], largest: int, resolution: int, tmp_path: Path, run: Beginning
) -> None:
    folder = save_photos(tmp_path / "photos", 20, edges)
    save_photos(folder / "cat", 1, (9, 9))  # fewer than one in ten
    images = found(folder, run, largest=largest)
    assert (images.manifest.height, images.manifest.width, images.manifest.count) == (resolution,) * 2 + (21,)
    enlarged = [note for note in images.notes if "enlarged to 8x8" in note]
    assert len(enlarged) == (edges == (5, 5))


def test_the_same_images_are_the_same_set_and_others_are_not(tmp_path: Path, run: Beginning) -> None:
    folder = save_photos(tmp_path / "photos", 6)
    first = packed(found(folder, run))
    again = found(folder, replace(run, name="other"))
    assert (again.path, again.packing, again.manifest) == (first.path, None, first.manifest)
    assert found(folder, run, resolution=8).path != first.path
    shutil.copytree(folder, tmp_path / "copy" / "photos")
    assert found(tmp_path / "copy" / "photos", run).path != first.path
    (folder / "cat" / "000.png").unlink()
    assert found(folder, run).path != first.path


def test_a_packed_or_built_in_set_is_used_as_it_is(tmp_path: Path, run: Beginning) -> None:
    first = packed(found(save_photos(tmp_path / "photos", 6), run))
    for uri, manifest in ((first.path, first.manifest), ("builtin://shapes?count=9", None)):
        images = find_training_set(uri, run, Wanted(), 256)
        assert (images.path, images.packing) == (uri, None)
        assert images.manifest.count == (manifest.count if manifest else 9)


def test_a_run_keeps_its_set_when_images_change_and_says_what_changed(tmp_path: Path, run: Beginning) -> None:
    folder = save_photos(tmp_path / "photos", 8)
    first = packed(found(folder, run))
    started = begun(run, first)
    assert found(folder, started).notes == ()
    (folder / "cat" / "000.png").unlink()
    (folder / "dog" / "001.png").rename(folder / "cat" / "001.png")
    shutil.copy(folder / "cat" / "001.png", folder / "cat" / "added.png")
    with (folder / "dog" / "003.png").open("ab") as file:
        file.write(b"more")
    images = found(folder, started)
    assert (images.path, images.packing, images.manifest) == (first.path, None, first.manifest)
    (note,) = images.notes
    assert "2 added (cat/001.png, cat/added.png), 2 removed (cat/000.png, dog/001.png)" in note
    assert "1 of another size (dog/003.png)" in note
    assert "name=photos-2 begins one with those of now" in note
    whole = Path(first.path, LISTING).read_bytes()
    for damaged in (b"cut", whole[:-9], whole[:10] + b"\xff" * 20, gzip.compress(bytes(2**28), 1)):
        Path(first.path, LISTING).write_bytes(damaged)
        assert "it had 8 images and has 8" in found(folder, started).notes[0]


def test_a_run_goes_on_without_its_images(tmp_path: Path, run: Beginning) -> None:
    folder = save_photos(tmp_path / "photos", 8)
    first = packed(found(folder, run))
    started = begun(run, first)
    folder.rename(tmp_path / "elsewhere")
    images = found(folder, started)
    assert (images.path, images.packing) == (first.path, None)
    assert "does not exist); the run goes on with those that it began with" in images.notes[0]
    with pytest.raises(DataError, match="does not exist"):
        found(folder, run)
    shutil.rmtree(first.path)
    with pytest.raises(DataError, match="does not exist"):
        found(folder, started)
    (tmp_path / "elsewhere").rename(folder)
    assert packed(found(folder, started)).manifest == first.manifest


def test_runs_inside_the_images_are_no_images(tmp_path: Path) -> None:
    folder = save_photos(tmp_path / "photos", 8)
    run = Beginning(str(folder / "runs"), "photos")
    first = found(folder, run)
    for place in ("runs/photos/samples", "runs/old/samples"):
        save_photos(folder / place, 2)
    again = found(folder, run)
    assert (again.path, again.manifest) == (first.path, first.manifest)
    assert (first.notes, again.notes) == ((), ("left out the images in runs",))
    with pytest.raises(DataError, match="is the folder of the images; keep runs in another one"):
        found(folder, Beginning(str(folder), "photos"))
    for name, inside in (("photos", folder), ("photos", folder / "cat")):
        with pytest.raises(DataError, match="is in the folder of the run"):
            found(inside, Beginning(str(tmp_path), name))


def test_images_and_runs_may_share_a_bucket(bucket: str, tmp_path: Path) -> None:
    storage.copy_tree(str(save_photos(tmp_path / "photos", 6)), f"{bucket}/photos")
    run = Beginning(f"{bucket}/photos/runs", "photos")
    first = packed(find_training_set(f"{bucket}/photos", run, Wanted(), 256))
    assert first.path.startswith(f"{bucket}/photos/runs/.packed/photos-")
    again = find_training_set(f"{bucket}/photos", run, Wanted(), 256)
    assert (again.path, again.packing, again.manifest) == (first.path, None, first.manifest)
    with pytest.raises(DataError, match="is in the folder of the run"):
        find_training_set(f"{bucket}/photos", Beginning(bucket, "photos"), Wanted(), 256)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("/home/me/My photos", "My-photos"),
        ("/data/faces.zip", "faces"),
        ("/data/train.tar.gz", "train"),
        ("/data/v1.5", "v1.5"),
        ("s3://bucket/celeb/?region=eu-1", "celeb"),
        ("s3://bucket", "bucket"),
        ("torchvision://CIFAR10?split=test", "CIFAR10"),
        ("builtin://shapes?count=9", "shapes"),
        ("/", "mine"),
    ],
)
def test_a_run_is_named_like_its_images(uri: str, name: str) -> None:
    assert source_name(uri) == name


def test_images_edited_in_place_are_packed_again_for_a_run_of_their_own(
    tmp_path: Path, run: Beginning
) -> None:
    photos = tmp_path / "photos"
    save_photos(photos, 4, (16, 16))
    first = packed(found(photos, run))
    with pytest.raises(DataError, match=r"goes on with the images that it began with.*: name=photos-2"):
        find_training_set(str(photos), begun(run, first), Wanted(), 256, repack=True)
    other = replace(run, name="photos-2")
    begins = find_training_set(str(photos), other, Wanted(), 256, repack=True)
    assert begins.path == f"{first.path}-2"
    # A kill while it is packed, and the same command: no third one is begun.
    assert begins.packing is not None
    begin_packing(begins.path, begins.packing.plan)
    assert find_training_set(str(photos), other, Wanted(), 256, repack=True).path == begins.path
    again = packed(begins)
    # From now on new runs use it, and the earlier run its own.
    assert found(photos, replace(run, name="new")).path == again.path
    assert found(photos, begun(run, first)).path == first.path
    assert find_training_set(str(photos), other, Wanted(), 256, repack=True).path == f"{first.path}-3"
