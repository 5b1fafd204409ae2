"""Which images can be scored, and a statement of what they are scored against."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import Index
from aepsl.evaluation.confusion import VoidAs, chunks, over_chunks

NO_TRUTH = "the data set has no masks for this split: nothing to score"


def with_truth(rows: Index, truth: ArchiveReader) -> Index:
    """The images that have a mask ``<id>.png`` in the truth."""
    return rows.take([row for row, identifier in enumerate(rows.ids) if f"{identifier}.png" in truth])


def measured_on(index: Index, truth: ArchiveReader, split: str, *, void_as: VoidAs, processes: int = 0) -> dict[str, Any]:
    """What scores of a split are measured on, for a metrics file: the images that have truth, what it holds, the policy."""
    rows = index.split(split)
    scored = with_truth(rows, truth)
    return {"split": split, "images": len(scored), "images_without_truth": len(rows) - len(scored),
            "truth_sha256": truth_digest(scored.ids, truth, processes=processes) if len(scored) else None, "void_as": void_as}


def yardstick(measured: Mapping[str, Any]) -> dict[str, str]:
    """:func:`measured_on` in few characters, or a note that there is no truth.

    Scores may be compared where it is equal; where it is not, `dvc metrics diff` lists it among the changes.
    """
    if not measured["images"]:
        return {"note": NO_TRUTH}
    return {"yardstick": "{split} {images} {void_as} {truth_sha256:.8}".format_map(measured)}


def truth_digest(ids: Sequence[str], truth: ArchiveReader, *, processes: int = 0) -> str:
    """sha256, in hexadecimal, of the masks of the given ids in the given order.

    It is that of one line ``<id> <width>x<height> <sha256 of the pixels, uint8, row by row>`` per id. Pixels and not entries are
    hashed: the same mask is the same truth, whatever wrote the PNG.
    """
    total = hashlib.sha256()
    for lines in over_chunks(partial(_lines, truth=truth), chunks(ids), processes=processes, label="read the truth"):
        total.update(lines)
    return total.hexdigest()


def _lines(ids: Sequence[str], *, truth: ArchiveReader) -> bytes:
    lines = []
    for identifier in ids:
        mask = truth.mask(f"{identifier}.png")
        lines.append(f"{identifier} {mask.shape[1]}x{mask.shape[0]} {hashlib.sha256(mask.tobytes()).hexdigest()}\n")
    return "".join(lines).encode()
