"""merge: pseudo-labels from everything mined up to the last round and the low-saliency background (section 3.2)."""

from functools import partial
from typing import Any

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_mask
from aepsl.data.index import read_index
from aepsl.mining.pseudo_labels import background_thresholds, merge_stored
from aepsl.parallel import in_processes
from aepsl.params import Compute
from aepsl.progress import progress
from stages import run

PARAMS = ("merge",)


def main(p: Any, compute: Compute, *, index: str, mined: str, saliency: str, out: str) -> int:
    rows = read_index(index).split("train")
    below = background_thresholds(rows, below=p.merge.background_below, indoor_classes=p.merge.indoor_classes,
                                  below_outdoors=p.merge.background_below_outdoors)
    work = partial(encoded_label, index=rows, mined=ArchiveReader(mined), saliency=ArchiveReader(saliency), background_below=below)
    labels = in_processes(work, range(len(rows)), processes=compute.processes)
    with ArchiveWriter(out) as archive:
        for identifier, data in zip(rows.ids, progress(labels, total=len(rows), label="merge"), strict=True):
            archive.add(f"{identifier}.png", data)
    return len(rows)


def encoded_label(row: int, **where: Any) -> bytes:
    return encode_mask(merge_stored(row, **where))


if __name__ == "__main__":
    run(main, params=PARAMS, options=("index", "mined", "saliency", "out"))
