"""Any photograph, from anywhere, as (H, W, 3) uint8 RGB in its upright frame.

The pipeline itself takes JPEG and PNG and looks at their stored pixels; here a single picture of a user is read, as a viewer would show it:

- **Kinds**: JPEG, PNG, WebP, BMP, GIF and TIFF, told by their first bytes, whatever the name says, each by its own named decoder. In TIFF plain,
  PackBits, LZW and deflate alone: other compressions bring further decoders along.
- **Orientation**: the eight of EXIF are turned upright; masks are in that frame.
- **Transparency** shows white.
- **16 bits** are scaled by their whole range, 65535 becomes 255; Pillow's own conversion of grey ones clips instead.
- **CMYK** is converted without a profile. Colour profiles (ICC) are ignored: the network has seen none applied.
- **Animations and pages**: the first.
"""

import io
import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from aepsl.data.archive import IMAGE_FAULTS, MOST_BYTES, MOST_PIXELS, image_fault, verify_png
from aepsl.errors import AepslError

KINDS = "JPEG, PNG, WebP, BMP, GIF or TIFF"
DECODERS: dict[bytes, type[ImageFile]] = {
    b"\xff\xd8": JpegImageFile, b"\x89PNG": PngImageFile, b"BM": BmpImageFile, b"GIF8": GifImageFile, b"II*\0": TiffImageFile,
    b"MM\0*": TiffImageFile}
# Not read, but known: their first bytes, and what to call them.
OTHERS = {b"%PDF": "a PDF", b"%!PS": "PostScript", b"<svg": "an SVG", b"<?xml": "XML, perhaps an SVG", b"8BPS": "a Photoshop file",
          b"PK\x03\x04": "a zip archive", b"\0\0\1\0": "an icon", b"\0\0\0\x0cjP": "JPEG 2000", b"\xff\x0a": "JPEG XL", b"<!DO": "a web page",
          b"<html": "a web page"}
TIFF_COMPRESSIONS = {"raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate"}
ORIENTATION, BITS, PHOTOMETRIC, MIN_IS_WHITE = 274, 258, 262, 0  # tags of TIFF, and so of EXIF
PLAIN = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr")
WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


