"""Pictures that move: what a reader of the files sees."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageSequence

from gan_dist.core import animation
from gan_dist.core.errors import GanDistError, StorageError


def pictures(count: int, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> list[Image.Image]:
    chance = np.random.default_rng(0)
    shape = (count, *size[::-1], *((len(mode),) if len(mode) > 1 else ()))
    return [Image.fromarray(one) for one in chance.integers(0, 256, shape, dtype=np.uint8)]


def shown(file: Path, mode: str, factor: int) -> list[npt.NDArray[np.uint8]]:
    """Return an animation's frames, each pixel of the pictures once."""
    with Image.open(file) as opened:
        frames = [np.asarray(frame.convert(mode)) for frame in ImageSequence.Iterator(opened)]
    for frame in frames:
        assert np.array_equal(frame, frame[::factor, ::factor].repeat(factor, 0).repeat(factor, 1))
    return [frame[::factor, ::factor] for frame in frames]


@pytest.mark.parametrize(
    ("suffix", "mode"), [(".webp", "RGB"), (".webp", "L"), (".webp", "RGBA"), (".gif", "L")]
)
def test_a_lossless_animation_has_the_pictures_pixels_and_loops(
    suffix: str, mode: str, tmp_path: Path
) -> None:
    made, file = pictures(5, mode=mode), tmp_path / f"a{suffix.upper()}"
    animation.write_animation(str(file), iter(made), fps=30)
    frames = shown(file, mode, factor=32)
    assert len(frames) == 5
    for frame, picture in zip(frames, made, strict=True):
        pixels = np.asarray(picture)
        seen = pixels[..., 3:] > 0 if mode == "RGBA" else True  # what is transparent has no colour
        assert np.array_equal(frame * seen, pixels * seen)
    with Image.open(file) as opened:
        assert opened.info["loop"] == 0


def test_what_is_transparent_is_white_in_a_gif(tmp_path: Path) -> None:
    hidden, file = Image.new("RGBA", (8, 8), (0, 90, 0, 0)), tmp_path / "a.gif"
    hidden.paste((0, 0, 0, 255), (0, 0, 4, 8))
    animation.write_animation(str(file), [hidden, hidden.rotate(180)], fps=10)
    first, second = shown(file, "RGB", 32)
    assert (first[:, :4] == 0).all()
    assert (first[:, 4:] == 255).all()
    assert (second[:, :4] == 255).all()


def test_colours_of_a_gif_are_near(tmp_path: Path) -> None:
    made, file = pictures(3), tmp_path / "a.gif"
    animation.write_animation(str(file), made, fps=10)
    for frame, picture in zip(shown(file, "RGB", 32), made, strict=True):
        assert np.abs(frame.astype(int) - np.asarray(picture)).mean() < 8


@pytest.mark.parametrize("fps", [1, 7, 24, 30, 60])
@pytest.mark.parametrize("unit_ms", [1, 10])
def test_an_animation_takes_its_time(fps: int, unit_ms: int) -> None:
    durations = animation.durations_ms(500, fps, unit_ms)
    assert {duration % unit_ms for duration in durations} == {0}
    for count in range(500):
        assert abs(sum(durations[:count]) - 1000 * count / fps) <= unit_ms / 2 + 1e-9
    assert max(durations) - min(durations) <= unit_ms


@pytest.mark.parametrize("size", [(8, 8), (300, 257)])
def test_an_mp4_shows_the_pictures(size: tuple[int, int], tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    # Of one colour each, since H.264 keeps fewer of them than of brightness.
    made = [Image.new("RGB", size, (40 * number, 90, 200 - 30 * number)) for number in range(5)]
    animation.write_animation(str(tmp_path / "a.mp4"), made, fps=12)
    with av.open(str(tmp_path / "a.mp4")) as opened:
        assert float(opened.streams.video[0].average_rate) == 12
        frames = [frame.to_image() for frame in opened.decode(video=0)]
    assert len(frames) == 5
    for frame, picture in zip(frames, made, strict=True):
        assert frame.size == ((256, 256) if size == (8, 8) else (300, 258))
        middle = np.asarray(frame, dtype=int)[100, 100]
        assert np.abs(middle - np.asarray(picture)[4, 4]).max() <= 4


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for uri, fps, told in (
        ("a.avi", 30, r"animations are WebP, GIF or MP4, not \.avi; end the name in \.webp"),
        ("folder/a", 30, "and the name has no ending"),
        ("a.gif", 60, "60 pictures a second, and browsers play GIFs with at most 50; set --fps 50 or lower"),
        ("a.mp4", 30, r'PyAV \(av\) is not installed; pip install "gan-dist\[mp4\]"'),
    ):
        with pytest.raises(GanDistError, match=told):
            animation.write_animation(str(tmp_path / uri), pictures(2), fps)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        animation.write_animation(str(tmp_path / "file" / "a.webp"), pictures(2), 30)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_more_than_memory_holds_is_refused() -> None:
    animation.require_room("a.webp", 1000, (512, 512), 3)
    animation.require_room("a.mp4", 100_000, (1024, 1024), 3)
    with pytest.raises(GanDistError, match=r"3,000 frames of 512x512 pixels are 2\.2 GiB .* name in \.mp4"):
        animation.require_room("a.gif", 3000, (512, 512), 3)
