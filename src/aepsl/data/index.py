"""The index: which images there are, their split, size and image-level labels, the only ones training may read; and their mean pixel."""

import csv
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aepsl.data.archive import parse_json, write_atomically
from aepsl.errors import AepslError, shown

SPLITS = ("train", "val", "test")
FIXED = ("id", "split", "width", "height")


@dataclass(frozen=True)
class Index:
    """One row per image, sorted by id.

    Attributes
    ----------
    classes : names of the C object classes; class c of a mask is ``classes[c - 1]``, 0 is background.
    ids : N distinct strings.
    splits : N strings out of :data:`SPLITS`.
    sizes : (N, 2) int, width and height in pixels of the original image.
    labels : (N, C) bool, image-level labels; all False where unknown (test).
    """

    classes: tuple[str, ...]
    ids: tuple[str, ...]
    splits: tuple[str, ...]
    sizes: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, *names: str) -> "Index":
        """The rows of the named splits."""
        return self.take([row for row, split in enumerate(self.splits) if split in names])

    def hold_out(self, share: float) -> tuple["Index", "Index"]:
        """Two parts, the second with about ``share`` of the images; which image goes where depends on its id alone."""
        held = [int.from_bytes(hashlib.sha256(identifier.encode()).digest()[:8], "big") < share * 2**64 for identifier in self.ids]
        fit, out = ([row for row, is_out in enumerate(held) if is_out == part] for part in (False, True))
        return self.take(fit), self.take(out)

    def take(self, rows: Sequence[int]) -> "Index":
        """The given rows, in that order."""
        return Index(self.classes, tuple(self.ids[row] for row in rows), tuple(self.splits[row] for row in rows),
                     self.sizes[list(rows)].reshape(-1, 2), self.labels[list(rows)].reshape(-1, len(self.classes)))


def write_index(index: Index, path: str | os.PathLike[str]) -> None:
    """Write the index as CSV: id, split, width, height, then one 0/1 column per class, in class order."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow([*FIXED, *index.classes])
    for row, identifier in enumerate(index.ids):
        writer.writerow([identifier, index.splits[row], *index.sizes[row].tolist(), *index.labels[row].astype(int).tolist()])
    write_atomically(path, buffer.getvalue().encode())


def read_index(path: str | os.PathLike[str]) -> Index:
    """Read an index written by :func:`write_index`."""
    again = "run `dvc repro -f prepare`"
    try:
        rows = list(csv.reader(io.StringIO(Path(path).read_bytes().decode("utf-8"), newline=""), strict=True))
    except FileNotFoundError:
        raise AepslError(f"{path}: no such file; `dvc repro prepare` makes it") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AepslError(f"{path}: expected a table as CSV in UTF-8, found {error}; {again}") from None
    if not rows or tuple(rows[0][:4]) != FIXED:
        raise AepslError(f"{path}: expected a header starting with {','.join(FIXED)}, found {shown(rows[:1])}; {again}")
    header, body = rows[0], rows[1:]
    short = [number for number, row in enumerate(body, 2) if len(row) != len(header)]
    if short:
        raise AepslError(f"{path}: expected {len(header)} columns, line {short[0]} has another number; {again}")
    for values, what in ((header[4:], "class"), ([row[0] for row in body], "id")):
        if twice := [value for value, count in Counter(values).items() if count > 1 or not value]:
            raise AepslError(f"{path}: expected every {what} once and none empty, found {shown(twice[0])} {values.count(twice[0])} times; {again}")
    for row in body:
        if row[1] not in SPLITS:
            raise AepslError(f"{path}: expected a split out of {', '.join(SPLITS)}, found {shown(row[1])} for {shown(row[0])}; {again}")
        if wrong := [cell for cell in row[2:] if not re.fullmatch("[0-9]{1,9}", cell)]:
            raise AepslError(f"{path}: expected whole numbers behind id and split, found {shown(wrong[0])} for {shown(row[0])}; {again}")
        if "0" in (row[2].lstrip("0") or "0", row[3].lstrip("0") or "0") or not {"0", "1"}.issuperset(row[4:]):
            raise AepslError(f"{path}: expected width and height of a pixel or more and labels of 0 or 1, found {shown(','.join(row[2:]))} "
                             f"for {shown(row[0])}; {again}")
    sizes = np.array([row[2:4] for row in body], int).reshape(-1, 2)
    labels = np.array([row[4:] for row in body], int).reshape(-1, len(header) - 4).astype(bool)
    return Index(tuple(header[4:]), tuple(row[0] for row in body), tuple(row[1] for row in body), sizes, labels)


def write_mean_pixel(mean: Sequence[float], path: str | os.PathLike[str]) -> None:
    """Write the mean pixel of the training images, RGB 0..255, as JSON."""
    write_atomically(path, (json.dumps({"mean_pixel": list(mean)}) + "\n").encode())


def read_mean_pixel(path: str | os.PathLike[str]) -> tuple[float, float, float]:
    """Read what :func:`write_mean_pixel` wrote."""
    try:
        content = parse_json(Path(path).read_bytes())
    except FileNotFoundError:
        raise AepslError(f"{path}: no such file; `dvc repro prepare` makes it") from None
    except (OSError, ValueError) as error:
        raise AepslError(f"{path}: expected the mean pixel as JSON, found a damaged file ({error}); run `dvc repro -f prepare`") from None
    mean = content["mean_pixel"] if isinstance(content, dict) and set(content) == {"mean_pixel"} else None
    if not (isinstance(mean, list) and len(mean) == 3 and all(type(value) in (int, float) and 0 <= value <= 255 for value in mean)):
        raise AepslError(f"{path}: expected mean_pixel with three numbers from 0 to 255, found {shown(content)}; run `dvc repro -f prepare`")
    return float(mean[0]), float(mean[1]), float(mean[2])
