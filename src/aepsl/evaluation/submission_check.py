"""What is wrong with an archive for a test server, all of it at once. It reads front to back and unpacks nothing to disk.

Archives come from anywhere: what one can make this module read is bounded by the sizes of the images it should hold masks of.
"""

import gzip
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aepsl.errors import printable
from aepsl.evaluation.mask_png import Size, mask_png_faults

MEBI = 1 << 20
MOST_STRAYS = 1000  # members beyond those expected that are still looked at
ADVICE = "pack it with: tar -czf submission.tar.gz results"
MAGIC = {b"PK": "a zip archive", b"BZh": "a bzip2 file", b"\xfd7zXZ": "an xz file", b"7z\xbc\xaf": "a 7z archive", b"Rar!": "a rar archive",
         b"\x28\xb5\x2f\xfd": "a zstd file", b"\x89PNG": "a single PNG"}
# What damaged bytes make gzip and tarfile raise; RecursionError on thousands of nested headers.
READ_FAULTS = (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, ArithmeticError, LookupError, RecursionError)


def submission_faults(path: Path, sizes: Mapping[str, Size | None], *, folder: str, highest: int) -> list[str]:
    """Every fault of an archive, one line each, beginning with the name of the file; empty where the server would take it.

    Parameters
    ----------
    path : a .tar.gz that should hold ``<folder>/<id>.png`` for every id, and nothing else.
    sizes : the ids, with width and height of their images in pixels, None = unknown.
    highest : the largest class number.
    """
    if fault := _kind_fault(path):
        return [fault]
    check = _Check(sizes, folder, highest)
    limits = [_most_bytes(size) for size in sizes.values()]
    broken, opened, behind = "", False, False
    try:
        with gzip.open(path) as content:
            stream: Any = _Forward(content, at_once=max(limits, default=MEBI), altogether=sum(limits) + 64 * MEBI)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                opened = True
                for number, member in enumerate(tar):
                    if number >= len(sizes) + MOST_STRAYS:
                        raise ValueError(f"more than {number} members")
                    check.add(tar, member)
            while block := stream.read(MEBI):  # to the end, where gzip keeps its checksum
                behind |= bool(block.strip(b"\0"))
    except READ_FAULTS as error:
        reason = str(error) or type(error).__name__
        if not opened and isinstance(error, tarfile.ReadError):
            return [f"{path}: expected a tar archive inside the gzip, found something else ({reason}); {ADVICE}"]
        broken = (f"{path}: expected a complete archive, found it damaged or broken off behind {check.members} member(s) ({reason}); "
                  f"{len(sizes) - len(check.places)} of {len(sizes)} expected images were not reached")
    if behind:
        check.faults.insert(0, f"{path}: expected nothing behind the end of the tar, found more: a damaged header, or two archives in one file")
    return [broken, *check.all_faults(complete=False)] if broken else check.all_faults(complete=True)


