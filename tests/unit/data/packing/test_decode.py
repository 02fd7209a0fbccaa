from __future__ import annotations

import contextlib
import io
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gan_dist.data.packing.decode import Decoding, RejectedError, decode
from gan_dist.data.packing.resize import FILTERS, resize

Array = npt.NDArray[Any]

RNG = np.random.default_rng(0)
# Smooth, so that lossy formats stay near; not symmetric, so that every wrong turn shows.
BLOCKS = Image.fromarray(RNG.integers(0, 256, (3, 4, 3), dtype=np.uint8))
PHOTO = BLOCKS.resize((48, 40), Image.Resampling.BICUBIC)
GREY = PHOTO.convert("L")
RAMP = np.arange(64 * 64).reshape(64, 64) * 16  # 16 bits, 0 to 65520


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    # Saving leaves settings in the picture.
    image.copy().save(buffer, format=kind, **options)
    return buffer.getvalue()


def reference(image: Image.Image, resolution: int = 16, kind: str = "lanczos") -> Array:
    """Crop by arrays and resize; RGB."""
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    square = Image.fromarray(pixels[top : top + edge, left : left + edge].copy())
    return resize(square, (0, 0, edge, edge), resolution, kind)


def turned(orientation: int, kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(PHOTO, kind, exif=exif)


UPRIGHT: dict[int, Callable[[Array], Array]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def upright(orientation: int) -> Array:
    return reference(Image.fromarray(np.ascontiguousarray(UPRIGHT[orientation](np.asarray(PHOTO)))))


def transparent() -> Image.Image:
    image = PHOTO.convert("RGBA")
    alpha = np.zeros((40, 48), dtype=np.uint8)
    alpha[:, 24:] = 255
    image.putalpha(Image.fromarray(alpha))
    return image


def on_white(image: Image.Image) -> Array:
    pixels = np.asarray(image.convert("RGBA")).astype(np.float64)
    alpha = pixels[..., 3:] / 255
    laid = np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return reference(Image.fromarray(laid))


def scaled_16(values: Array) -> Array:
    grey = np.rint(values / 257).astype(np.uint8)
    return reference(Image.fromarray(grey))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


def png_rgb_16() -> bytes:
    values = np.repeat(RAMP[..., None], 3, axis=2).astype(">u2")
    return png(64, 64, 16, 2, b"".join(b"\0" + row.tobytes() for row in values))


def png_grey_16_transparent() -> bytes:
    values = np.where(RAMP < 32768, 1000, 60000).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    return png(64, 64, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 1000)))


def animated(kind: str) -> bytes:
    return encoded(PHOTO, kind, save_all=True, append_images=[PHOTO.rotate(90)], duration=100)


def palette_transparent() -> Image.Image:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.paste(0, (0, 0, 16, 8))
    return image


def flat(colour: tuple[int, int, int], resolution: int = 16) -> Array:
    return np.full((resolution, resolution, 3), colour, dtype=np.uint8)


def halves(top: tuple[int, int, int], bottom: tuple[int, int, int]) -> Array:
    return np.concatenate([flat(top)[:8], flat(bottom)[8:]])


def flipped(content: bytes, at: float) -> bytes:
    damaged = bytearray(content)
    damaged[int(len(content) * at)] ^= 0x55
    return bytes(damaged)


def text_chunks(*chunks: bytes) -> bytes:
    return png(8, 8, 8, 0, (b"\0" + b"\x80" * 8) * 8, *chunks)


