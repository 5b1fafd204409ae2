"""merge: pseudo-labels from everything mined up to the last round and the low-saliency background (section 3.2)."""

from functools import partial
from typing import Any

from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices, encode_mask
from aepsl.data.index import Index, read_index
from aepsl.data.samples import read_mined
from aepsl.mining.pseudo_labels import merge
from aepsl.parallel import in_processes
from aepsl.params import Compute
from aepsl.progress import progress
from stages import run

PARAMS = ("merge",)


def main(p: Any, compute: Compute, *, index: str, mined: str, saliency: str, out: str) -> int:
    rows = read_index(index).split("train")
    indoor_classes = [name in p.merge.indoor_classes for name in rows.classes]
    below = [p.merge.background_below if (labels & indoor_classes).any() else p.merge.background_below_outdoors for labels in rows.labels]
    work = partial(pseudo_label, rows, ArchiveReader(mined), ArchiveReader(saliency), below)
    with ArchiveWriter(out) as archive:
        for identifier, data in zip(rows.ids, progress(in_processes(work, range(len(rows)), processes=compute.processes), total=len(rows),
                                                       label="merge"), strict=True):
            archive.add(f"{identifier}.png", data)
    return len(rows)


def pseudo_label(rows: Index, mined: ArchiveReader, saliency: ArchiveReader, below: list[float], row: int) -> bytes:
    regions = {label: region > 0 for label, region in read_mined(mined, rows, row).items()}
    salient = decode_indices(saliency.read(f"{rows.ids[row]}.png")) / 255
    return encode_mask(merge(regions, salient, background_below=below[row]))


if __name__ == "__main__":
    run(main, params=PARAMS, options=("index", "mined", "saliency", "out"))
