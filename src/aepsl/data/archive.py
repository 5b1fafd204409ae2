"""One artefact, one file: a stored zip whose bytes depend on its content alone.

Entries carry a fixed date and are not compressed (PNG and JPEG already are), so equal content has an equal
hash wherever and whenever it was written. The file appears under its name by one rename, complete or not at all.
"""

import io
import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from aepsl.errors import AepslError

EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date a zip can hold
VOID = 255  # ignored pixel of a mask
# What zipfile raises on damaged archives; RuntimeError where a flipped bit says "encrypted" or "compressed in another way".
ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, UnicodeDecodeError)


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


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a small file by a temporary name, fsync and rename: readers see the old file or the new one."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
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
        self._zip = zipfile.ZipFile(self._temporary, "w", zipfile.ZIP_STORED)
        self._names: set[str] = set()

    def add(self, name: str, data: bytes) -> None:
        """Append one entry; a name already written is an error."""
        if name in self._names:
            raise ValueError(f"{self.path}: entry {name!r} was added twice")
        self._names.add(name)
        info = zipfile.ZipInfo(name, EPOCH)
        info.create_system = 3  # the same header on every platform
        self._zip.writestr(info, data)

    def update(self, entries: Mapping[str, bytes]) -> None:
        """Append several entries."""
        for name, data in entries.items():
            self.add(name, data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
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
                self._zip = zipfile.ZipFile(self.path)
            except FileNotFoundError:
                raise AepslError(f"{self.path}: no such file; `dvc repro` or `dvc pull` makes it") from None
            except ZIP_FAULTS as error:
                raise AepslError(f"{self.path}: expected a complete zip archive, found a damaged one ({error}); "
                                 "delete it and run `dvc checkout` or `dvc repro`") from error
            self._owner = os.getpid()
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
            return archive.read(name)
        except KeyError:
            raise AepslError(f"{self.path}: expected an entry {name!r}, found none; the artefact belongs to other data, "
                             "run `dvc repro`") from None
        except ZIP_FAULTS as error:
            raise AepslError(f"{self.path}: entry {name!r} is damaged ({error}); "
                             "delete the file and run `dvc checkout` or `dvc repro`") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_zip": None, "_owner": -1}


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


def decode_indices(data: bytes) -> np.ndarray:
    """The raw values (H, W) uint8 of a palette or grey PNG written by :func:`encode_mask` or :func:`encode_grey`."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode not in ("P", "L"):
            raise AepslError(f"expected a palette or grey PNG of 8 bits, found mode {image.mode}")
        return np.asarray(image, np.uint8)


def decode_image(data: bytes) -> np.ndarray:
    """A photograph as (H, W, 3) uint8 RGB; grey, palette, CMYK and RGBA files are converted."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"), np.uint8)  # a copy: torch warns of arrays it may not write
