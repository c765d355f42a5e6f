"""Every kind of image file, read right or refused with a reason."""

import io
import os
import random
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from kerastune.errors import DataError
from kerastune.modalities import image as images
from kerastune.modalities.image import check, decode
from kerastune.targets import images as reader

RED, WHITE = (255, 0, 0), (255, 255, 255)


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(height: int = 24, width: int = 20) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(values)


def png16(values: npt.NDArray[np.uint16], color_type: int, *chunks: bytes) -> bytes:
    """A 16-bit PNG from [H, W, channels], which Pillow cannot write for RGB."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def problem(data: bytes) -> str:
    report = check(data, "photo.jpg")
    assert report.problem is not None
    with pytest.raises(images.UnreadableImage):
        decode(data)
    return report.problem


def test_rgb_pixels_come_back_as_they_were() -> None:
    picture = noise()
    for format in ("PNG", "BMP"):
        np.testing.assert_array_equal(decode(encoded(picture, format)), np.asarray(picture))
    assert decode(encoded(picture)).dtype == np.uint8


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_each_format_is_read_without_a_remark(format: str) -> None:
    data = encoded(noise(), format)
    assert check(data, "photo." + format.lower()) == images.Report()
    assert decode(data).shape == (24, 20, 3)


def test_grey_becomes_three_equal_channels() -> None:
    pixels = decode(encoded(noise().convert("L"), "JPEG"))
    assert pixels.shape == (24, 20, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_exif_orientation_turns_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    data = encoded(noise(), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data), np.rot90(np.asarray(noise()), -1))
    assert check(data, "a.png").remarks == ("EXIF orientation applied",)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_exif_orientations_agree_with_pillow(orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(), "JPEG", exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data), expected)


def test_damaged_exif_does_not_stop_or_warn() -> None:
    data = encoded(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert check(data, "a.jpg") == images.Report()


def test_half_transparent_pixels_are_shown_on_white() -> None:
    data = encoded(Image.new("RGBA", (4, 4), (255, 0, 0, 128)))
    assert decode(data)[0, 0].tolist() == [255, 127, 127]
    assert check(data, "a.png").remarks == ("transparency shown on white",)


def test_an_opaque_alpha_channel_is_not_worth_a_remark() -> None:
    assert check(encoded(noise().convert("RGBA")), "a.png") == images.Report()


def test_grey_with_alpha_is_shown_on_white() -> None:
    assert decode(encoded(Image.new("LA", (4, 4), (0, 0))))[0, 0].tolist() == list(WHITE)


def test_palette_colours_are_looked_up() -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, *RED])
    assert decode(encoded(picture))[0, 0].tolist() == list(RED)
    assert decode(encoded(picture, "GIF"))[0, 0].tolist() == list(RED)


@pytest.mark.parametrize("key", [1, bytes([255, 0])])
def test_transparent_palette_entries_are_white(key: int | bytes) -> None:
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, *RED])
    assert decode(encoded(picture, transparency=key))[0, 0].tolist() == list(WHITE)


def test_cmyk_jpeg_becomes_rgb() -> None:
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")  # written inverted, as Adobe does
    assert b"Adobe" in data
    np.testing.assert_allclose(decode(data)[8, 8], RED, atol=3)
    assert check(data, "a.jpg").remarks == ("CMYK converted to RGB without its colour profile",)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = np.array([[0, 0x1234, 0x80FF, 0xFFFF]], np.uint16)
    data = encoded(Image.fromarray(values))
    assert decode(data)[0, :, 0].tolist() == [0, 0x12, 0x80, 0xFF]
    assert check(data, "a.png").remarks == ("16-bit values scaled to 8 bits",)


def test_16_bit_rgb_is_scaled_like_16_bit_grey() -> None:
    values = np.repeat(np.array([[[0], [0x1234], [0x80FF], [0xFFFF]]], np.uint16), 3, axis=2)
    data = png16(values, color_type=2)
    assert decode(data)[0].tolist() == [[0] * 3, [0x12] * 3, [0x80] * 3, [0xFF] * 3]
    assert check(data, "a.png").remarks == ("16-bit values scaled to 8 bits",)


def test_16_bit_grey_with_a_transparent_value_is_white_there() -> None:
    values = np.array([[[0], [0x1234]]], np.uint16)
    data = png16(values, 0, chunk(b"tRNS", struct.pack(">H", 0x1234)))
    assert decode(data)[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(format: str) -> None:
    first, second = Image.new("RGB", (8, 8), RED), Image.new("RGB", (8, 8), (0, 0, 255))
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(first, format, save_all=True, append_images=[second], **options)
    assert decode(data)[4, 4].tolist() == list(RED)
    assert check(data, "a." + format.lower()).remarks == ("animated, first frame used",)


def test_a_wrong_extension_is_read_by_content_and_remarked() -> None:
    report = check(encoded(noise(), "JPEG"), "photo.png")
    assert report == images.Report(remarks=("extension and content differ, read by content",))


def test_an_empty_file_says_so() -> None:
    assert problem(b"") == "is empty (0 bytes)"


def test_a_web_page_is_no_image() -> None:
    assert problem(b"<html>404</html>") == "is not an image (starts with b'<html>404</h')"


def test_other_image_formats_are_named_and_refused() -> None:
    assert problem(encoded(noise(), "TIFF")).startswith("is a TIFF image, which is not supported")
    assert "HEIC" in problem(b"\0\0\0\x18ftypheic")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_half_a_file_is_truncated(format: str) -> None:
    data = encoded(noise(64, 64), format)
    assert problem(data[: len(data) // 2]).startswith("is truncated")


def test_a_cut_webp_or_bmp_says_how_much_is_missing() -> None:
    assert problem(encoded(noise(), "BMP")[:-1]) == "is truncated: it ends 1 byte early"
    assert problem(encoded(noise(), "WEBP")[:-100]) == "is truncated: it ends 100 bytes early"


def test_a_decompression_bomb_is_refused_before_it_is_opened() -> None:
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    assert problem(bomb).startswith("has 50,000 × 50,000 pixels, more than")


def test_a_flipped_byte_in_png_data_is_damage() -> None:
    data = bytearray(encoded(noise()))
    data[len(data) // 2] ^= 0x55
    assert problem(bytes(data)).startswith("is damaged: png that cannot be decoded")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_mangled_files_never_give_a_traceback(format: str) -> None:
    good, dice = encoded(noise().quantize(16).convert("RGB"), format), random.Random(0)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(min(len(data), 120))] = dice.randrange(256)
        report = check(bytes(data[: dice.randrange(1, 2 * len(data))]), "a")
        assert report.problem is None or report.problem.isprintable()


# --- bounds ------------------------------------------------------------------------------------------------


def test_a_large_image_is_put_on_white_band_by_band_with_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    whole = decode(buffer.getvalue())
    monkeypatch.setattr(reader, "_BAND", 50)
    np.testing.assert_array_equal(decode(buffer.getvalue()), whole)


def test_checking_a_large_image_holds_less_than_its_memory_four_times() -> None:
    code = (
        "import io, resource, numpy as np\n"
        "from PIL import Image\n"
        "from kerastune.modalities.image import check\n"
        "Image.new('RGBA', (6000, 6000), (1, 2, 3, 9)).save(b := io.BytesIO(), 'PNG')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "assert check(b.getvalue(), 'a.png').problem is None\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 3.2 * 6000 * 6000 * 4


def test_what_is_asked_about_is_a_file_and_not_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "large.png").write_bytes(b"x" * 1001)
    monkeypatch.setattr(images, "_STORED", replace(images._STORED, largest=1000))
    with pytest.raises(DataError) as caught:
        images.ask([tmp_path / name for name in ("pipe.png", "endless.png", "large.png", "a\0.png")], 1)
    lines = caught.value.message.splitlines()[1:]
    assert [line.split(": ")[1] for line in lines] == [
        "it is not a regular file",
        "it is not a regular file",
        "it has 1,001 bytes, and an image has 1,000 at most",
        "no path has a NUL character",
    ]