def _kind_fault(path: Path) -> str | None:
    """What is wrong with the file as a whole, or None for a gzip file."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        return f"{path}: no such file"
    except OSError as error:
        return f"{path}: expected a .tar.gz archive, found {'a folder' if path.is_dir() else error}; {ADVICE}"
    if head.startswith(b"\x1f\x8b"):
        return None
    other = "a tar without compression" if head[257:262] == b"ustar" else "a file of another kind" if head else "an empty file"
    found = next((what for magic, what in MAGIC.items() if head.startswith(magic)), other)
    return f"{path}: expected a .tar.gz archive, found {found}; {ADVICE}"


def _most_bytes(size: Size | None) -> int:
    """More than any PNG of this size needs, even one of 16 bits with four channels."""
    return 8 * MEBI if size is None else 8 * size[0] * size[1] + MEBI


class _Forward:
    """A stream for tarfile that never goes back, and gives no more than it should at once and altogether.

    By itself tarfile reads headers of any size into memory, and follows sizes below zero in a circle.
    """

    def __init__(self, stream: gzip.GzipFile, *, at_once: int, altogether: int) -> None:
        self._stream = stream
        self._at_once = at_once
        self._altogether = altogether
        self._at = 0

    def read(self, size: int) -> bytes:
        if size > self._at_once:
            raise ValueError(f"a header of {size} bytes")
        data = self._stream.read(size)
        self._at += len(data)
        if self._at > self._altogether:
            raise ValueError(f"more than {self._altogether} bytes of content, far more than masks of these images take")
        return data

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> None:
        if position < self._at:
            raise ValueError("a member of a size below zero")
        while self._at < position and self.read(min(MEBI, position - self._at)):
            pass


class _Check:
    """The members seen so far, and their faults."""

    def __init__(self, sizes: Mapping[str, Size | None], folder: str, highest: int) -> None:
        self.members = 0
        self.places: dict[str, str] = {}  # the first name of every id found
        self.faults: list[str] = []
        self._sizes = sizes
        self._folder = folder
        self._highest = highest
        self._elsewhere: dict[str, list[str]] = {}  # wrong folder: the files in it

    def add(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Look at the next member."""
        self.members += 1
        shown = printable(member.name)
        parts = [part for part in member.name.replace("\\", "/").split("/") if part not in ("", ".")]
        if member.name.startswith(("/", "\\")) or ".." in parts or (parts and parts[0].endswith(":")):
            self.faults.append(f"{shown}: expected a name inside the archive, found one that leads out of it")
            return
        if member.isdir():
            return
        identifier = self._identify(parts)
        if identifier is None:
            hint = "; macOS adds it: pack with COPYFILE_DISABLE=1" if parts and parts[-1].startswith(("._", ".DS_Store")) else ""
            self.faults.append(f"{shown}: expected only masks of the listed images, found another file{hint}")
            return
        if identifier in self.places:
            self.faults.append(f"{shown}: expected one mask of this image, found a second one beside {self.places[identifier]}")
        self.places.setdefault(identifier, shown)
        if "\\" in member.name or parts != f"{self._folder}/{identifier}.png".split("/"):
            self._elsewhere.setdefault(member.name[:-len(f"{identifier}.png")], []).append(shown)
        size = self._sizes[identifier]
        if not member.isreg() or member.issparse():
            self.faults.append(f"{shown}: expected a plain file, found {_kind(member)}")
        elif member.size > _most_bytes(size):
            self.faults.append(f"{shown}: expected at most {_most_bytes(size)} bytes, found {member.size}")
        else:
            content = tar.extractfile(member)
            assert content is not None
            self.faults += [f"{shown}: {fault}" for fault in mask_png_faults(content.read(), size, self._highest)]

    def all_faults(self, *, complete: bool) -> list[str]:
        """With what is in the wrong folder, by folder; and, where all members have been seen, with what is missing."""
        moved = [f"{printable(where) or 'top level'}: expected the masks in {self._folder}/, found {len(files)} file(s) here, such as {files[0]}; "
                 f"{ADVICE}" for where, files in self._elsewhere.items()]
        missing = [f"{self._folder}/{identifier}.png: expected the mask of a listed image, found no such file"
                   for identifier in sorted(self._sizes.keys() - self.places.keys())] if complete else []
        return [*moved, *self.faults, *missing]

    def _identify(self, parts: list[str]) -> str | None:
        """The id that a file belongs to, in the right folder or else in any; ids may have folders of their own."""
        depth = self._folder.count("/") + 1
        names = ["/".join(parts[start:]) for start in (depth, *range(len(parts)))]
        return next((name[:-4] for name in names if name.endswith(".png") and name[:-4] in self._sizes), None)


def _kind(member: tarfile.TarInfo) -> str:
    names = {tarfile.SYMTYPE: "a symbolic link", tarfile.LNKTYPE: "a hard link", tarfile.CHRTYPE: "a device", tarfile.BLKTYPE: "a device",
             tarfile.FIFOTYPE: "a pipe"}
    return names.get(member.type, "a sparse file" if member.issparse() else "a special file")
