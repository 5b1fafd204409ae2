"""One artefact, one file: a stored zip whose bytes depend on its content alone.

Entries carry a fixed date and are not compressed (PNG and JPEG already are), so equal content has an equal
hash wherever and whenever it was written. The file appears under its name by one rename, complete or not at all.
"""

import io
import json
import os
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from aepsl.errors import AepslError, FaultList, printable, shown

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold
VOID = 255  # ignored pixel of a mask
# What opening a file may cost; archives and images come from anywhere.
MOST_PIXELS = 1 << 26  # of an image: 200 MB in RGB
MOST_BYTES = 1 << 30  # of an entry, unpacked
MOST_TEXT = 1 << 26  # of an entry that is JSON, XML, a list or a table
MOST_RATIO = 200  # of an entry's size to what it takes in the file, where it has more than a mebibyte: what is packed here is compressed already
LONGEST_NAME = 300  # characters of an entry's name that an error shows
# What zipfile raises on damaged archives; RuntimeError where a flipped bit says "encrypted" or "compressed in another way".
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, OverflowError, struct.error)
CHECKED = b"name "
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# What Pillow raises on damaged images.
IMAGE_FAULTS = (OSError, SyntaxError, ValueError, EOFError, LookupError, ArithmeticError, RuntimeError, struct.error, zlib.error)


