"""refine: from class probabilities to masks, by the fully connected CRF."""

from functools import partial
from typing import Any

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_mask
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.parallel import in_processes
from aepsl.params import Compute, CrfSettings
from aepsl.progress import progress
from aepsl.segmentation.crf import crf_settings, final_mask
from aepsl.segmentation.scores import read_scores, read_stride
from stages import run

PARAMS = ("refine",)


def main(p: Any, compute: Compute, *, images: str, index: str, scores: str, out: str) -> int:
    rows = read_index(index).split("val", "test")
    probabilities = ArchiveReader(scores)
    work = partial(encoded_mask, Photographs(ArchiveReader(images), rows), probabilities, read_stride(probabilities),
                   crf_settings(p.refine.crf, p.refine.custom))
    with ArchiveWriter(out) as archive:
        masks = in_processes(work, range(len(rows)), processes=compute.processes)
        for identifier, data in zip(rows.ids, progress(masks, total=len(rows), label="refine"), strict=True):
            archive.add(f"{identifier}.png", data)
    return len(rows)


def encoded_mask(photographs: Photographs, probabilities: ArchiveReader, stride: int, settings: CrfSettings | None, row: int) -> bytes:
    return encode_mask(final_mask(photographs[row], read_scores(probabilities, photographs.index.ids[row]), settings, stride=stride))


if __name__ == "__main__":
    run(main, params=PARAMS, options=("images", "index", "scores", "out"))
