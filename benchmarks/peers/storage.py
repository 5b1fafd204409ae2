"""Masks as a folder of PNGs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL.PngImagePlugin import PngImageFile


def write(folder: Path, masks: Sequence[tuple[str, bytes]]) -> None:
    """One file per mask."""
    folder.mkdir()
    for name, data in masks:
        (folder / name).write_bytes(data)


def read(folder: Path, names: Sequence[str]) -> int:
    """Bytes of the named masks."""
    return sum(len((folder / name).read_bytes()) for name in names)


def decode(folder: Path, names: Sequence[str]) -> int:
    """Sum of all pixels of the named masks."""
    return sum(int(np.array(PngImageFile(folder / name)).sum()) for name in names)
