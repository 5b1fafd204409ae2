"""Images: one limit of pixels for every decoder, judged by the header; formats that run programs are never tried."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aepsl.data import voc
from aepsl.data.archive import MOST_PIXELS, ArchiveReader, ArchiveWriter, decode_image, decode_indices, encode_mask
from aepsl.data.prepare import prepare
from aepsl.errors import AepslError
from aepsl.evaluation.mask_png import mask_png_faults
from aepsl.mining.saliency import load_map

SIZE = (4, 2)
SIDES = [(8193, 8192), (20_000, 20_000), (1, MOST_PIXELS + 1), ((1 << 31) - 1, (1 << 31) - 1)]


def claims(width: int, height: int, colours: int = 0) -> bytes:
    """A grey or palette PNG of a few bytes that claims to be of any size."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, 0)), *([(b"PLTE", bytes(768))] if colours == 3 else []),
              (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name,
                                           data in chunks)


def prepared(folder: Path, *, photograph: bytes | None = None, mask: bytes | None = None) -> Any:
    sound = encode_mask(np.zeros(SIZE[::-1], np.uint8))
    with ArchiveWriter(folder / "raw.zip") as archive:
        archive.add(voc.DESCRIPTION, voc.Description("folder", None, None, "xml").to_json())
        archive.add("ImageSets/Segmentation/train.txt", b"a\n")
        archive.add("Annotations/a.xml", voc.format_annotation("", *SIZE, [("cat", (1, 1, 1, 1))]))
        archive.add("JPEGImages/a.png", photograph or sound)
        archive.add("SegmentationClass/a.png", mask or sound)
    return prepare(folder / "raw.zip", classes=None, unlisted="error", **{name: folder / "out" / name
                                                                          for name in ("images", "truth", "index", "mean_pixel")})


def entry(folder: Path, data: bytes, read: Callable[[ArchiveReader], Any]) -> Any:
    with ArchiveWriter(folder / "a.zip") as archive:
        archive.add("a.png", data)
    return read(ArchiveReader(folder / "a.zip"))


def for_the_server(data: bytes) -> None:
    if faults := mask_png_faults(data, None, 20):
        raise AepslError(f"a.png: {', '.join(faults)}")


DECODERS: dict[str, Callable[[Path, bytes], Any]] = {
    "photograph of the user": lambda folder, data: prepared(folder, photograph=data), "mask of the user": lambda folder,
    data: prepared(folder, mask=data),
    "saliency map of the user": lambda folder, data: load_map(data, size=SIZE, name="a.png"), "mask for the test server": lambda folder,
    data: for_the_server(data),
    "photograph of an artefact": lambda folder, data: entry(folder, data, lambda archive: archive.photograph("a.png")),
    "mask of an artefact": lambda folder, data: entry(folder, data, lambda archive: archive.mask("a.png")),
    "photograph": lambda folder, data: decode_image(data, "a.png"), "mask": lambda folder, data: decode_indices(data, "a.png")}


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize(("width", "height"), SIDES)
def test_more_pixels_than_the_limit_are_refused_by_the_projects_own_rule(tmp_path: Path, decode: Callable[[Path, bytes], Any], width: int,
                                                                         height: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with pytest.raises(AepslError) as caught:
            decode(tmp_path, claims(width, height, 3))
    told = str(caught.value)
    assert "a.png" in told
    assert str(MOST_PIXELS) in told
    assert f"{width}×{height}" in told or str(width * height) in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
def test_as_many_pixels_as_the_limit_are_looked_at(tmp_path: Path, decode: Callable[[Path, bytes], Any]) -> None:
    with pytest.raises(AepslError) as caught:  # the file does not hold them
        decode(tmp_path, claims(8192, 8192, 3))
    assert str(MOST_PIXELS) not in str(caught.value)


@pytest.mark.parametrize("decode", DECODERS.values(), ids=DECODERS)
@pytest.mark.parametrize("data", [
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 2\n%%EndComments\n(%pipe%touch canary) (w) file\n%%EOF\n", b"P5 4 2 255\n" + bytes(8),
    b"BM" + struct.pack("<IHHIIiiHHIIiiII", 62, 0, 0, 54, 40, 4, 2, 1, 8, 0, 8, 0, 0, 0, 0) + bytes(8), b"GIF89a\4\0\2\0\0\0\0",
    b"II*\0\x08\0\0\0\0\0", b"RIFF\0\0\0\0WEBPVP8 "],
    ids=["EPS", "PGM", "BMP", "GIF", "TIFF", "WEBP"])
def test_other_formats_are_not_tried_whatever_the_name(tmp_path: Path, decode: Callable[[Path, bytes], Any], data: bytes,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands EPS to Ghostscript, a program that can do anything."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/gs").write_text("#!/bin/sh\ntouch canary\n")
    (tmp_path / "bin/gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AepslError, match=r"a\.png'?: expected .*found a file of another kind or a damaged one"):
        decode(tmp_path, data)
    assert not (tmp_path / "canary").exists()
