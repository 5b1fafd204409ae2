"""mine@rK: add the regions that round K's classifier looks at to everything mined before (Algorithm 1), and the heatmaps they were cut from."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices, encode_grey
from aepsl.data.index import read_index, read_mean_pixel
from aepsl.data.samples import ErasedPhotographs, read_mined
from aepsl.mining.heatmaps import added, batch_confidences, batch_heatmaps, most_confident, normalised, on_grid
from aepsl.mining.record import read_rounds, write_rounds
from aepsl.networks.files import load_classifier
from aepsl.networks.inference import Network, engine_for, over, ready
from aepsl.params import Compute
from aepsl.resume.parts import Entries, resumed
from aepsl.resume.state import State
from stages import run

PARAMS = ("classify.output", "mine")
REGION, HEAT = "region/", "heat/"  # what the entries of an image begin with until they are parted


def main(p: Any, compute: Compute, state: State, *, step: str, images: str, index: str, mean_pixel: str, classifier: str, erased: str,
         seen: str, out: str, heatmaps: str) -> int:
    rows = read_index(index).split("train")
    before, heat_before = ArchiveReader(erased), ArchiveReader(seen)
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
        maps = normalised(batch_heatmaps(model, batch, classes, scales=p.mine.scales, flip=p.mine.flip), p.mine.rule)
        return [maps > threshold, on_grid(maps, model.trunk.output_stride)]

    def mined_now(row: int, above: np.ndarray | None = None, heat: np.ndarray | None = None) -> Entries:
        mined = read_mined(before, rows, row)
        own = [label for label in mined if asked[row, label - 1]]
        if above is not None:
            mined |= added(above, {label: mined[label] for label in own}, number)
        maps = {} if heat is None else {f"{HEAT}{rows.ids[row]}/{label}/{number}.png": encode_grey(heat[place]) for place, label in enumerate(own)}
        return {f"{REGION}{rows.ids[row]}/{label}.png": encode_grey(region) for label, region in mined.items()} | maps

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
    with ArchiveWriter(out) as archive, ArchiveWriter(heatmaps) as heat:
        for row, entries in enumerate(found):
            mined, maps = ({name.removeprefix(kind): data for name, data in entries.items() if name.startswith(kind)} for kind in (REGION, HEAT))
            archive.update(mined)
            for label in np.flatnonzero(rows.labels[row]) + 1:
                heat_of = [f"{rows.ids[row]}/{label}/{earlier}.png" for earlier in range(1, number + 1)]
                heat.update({name: heat_before.read(name) for name in heat_of[:-1] if name in heat_before})
                heat.update({name: maps[name] for name in heat_of[-1:] if name in maps})
            if mined:
                area += float(np.mean(np.logical_or.reduce([decode_indices(region) > 0 for region in mined.values()])))
        write_rounds(archive, [*rounds, {**content["facts"], "mined_area": area / max(1, len(rows))}])
    return len(rows)


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step",), inputs=("images", "index", "mean-pixel", "classifier", "erased", "seen"),
        outputs=("out", "heatmaps"), ranked=True)
