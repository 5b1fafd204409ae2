"""oracle: what one round alone would mine if its threshold were lowered, the baseline that erasing has to beat.

Picking a threshold from this curve needs the truth, hence the name; no other stage reads it. On the generated shapes the
stage also says how much of the discriminative heads and of the bodies each round mined.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aepsl.data.archive import ArchiveReader, decode_indices
from aepsl.data.index import Index, read_index
from aepsl.data.samples import Photographs
from aepsl.evaluation.mining import at_area, mined_rounds, part_recall, threshold_curve
from aepsl.evaluation.tables import write_csv, write_json
from aepsl.evaluation.truth import NO_TRUTH, with_truth
from aepsl.mining.heatmaps import class_heatmaps, normalise_heatmaps
from aepsl.mining.record import read_rounds
from aepsl.networks.files import load_classifier
from aepsl.params import Compute
from aepsl.training.loop import pick_device
from stages import run

PARAMS = ("mine",)
PART_COLUMNS = ("round", "head", "body")
CURVE_COLUMNS = ("threshold", "area", "precision", "recall", "mean_iou", "classes_counted")


def main(p: Any, compute: Compute, *, raw: str, images: str, index: str, truth: str, classifier: str, mined: str, out: str) -> int:
    masks, regions = ArchiveReader(truth), ArchiveReader(mined)
    train = with_truth(read_index(index).split("train"), masks)
    rounds = len(read_rounds(regions))
    if not len(train) or not rounds:
        write_json(Path(out) / "oracle.json", {"erasing_gain": None, "note": NO_TRUTH})
        write_csv(Path(out) / "threshold_curve.csv", [], CURVE_COLUMNS)
        write_csv(Path(out) / "parts.csv", [], PART_COLUMNS)
        return 0
    device = pick_device(compute.device)
    model, _ = load_classifier(classifier, device)
    photographs = Photographs(ArchiveReader(images), train)

    def heatmaps(identifier: str) -> dict[int, np.ndarray]:
        row = train.ids.index(identifier)
        classes = (np.flatnonzero(train.labels[row]) + 1).tolist()
        raw_maps, _ = class_heatmaps(model, photographs[row], classes, scales=p.mine.scales, flip=p.mine.flip, device=device)
        return dict(zip(classes, normalise_heatmaps(raw_maps, p.mine.rule), strict=True))

    curve = threshold_curve(train.ids, masks, heatmaps, len(train.classes))
    last = mined_rounds(train.ids, masks, regions, train.labels, rounds=rounds, processes=compute.processes)[-1]
    metrics: dict[str, Any] = {"rounds": rounds, "erased_area": last["area"], "erased_precision": last["precision"], "erased_recall": last["recall"]}
    if curve[-1]["area"] <= last["area"] <= curve[0]["area"]:
        single = at_area(curve, last["area"])
        metrics |= {"single_threshold": single["threshold"], "single_precision": single["precision"], "single_recall": single["recall"],
                    "erasing_gain": last["precision"] - single["precision"]}
    write_json(Path(out) / "oracle.json", metrics)
    write_csv(Path(out) / "parts.csv", parts(train, masks, regions, ArchiveReader(raw), rounds, compute), PART_COLUMNS)
    write_csv(Path(out) / "threshold_curve.csv", curve, CURVE_COLUMNS)
    return len(train)


def parts(train: Index, truth: ArchiveReader, mined: ArchiveReader, raw: ArchiveReader, rounds: int, compute: Compute) -> list[dict[str, Any]]:
    """Share of heads and bodies mined up to each round, where the data set tells them apart."""
    if not all(f"Parts/{identifier}.png" in raw for identifier in train.ids):
        return []
    return [dict(row) for row in part_recall(train.ids, truth, mined, train.labels, partial(part_map, raw), rounds=rounds,
                                             processes=compute.processes)]


def part_map(raw: ArchiveReader, identifier: str) -> np.ndarray:
    return decode_indices(raw.read(f"Parts/{identifier}.png"))


if __name__ == "__main__":
    run(main, params=PARAMS, options=("raw", "images", "index", "truth", "classifier", "mined", "out"))
