"""evaluate: score predictions, pseudo-labels and mined regions against the truth."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aepsl.data.archive import ArchiveReader, decode_indices
from aepsl.data.index import Index, read_index
from aepsl.evaluation.confusion import Confusion, evaluate_masks, iou, mean_iou, pixel_accuracy, precision, recall, summary
from aepsl.evaluation.mining import mined_rounds
from aepsl.evaluation.tables import confusion_rows, write_csv, write_json
from aepsl.evaluation.truth import NO_TRUTH, with_truth
from aepsl.mining.record import read_rounds
from aepsl.params import Compute
from aepsl.segmentation.crf import final_mask
from aepsl.segmentation.scores import read_scores, read_stride
from stages import run

PARAMS = ("evaluate",)
ROUND_COLUMNS = ("round", "final_loss", "mined_area", "new_area", "precision", "recall", "miou")
CLASS_COLUMNS = ("class", "iou", "iou_before_crf", "precision", "recall", "pseudo_label_iou")


def main(p: Any, compute: Compute, *, index: str, truth: str, scores: str, predictions: str, merged: str, labels: str, mined: str, out: str) -> int:
    everything, masks = read_index(index), ArchiveReader(truth)
    val, train = (with_truth(everything.split(name), masks) for name in ("val", "train"))
    void_as = p.evaluate.void_as
    score = partial(evaluate_masks, truth=masks, classes=len(everything.classes), processes=compute.processes)

    refined = score(val.ids, predict=partial(stored_mask, ArchiveReader(predictions))) if len(val) else None
    before = score(val.ids, predict=partial(coarse_mask, ArchiveReader(scores), val)) if len(val) else None
    first = score(train.ids, predict=partial(stored_mask, ArchiveReader(merged))) if len(train) else None
    last = first if labels == merged else score(train.ids, predict=partial(stored_mask, ArchiveReader(labels))) if len(train) else None

    write_json(Path(out) / "val.json", val_metrics(refined, before, images=len(val), void_as=void_as))
    write_json(Path(out) / "pseudo_labels.json", label_metrics(first, last, images=len(train), classes=everything.classes, void_as=void_as))
    names = ("background", *everything.classes)
    columns = [per_class(counts, void_as) for counts in (refined, before, last)]
    write_csv(Path(out) / "per_class.csv", [
        {"class": name, "iou": columns[0]["iou"][row], "iou_before_crf": columns[1]["iou"][row], "precision": columns[0]["precision"][row],
         "recall": columns[0]["recall"][row], "pseudo_label_iou": columns[2]["iou"][row]} for row, name in enumerate(names)], CLASS_COLUMNS)
    write_csv(Path(out) / "confusion.csv", confusion_rows(refined.matrix, names) if refined else [], ("actual", "predicted"))
    write_csv(Path(out) / "rounds.csv", rounds_table(train, masks, ArchiveReader(mined), compute), ROUND_COLUMNS)
    return len(val) + len(train)


def stored_mask(archive: ArchiveReader, identifier: str) -> np.ndarray:
    return decode_indices(archive.read(f"{identifier}.png"))


def coarse_mask(scores: ArchiveReader, rows: Index, identifier: str) -> np.ndarray:
    """The prediction before the CRF, in the image's size."""
    width, height = rows.sizes[rows.ids.index(identifier)].tolist()
    return final_mask(np.empty((height, width, 3), np.uint8), read_scores(scores, identifier), None, stride=read_stride(scores))


def val_metrics(refined: Confusion | None, before: Confusion | None, *, images: int, void_as: Any) -> dict[str, Any]:
    if refined is None or before is None:
        return {"miou": None, "miou_before_crf": None, "pixel_accuracy": None, "split": "val", "images": 0, "note": NO_TRUTH}
    mean, counted = mean_iou(refined.matrix, void_as=void_as)
    return {"miou": mean, "miou_before_crf": mean_iou(before.matrix, void_as=void_as)[0],
            "pixel_accuracy": pixel_accuracy(refined.matrix, void_as=void_as), "split": "val", "images": images, "classes_counted": counted}


def label_metrics(first: Confusion | None, last: Confusion | None, *, images: int, classes: tuple[str, ...], void_as: Any) -> dict[str, Any]:
    if first is None or last is None:
        return {"pseudo_label_miou": None, "pseudo_label_coverage": None, "relabelled_miou": None, "labels_split": "train", "labels_images": 0,
                "note": NO_TRUTH}
    merged = summary(first.matrix, classes, void_as=void_as)
    return {"pseudo_label_miou": merged["mean_iou"], "pseudo_label_miou_where_labelled": mean_iou(first.matrix, void_as="left-out")[0],
            "pseudo_label_coverage": merged["coverage"], "relabelled_miou": None if last is first else mean_iou(last.matrix, void_as=void_as)[0],
            "labels_split": "train", "labels_images": images, "void_as": void_as}


def per_class(counts: Confusion | None, void_as: Any) -> dict[str, Any]:
    """IoU, precision and recall of background and classes; empty cells where there is no truth."""
    if counts is None:
        return dict.fromkeys(("iou", "precision", "recall"), [None] * 255)
    return {score.__name__: score(counts.matrix, void_as=void_as) for score in (iou, precision, recall)}


def rounds_table(train: Index, truth: ArchiveReader, mined: ArchiveReader, compute: Compute) -> list[dict[str, Any]]:
    """One row per round: what its classifier reached, what was mined up to it, and how much of that is right."""
    record = read_rounds(mined)
    scored: list[dict[str, Any]] = [{} for _ in record]
    if len(train) and record:
        scored = [dict(row) for row in mined_rounds(train.ids, truth, mined, train.labels, rounds=len(record), processes=compute.processes)]
    areas = [0.0, *(entry["mined_area"] for entry in record)]
    return [{"round": entry["round"], "final_loss": entry["final_loss"], "mined_area": entry["mined_area"], "new_area": entry["mined_area"] - area,
             "precision": row.get("precision"), "recall": row.get("recall"), "miou": row.get("mean_iou")}
            for entry, row, area in zip(record, scored, areas, strict=False)]


if __name__ == "__main__":
    run(main, params=PARAMS, options=("index", "truth", "scores", "predictions", "merged", "labels", "mined", "out"))
