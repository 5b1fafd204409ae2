"""One file of a submission: every way in which it is no mask is named."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aepsl.data.archive import encode_mask, voc_palette
from aepsl.evaluation.mask_png import mask_png_faults

SIZE = (5, 4)


def mask(*values: int) -> np.ndarray:
    content = np.zeros(SIZE[::-1], np.uint8)
    content[0, :len(values)] = values
    return content


def png(pixels: np.ndarray, mode: str = "P", palette: list[int] | None = None, kind: str = "PNG", **options: Any) -> bytes:
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(voc_palette() if palette is None else palette)
    else:
        image = image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that says it has side × side pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 3, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"PLTE", bytes(3)) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def test_a_mask_as_the_project_writes_it_is_sound() -> None:
    assert mask_png_faults(encode_mask(mask(1, 20)), SIZE, 20) == []
    assert mask_png_faults(encode_mask(mask(1, 20)), None, 20) == []


def test_a_palette_with_as_many_colours_as_there_are_classes_is_sound() -> None:
    assert mask_png_faults(png(mask(20), palette=voc_palette()[:63]), SIZE, 20) == []


@pytest.mark.parametrize(("data", "faults"), [
    (png(mask(3), "RGB"), ["expected a palette PNG of 8 bits, found RGB of 8 bits"]),
    (png(mask(3), "RGBA"), ["expected a palette PNG of 8 bits, found RGBA of 8 bits"]),
    (png(mask(3), "L"), ["expected a palette PNG of 8 bits, found grey of 8 bits"]),
    (png(mask(200), "1"), ["expected a palette PNG of 8 bits, found grey of 1 bits"]),
    (png(mask(3).astype(np.uint16), "I;16"), ["expected a palette PNG of 8 bits, found grey of 16 bits"]),
    (png(mask(3), bits=4, palette=voc_palette()[:48]), ["expected a palette PNG of 8 bits, found palette of 4 bits"]),
    (encode_mask(mask(3)[:, :4]), ["expected the size of its image, 5×4, found 4×4"]),
    (encode_mask(mask(3).T), ["expected the size of its image, 5×4, found 4×5"]),
    (png(mask(3), palette=[0, 0, 0, 255, 0, 0, *voc_palette()[6:]]),
     ["expected VOC's palette, found (255, 0, 0) instead of (128, 0, 0) as colour 1"]),
    (png(mask(3), palette=[value for grey in range(256) for value in (grey,) * 3]),
     ["expected VOC's palette, found (1, 1, 1) instead of (128, 0, 0) as colour 1"]),
    (encode_mask(mask(21, 21, 254)), ["expected values 0 to 20, found 21, 254 in 3 pixel(s)"]),
    (encode_mask(mask(255, 255)), ["expected a class in every pixel, found void, 255, in 2 pixel(s): only the truth may leave pixels out"])],
    ids=["RGB", "RGBA", "grey", "1 bit", "16 bits", "4 bits", "narrower", "turned", "a colour", "grey palette", "values", "void"])
def test_a_fault_is_told_with_expected_and_found(data: bytes, faults: list[str]) -> None:
    assert mask_png_faults(data, SIZE, 20) == faults


def test_the_highest_class_is_that_of_the_data_set() -> None:
    assert mask_png_faults(encode_mask(mask(3)), SIZE, 3) == []
    assert mask_png_faults(encode_mask(mask(3)), SIZE, 2) == ["expected values 0 to 2, found 3 in 1 pixel(s)"]


def test_all_faults_of_a_file_are_told_together() -> None:
    assert len(mask_png_faults(png(mask(33, 255)[:3], palette=[9] * 768), SIZE, 20)) == 4
    assert len(mask_png_faults(png(mask(33, 255), "L"), SIZE, 20)) == 3


@pytest.mark.parametrize("data", [b"", b"GIF89a", png(mask(1), "RGB", kind="JPEG"), encode_mask(mask(1))[:-20], encode_mask(mask(1))[:30],
                                  encode_mask(mask(1)).replace(b"IHDR", b"IHDX")],
                         ids=["empty", "other", "JPEG", "cut off", "cut off early", "no header"])
def test_a_file_that_cannot_be_read_is_told(data: bytes) -> None:
    [fault] = mask_png_faults(data, SIZE, 20)
    assert fault.startswith("expected a complete PNG, found ")
    assert " at 0x" not in fault


def test_a_flipped_bit_is_found_by_the_checksums() -> None:
    data = bytearray(encode_mask(mask(1)))
    data[-20] ^= 1  # in the pixels
    assert mask_png_faults(bytes(data), SIZE, 20)[0].startswith("expected a complete PNG, found a damaged one (")


def test_an_image_that_claims_far_too_many_pixels_is_not_decoded() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)  # a limit of the project's own, not Pillow's
        for side in (9000, 60000):
            assert mask_png_faults(bomb(side), SIZE, 20) == [f"expected the size of its image, 5×4, found {side}×{side}",
                                                             f"expected at most 67108864 pixels, found {side**2}"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_bytes_are_told_or_harmless_and_never_raise(data: st.DataObject) -> None:
    content = bytearray(encode_mask(mask(1, 2, 3)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        assert all(fault.startswith("expected ") for fault in mask_png_faults(damaged, SIZE, 20))
