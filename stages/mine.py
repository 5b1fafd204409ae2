"""mine@rK: add the regions that round K's classifier looks at to everything mined before (Algorithm 1)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices, encode_grey
from aepsl.data.index import read_index, read_mean_pixel
from aepsl.data.samples import ErasedPhotographs, read_mined
from aepsl.mining.heatmaps import added, batch_confidences, batch_heatmaps, most_confident, normalised
from aepsl.mining.record import read_rounds, write_rounds
from aepsl.networks.files import load_classifier
from aepsl.networks.inference import Network, engine_for, over, ready
from aepsl.params import Compute
from aepsl.resume.parts import Entries, resumed
from aepsl.resume.state import State
from stages import run

PARAMS = ("classify.output", "mine")


def main(p: Any, compute: Compute, state: State, *, step: str, images: str, index: str, mean_pixel: str, classifier: str, erased: str,
         out: str) -> int:
    rows = read_index(index).split("train")
    before = ArchiveReader(erased)
    photographs = ErasedPhotographs(ArchiveReader(images), rows, before, read_mean_pixel(mean_pixel))
    engine = engine_for(compute)
    loaded, content = load_classifier(classifier, engine.device)
    model = ready(loaded, engine)
    rounds = read_rounds(before)
    number = len(rounds) + 1
    further, first = p.mine.further_rounds, number == 1
    threshold = p.mine.threshold if first or further.threshold is None else further.threshold
    asked = rows.labels

    def confident(batch: Tensor, numbers: list[int]) -> Sequence[Tensor]:
        return [batch_confidences(model, batch, scale=content["facts"]["scale"], output=p.classify.output)]

    def kept(row: int, confidences: np.ndarray) -> Entries:
        return {"": confidences.tobytes()}

    def regions(batch: Tensor, numbers: list[int]) -> Sequence[Tensor]:
        classes = [(np.flatnonzero(asked[row]) + 1).tolist() for row in numbers]
        return [normalised(batch_heatmaps(model, batch, classes, scales=p.mine.scales, flip=p.mine.flip), p.mine.rule) > threshold]

    def mined_now(row: int, above: np.ndarray | None = None) -> Entries:
        mined = read_mined(before, rows, row)
        if above is not None:
            mined |= added(above, {label: region for label, region in mined.items() if asked[row, label - 1]}, number)
        return {f"{rows.ids[row]}/{label}.png": encode_grey(region) for label, region in mined.items()}

    def all_rows(network: Network, finish: Callable[..., Entries], name: str, wanted: Sequence[bool] | None = None) -> Iterator[Entries]:
        return resumed(lambda some: over(photographs, some, network, finish, engine=engine, wanted=wanted),
                       total=len(rows), state=state, name=name, label=f"mine@{step}: {name}")

    if not first and further.confident_share < 1:
        sure = np.stack([np.frombuffer(entries[""], np.float32) for entries in all_rows(confident, kept, "confidences")])
        asked = most_confident(sure, rows.labels, share=further.confident_share)
    found = all_rows(regions, mined_now, "regions", [bool(own.any()) for own in asked])
    if not state.ranks.main:
        return 0
    area = 0.0
    with ArchiveWriter(out) as archive:
        for entries in found:
            archive.update(entries)
            if entries:
                area += float(np.mean(np.logical_or.reduce([decode_indices(region) > 0 for region in entries.values()])))
        write_rounds(archive, [*rounds, {**content["facts"], "mined_area": area / max(1, len(rows))}])
    return len(rows)


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step",), inputs=("images", "index", "mean-pixel", "classifier", "erased"), outputs=("out",), ranked=True)
