"""predict: class probabilities of the val and test images, classes the network does not believe in prohibited (section 3.3)."""

from typing import Any

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.networks.files import load_segmenter
from aepsl.params import Compute
from aepsl.progress import progress
from aepsl.segmentation.prediction import class_probabilities, prohibit
from aepsl.segmentation.scores import write_grid, write_scores
from aepsl.training.loop import pick_device
from stages import run

PARAMS = ("predict",)


def main(p: Any, compute: Compute, *, images: str, index: str, segmenter: str, out: str) -> int:
    device = pick_device(compute.device)
    rows = read_index(index).split("val", "test")
    photographs = Photographs(ArchiveReader(images), rows)
    model, content = load_segmenter(segmenter, device)
    with ArchiveWriter(out) as archive:
        write_grid(archive, model.trunk.output_stride)
        for row in progress(range(len(rows)), total=len(rows), label="predict"):
            probabilities, confidences = class_probabilities(model, photographs[row], scales=p.predict.scales, flip=p.predict.flip, device=device,
                                                             output=content["facts"]["output"])
            if content["facts"]["psl"] == "true-labels" and rows.labels[row].any():
                probabilities = prohibit(probabilities, rows.labels[row])  # the variant that is told the truth, at test time too
            elif confidences is not None:
                probabilities = prohibit(probabilities, confidences >= p.predict.prohibit_below)
            write_scores(archive, rows.ids[row], probabilities)
    return len(rows)


if __name__ == "__main__":
    run(main, params=PARAMS, options=("images", "index", "segmenter", "out"))