def segment(marker: int, content: bytes) -> bytes:
    """Return a JPEG's segment."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def broken_index() -> bytes:
    """Return a JPEG whose index of further pictures says nothing of their number."""
    directory = b"II*\0\x08\0\0\0" + struct.pack("<HHHI4sI", 1, 0xB000, 7, 4, b"0100", 0)
    return JPEG[:2] + segment(0xE2, b"MPF\0" + directory) + JPEG[2:]


def tiff_16(values: Array, *, bits: int = 16, photometric: int = 1, largest: int | None = None) -> bytes:
    """Return a little-endian TIFF of grey samples, packed."""
    height, width = values.shape
    if bits == 16:
        pixels = values.astype("<u2").tobytes()
    else:
        text = "".join(f"{value:0{bits}b}" for value in values.ravel())
        pixels = int(text, 2).to_bytes(len(text) // 8)
    tags = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(pixels)),
        *([] if largest is None else [(281, 3, largest)]),
    ]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def png_12(*, declared: int | None, colour: int = 0) -> bytes:
    """Return a PNG of 16 bits that uses the lower 12."""
    values = (RAMP // 16).astype(">u2")
    channels = 3 if colour == 2 else 1
    rows = b"".join(b"\0" + np.repeat(row, channels).tobytes() for row in values)
    extra = [] if declared is None else [chunk(b"sBIT", bytes([declared] * channels))]
    return png(64, 64, 16, colour, rows, *extra)


JPEG = encoded(PHOTO, "JPEG", quality=95)
PNG = encoded(PHOTO, "PNG")
WEBP = encoded(PHOTO, "WEBP", quality=95)
MPO = encoded(PHOTO, "MPO", save_all=True, append_images=[GREY.copy()])
BROKEN_EXIF = encoded(PHOTO, "JPEG", quality=95, exif=b"Exif\0\0rubbish")
SOME_ALPHA = transparent()
GREY_ALPHA = SOME_ALPHA.convert("LA")
PROFILE = RNG.bytes(3 * 2**19)
BAD_TIME = chunk(b"tIME", bytes(7))[:-1] + b"!"
RAMP_12 = RAMP // 16
SCALED_12 = np.rint(RAMP_12 / 4095 * 65535)
TEXT_BOMB = png(8, 8, 8, 0, bytes(72), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2**26))))

# Name, content, expected RGB pixels at 16x16, and the mean absolute error that is allowed.
USED: list[tuple[str, bytes, Array, float]] = [
    ("jpeg", JPEG, reference(PHOTO), 2),
    ("jpeg progressive", encoded(PHOTO, "JPEG", quality=95, progressive=True), reference(PHOTO), 2),
    ("jpeg grey", encoded(GREY, "JPEG", quality=95), reference(GREY), 2),
    ("jpeg cmyk", encoded(PHOTO.convert("CMYK"), "JPEG", quality=95), reference(PHOTO), 3),
    ("jpeg with bytes after its end", JPEG + b"more", reference(PHOTO), 2),
    (
        "jpeg with broken exif",
        BROKEN_EXIF,
        reference(PHOTO),
        2,
    ),
    (
        "mpo: the first picture",
        MPO,
        reference(PHOTO),
        3,
    ),
    ("png", PNG, reference(PHOTO), 0),
    ("png interlaced palette", encoded(PHOTO.quantize(256), "PNG"), reference(PHOTO.quantize(256)), 0),
    ("png 1 bit", encoded(PHOTO.convert("1"), "PNG"), reference(PHOTO.convert("1")), 0),
    ("png grey", encoded(GREY, "PNG"), reference(GREY), 0),
    (
        "png grey and alpha",
        encoded(GREY_ALPHA, "PNG"),
        on_white(GREY_ALPHA),
        1,
    ),
    ("png rgba", encoded(SOME_ALPHA, "PNG"), on_white(SOME_ALPHA), 0),
    (
        "png palette with one transparent colour",
        encoded(palette_transparent(), "PNG", transparency=0),
        halves((255, 255, 255), (200, 100, 50)),
        4,
    ),
    (
        "png palette with alpha for each colour",
        encoded(palette_transparent(), "PNG", transparency=bytes([0, 255])),
        halves((255, 255, 255), (200, 100, 50)),
        4,
    ),
    (
        "png rgb with one transparent colour",
        encoded(Image.new("RGB", (9, 9), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
        flat((255, 255, 255)),
        0,
    ),
    ("png grey 16 bit", encoded(Image.fromarray(RAMP.astype(np.uint16)), "PNG"), scaled_16(RAMP), 0),
    ("png rgb 16 bit", png_rgb_16(), scaled_16(RAMP), 1),
    (
        "png grey 16 bit with a transparent value",
        png_grey_16_transparent(),
        scaled_16(np.where(RAMP < 32768, 65535, 60000)),
        0,
    ),
    ("png with a profile, ignored", encoded(PHOTO, "PNG", icc_profile=b"not a profile"), reference(PHOTO), 0),
    ("png with a profile of 1.5 MB", encoded(PHOTO, "PNG", icc_profile=PROFILE), reference(PHOTO), 0),
    ("png with a damaged time", text_chunks(BAD_TIME), flat((128, 128, 128)), 0),
    ("png whose text expands", TEXT_BOMB, flat((0, 0, 0)), 0),
    ("jpeg with a broken index", broken_index(), reference(PHOTO), 2),
    (
        "jpeg with a profile of 1.5 MB",
        encoded(PHOTO, "JPEG", quality=95, icc_profile=PROFILE),
        reference(PHOTO),
        2,
    ),
    ("webp with a profile", encoded(PHOTO, "WEBP", lossless=True, icc_profile=PROFILE), reference(PHOTO), 0),
    ("tiff with a profile of 1.5 MB", encoded(PHOTO, "TIFF", icc_profile=PROFILE), reference(PHOTO), 0),
    ("png of 12 bits, declared", png_12(declared=12), scaled_16(SCALED_12), 1),
    ("tiff of 12 bits a sample", tiff_16(RAMP_12, bits=12), scaled_16(SCALED_12), 1),
    ("tiff of 12 bits, declared", tiff_16(RAMP_12, largest=4095), scaled_16(SCALED_12), 1),
    ("tiff of 16 bits, its largest", tiff_16(RAMP, largest=65520), scaled_16(RAMP), 0),
    ("tiff of 16 bits, white is zero", tiff_16(65535 - RAMP, photometric=0), scaled_16(RAMP), 0),
    ("webp", WEBP, reference(PHOTO), 4),
    (
        "webp lossless alpha",
        encoded(SOME_ALPHA, "WEBP", lossless=True),
        on_white(SOME_ALPHA),
        0,
    ),
    ("gif of one frame", encoded(PHOTO.quantize(256), "GIF"), reference(PHOTO.quantize(256)), 0),
    ("bmp", encoded(PHOTO, "BMP"), reference(PHOTO), 0),
    ("tiff", encoded(PHOTO, "TIFF"), reference(PHOTO), 0),
    ("tiff lzw", encoded(PHOTO, "TIFF", compression="tiff_lzw"), reference(PHOTO), 0),
    ("tiff cmyk", encoded(PHOTO.convert("CMYK"), "TIFF"), reference(PHOTO), 1),
    ("tiff grey 16 bit", encoded(Image.fromarray(RAMP.astype(np.uint16)), "TIFF"), scaled_16(RAMP), 0),
    ("ppm", encoded(PHOTO, "PPM"), reference(PHOTO), 0),
    ("pgm 16 bit", encoded(Image.fromarray(RAMP.astype(np.uint16)), "PPM"), scaled_16(RAMP), 0),
    ("one pixel", encoded(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"), flat((9, 99, 199)), 0),
    ("a line", encoded(Image.new("RGB", (500, 1), (9, 99, 199)), "PNG"), flat((9, 99, 199)), 0),
    *((f"jpeg orientation {n}", turned(n, "JPEG"), upright(n), 4) for n in UPRIGHT),
    *((f"{kind} orientation 6", turned(6, kind), upright(6), 4) for kind in ("PNG", "TIFF", "WEBP")),
]

UNUSED = [
    ("nothing", b"", "empty file"),
    ("text", b"<html>404 Not Found</html>", "no image of a supported format"),
    ("zeros", bytes(5000), "no image of a supported format"),
    ("svg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', "no image of a supported format"),
    ("avif, not supported", encoded(PHOTO, "AVIF"), "no image of a supported format"),
    ("jpeg 2000, not supported", encoded(PHOTO, "JPEG2000"), "no image of a supported format"),
    ("icon, not supported", encoded(PHOTO, "ICO"), "no image of a supported format"),
    ("postscript, never run", encoded(PHOTO, "EPS"), "no image of a supported format"),
    ("jpeg header alone", JPEG[:20], "no image of a supported format"),
    ("jpeg cut in its headers", JPEG[: len(JPEG) // 2], "damaged: Truncated File Read"),
    ("jpeg cut in its pixels", JPEG[:-300], "damaged: image file is truncated"),
    ("jpeg without its end", JPEG[:-2], "damaged: image file is truncated"),
    ("png cut in half", PNG[: len(PNG) // 2], "damaged: Truncated File Read"),
    ("png with a flipped byte in its pixels", flipped(PNG, 0.5), "damaged: broken PNG file"),
    ("webp cut in half", WEBP[: len(WEBP) // 2], "damaged: "),
    ("gif cut in half", encoded(PHOTO, "GIF")[:1500], "damaged: image file is truncated"),
    ("bmp cut in half", encoded(PHOTO, "BMP")[:3000], "damaged: image file is truncated"),
    ("tiff cut in half", encoded(PHOTO, "TIFF")[:3000], "damaged: "),
    ("ppm cut in half", encoded(PHOTO, "PPM")[:3000], "damaged: image file is truncated"),
    ("gif that moves", animated("GIF"), "animated"),
    ("webp that moves", animated("WEBP"), "animated"),
    ("png that moves", animated("PNG"), "animated"),
    (
        "tiff of two pages",
        encoded(PHOTO, "TIFF", save_all=True, append_images=[GREY.copy()]),
        "several pages",
    ),
    ("tiff of floats", encoded(GREY.convert("F"), "TIFF"), "its pixels are floats"),
    ("tiff of 32-bit integers", encoded(GREY.convert("I"), "TIFF"), "its pixels are 32-bit integers"),
    ("png that claims 100,000 x 100,000", png(100_000, 100_000, 1, 0, b""), "too large"),
    ("png that claims 10,000 x 10,000", png(10_000, 10_000, 1, 0, b""), "too large"),
    ("png that claims no width", png(0, 10, 8, 0, b""), "no image of a supported format"),
    ("tiff of CIELab", encoded(Image.new("LAB", (9, 9)), "TIFF"), "its colours are CIELab; convert it"),
]


@pytest.mark.parametrize(("content", "expected", "error"), [r[1:] for r in USED], ids=[r[0] for r in USED])
def test_a_picture_gives_what_a_viewer_shows(content: bytes, expected: Array, error: float) -> None:
    pixels = decode(content, Decoding(16)).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (16, 16, 3)
    assert np.abs(pixels.astype(int) - expected.astype(int)).mean() <= error


@pytest.mark.parametrize(("content", "reason"), [r[1:] for r in UNUSED], ids=[r[0] for r in UNUSED])
def test_what_is_no_whole_still_picture_is_rejected_with_the_reason(content: bytes, reason: str) -> None:
    with pytest.raises(RejectedError) as caught:
        decode(content, Decoding(16))
    assert str(caught.value).startswith(reason)
    assert len(str(caught.value)) <= 200
    assert "\n" not in str(caught.value)


def test_the_table_would_show_a_turn_a_mirror_and_a_wrong_crop() -> None:
    """Its pictures differ by more than its tolerances under each of the mistakes it is to find."""
    right = reference(PHOTO).astype(int)
    off_centre = reference(PHOTO.crop((0, 0, 40, 40))).astype(int)
    for wrong in (right[:, ::-1], right[::-1], np.rot90(right), right.transpose(1, 0, 2), off_centre):
        assert np.abs(right - wrong).mean() > 10


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_gives_pixels_or_a_reason_and_nothing_else(seed: int) -> None:
    random = np.random.default_rng(seed)
    for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        content = bytearray(encoded(PHOTO, kind))
        for _ in range(random.integers(1, 6)):
            content[random.integers(len(content))] = random.integers(256)
        cut = bytes(content[: random.integers(1, len(content) + 1)])
        with contextlib.suppress(RejectedError):
            assert decode(cut, Decoding(8)).pixels.shape == (8, 8, 3)


def test_every_prefix_of_a_jpeg_is_rejected() -> None:
    for length in range(len(JPEG)):
        with pytest.raises(RejectedError):
            decode(JPEG[:length], Decoding(8))


def test_a_library_that_cannot_be_loaded_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="torch"):
        decode(PNG, Decoding(13, filter="bilinear"))


@pytest.mark.parametrize("kind", FILTERS)
def test_each_filter_can_be_chosen(kind: str) -> None:
    pixels = decode(PNG, Decoding(13, filter=kind)).pixels
    np.testing.assert_array_equal(pixels, reference(PHOTO, 13, kind))


@pytest.mark.parametrize("colour", [0, 2])
def test_a_picture_that_uses_12_of_16_bits_and_does_not_say_so_is_noticed(colour: int) -> None:
    assert decode(png_12(declared=None, colour=colour), Decoding(16)).dark
    assert decode(tiff_16(RAMP_12), Decoding(16)).dark
    for content in (png_12(declared=12), tiff_16(RAMP_12, largest=4095), png_rgb_16(), PNG, JPEG):
        assert not decode(content, Decoding(16)).dark


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_picture_with_a_black_edge_is_not_dark(channels: int) -> None:
    values = np.where(np.arange(64) < 8, 0, RAMP).astype(np.uint16)
    assert not decode(encoded(Image.fromarray(values), "PNG"), Decoding(16, channels)).dark


def test_a_dark_picture_by_the_standard_is_left_as_it_is() -> None:
    """Declared bits are the upper ones."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in RAMP // 16 // 16 * 16)
    content = png(64, 64, 16, 0, rows, chunk(b"sBIT", bytes([12])))
    assert decode(content, Decoding(16)).pixels.max() == 16


