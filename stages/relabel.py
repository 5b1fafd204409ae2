"""relabel@sN: the pseudo-labels pass N learns from, predicted by the pass before it (PSL++, section 4.3)."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from aepsl.data.archive import VOID, ArchiveReader, ArchiveWriter, encode_mask
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.networks.files import load_segmenter
from aepsl.parallel import in_processes
from aepsl.params import Compute, CrfSettings
from aepsl.progress import progress
from aepsl.segmentation.crf import crf_settings, final_mask, upsample
from aepsl.segmentation.prediction import class_probabilities, prohibit
from aepsl.training.loop import pick_device
from stages import run

PARAMS = ("relabel", "refine")


def main(p: Any, compute: Compute, *, step: str, images: str, index: str, segmenter: str, out: str) -> int:
    device = pick_device(compute.device)
    rows = read_index(index).split("train")
    photographs = Photographs(ArchiveReader(images), rows)
    model, _ = load_segmenter(segmenter, device)

    def own_classes_only() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for row in range(len(rows)):
            image = photographs[row]
            probabilities, _ = class_probabilities(model, image, scales=p.relabel.scales, flip=p.relabel.flip, device=device)
            yield image, prohibit(probabilities, rows.labels[row]).astype(np.float16)

    settings = crf_settings(p.refine.crf, p.refine.custom) if p.relabel.crf else None
    work = partial(encoded_mask, settings, model.trunk.output_stride, p.relabel.least_confidence)
    masks = in_processes(work, own_classes_only(), processes=compute.processes)
    with ArchiveWriter(out) as archive:
        for identifier, data in zip(rows.ids, progress(masks, total=len(rows), label=f"relabel@{step}"), strict=True):
            archive.add(f"{identifier}.png", data)
    return len(rows)


def encoded_mask(settings: CrfSettings | None, stride: int, least: float, item: tuple[np.ndarray, np.ndarray]) -> bytes:
    image, probabilities = item
    mask = final_mask(image, probabilities, settings, stride=stride)
    if least:
        shares = upsample(probabilities, mask.shape, stride=stride)
        mask[shares.max(0) < least * shares.sum(0)] = VOID
    return encode_mask(mask)


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step", "images", "index", "segmenter", "out"))
