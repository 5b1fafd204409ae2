"""refine: from class probabilities to masks, by the fully connected CRF."""

from collections.abc import Iterator
from functools import partial
from typing import Any

from aepsl.data.archive import ArchiveReader, encode_mask
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.networks.devices import pick_device
from aepsl.parallel import in_processes
from aepsl.params import Backend, Compute, CrfSettings
from aepsl.resume.parts import Entries, write_resumed
from aepsl.resume.state import State
from aepsl.segmentation.crf import Item, crf_settings, final_mask, refined_on
from aepsl.segmentation.scores import read_scores, read_stride
from stages import run

PARAMS = ("refine",)


def main(p: Any, compute: Compute, state: State, *, images: str, index: str, scores: str, out: str) -> int:
    rows, probabilities = read_index(index).split("val", "test"), ArchiveReader(scores)
    photographs, stride = Photographs(ArchiveReader(images), rows), read_stride(probabilities)
    settings, device = crf_settings(p.refine.crf, p.refine.custom), pick_device(compute.device)
    item = partial(read_item, photographs, probabilities)
    work = partial(encoded_mask, item, settings, stride, p.refine.backend)

    def entries(start: int) -> Iterator[Entries]:
        numbers = range(start, len(rows))
        if settings is None or p.refine.backend != "torch" or device.type != "cuda":
            yield from in_processes(work, numbers, processes=compute.processes)
            return
        for (identifier, _, _), mask in refined_on(device, map(item, numbers), settings, stride=stride, batch=compute.inference_batch or 16):
            yield {f"{identifier}.png": encode_mask(mask)}

    write_resumed(out, entries, total=len(rows), state=state, label="refine")
    return len(rows)


def read_item(photographs: Photographs, probabilities: ArchiveReader, row: int) -> Item:
    identifier = photographs.index.ids[row]
    return identifier, photographs[row], read_scores(probabilities, identifier)


def encoded_mask(item: "partial[Item]", settings: CrfSettings | None, stride: int, backend: Backend, row: int) -> Entries:
    identifier, image, probabilities = item(row)
    return {f"{identifier}.png": encode_mask(final_mask(image, probabilities, settings, stride=stride, backend=backend))}


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("images", "index", "scores"), outputs=("out",))