def publish(temporary: Path, target: Path) -> None:
    """Give a finished file its name, so that after a power loss too there is either all of it or nothing."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def named(target: Path, temporary: Path) -> Iterator[None]:
    """Let an error of the operating system name the file that was to be written: a failed write names none, a failed rename the temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(error.errno, error.strerror, str(target)) from error


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a small file by a temporary name, fsync and rename: readers see the old file or the new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with named(target, temporary):
        try:
            temporary.write_bytes(content)
            publish(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


class ArchiveWriter:
    """Write an artefact: ``with ArchiveWriter(path) as out: out.add("a.png", data)``.

    Leaving the block by an exception leaves nothing behind. The caller adds entries in a fixed order
    (that of the index), because the order is part of the hash.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        with named(self.path, self._temporary):
            self._zip = zipfile.ZipFile(self._temporary, "w", zipfile.ZIP_STORED)
        self._names: set[str] = set()

    def add(self, name: str, data: bytes) -> None:
        """Append one entry; a name already written is an error."""
        if name in self._names:
            raise ValueError(f"{self.path}: entry {name!r} was added twice")
        self._names.add(name)
        info = zipfile.ZipInfo(name, EPOCH)
        info.create_system = 3  # the same header on every platform
        info.comment = _name_check(name)
        with named(self.path, self._temporary):
            self._zip.writestr(info, data)

    def update(self, entries: Mapping[str, bytes]) -> None:
        """Append several entries."""
        for name, data in entries.items():
            self.add(name, data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with named(self.path, self._temporary):
            try:
                self._zip.close()
                if kind is None:
                    publish(self._temporary, self.path)
            finally:
                self._temporary.unlink(missing_ok=True)


class ArchiveReader:
    """Read an artefact by entry name; opened lazily, once per process, so that it can be handed to workers."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._owner = -1

    def _open(self) -> zipfile.ZipFile:
        # After a fork the file position would be shared with the parent: every process opens its own.
        if self._zip is None or self._owner != os.getpid():
            try:
                archive = zipfile.ZipFile(self.path)
            except FileNotFoundError:
                raise AepslError(f"{self.path}: no such file; `dvc repro` or `dvc pull` makes it") from None
            except ZIP_FAULTS as error:
                raise AepslError(f"{self.path}: expected a complete zip archive, found a damaged one ({printable(str(error), 200)}); "
                                 "delete it and run `dvc checkout` or `dvc repro`") from error
            if faults := entry_faults(archive):
                archive.close()
                raise FaultList(f"{self.path}: expected plain files in a zip archive, found {len(faults)} fault(s); nothing was unpacked. "
                                "Delete it and run `dvc checkout` or `dvc repro`, or pack your own files anew", faults)
            self._zip, self._owner = archive, os.getpid()
        return self._zip

    def names(self) -> list[str]:
        """All entry names in the order they were written."""
        return self._open().namelist()

    def __contains__(self, name: str) -> bool:
        return name in self._open().NameToInfo

    def read(self, name: str) -> bytes:
        """The bytes of one entry; its checksum is verified."""
        archive = self._open()
        try:
            with archive.open(name) as entry:
                size = archive.NameToInfo[name].file_size
                data = entry.read(size + 1)  # asked for a number of bytes it unpacks no more, however much the entry would expand to
            if len(data) != size:
                raise zipfile.BadZipFile(f"{len(data)} bytes instead of {size}")
            return data
        except KeyError:
            raise AepslError(f"{self.path}: expected an entry {shown(name, LONGEST_NAME)}, found none; the artefact belongs to other data, "
                             "run `dvc repro`") from None
        except ZIP_FAULTS as error:
            raise AepslError(f"{self.describe(name)} is damaged ({printable(str(error), 200) or type(error).__name__}); "
                             "delete the file and run `dvc checkout` or `dvc repro`") from error

    def mask(self, name: str) -> np.ndarray:
        """The values (H, W) uint8 of a palette or grey PNG: :func:`decode_indices` of an entry."""
        return decode_indices(self.read(name), self.describe(name))

    def photograph(self, name: str) -> np.ndarray:
        """A photograph (H, W, 3) uint8: :func:`decode_image` of an entry."""
        return decode_image(self.read(name), self.describe(name))

    def reduced(self, name: str, factor: float) -> tuple[np.ndarray, tuple[int, int]]:
        """A photograph that is to be resized by ``factor``, and its full width and height: :func:`decode_reduced` of an entry."""
        return decode_reduced(self.read(name), factor, self.describe(name))

    def text(self, name: str) -> bytes:
        """The bytes of an entry that is to be parsed, at most :data:`MOST_TEXT`."""
        info = self._open().NameToInfo.get(name)
        if info is not None and info.file_size > MOST_TEXT:
            raise AepslError(f"{self.describe(name)}: expected at most {MOST_TEXT} bytes of text, found {info.file_size}")
        return self.read(name)

    def describe(self, name: str) -> str:
        """What to call an entry in an error."""
        return f"{self.path}: entry {shown(name, LONGEST_NAME)}"

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_zip": None, "_owner": -1}


def _name_check(name: str) -> bytes:
    """The comment of an entry: zip has checksums of contents, and none of the names, one of which could otherwise change unnoticed."""
    return CHECKED + b"%08x" % zlib.crc32(name.encode("utf-8", "surrogatepass"))


def entry_faults(archive: zipfile.ZipFile) -> list[str]:
    """Why entries of an archive are not read, one line each; nothing is unpacked to find out."""
    entries = archive.infolist()
    faults = [f"entry {shown(name, LONGEST_NAME)}: expected every name once, found it {count} times"
              for name, count in Counter(info.orig_filename for info in entries).items() if count > 1]
    checked = any(info.comment.startswith(CHECKED) for info in entries)
    return faults + [f"entry {shown(info.orig_filename, LONGEST_NAME)}: {fault}" for info in entries if (fault := _entry_fault(info, checked))]


def _entry_fault(info: zipfile.ZipInfo, checked: bool) -> str | None:
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/") or name[1:2] == ":":
        return "expected a name inside the archive, found one that leads out of it"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"expected a plain file, found {'a symbolic link' if kind == stat.S_IFLNK else 'a device, pipe or socket'}"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"expected a stored or deflated entry, found compression method {info.compress_type}"
    if info.file_size > MOST_BYTES:
        return f"expected at most {MOST_BYTES} bytes, found {info.file_size}"
    if info.file_size > max(1 << 20, MOST_RATIO * info.compress_size):
        return f"expected at most {MOST_RATIO} times the {info.compress_size} bytes it takes, found {info.file_size}"
    # A changed length moves letters between name and comment, so one may be damaged where the other shows it.
    if (checked or (info.comment and info.date_time == EPOCH)) and info.comment != _name_check(info.filename):
        return "expected the name it was written under, found another: the archive is damaged"
    return None


def voc_palette() -> list[int]:
    """The 256 colours of VOC, 768 values: the bits of the index dealt out to R, G and B from the highest down."""
    colours = np.zeros((256, 3), np.uint8)
    for index in range(256):
        rest = index
        for shift in range(7, -1, -1):
            for channel in range(3):
                colours[index, channel] |= ((rest >> channel) & 1) << shift
            rest >>= 3
    return colours.ravel().tolist()


_PALETTE = voc_palette()


def encode_mask(mask: np.ndarray) -> bytes:
    """PNG in the VOC palette of a mask (H, W) uint8, 0 = background, 255 = void."""
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"expected a mask (H, W) uint8, got {mask.shape} {mask.dtype}")
    image = Image.fromarray(np.ascontiguousarray(mask))
    image.putpalette(_PALETTE)
    return _png(image)


def encode_grey(grey: np.ndarray) -> bytes:
    """Grey PNG of an array (H, W) uint8."""
    if grey.dtype != np.uint8 or grey.ndim != 2:
        raise ValueError(f"expected an array (H, W) uint8, got {grey.shape} {grey.dtype}")
    return _png(Image.fromarray(np.ascontiguousarray(grey)))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def open_image(data: bytes) -> ImageFile:
    """A PNG or JPEG of at most :data:`MOST_PIXELS` pixels, of which the header is read and no pixel decoded.

    Raises
    ------
    ValueError : what was found instead. Damage that only shows later raises one of :data:`IMAGE_FAULTS`, see :func:`image_fault`.
    """
    kind = PngImageFile if data.startswith(b"\x89PNG") else JpegImageFile if data.startswith(b"\xff\xd8") else None
    if kind is None:
        raise ValueError("a file of another kind or a damaged one")
    image = kind(io.BytesIO(data))  # not Image.open, which has a limit of its own and tries other formats, some of which run programs
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"{image.width}×{image.height} pixels, more than the {MOST_PIXELS} that are decoded; make it smaller")
    return image


