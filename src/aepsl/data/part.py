"""The part of a file that has arrived: locked while it grows, and kept with a note of what it is a part of."""

import fcntl
import json
import os
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Self

from aepsl.data.archive import publish, write_atomically


@dataclass
class Note:
    """What a part is a part of.

    Attributes
    ----------
    validator : the server's strong ETag, else its Last-Modified: changes with the file.
    length : of the whole file, in bytes, as the server said.
    checksum : that the whole file is expected to have.
    """

    address: str
    validator: str | None
    length: int | None
    checksum: str


class Part:
    """The beginning of a file, ``.<name>.part`` beside it, with a note of what it is; both outlive a killed process.

    The part is its own lock: who has it open and locked writes, a second process waits until the first has finished.
    A part without a known checksum is only continued by the process that began it: a power failure may leave zeros in it.
    """

    def __init__(self, target: Path, *, checksum: str) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.part")
        self._memo = target.with_name(f".{target.name}.part.json")
        self._checksum = checksum
        self._note: Note | None = None

    def __enter__(self) -> Self:
        self._file = _locked(self.path)
        with suppress(OSError, ValueError, TypeError, RecursionError):
            self._note = Note(**json.loads(self._memo.read_bytes()))
        if not self._checksum or self._note is None or self._note.checksum != self._checksum:
            self.clear()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            published = _replaced(self._file, self.path)
            if published or not (self._checksum and self._note and self.size):
                self._memo.unlink(missing_ok=True)
                if not published:
                    self.path.unlink()
        self._file.close()

    def discard(self) -> None:
        """Remove what an earlier run left, unless another process is writing it."""
        with suppress(OSError), self.path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._memo.unlink(missing_ok=True)
            self.path.unlink()

    @property
    def size(self) -> int:
        """Bytes that are there."""
        return os.fstat(self._file.fileno()).st_size

    def clear(self) -> None:
        """Forget what is there."""
        self._file.truncate(0)
        self._note = None

    def known(self, address: str) -> Note | None:
        """The note, if what is there can be continued at an address: at its own, or at any where a checksum tells in the end."""
        return self._note if self._note and self.size and (self._checksum or self._note.address == address) else None

    def begin(self, address: str, validator: str | None, length: int | None) -> None:
        """What is written from now on comes from here."""
        self._note = Note(address, validator, length, self._checksum)
        write_atomically(self._memo, json.dumps(asdict(self._note)).encode())
        self._file.seek(0, os.SEEK_END)

    def write(self, block: bytes) -> None:
        rest = memoryview(block)
        while rest:  # unbuffered, so that a killed process loses nothing
            rest = rest[self._file.write(rest):]

    def publish(self) -> Path:
        """Give the file its name."""
        publish(self.path, self.target)
        return self.target


def _locked(path: Path) -> IO[bytes]:
    """Open a file and wait until no other process has it locked."""
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{path.name}: another run is writing it, waiting", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            pass  # a file system without locks
        if not _replaced(file, path):
            return file
        file.close()  # the other process has published or removed it meanwhile


def _replaced(file: IO[bytes], path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return True
