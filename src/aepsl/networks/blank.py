"""What stands before the first classifier of a chain: a file that says that nothing is learnt yet, written and told without torch."""

import os
from pathlib import Path

from aepsl.data.archive import write_atomically

BLANK = b'{"format": 1, "kind": "Blank"}\n'


def save_blank(path: str | os.PathLike[str]) -> None:
    """Write the file."""
    write_atomically(path, BLANK)


def is_blank(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a file of :func:`save_blank`; a pipe, say, is not opened."""
    if not Path(path).is_file():
        return False
    with Path(path).open("rb") as file:
        return file.read(len(BLANK) + 1) == BLANK
