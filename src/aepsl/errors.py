"""Errors a user can act on: every message names the file or parameter, what was expected, what was found, what to do."""

import errno
from collections.abc import Sequence
from typing import Any, Self

LONGEST_LINE = 2000  # characters of a line of a message; names and values of files from anywhere may have millions


def printable(text: str, most: int = LONGEST_LINE) -> str:
    """``text`` as one line that may be shown on any terminal: what is not printable escaped, what is too long cut.

    Names and values from files may hold line ends, escape sequences that rewrite the terminal, or letters that turn the reading direction.
    """
    kept = text if len(text) <= most else f"{text[:most]} … ({len(text)} characters)"
    return kept if kept.isprintable() else "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in kept)


def shown(value: Any, most: int = 80) -> str:
    """A value found in a file, for a message: as Python writes it, printable and short."""
    try:
        return printable(repr(value), most)
    except (RecursionError, ValueError):  # nested a thousandfold; a number of thousands of digits
        return f"{type(value).__name__} that is too large to be shown"


class AepslError(Exception):
    """A fault in the input or the set-up, not in the program; shown without a traceback. Its lines are :func:`printable`."""

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(printable, message.split("\n"))))


class FaultList(AepslError):  # noqa: N818 - a list, not one error
    """Several faults found in one pass, so that a user mends them all at once.

    Parameters
    ----------
    heading : what was checked and what to do, one sentence.
    faults : one line each.
    shown : how many are printed; the rest are counted.
    """

    def __init__(self, heading: str, faults: Sequence[str], shown: int = 50) -> None:
        self.faults = list(faults)
        self._arguments = heading, self.faults, shown
        lines = [f"  - {printable(fault)}" for fault in self.faults[:shown]]
        if len(self.faults) > shown:
            lines.append(f"  … and {len(self.faults) - shown} more")
        super().__init__("\n".join([heading, *lines]))

    def __reduce__(self) -> tuple[type[Self], tuple[str, list[str], int]]:
        # An exception is otherwise rebuilt from its message alone, which would fail on its way out of a worker process.
        return type(self), self._arguments


_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or move the project; `aepsl clean` and `dvc gc --workspace` tell what could go",
    errno.EDQUOT: "your quota is used up: free some space",
    errno.EFBIG: "the file is larger than this file system or your limit (ulimit -f) allows",
    errno.EROFS: "the file system is read-only: mount it for writing, or move the project",
    errno.EACCES: "you may not read or write there: see who owns it and its mode (ls -l)",
    errno.EPERM: "you may not change that: see who owns it and its mode (ls -l)",
    errno.EIO: "the disk reports an error: look at the system log before you trust it again",
    errno.EMFILE: "too many files are open: raise the limit (ulimit -n), or lower compute.workers and compute.processes",
    errno.EISDIR: "a folder is where a file belongs: move it away",
    errno.ENOTDIR: "a file is where a folder belongs: move it away",
    errno.EEXIST: "something is in the way: move it away",
    errno.ENOTEMPTY: "something is in the way: move it away",
}
_MEMORY = ("memory ran out: lower compute.processes or compute.workers, raise training.accumulate (the same batch in smaller parts), "
           "or close other programs")


def explained(error: BaseException, *, again: str = " Then run `dvc repro` again; what was finished is kept") -> str | None:
    """What the machine did to us, for a user: a full disk, too little memory, a worker that was killed. None = a fault of the program.

    Parameters
    ----------
    again : a last sentence, for what to do when the cause is gone.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    text = " ".join(str(error).split())[:300]
    if isinstance(error, OSError) and error.errno in _ADVICE:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}: {_ADVICE[error.errno]}.{again}"
    out_of_memory = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if out_of_memory or "OutOfMemoryError" in names or "can't allocate memory" in text:
        return f"{_MEMORY}.{again}"
    if names & {"TerminatedWorkerError", "BrokenProcessPool"} or "DataLoader worker" in text:
        return f"a worker process died, often because memory ran out ({text}): lower compute.processes or compute.workers.{again}"
    return None

