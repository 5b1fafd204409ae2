"""merge: pseudo-labels from everything mined up to the last round and the low-saliency background (section 3.2)."""

from functools import partial
from typing import Any

from aepsl.data.archive import ArchiveReader, encode_mask
from aepsl.data.index import Index, read_index
from aepsl.mining.pseudo_labels import background_thresholds, merge_stored
from aepsl.parallel import ALONE, in_processes
from aepsl.params import Compute
from aepsl.resume.parts import Entries, write_resumed
from aepsl.resume.state import State
from stages import run

PARAMS = ("merge",)


def main(p: Any, compute: Compute, state: State, *, index: str, mined: str, saliency: str, out: str) -> int:
    rows = read_index(index).split("train")
    below = background_thresholds(rows, below=p.merge.background_below, indoor_classes=p.merge.indoor_classes,
                                  below_outdoors=p.merge.background_below_outdoors)
    work = partial(encoded_label, index=rows, mined=ArchiveReader(mined), saliency=ArchiveReader(saliency), background_below=below)
    write_resumed(out, lambda some: in_processes(work, some, processes=compute.processes, alone=ALONE), total=len(rows), state=state, label="merge")
    return len(rows)


def encoded_label(row: int, index: Index, **where: Any) -> Entries:
    return {f"{index.ids[row]}.png": encode_mask(merge_stored(row, index=index, **where))}


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("index", "mined", "saliency"), outputs=("out",))
