"""Photographs, masks and saliency maps from anywhere. Decoders are written in C: their inputs are tried in a process of their own."""

import io
import itertools
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from aepsl.data import voc
from aepsl.data.archive import MOST_PIXELS, ArchiveReader, ArchiveWriter, decode_image, encode_grey, encode_mask
from aepsl.data.index import read_index
from aepsl.data.photograph import decode_photograph
from aepsl.data.prepare import prepare
from aepsl.errors import AepslError
from aepsl.evaluation.mask_png import mask_png_faults
from aepsl.mining.saliency import load_map, user_maps
from tests.faults.fuzzing import TOKENS, fuzz, mutated

SIZE = (9, 7)  # width, height
MASK = np.resize(np.array([0, 1, 2, 255, 0], np.uint8), SIZE[::-1])
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (*SIZE[::-1], 3), np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*, bits: int, colours: int, rows: bytes, interlaced: int = 0, between: bytes = b"", size: tuple[int, int] = SIZE) -> bytes:
    """A PNG with any header over any pixels."""
    header = struct.pack(">IIBBBBB", *size, bits, colours, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + between + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


RGB = Image.fromarray(PIXELS)
GREY = Image.fromarray(MASK)
ROWS = b"".join(b"\0" + row.tobytes() for row in MASK)
PALETTE = chunk(b"PLTE", bytes(768))
MASKS = [encode_mask(MASK), encode_mask(MASK), encode_grey(MASK), saved(RGB.quantize(4)), saved(Image.fromarray(MASK > 0)), saved(RGB),
         saved(RGB.convert("RGBA")),
         saved(Image.fromarray(MASK.astype(np.uint16))), saved(GREY, "JPEG"), saved(GREY, "BMP"), saved(GREY, "TIFF"), saved(GREY, "GIF"),
         saved(GREY, "WEBP"),
         saved(RGB.quantize(4), bits=2), saved(GREY, save_all=True, append_images=[GREY.transpose(Image.Transpose.ROTATE_180)]),
         saved(RGB.quantize(9), transparency=1),
         png(bits=8, colours=3, rows=ROWS, between=PALETTE), png(bits=8, colours=3, rows=ROWS), png(bits=4, colours=0, rows=ROWS),
         png(bits=2, colours=0, rows=ROWS),
         png(bits=8, colours=0, rows=ROWS[:-30]), png(bits=8, colours=0, rows=ROWS + bytes(10**6)), png(bits=8, colours=0, rows=ROWS, interlaced=1),
         png(bits=8, colours=0, rows=ROWS, size=(1 << 30, 1 << 30)), png(bits=16, colours=6, rows=bytes(99), size=(9000, 9000)),
         png(bits=8, colours=0, rows=b"", size=(0, 7)),
         png(bits=8, colours=3, rows=ROWS, between=PALETTE + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27)))),
         png(bits=8, colours=3, rows=ROWS, between=PALETTE + chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 22)))),
         png(bits=8, colours=3, rows=ROWS, between=PALETTE + chunk(b"acTL", struct.pack(">II", 1 << 30, 0))
             + chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"))]
PHOTOGRAPHS = [saved(RGB, "JPEG"), saved(RGB, "JPEG", exif=turned()), saved(RGB, "JPEG", progressive=True), saved(RGB.convert("CMYK"), "JPEG"),
               saved(RGB.convert("L"), "JPEG"), saved(RGB.convert("L"), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x09\xff\xff\xff\xff"
                                                      + bytes(9)), saved(RGB),
               saved(RGB.quantize(9)), saved(RGB.convert("RGBA")), saved(RGB.convert("LA")), *MASKS[4:],
               b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 7\n"]
PARTS = [*TOKENS[-12:], *(chunk(name, b"\0\0\0\1") for name in (b"acTL", b"fcTL", b"fdAT", b"gAMA", b"tRNS", b"PLTE", b"IDAT", b"IEND", b"IHDR",
                                                                b"zTXt")),
         b"\xff\xd9", b"\xff\xda", b"\xff\xc0\0\x11\x08\xff\xff\xff\xff\x03", b"\xff\xe1\xff\xff"]


def chunks(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Where each chunk of a PNG begins, its name and its length, up to the end that the file or IEND makes; by another reader than the project's."""
    at = 8
    while at + 12 <= len(data):
        length, name = struct.unpack(">I4s", data[at:at + 8])
        yield at, name, length
        if name == b"IEND":
            return
        at += 12 + length


def checksums_hold(data: bytes) -> bool:
    """Of all chunks before IEND, which holds nothing."""
    found = list(chunks(data))
    return found[-1][1] == b"IEND" and all(
        struct.pack(">I", zlib.crc32(data[at + 4:at + 8 + length])) == data[at + 8 + length:at + 12 + length] for at, _, length in found[:-1])


def repaired(data: bytes) -> bytes:
    """With checksums that hold, so that damage reaches the decoder."""
    content = bytearray(data)
    for at, _, length in chunks(data) if data.startswith(b"\x89PNG") else ():
        if at + 12 + length <= len(data):
            content[at + 8 + length:at + 12 + length] = struct.pack(">I", zlib.crc32(data[at + 4:at + 8 + length]))
    return bytes(content)


def images(samples: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    return mutated(samples, PARTS) | mutated(samples, PARTS).map(repaired)


def prepared(folder: Path, photograph: bytes, mask: bytes) -> tuple[bytes, np.ndarray | None]:
    """What the pipeline goes on with: the photograph's bytes and the mask's values."""
    raw = folder / "raw.zip"
    with ArchiveWriter(raw) as archive:
        archive.add(voc.DESCRIPTION, voc.Description("folder", ["cat", "dog"], None, "xml").to_json())
        for name, content in voc.format_lists({"train": ["a"], "val": ["b"]}).items():
            archive.add(name, content)
        for name in "ab":
            archive.add(f"Annotations/{name}.xml", voc.format_annotation("", *SIZE, [("cat", (1, 1, 2, 2)), ("dog", (1, 1, 2, 2))]))
        archive.add("JPEGImages/a.png", photograph)
        archive.add("JPEGImages/b.png", saved(RGB))
        archive.add("SegmentationClass/a.png", mask)
        archive.add("SegmentationClass/b.png", MASKS[0])
    facts = prepare(raw, classes=None, unlisted="error", images=folder / "images.zip", truth=folder / "truth.zip", index=folder / "index.csv",
                    mean_pixel=folder / "mean_pixel.json")
    index = read_index(folder / "index.csv")
    decoded = decode_image(ArchiveReader(folder / "images.zip").read("a.png"))
    assert decoded.shape == (index.sizes[0][1], index.sizes[0][0], 3)
    assert np.isfinite(facts["mean_pixel"]).all()
    return ArchiveReader(folder / "images.zip").read("a.png"), ArchiveReader(folder / "truth.zip").mask("a.png")


def test_photographs(tmp_path: Path) -> None:
    def judge(data: bytes) -> bool:
        kept, _ = prepared(tmp_path, data, encode_mask(MASK))
        return kept == data and (data.startswith(b"\xff\xd8") or checksums_hold(data))

    fuzz("photographs", images(PHOTOGRAPHS), judge, names=["JPEGImages/a.png", "SegmentationClass/a.png"], short=60, long=1500, isolated=tmp_path)


ANYTHING = [*PHOTOGRAPHS, saved(RGB, "WEBP", lossless=True), saved(RGB, "WEBP", exif=turned()), saved(RGB.convert("RGBA"), "WEBP"), saved(RGB, "BMP"),
            saved(RGB.quantize(9), "GIF", transparency=1), saved(RGB, "GIF", save_all=True, append_images=[GREY]), saved(RGB.quantize(4), "BMP"),
            *(saved(RGB, "TIFF", compression=name, exif=turned()) for name in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg")),
            saved(RGB.convert("CMYK"), "TIFF"), saved(Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 999), "TIFF"),
            saved(Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 999)), saved(RGB.convert("1"), "TIFF", compression="group4")]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_photographs_of_any_kind(tmp_path: Path) -> None:
    def judge(data: bytes) -> bool:
        found = decode_photograph(data, "a.png")
        return found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3 and 0 < found.size <= 3 * MOST_PIXELS

    fuzz("photographs of any kind", images(ANYTHING), judge, names=["a.png"], short=120, long=3000, isolated=tmp_path)


def test_masks(tmp_path: Path) -> None:
    def judge(data: bytes) -> bool:
        _, mask = prepared(tmp_path, saved(RGB), data)
        with Image.open(io.BytesIO(data)) as image:
            return checksums_hold(data) and np.array_equal(mask, np.asarray(image).astype(np.uint8)) and (image.mode != "L" or data[24] == 8)

    fuzz("masks", images(MASKS), judge, names=["SegmentationClass/a.png"], short=60, long=1500, isolated=tmp_path)


def test_masks_for_the_test_server(tmp_path: Path) -> None:
    def judge(data: bytes) -> bool:
        if faults := mask_png_faults(data, SIZE, 2):
            raise AepslError("\n".join(f"a.png: {fault}" for fault in faults))
        return checksums_hold(data) and bool((np.asarray(Image.open(io.BytesIO(data))) <= 2).all())

    fuzz("masks for the test server", images([encode_mask(MASK % 3), *MASKS]), judge, names=["a.png"], short=60, long=1500, isolated=tmp_path)


def test_saliency_maps(tmp_path: Path) -> None:
    def judge(data: bytes) -> bool:
        values = load_map(data, size=SIZE, name="map of a")
        assert (values.shape, values.dtype) == (SIZE[::-1], np.float32)
        return bool((values >= 0).all() and (values <= 1).all()) and (data.startswith(b"\xff\xd8") or checksums_hold(data))

    fuzz("saliency maps", images([*MASKS, *PHOTOGRAPHS[:5]]), judge, names=["map of a"], short=60, long=1500, isolated=tmp_path)


@pytest.mark.parametrize("packed", [True, False], ids=["zip", "folder"])
def test_names_of_saliency_maps(tmp_path: Path, packed: bool) -> None:
    """Whatever the files are called, the map of an image is one whose name is its id, or there is an explained error."""
    names = st.lists(st.sampled_from(["a.png", "a.PNG", "a.jpg", "b/a.png", "../a.png", "/a.png", "a.png/", ".a.png", "a.b.png", "\x1b[2J.png",
                                      "c\nd.png", "", "e" * 250 + ".png",
                                      "CON.png", "a.png ", "ä.png", "x.txt", "__MACOSX/._a.png"]), max_size=4, unique=True)

    places = itertools.count()

    def judge(files: list[str]) -> bool:
        place = tmp_path / ("maps.zip" if packed else f"maps{next(places)}")
        if packed:
            with zipfile.ZipFile(place, "w") as archive:
                for name in files:
                    archive.writestr(zipfile.ZipInfo(name), name.encode())
        else:
            place.mkdir(exist_ok=True)
            for name in files:
                if "/" not in name and name:
                    (place / name).write_bytes(name.encode())
        maps = user_maps(place)
        return all(load().decode().rpartition("/")[2].rpartition(".")[0] == identifier for identifier, load in maps.items())

    fuzz(f"names of saliency maps, {'zip' if packed else 'folder'}", names, judge, names=[str(tmp_path)], short=60, long=300)
