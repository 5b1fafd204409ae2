"""Photographs of users: every kind, mode and orientation comes as a viewer would show it; what is none is explained."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from aepsl.data.archive import MOST_PIXELS, decode_image
from aepsl.data.photograph import decode_photograph, read_photograph, upright_rgb
from aepsl.errors import AepslError

RNG = np.random.default_rng(1)
NOISE = RNG.integers(0, 256, (9, 14, 3), np.uint8)
SMOOTH = np.array(Image.fromarray(RNG.integers(0, 256, (4, 5, 3), np.uint8)).resize((40, 32), Image.Resampling.BICUBIC))
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "BMP": {}, "TIFF": {}, "WEBP": {"lossless": True}}
TURNS = {2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
         6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90}


def saved(image: Image.Image | np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def png(values: np.ndarray, colours: int, *between: tuple[bytes, bytes], bits: int = 16) -> bytes:
    """A PNG of an array (H, W, channels), which Pillow itself cannot write with 16 bits of colour."""
    rows = b"".join(b"\0" + row.astype(">u2" if bits == 16 else np.uint8).tobytes() for row in values)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colours, 0, 0, 0)), *between, (b"IDAT", zlib.compress(rows)),
              (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
                                           for name, data in chunks)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = orientation
    return exif


# ---- kinds and modes


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))), st.sampled_from(list(LOSSLESS)))
@settings(max_examples=40, deadline=None)
def test_what_is_saved_without_loss_comes_back(pixels: np.ndarray, kind: str) -> None:
    found = decode_photograph(saved(pixels, kind, **LOSSLESS[kind]))
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert np.array_equal(found, pixels)


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "1"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGB"), ("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"),
                                            ("JPEG", "YCbCr")])
def test_what_the_pipeline_reads_is_read_alike(kind: str, mode: str) -> None:
    data = saved(Image.fromarray(SMOOTH).convert(mode), kind)
    assert np.array_equal(decode_photograph(data), decode_image(data))


def test_a_progressive_jpeg_is_read_whole() -> None:
    data = saved(SMOOTH, "JPEG", progressive=True, quality=95)
    assert b"\xff\xc2" in data
    assert np.abs(decode_photograph(data).astype(int) - SMOOTH).mean() < 4


@pytest.mark.parametrize("compression", ["raw", "packbits", "tiff_lzw", "tiff_adobe_deflate"])
def test_tiffs_of_the_plain_compressions_are_read(compression: str) -> None:
    assert np.array_equal(decode_photograph(saved(NOISE, "TIFF", compression=compression)), NOISE)


@given(arrays(np.uint16, st.tuples(st.integers(1, 8), st.integers(1, 8))))
@settings(max_examples=30, deadline=None)
def test_sixteen_bits_of_grey_are_scaled_by_their_whole_range(values: np.ndarray) -> None:
    expected = np.round(values / 257)
    for data in (saved(values, "PNG"), saved(values, "TIFF"), png(values[:, :, None], 0)):
        found = decode_photograph(data)
        assert found.shape == (*values.shape, 3)
        assert np.array_equal(found, np.repeat(expected[:, :, None], 3, 2))
    assert np.array_equal(upright_rgb(Image.fromarray(values.astype(np.int32))), found)  # mode I, as Pillow once opened them


def test_a_tiff_whose_zero_is_white_is_turned_round() -> None:
    values = np.array([[0, 257, 65535]], np.uint16)
    assert decode_photograph(saved(values, "TIFF", tiffinfo={262: 0}))[0, :, 0].tolist() == [255, 254, 0]


@pytest.mark.parametrize("colours", [2, 4, 6], ids=["RGB", "grey and alpha", "RGBA"])
def test_sixteen_bits_of_colour_are_scaled_by_their_whole_range(colours: int) -> None:
    channels = {2: 3, 4: 2, 6: 4}[colours]
    values = RNG.integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    if channels in (2, 4):
        values[:, :, -1] = 65535
    expected = (values[:, :, :3] if channels > 2 else values[:, :, :1].repeat(3, 2)) / 257
    assert np.abs(decode_photograph(png(values, colours)) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_shows_white(mode: str) -> None:
    image = Image.new("RGBA", (3, 1), (0, 100, 200, 255))
    image.putpixel((1, 0), (0, 100, 200, 0))
    image.putpixel((2, 0), (0, 100, 200, 51))
    found = upright_rgb(image.convert(mode) if mode != "PA" else image.quantize(4).convert("PA"))
    if mode == "RGBA":
        assert found.tolist() == [[[0, 100, 200], [255, 255, 255], [204, 224, 244]]]
    elif mode == "LA":
        assert found[0, 1].tolist() == [255, 255, 255]


def test_a_palette_or_a_colour_that_stands_for_transparency_shows_white() -> None:
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    data = saved(palette, "PNG", transparency=bytes([255, 0, 255]))
    assert decode_photograph(data).tolist() == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]
    assert decode_photograph(saved(palette, "GIF", transparency=1))[0, 1].tolist() == [255, 255, 255]
    key = png(np.array([[[1, 2, 3], [4, 5, 6]]]), 2, (b"tRNS", struct.pack(">HHH", 4, 5, 6)), bits=8)
    assert decode_photograph(key).tolist() == [[[1, 2, 3], [255, 255, 255]]]


def test_cmyk_and_ycck_jpegs_are_not_inverted() -> None:
    """Adobe stores them as negatives; YCCK is made by hand: Pillow does not write it."""
    colour = (30, 140, 220)
    ink = tuple(255 - value for value in colour)
    cmyk = Image.merge("CMYK", [Image.new("L", (16, 16), value) for value in (*ink, 0)])
    assert np.abs(decode_photograph(saved(cmyk, "JPEG", quality=100)).astype(int) - colour).max() <= 3
    # Pillow turns every channel round when it writes: so Y, Cb and Cr of the ink are given turned round, and no black as it is.
    planes = [plane.point(lambda value: 255 - value) for plane in Image.new("RGB", (16, 16), ink).convert("YCbCr").split()]
    data = bytearray(saved(Image.merge("CMYK", [*planes, Image.new("L", (16, 16), 0)]), "JPEG", quality=100))
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0
    data[marker + 11] = 2  # the transform: YCCK
    assert np.abs(decode_photograph(bytes(data)).astype(int) - colour).max() <= 3


def test_colour_profiles_are_ignored() -> None:
    assert np.array_equal(decode_photograph(saved(NOISE, "PNG", icc_profile=b"no profile at all")), NOISE)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_picture_is_read(kind: str) -> None:
    first, second = Image.new("RGB", (8, 6), (255, 0, 0)), Image.new("RGB", (8, 6), (0, 0, 255))
    data = saved(first, kind, save_all=True, append_images=[second], **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(decode_photograph(data), np.array(first))


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_photographs_are_turned_upright(kind: str, orientation: int) -> None:
    pixels = NOISE if kind != "JPEG" else np.kron(NOISE, np.ones((16, 16, 1), np.uint8))
    data = saved(pixels, kind, exif=turned(orientation), **LOSSLESS.get(kind, {"quality": 95, "subsampling": 0}))
    upright = Image.fromarray(pixels)
    expected = np.array(upright.transpose(TURNS[orientation]) if orientation > 1 else upright)
    found = decode_photograph(data)
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).mean() < (6 if kind == "JPEG" else 1e-9)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_changes_nothing(orientation: int) -> None:
    assert np.array_equal(decode_photograph(saved(NOISE, "PNG", exif=turned(orientation))), NOISE)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_change_nothing() -> None:
    assert np.array_equal(decode_photograph(saved(NOISE, "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), NOISE)


# ---- what is refused


def refusal(path: Path) -> str:
    with pytest.raises(AepslError) as caught:
        read_photograph(path)
    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)
    return str(caught.value)


def test_a_photograph_is_told_by_its_bytes_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "really.jpg").write_bytes(saved(NOISE, "PNG"))
    assert np.array_equal(read_photograph(tmp_path / "really.jpg"), NOISE)
    assert np.array_equal(read_photograph(str(tmp_path / "really.jpg")), NOISE)


@pytest.mark.parametrize(("data", "found"), [
    (b"", "an empty file"), (b"no photograph", "a file of another kind"), (b"%PDF-1.7\n", "a PDF"), (b"%!PS-Adobe-3.0 EPSF", "PostScript"),
    (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG"), (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"), (b"\0\0\0\x1cftypavif", "AVIF"),
    (b"<!doctype html>", "a web page"), (b"PK\x03\x04", "a zip"), (b"\x89PNG", "damaged"), (b"\xff\xd8", "damaged"), (b"RIFF\0\0\0\0WEBP", "damaged"),
    (b"RIFF\0\0\0\0WEBPVP8 " + bytes(40), "damaged"), (b"BM" + bytes(60), "damaged"), (b"II*\0\x08\0\0\0\0\0\0\0\0\0", "damaged"),
    (b"P6\n1 1\n255\n\0\0\0", "another kind")])
def test_what_is_no_photograph_is_called_by_its_name(tmp_path: Path, data: bytes, found: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    assert found in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_file_cut_short_is_refused(tmp_path: Path, kind: str, share: float) -> None:
    data = saved(RNG.integers(0, 256, (64, 64, 3), np.uint8), kind)
    (tmp_path / "cut.bin").write_bytes(data[:int(share * len(data))])
    assert "found" in refusal(tmp_path / "cut.bin")


def test_a_flipped_bit_in_a_png_is_noticed(tmp_path: Path) -> None:
    data = bytearray(saved(NOISE, "PNG"))
    data[len(data) // 2] ^= 4
    (tmp_path / "a.png").write_bytes(data)
    assert "damaged" in refusal(tmp_path / "a.png")


def huge(kind: str, width: int, height: int) -> bytes:
    """A file of a few bytes that claims to be of this size."""
    if kind == "PNG":
        head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    if kind == "BMP":
        return b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    if kind == "GIF":
        return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"\x2c" + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08\x00"
    if kind == "TIFF":
        tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, 1)]
        return b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", tag, code, 1, value) for tag, code, value in tags) + bytes(4)
    sides = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF\x1e\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + sides + bytes(20)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "TIFF", "WEBP"])
def test_more_pixels_than_the_limit_are_not_decoded(tmp_path: Path, kind: str) -> None:
    (tmp_path / "huge").write_bytes(huge(kind, 65_000, 60_000))
    told = refusal(tmp_path / "huge")
    assert str(MOST_PIXELS) in told
    assert "65000×60000" in told


@pytest.mark.parametrize("make", [
    lambda: saved(NOISE, "TIFF", compression="jpeg"), lambda: saved(NOISE.astype(np.float32)[:, :, 0], "TIFF"),
    lambda: saved(NOISE.astype(np.int32)[:, :, 0] - 99, "TIFF")], ids=["JPEG in TIFF", "fractions", "signed numbers"])
def test_tiffs_beyond_8_and_16_bits_or_with_other_decoders_are_refused(tmp_path: Path, make: Callable[[], bytes]) -> None:
    (tmp_path / "a.tif").write_bytes(make())
    assert "save it" in refusal(tmp_path / "a.tif")


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "nothing.jpg")
    assert "a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "no file" in refusal(tmp_path / "pipe.jpg")
    with pytest.raises(AepslError, match="expected"):
        read_photograph("a\0.jpg")


def test_real_photographs_are_read_as_the_pipeline_reads_them(third_party: Callable[[str], Path]) -> None:
    files = sorted(third_party("voc-animals").rglob("*.jpg"))[:5]
    assert files
    for file in files:
        assert np.array_equal(read_photograph(file), decode_image(file.read_bytes()))
