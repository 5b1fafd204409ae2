"""mine@rK: add the regions that round K's classifier looks at to everything mined before (Algorithm 1)."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices, encode_grey
from aepsl.data.index import read_index, read_mean_pixel
from aepsl.data.samples import ErasedPhotographs, read_mined
from aepsl.mining.heatmaps import class_heatmaps, confidences, mine, most_confident
from aepsl.mining.record import read_rounds, write_rounds
from aepsl.networks.devices import pick_device
from aepsl.networks.files import load_classifier
from aepsl.params import Compute
from aepsl.resume.parts import Entries, resumed
from aepsl.resume.state import State
from stages import run

PARAMS = ("classify.output", "mine")


def main(p: Any, compute: Compute, state: State, *, step: str, images: str, index: str, mean_pixel: str, classifier: str, erased: str,
         out: str) -> int:
    device = pick_device(compute.device)
    rows = read_index(index).split("train")
    before = ArchiveReader(erased)
    photographs = ErasedPhotographs(ArchiveReader(images), rows, before, read_mean_pixel(mean_pixel))
    model, content = load_classifier(classifier, device)
    rounds = read_rounds(before)
    number = len(rounds) + 1
    further, first = p.mine.further_rounds, number == 1
    threshold = p.mine.threshold if first or further.threshold is None else further.threshold
    wanted = rows.labels

    def confident(row: int) -> Entries:
        return {"": confidences(model, photographs[row], scale=content["facts"]["scale"], output=p.classify.output, device=device).tobytes()}

    def mined_now(row: int) -> Entries:
        mined = read_mined(before, rows, row)
        asked = [label for label in mined if wanted[row, label - 1]]
        if asked:
            heatmaps = class_heatmaps(model, photographs[row], asked, scales=p.mine.scales, flip=p.mine.flip, device=device)
            mined |= mine(heatmaps, {label: mined[label] for label in asked}, number, rule=p.mine.rule, threshold=threshold)
        return {f"{rows.ids[row]}/{label}.png": encode_grey(region) for label, region in mined.items()}

    def all_rows(compute: Callable[[int], Entries], name: str) -> Iterator[Entries]:
        return resumed(lambda some: map(compute, some), total=len(rows), state=state, name=name, label=f"mine@{step}: {name}")

    if not first and further.confident_share < 1:
        sure = np.stack([np.frombuffer(entries[""], np.float32) for entries in all_rows(confident, "confidences")])
        wanted = most_confident(sure, rows.labels, share=further.confident_share)
    regions = all_rows(mined_now, "regions")
    if not state.ranks.main:
        return 0
    area = 0.0
    with ArchiveWriter(out) as archive:
        for entries in regions:
            archive.update(entries)
            if entries:
                area += float(np.mean(np.logical_or.reduce([decode_indices(region) > 0 for region in entries.values()])))
        write_rounds(archive, [*rounds, {**content["facts"], "mined_area": area / max(1, len(rows))}])
    return len(rows)


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step",), inputs=("images", "index", "mean-pixel", "classifier", "erased"), outputs=("out",), ranked=True)
