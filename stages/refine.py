"""refine: from class probabilities to masks, by the fully connected CRF."""

from functools import partial
from typing import Any

from aepsl.data.archive import ArchiveReader, encode_mask
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.parallel import in_processes
from aepsl.params import Compute, CrfSettings
from aepsl.resume.parts import Entries, write_resumed
from aepsl.resume.state import State
from aepsl.segmentation.crf import crf_settings, final_mask
from aepsl.segmentation.scores import read_scores, read_stride
from stages import run

PARAMS = ("refine",)


def main(p: Any, compute: Compute, state: State, *, images: str, index: str, scores: str, out: str) -> int:
    rows = read_index(index).split("val", "test")
    probabilities = ArchiveReader(scores)
    work = partial(encoded_mask, Photographs(ArchiveReader(images), rows), probabilities, read_stride(probabilities),
                   crf_settings(p.refine.crf, p.refine.custom))
    write_resumed(out, lambda some: in_processes(work, some, processes=compute.processes), total=len(rows), state=state,
                  label="refine")
    return len(rows)


def encoded_mask(photographs: Photographs, probabilities: ArchiveReader, stride: int, settings: CrfSettings | None, row: int) -> Entries:
    identifier = photographs.index.ids[row]
    return {f"{identifier}.png": encode_mask(final_mask(photographs[row], read_scores(probabilities, identifier), settings, stride=stride))}


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("images", "index", "scores"), outputs=("out",))
