"""relabel@sN: the pseudo-labels pass N learns from, predicted by the pass before it (PSL++, section 4.3)."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from aepsl.data.archive import VOID, ArchiveReader, encode_mask
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.networks.files import load_segmenter
from aepsl.networks.inference import engine_for, over, ready
from aepsl.parallel import in_processes
from aepsl.params import Compute, CrfSettings
from aepsl.resume.parts import Entries, write_resumed
from aepsl.resume.state import State
from aepsl.segmentation.crf import crf_settings, final_mask, upsample
from aepsl.segmentation.prediction import batch_probabilities, prohibit
from stages import run

PARAMS = ("relabel", "refine")
Item = tuple[int, np.ndarray]  # row, probabilities


def main(p: Any, compute: Compute, state: State, *, step: str, images: str, index: str, segmenter: str, out: str) -> int:
    rows = read_index(index).split("train")
    photographs = Photographs(ArchiveReader(images), rows)
    engine = engine_for(compute)
    model = ready(load_segmenter(segmenter, engine.device)[0], engine)

    def network(batch: Tensor, numbers: list[int]) -> Sequence[Tensor]:
        return [batch_probabilities(model, batch, scales=p.relabel.scales, flip=p.relabel.flip)[0]]

    def own_classes_only(row: int, probabilities: np.ndarray) -> Item:
        return row, prohibit(probabilities, rows.labels[row]).astype(np.float16)

    settings = crf_settings(p.refine.crf, p.refine.custom) if p.relabel.crf else None
    work = partial(encoded_mask, photographs, settings, model.trunk.output_stride, p.relabel.least_confidence)

    def labelled(some: range) -> Iterator[Entries]:
        return in_processes(work, over(photographs, some, network, own_classes_only, engine=engine), processes=compute.processes)

    write_resumed(out, labelled, total=len(rows), state=state, label=f"relabel@{step}")
    return len(rows)


def encoded_mask(photographs: Photographs, settings: CrfSettings | None, stride: int, least: float, item: Item) -> Entries:
    row, probabilities = item
    mask = final_mask(photographs[row], probabilities, settings, stride=stride)
    if least:
        shares = upsample(probabilities, mask.shape, stride=stride)
        mask[shares.max(0) < least * shares.sum(0)] = VOID
    return {f"{photographs.index.ids[row]}.png": encode_mask(mask)}


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step",), inputs=("images", "index", "segmenter"), outputs=("out",), ranked=True)
