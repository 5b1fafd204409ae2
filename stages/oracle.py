"""oracle: what one round alone would mine if its threshold were lowered, the baseline that erasing has to beat.

Picking a threshold from this curve needs the truth, hence the name; no other stage reads it. On the generated shapes the
stage also says how much of the discriminative heads and of the bodies each round mined.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import Index, read_index
from aepsl.data.samples import Photographs
from aepsl.evaluation.mining import at_equal, best_single, erasing_gains, mined_rounds, part_recall, threshold_curve
from aepsl.evaluation.tables import write_csv, write_metrics
from aepsl.evaluation.truth import measured_on, with_truth, yardstick
from aepsl.mining.heatmaps import batch_heatmaps, normalised
from aepsl.mining.record import read_rounds
from aepsl.networks.files import load_classifier
from aepsl.networks.inference import engine_for, over, ready
from aepsl.params import Compute
from aepsl.resume.state import State
from stages import run

PARAMS = ("mine", "evaluate")
PART_COLUMNS = ("round", "head", "body")
CURVE_COLUMNS = ("threshold", "area", "precision", "recall", "mean_iou", "classes_counted")
GAIN_COLUMNS = ("round", "area", "precision", "recall", "miou", "single_precision_at_equal_area", "single_recall_at_equal_area",
                "single_miou_at_equal_area", "single_precision_at_equal_recall", "gain_precision_at_equal_area", "gain_precision_at_equal_recall")


def main(p: Any, compute: Compute, state: State, *, raw: str, images: str, index: str, truth: str, classifier: str, mined: str, out: str) -> int:
    masks, regions, folder, void_as = ArchiveReader(truth), ArchiveReader(mined), Path(out), p.evaluate.void_as
    everything = read_index(index)
    train = with_truth(everything.split("train"), masks)
    names = [entry["round"] for entry in read_rounds(regions)]
    on = measured_on(everything, masks, "train", void_as=void_as, processes=compute.processes)
    how = {**on, "mining": {"rounds": len(names), **p.mine.model_dump()}}
    if not len(train) or not names:
        write_metrics(folder / "oracle.json", {"erasing_gain": None, **yardstick(on)}, how)
        for table, columns in (("threshold_curve", CURVE_COLUMNS), ("erasing", GAIN_COLUMNS), ("parts", PART_COLUMNS)):
            write_csv(folder / f"{table}.csv", [], columns)
        return 0
    engine = engine_for(compute)
    model = ready(load_classifier(classifier, engine.device)[0], engine)
    photographs = Photographs(ArchiveReader(images), train)

    def heatmaps(batch: Tensor, numbers: list[int]) -> Sequence[Tensor]:
        classes = [(np.flatnonzero(train.labels[row]) + 1).tolist() for row in numbers]
        return [normalised(batch_heatmaps(model, batch, classes, scales=p.mine.scales, flip=p.mine.flip), p.mine.rule)]

    def by_class(row: int, heats: np.ndarray) -> dict[int, np.ndarray]:
        return dict(zip((np.flatnonzero(train.labels[row]) + 1).tolist(), heats, strict=False))  # in a batch there may be more planes than classes

    heats = over(photographs, range(len(train)), heatmaps, by_class, engine=engine)
    curve = threshold_curve(train.ids, masks, lambda _: next(heats), len(train.classes), void_as=void_as)
    mined_up_to = mined_rounds(train.ids, masks, regions, train.labels, rounds=len(names), void_as=void_as, processes=compute.processes)
    gains = [{**row, "round": name} for name, row in zip(names, erasing_gains(mined_up_to, curve), strict=True)]
    last, best, single = gains[-1], best_single(curve), at_equal(curve, "area", gains[-1]["area"])
    counted = {"erased_miou": mined_up_to[-1]["classes_counted"], "best_single_miou": best["classes_counted"]}
    write_metrics(folder / "oracle.json", {
        "rounds": len(names), **{f"erased_{key}": last[key] for key in ("area", "precision", "recall", "miou")},
        **{f"single_{key}": single[key] for key in ("threshold", "precision", "recall")},
        "best_single_miou": best["mean_iou"], "best_single_threshold": best["threshold"],
        "erasing_gain": last["gain_precision_at_equal_area"],
        **{f"erasing_gain_{row['round']}": row["gain_precision_at_equal_area"] for row in gains}, **yardstick(on)},
        {**how, "thresholds": len(curve), "classes_counted": counted, "classes_in_all": 1 + len(train.classes)})
    write_csv(folder / "erasing.csv", gains, GAIN_COLUMNS)
    write_csv(folder / "parts.csv", parts(train, masks, regions, ArchiveReader(raw), len(names), compute), PART_COLUMNS)
    write_csv(folder / "threshold_curve.csv", curve, CURVE_COLUMNS)
    return len(train)


def parts(train: Index, truth: ArchiveReader, mined: ArchiveReader, raw: ArchiveReader, rounds: int, compute: Compute) -> list[dict[str, Any]]:
    """Share of heads and bodies mined up to each round, where the data set tells them apart."""
    if not all(f"Parts/{identifier}.png" in raw for identifier in train.ids):
        return []
    return [dict(row) for row in part_recall(train.ids, truth, mined, train.labels, partial(part_map, raw), rounds=rounds,
                                             processes=compute.processes)]


def part_map(raw: ArchiveReader, identifier: str) -> np.ndarray:
    return raw.mask(f"Parts/{identifier}.png")


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("raw", "images", "index", "truth", "classifier", "mined"), outputs=("out",))
