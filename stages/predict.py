"""predict: class probabilities of the val and test images, classes the network does not believe in prohibited (section 3.3)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.networks.files import load_segmenter
from aepsl.networks.inference import engine_for, over, ready
from aepsl.params import Compute
from aepsl.resume.parts import Entries, write_resumed
from aepsl.resume.state import State
from aepsl.segmentation.prediction import batch_probabilities, prohibit
from aepsl.segmentation.scores import encoded_grid, encoded_scores
from stages import run

PARAMS = ("predict",)


def main(p: Any, compute: Compute, state: State, *, images: str, index: str, segmenter: str, out: str) -> int:
    rows = read_index(index).split("val", "test")
    photographs = Photographs(ArchiveReader(images), rows)
    engine = engine_for(compute)
    loaded, content = load_segmenter(segmenter, engine.device)
    model = ready(loaded, engine)

    def network(batch: Tensor, numbers: list[int]) -> Sequence[Tensor]:
        probabilities, confidences = batch_probabilities(model, batch, scales=p.predict.scales, flip=p.predict.flip,
                                                         output=content["facts"]["output"])
        return [probabilities] if confidences is None else [probabilities, confidences]

    def predicted(row: int, probabilities: np.ndarray, confidences: np.ndarray | None = None) -> Entries:
        if content["facts"]["psl"] == "true-labels" and rows.labels[row].any():
            probabilities = prohibit(probabilities, rows.labels[row])  # the variant that is told the truth, at test time too
        elif confidences is not None:
            probabilities = prohibit(probabilities, confidences >= p.predict.prohibit_below)
        return encoded_scores(rows.ids[row], probabilities)

    write_resumed(out, lambda some: over(photographs, some, network, predicted, engine=engine), total=len(rows), state=state,
                  label="predict", head=encoded_grid(model.trunk.output_stride))
    return len(rows)


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("images", "index", "segmenter"), outputs=("out",), ranked=True)
