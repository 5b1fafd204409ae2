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
from aepsl.params import Backend, Compute, CrfSettings
from aepsl.resume.parts import Entries, write_resumed
from aepsl.resume.state import State
from aepsl.segmentation.crf import final_mask, refined_on
from aepsl.segmentation.masks import upsample
from aepsl.segmentation.prediction import batch_probabilities, prohibit
from aepsl.segmentation.presets import crf_settings
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
    stride, least = model.trunk.output_stride, p.relabel.least_confidence
    work = partial(encoded_mask, photographs, settings, p.refine.backend, stride, least)

    def labelled(some: range) -> Iterator[Entries]:
        predicted = over(photographs, some, network, own_classes_only, engine=engine)
        if settings is None or p.refine.backend != "torch" or engine.device.type != "cuda":
            yield from in_processes(work, predicted, processes=compute.processes)
            return
        known: dict[int, np.ndarray] = {}
        items = ((row, photographs[row], known.setdefault(row, probabilities)) for row, probabilities in predicted)
        for row, mask in refined_on(engine.device, items, settings, stride=stride, batch=compute.inference_batch):
            yield encoded(rows.ids[row], mask, known.pop(row), stride, least)

    write_resumed(out, labelled, total=len(rows), state=state, label=f"relabel@{step}")
    return len(rows)


def encoded_mask(photographs: Photographs, settings: CrfSettings | None, backend: Backend, stride: int, least: float, item: Item) -> Entries:
    row, probabilities = item
    mask = final_mask(photographs[row], probabilities, settings, stride=stride, backend=backend)
    return encoded(photographs.index.ids[row], mask, probabilities, stride, least)


def encoded(identifier: str, mask: np.ndarray, probabilities: np.ndarray, stride: int, least: float) -> Entries:
    if least:
        shares = upsample(probabilities, mask.shape, stride=stride)
        mask[shares.max(0) < least * shares.sum(0)] = VOID
    return {f"{identifier}.png": encode_mask(mask)}


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step",), inputs=("images", "index", "segmenter"), outputs=("out",), ranked=True)
