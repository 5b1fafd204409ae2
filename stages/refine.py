"""refine: from class probabilities to masks, by the fully connected CRF."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from aepsl.data.archive import ArchiveReader, encode_mask
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.networks.devices import pick_device
from aepsl.parallel import in_processes
from aepsl.params import Backend, Compute, CrfSettings
from aepsl.resume.parts import Entries, write_resumed
from aepsl.resume.state import State
from aepsl.segmentation.crf import final_mask, refined_on
from aepsl.segmentation.presets import crf_settings
from aepsl.segmentation.scores import read_scores, read_stride
from stages import run

PARAMS = ("refine",)


def main(p: Any, compute: Compute, state: State, *, images: str, index: str, scores: str, out: str) -> int:
    rows, probabilities = read_index(index).split("val", "test"), ArchiveReader(scores)
    photographs, stride = Photographs(ArchiveReader(images), rows), read_stride(probabilities)
    settings, device = crf_settings(p.refine.crf, p.refine.custom), pick_device(compute.device)
    work = partial(encoded_mask, photographs, probabilities, stride, settings, p.refine.backend)

    def entries(some: range) -> Iterator[Entries]:
        if settings is None or p.refine.backend != "torch" or device.type != "cuda":
            yield from in_processes(work, some, processes=compute.processes)
            return
        items = ((row, photographs[row], read_scores(probabilities, rows.ids[row])) for row in some)
        for row, mask in refined_on(device, items, settings, stride=stride, batch=compute.inference_batch):
            yield encoded(rows.ids[row], mask)

    write_resumed(out, entries, total=len(rows), state=state, label="refine")
    return len(rows)


def encoded_mask(photographs: Photographs, probabilities: ArchiveReader, stride: int, settings: CrfSettings | None, backend: Backend,
                 row: int) -> Entries:
    identifier = photographs.index.ids[row]
    return encoded(identifier, final_mask(photographs[row], read_scores(probabilities, identifier), settings, stride=stride, backend=backend))


def encoded(identifier: str, mask: np.ndarray) -> Entries:
    return {f"{identifier}.png": encode_mask(mask)}


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("images", "index", "scores"), outputs=("out",))