def verify_png(data: bytes) -> None:
    """Compare the checksums of a PNG, which decoding does not; a JPEG has none.

    Raises
    ------
    One of :data:`IMAGE_FAULTS`.
    """
    image = open_image(data)
    if isinstance(image, PngImageFile):
        image.verify()
        if PNG_END not in data:
            raise OSError("truncated PNG file")


def image_fault(error: Exception) -> str:
    """What was found in place of an image, from one of :data:`IMAGE_FAULTS`."""
    return str(error) if type(error) is ValueError else f"a damaged one ({str(error) or type(error).__name__})"


def decode_indices(data: bytes, name: str = "mask") -> np.ndarray:
    """The raw values (H, W) uint8 of a palette or grey PNG written by :func:`encode_mask` or :func:`encode_grey`.

    Parameters
    ----------
    name : what to call it in an error.
    """
    try:
        with open_image(data) as image:
            if image.mode in ("P", "L"):
                return np.asarray(image, np.uint8)
            raise ValueError(f"mode {image.mode}")
    except IMAGE_FAULTS as error:
        raise AepslError(f"{name}: expected a palette or grey PNG of 8 bits, found {image_fault(error)}; run `dvc repro`") from error


def decode_image(data: bytes, name: str = "photograph") -> np.ndarray:
    """A photograph as (H, W, 3) uint8 RGB; grey, palette, CMYK and RGBA files are converted. ``name`` is what to call it in an error."""
    return decode_reduced(data, 1, name)[0]


def decode_reduced(data: bytes, factor: float, name: str = "photograph") -> tuple[np.ndarray, tuple[int, int]]:
    """A photograph that is to be resized by ``factor``, and its full width and height.

    A JPEG is decoded at a half, a quarter or an eighth of its size, sides rounded up, where that is no smaller than what it is to be resized
    to: most of the cost of decoding goes with the pixels. What :func:`resized` then makes of it differs from what it makes of the whole
    image by no more than one way of resampling does from another. A PNG comes as it is.

    Returns
    -------
    (⌈H/s⌉, ⌈W/s⌉, 3) uint8 RGB with s = 1, 2, 4 or 8, see :func:`reduction`; (W, H) pixels.
    """
    try:
        with open_image(data) as image:
            size = image.size
            if factor < 1:
                image.draft(None, resized_size(size, factor))
            return np.array(image.convert("RGB"), np.uint8), size  # a copy: torch warns of arrays it may not write
    except IMAGE_FAULTS as error:
        raise AepslError(f"{name}: expected a complete JPEG or PNG, found {image_fault(error)}; run `dvc repro`") from error


def resized_size(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Width and height times ``factor``, rounded, at least one pixel."""
    width, height = size
    return max(1, round(width * factor)), max(1, round(height * factor))


def reduction(image: np.ndarray, size: tuple[int, int]) -> int:
    """How many pixels of the full (width, height) a pixel of a reduced image (h, w, …) stands for, on a side: 1, 2, 4 or 8."""
    return next(step for step in (1, 2, 4, 8) if (-(-size[1] // step), -(-size[0] // step)) == image.shape[:2])


def resized(image: np.ndarray, full: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """An image (h, w, 3) uint8 resized bilinearly to width and height ``size``; it is the whole or a reduced one of the size ``full``."""
    step = reduction(image, full)
    # Its last row and column may stand for less than ``step`` pixels of the photograph.
    box = None if step == 1 else (0, 0, full[0] / step, full[1] / step)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, box))


def parse_json(data: bytes) -> Any:
    """What JSON in UTF-8 says. Stricter than Python: no key twice in an object, no NaN or infinity.

    Raises
    ------
    ValueError : expected and found.
    """
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]:
            raise ValueError(f"expected every key once, found {shown(twice[0])} again")
        return dict(pairs)

    def number(text: str) -> float:
        if np.isinf(value := float(text)):
            raise ValueError(f"expected a number, found {printable(text, 80)}, which is out of range")
        return value

    def refuse(text: str) -> NoReturn:
        raise ValueError(f"expected a number, found {text}")

    try:
        content = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_float=number, parse_constant=refuse)
        json.dumps(content, ensure_ascii=False).encode()
        return content
    except UnicodeEncodeError:
        raise ValueError("expected letters, found half of one, such as \\ud800") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"expected JSON, found {error}") from None
    except RecursionError:
        raise ValueError("expected JSON, found brackets nested a thousandfold") from None
