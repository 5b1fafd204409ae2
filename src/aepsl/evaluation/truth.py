"""Which images can be scored at all."""

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import Index

NO_TRUTH = "the data set has no masks for this split: nothing to score"


def with_truth(rows: Index, truth: ArchiveReader) -> Index:
    """The images that have a mask ``<id>.png`` in the truth."""
    return rows.take([row for row, identifier in enumerate(rows.ids) if f"{identifier}.png" in truth])