def read_photograph(path: str | os.PathLike[str]) -> np.ndarray:
    """A photograph of any size and mode.

    Returns
    -------
    (H, W, 3) uint8, RGB, upright; at most :data:`~aepsl.data.archive.MOST_PIXELS` pixels.

    Raises
    ------
    AepslError : names the file, what was expected and what it holds instead.
    """
    file = Path(path)
    try:
        if not file.is_file():
            found = "a folder" if file.is_dir() else "something that is no file" if file.exists() else "no such file"
            raise AepslError(f"{path}: expected a photograph ({KINDS}), found {found}")
        if (size := file.stat().st_size) > MOST_BYTES:
            raise AepslError(f"{path}: expected a photograph of at most {MOST_BYTES} bytes, found {size}; make it smaller")
        data = file.read_bytes()
    except OSError as error:
        raise AepslError(f"{path}: expected a photograph, found a file that cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # a null character in the name
        raise AepslError(f"{path}: expected the path of a photograph, found no path ({error})") from error
    return decode_photograph(data, str(path))


def decode_photograph(data: bytes, name: str = "photograph") -> np.ndarray:
    """:func:`read_photograph` of a file's bytes; ``name`` is what to call it in an error."""
    try:
        with _opened(data) as image:
            return upright_rgb(image)
    except (*IMAGE_FAULTS, MemoryError, Image.DecompressionBombError) as error:  # the last by Pillow's own limit, which lies higher
        raise AepslError(f"{name}: expected a complete photograph ({KINDS}), found {image_fault(error)}") from error


def upright_rgb(image: Image.Image) -> np.ndarray:
    """The pixels of an opened image, (H, W, 3) uint8 RGB, turned upright, transparency white.

    >>> from PIL import Image
    >>> upright_rgb(Image.new("LA", (2, 1), (0, 51))).tolist()
    [[[204, 204, 204], [204, 204, 204]]]

    Raises
    ------
    ValueError : its mode is no colour or grey of 8 or 16 bits. Damage raises one of :data:`~aepsl.data.archive.IMAGE_FAULTS`.
    """
    image.load()
    if image.mode in WITH_ALPHA or (image.mode in PLAIN and "transparency" in image.info):
        shown = image.convert("RGBA")
        ground = Image.new("RGB", shown.size, "white")
        ground.paste(shown, mask=shown.getchannel("A"))
        pixels = np.array(ground, np.uint8)
    elif image.mode in PLAIN:
        pixels = np.array(image.convert("RGB"), np.uint8)  # a copy: torch warns of arrays it may not write
    else:
        pixels = np.repeat(_grey(image)[:, :, None], 3, axis=2)
    return np.ascontiguousarray(turned(pixels, _orientation(image)))


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W, 3) as EXIF's orientation, 1 to 8, says they are to be seen; 5 to 8 exchange the sides.

    >>> turned(np.array([[[1], [2], [3]]]), 6)[:, :, 0].tolist()
    [[1], [2], [3]]
    """
    if orientation in (3, 4, 6, 7):
        pixels = pixels[::-1]
    if orientation in (2, 3, 7, 8):
        pixels = pixels[:, ::-1]
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    return pixels


def _opened(data: bytes) -> ImageFile:
    """The image, its header read and no pixel decoded."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        _require_size(*_webp_size(data))  # before Pillow sees it: older ones make room for the whole picture at once
        kind: type[ImageFile] | None = WebPImageFile
    else:
        kind = next((kind for first, kind in DECODERS.items() if data.startswith(first)), None)
    if kind is None:
        raise ValueError(_other(data))
    image = kind(io.BytesIO(data))  # not Image.open, which has a limit of its own and tries other formats, some of which run programs
    _require_size(image.width, image.height)
    if isinstance(image, PngImageFile):
        verify_png(data)
    if isinstance(image, TiffImageFile) and (packed := str(image.info.get("compression", "raw"))) not in TIFF_COMPRESSIONS:
        raise ValueError(f"a TIFF packed by {packed}; save it as PNG")
    return image


def _require_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise ValueError(f"{width}×{height} pixels, more than the {MOST_PIXELS} that are decoded; make it smaller")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height that a WebP claims."""
    chunk = data[12:16]
    if chunk == b"VP8X" and len(data) >= 30:
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8 " and len(data) >= 30:
        width, height = struct.unpack_from("<HH", data, 26)
        return width & 0x3FFF, height & 0x3FFF
    if chunk == b"VP8L" and len(data) >= 25:
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise OSError("no header of a picture")


def _other(data: bytes) -> str:
    """What a file of another kind is."""
    if not data:
        return "an empty file"
    if data[4:8] == b"ftyp":
        return f"{'AVIF' if data[8:12] in (b'avif', b'avis') else 'HEIC or another kind of film'}; save it as JPEG or PNG"
    known = next((what for first, what in OTHERS.items() if data.lstrip()[:len(first)].lower() == first.lower()), None)
    return f"{known}; save it as JPEG or PNG" if known else "a file of another kind or a damaged one"


def _grey(image: Image.Image) -> np.ndarray:
    """Grey values of more than 8 bits, (H, W) uint8, by their whole range."""
    tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
    if not image.mode.startswith("I") or (image.mode == "I" and tags):
        raise ValueError(f"pixels of mode {image.mode}, which have no range of their own; save it with 8 or 16 bits of grey or colour")
    values = np.asarray(image).astype(np.int64)
    bits = tags.get(BITS, (16,))
    most = (1 << (bits[0] if isinstance(bits, tuple) else int(bits))) - 1
    if values.size and not 0 <= values.min() <= values.max() <= most:
        raise ValueError(f"grey values from {values.min()} to {values.max()}, expected 0 to {most}; save it with 8 or 16 bits")
    values = most - values if tags.get(PHOTOMETRIC) == MIN_IS_WHITE else values
    return ((values * 255 + most // 2) // most).astype(np.uint8)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1, upright, where there is none or it cannot be read. Pillow has already turned a TIFF."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except IMAGE_FAULTS:
        return 1
    return value if type(value) is int and 1 <= value <= 8 else 1