def test_a_jpeg_above_the_limit_is_decoded_at_half_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # as it was, afterwards
    large, limited = (
        PHOTO.resize((480, 400), Image.Resampling.BICUBIC),
        Decoding(16, max_pixels=480 * 400 // 3),
    )
    pixels = decode(encoded(large, "JPEG", quality=95), limited).pixels
    assert np.abs(pixels.astype(int) - reference(large).astype(int)).mean() <= 2
    for kind, size in (("PNG", (480, 400)), ("JPEG", (960, 800))):
        with pytest.raises(RejectedError, match=r"too large: .* scale it down, or raise --max-megapixels"):
            decode(encoded(large.resize(size), kind), limited)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP"])
@pytest.mark.parametrize("filter", ["lanczos", "box"])
def test_a_picture_up_to_the_limit_that_is_set_is_used(
    kind: str, filter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)  # a hundredth of the picture's pixels
    large = PHOTO.resize((400, 400), Image.Resampling.BICUBIC)
    content = encoded(large, kind, **({"lossless": True} if kind == "WEBP" else {}))
    pixels = decode(content, Decoding(16, filter=filter, max_pixels=400 * 400)).pixels
    np.testing.assert_array_equal(pixels, reference(large, kind=filter))
    with pytest.raises(RejectedError, match="too large: more than 159,999 pixels"):
        decode(content, Decoding(16, filter=filter, max_pixels=400 * 400 - 1))


def test_a_photograph_of_108_megapixels_is_used() -> None:
    content = encoded(Image.new("L", (12_000, 9_000), 77), "JPEG")
    assert (decode(content, Decoding(8)).pixels == 77).all()


def test_one_channel_is_luma() -> None:
    pixels = decode(PNG, Decoding(40, channels=1)).pixels
    square = np.asarray(PHOTO)[:, 4:44].astype(float)
    assert pixels.shape == (40, 40, 1)
    assert np.abs(pixels[..., 0] - square @ [0.299, 0.587, 0.114]).max() <= 1


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_another_aspect_is_cropped_padded_or_stretched(channels: int) -> None:
    def made(resolution: str, fit: str) -> Array:
        return decode(PNG, Decoding(resolution, channels, "box", fit=fit)).pixels

    mode = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    whole = np.asarray(PHOTO.convert(mode)).reshape(40, 48, channels)  # 48 wide, 40 high
    np.testing.assert_array_equal(made("48x20", "crop"), whole[10:30])
    np.testing.assert_array_equal(made("20x40", "crop"), whole[:, 14:34])
    np.testing.assert_array_equal(made("48x40", "stretch"), whole)
    assert made("16x40", "stretch").shape == (40, 16, channels)
    padded = made("48x60", "pad:white")
    np.testing.assert_array_equal(padded[10:50], whole)
    assert (padded[:10] == 255).all()
    assert (padded[50:] == 255).all()
    sides = made("60x40", "pad")
    np.testing.assert_array_equal(sides[:, 6:54], whole)
    outside = (255, 255, 255, 0) if channels == 4 else (0,) * channels
    assert (sides[:, [0, 5, 54, 59]] == outside).all()


def test_enlarging_is_told_whatever_the_fit() -> None:
    for resolution, fit, enlarged in (
        ("48x40", "crop", False),
        ("96x40", "crop", True),
        ("96x40", "pad", False),
        ("96x80", "pad", True),
        ("96x40", "stretch", True),
        ("24x20", "stretch", False),
    ):
        assert decode(PNG, Decoding(resolution, fit=fit)).enlarged == enlarged, (resolution, fit)


def test_alpha_is_kept_as_the_fourth_channel() -> None:
    picture = PHOTO.convert("RGBA")
    alpha = np.zeros((40, 48), np.uint8)
    alpha[:, 8:24], alpha[:, 24:28] = 255, 100
    picture.putalpha(Image.fromarray(alpha))
    pixels = decode(encoded(picture, "PNG"), Decoding("48x40", 4)).pixels
    np.testing.assert_array_equal(pixels[..., 3], alpha)
    np.testing.assert_array_equal(pixels[:, 8:28, :3], np.asarray(PHOTO)[:, 8:28])
    assert (pixels[:, :8, :3] == 255).all()
    # Smaller, no colour of what is transparent is mixed in.
    red = Image.new("RGBA", (64, 64), (0, 255, 0, 0))
    red.paste((200, 0, 0, 255), (0, 0, 30, 64))
    small = decode(encoded(red, "PNG"), Decoding(8, 4, "bilinear")).pixels
    assert small[0, 3, 3] not in (0, 255)
    assert small[0, 3, 0] == pytest.approx(200, abs=2)
    assert small[0, 3, 1] <= 2


def test_pictures_without_alpha_are_opaque_and_grey_values_may_be_transparent() -> None:
    for content in (JPEG, encoded(GREY, "PNG"), encoded(PHOTO.convert("CMYK"), "TIFF")):
        assert (decode(content, Decoding(16, 4)).pixels[..., 3] == 255).all()
    deep = encoded(Image.fromarray(RAMP.astype(np.uint16)), "PNG", transparency=int(RAMP[0, 5]))
    pixels = decode(deep, Decoding(64, 4)).pixels
    assert pixels[0, 5].tolist() == [255, 255, 255, 0]
    assert (pixels[..., 3] == 0).sum() == 1


def test_decoding_warns_of_nothing_and_leaves_warnings_as_they_were(recwarn: pytest.WarningsRecorder) -> None:
    decode(encoded(PHOTO, "JPEG", exif=b"Exif\0\0rubbish"), Decoding(8))
    assert not recwarn.list
