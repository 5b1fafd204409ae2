"""relabel@sN: the pseudo-labels pass N learns from, predicted by the pass before it (PSL++, section 4.3)."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from aepsl.data.archive import VOID, ArchiveReader, encode_mask
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.networks.devices import pick_device
from aepsl.networks.files import load_segmenter
from aepsl.parallel import in_processes
from aepsl.params import Compute, CrfSettings
from aepsl.resume.parts import Entries, write_resumed
from aepsl.resume.state import State
from aepsl.segmentation.crf import crf_settings, final_mask, upsample
from aepsl.segmentation.prediction import class_probabilities, prohibit
from stages import run

PARAMS = ("relabel", "refine")
Item = tuple[str, np.ndarray, np.ndarray]  # id, photograph, probabilities


def main(p: Any, compute: Compute, state: State, *, step: str, images: str, index: str, segmenter: str, out: str) -> int:
    device = pick_device(compute.device)
    rows = read_index(index).split("train")
    photographs = Photographs(ArchiveReader(images), rows)
    model, _ = load_segmenter(segmenter, device)

    def own_classes_only(some: range) -> Iterator[Item]:
        for row in some:
            image = photographs[row]
            probabilities, _ = class_probabilities(model, image, scales=p.relabel.scales, flip=p.relabel.flip, device=device)
            yield rows.ids[row], image, prohibit(probabilities, rows.labels[row]).astype(np.float16)

    settings = crf_settings(p.refine.crf, p.refine.custom) if p.relabel.crf else None
    work = partial(encoded_mask, settings, model.trunk.output_stride, p.relabel.least_confidence)
    write_resumed(out, lambda some: in_processes(work, own_classes_only(some), processes=compute.processes), total=len(rows), state=state,
                  label=f"relabel@{step}")
    return len(rows)


def encoded_mask(settings: CrfSettings | None, stride: int, least: float, item: Item) -> Entries:
    identifier, image, probabilities = item
    mask = final_mask(image, probabilities, settings, stride=stride)
    if least:
        shares = upsample(probabilities, mask.shape, stride=stride)
        mask[shares.max(0) < least * shares.sum(0)] = VOID
    return {f"{identifier}.png": encode_mask(mask)}


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step",), inputs=("images", "index", "segmenter"), outputs=("out",), ranked=True)
