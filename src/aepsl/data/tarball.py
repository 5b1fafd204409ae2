"""Read files out of tar archives; nothing is ever unpacked to disk, whatever an archive says about paths, links or devices.

Only plain files with plain names count, each at most once. Every read is held against a limit before it is made, so that neither
a .tgz that unpacks without end nor a header of gigabytes fills the memory.
"""

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Self

from aepsl.errors import AepslError

LARGEST_FILE = 16 << 20  # bytes of a file that is read
LARGEST_HEADER = 1 << 16  # bytes, with long names and other extensions
LARGEST_ARCHIVE = 32 << 30  # bytes, unpacked
MOST_ENTRIES = 500_000
# What tarfile raises on damaged archives, also where a number or a text is none.
_FAULTS = (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, LookupError, ArithmeticError)


class TarFiles:
    """The plain files below a folder of an archive, by their name from that folder on.

    Parameters
    ----------
    file : .tar, or .tgz, which is to be read from front to back.
    folder : name of the folder, wherever it lies in the archive.
    """

    def __init__(self, file: Path, folder: str) -> None:
        self.file = file
        self._folder = folder
        self._content: Any = gzip.open(file) if file.suffix == ".tgz" else file.open("rb")
        self._guarded = _Guarded(self._content)
        try:
            with self._explained():
                self._tar = tarfile.open(fileobj=self._guarded, mode="r:")  # type: ignore[call-overload] # noqa: SIM115 (no file of its own)
        except AepslError:
            self._content.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._content.close()

    def __iter__(self) -> Iterator[tuple[str, tarfile.TarInfo]]:
        """Name and header of every file, in the order of the archive.

        Raises
        ------
        AepslError : a damaged archive, one beyond the limits, or a name that comes twice.
        """
        names: set[str] = set()
        entries = iter(self._tar)
        for _ in range(MOST_ENTRIES):
            with self._explained():
                self._guarded.allowed = LARGEST_HEADER
                if (entry := next(entries, None)) is None:
                    if self._guarded.last.strip(b"\0") or not self._guarded.last:  # tarfile ends at a damaged header too
                        raise tarfile.ReadError("unexpected end of data")
                    return
                if entry.size < 0:
                    raise tarfile.ReadError(f"{entry.name} of {entry.size} bytes")
                if (name := self._name(entry)) in names:
                    raise tarfile.ReadError(f"{entry.name} twice")
            if name:
                names.add(name)
                yield name, entry
        with self._explained():
            raise tarfile.ReadError(f"more than {MOST_ENTRIES} entries")

    def read(self, entry: tarfile.TarInfo) -> bytes:
        """The content of a file."""
        with self._explained():
            if entry.size > LARGEST_FILE:
                raise tarfile.ReadError(f"{entry.name} of {entry.size} bytes, more than {LARGEST_FILE >> 20} MiB")
            self._guarded.allowed = entry.size
            content = self._tar.extractfile(entry)
            return content.read() if content else b""

    def _name(self, entry: tarfile.TarInfo) -> str | None:
        """The part of a name below the folder; None for what is no plain file with a plain name."""
        parts = PurePosixPath(entry.name).parts
        if not entry.isreg() or entry.issparse() or self._folder not in parts[:-1] or {"/", "//", ".."} & set(parts):
            return None
        return "/".join(parts[parts.index(self._folder) + 1:])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except _FAULTS as error:
            raise AepslError(f"{self.file}: expected a complete {self.file.suffix} archive within the limits, found {error}; delete it "
                             "and run again") from None


class _Guarded:
    """A file that gives no more bytes than are allowed now; what lies between two reads is passed over unread."""

    def __init__(self, content: io.BufferedIOBase) -> None:
        self._content = content
        self.allowed = LARGEST_HEADER
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.allowed:
            raise tarfile.ReadError(f"a header or file that takes {size} bytes, {self.allowed} allowed")
        self.allowed -= size
        self.last = self._content.read(size)
        return self.last

    def seek(self, position: int) -> int:
        if position > LARGEST_ARCHIVE:
            raise tarfile.ReadError(f"more than {LARGEST_ARCHIVE >> 30} GiB when unpacked")
        return self._content.seek(position)

    def tell(self) -> int:
        return self._content.tell()
