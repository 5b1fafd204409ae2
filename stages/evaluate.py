"""evaluate: score predictions, pseudo-labels and mined regions against the truth."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index
from aepsl.evaluation.bootstrap import METHOD, mean_and_interval
from aepsl.evaluation.confusion import Counted, VoidAs, convention, coverage, evaluate_masks, mean_iou, pixel_accuracy
from aepsl.evaluation.tables import confusion_rows, write_csv, write_metrics
from aepsl.evaluation.truth import measured_on, with_truth, yardstick
from aepsl.mining.record import read_rounds
from aepsl.params import Compute
from aepsl.resume.state import State
from aepsl.segmentation.masks import argmax_mask
from aepsl.segmentation.presets import crf_settings
from aepsl.segmentation.scores import read_scores, read_stride
from stages import run

PARAMS = ("mine", "merge", "segment.psl", "relabel", "predict", "refine", "evaluate")
Metrics = tuple[dict[str, Any], dict[str, Any]]  # numbers, and how they came about


def main(p: Any, compute: Compute, state: State, *, index: str, truth: str, scores: str, predictions: str, merged: str, labels: str,
         mined: str, out: str) -> int:
    everything, masks, rounds = read_index(index), ArchiveReader(truth), len(read_rounds(ArchiveReader(mined)))
    names, void_as = ("background", *everything.classes), p.evaluate.void_as
    val, train = (with_truth(everything.split(name), masks) for name in ("val", "train"))
    on = partial(measured_on, everything, masks, void_as=void_as, processes=compute.processes)
    count = partial(evaluate_masks, truth=masks, classes=len(everything.classes), processes=compute.processes)

    refined = count(val.ids, predict=partial(stored_mask, ArchiveReader(predictions)))
    sizes = {identifier: (height, width) for identifier, (width, height) in zip(val.ids, val.sizes.tolist(), strict=True)}
    before = count(val.ids, predict=partial(coarse_mask, ArchiveReader(scores), sizes, read_stride(ArchiveReader(scores))))
    first = count(train.ids, predict=partial(stored_mask, ArchiveReader(merged)))
    last = None if labels == merged else count(train.ids, predict=partial(stored_mask, ArchiveReader(labels)))

    write_metrics(Path(out) / "val.json", *val_metrics(p, on("val"), names, refined, before))
    write_metrics(Path(out) / "pseudo_labels.json", *label_metrics(p, on("train"), names, first, last, rounds=rounds))
    write_csv(Path(out) / "per_class.csv", class_table(names, refined, before, first, last, void_as=void_as))
    write_csv(Path(out) / "confusion.csv", confusion_rows(refined.matrix, names), ("actual", "predicted"))
    return len(val) + len(train)


def stored_mask(archive: ArchiveReader, identifier: str) -> np.ndarray:
    return archive.mask(f"{identifier}.png")


def coarse_mask(scores: ArchiveReader, sizes: dict[str, tuple[int, int]], stride: int, identifier: str) -> np.ndarray:
    """The prediction before the CRF, in the image's size (H, W)."""
    return argmax_mask(read_scores(scores, identifier), sizes[identifier], stride=stride)


def val_metrics(p: Any, on: dict[str, Any], names: Sequence[str], refined: Counted, before: Counted) -> Metrics:
    void_as, psl = p.evaluate.void_as, p.segment.psl
    numbers = {**mean_and_interval("miou", refined, void_as=void_as), **mean_and_interval("miou_before_crf", before, void_as=void_as),
               "pixel_accuracy": pixel_accuracy(refined.matrix, void_as=void_as), **yardstick(on)}
    means = {"miou": convention(refined.matrix, names, void_as=void_as), "miou_before_crf": convention(before.matrix, names, void_as=void_as)}
    prediction = {"scales": p.predict.scales, "flip": p.predict.flip, "psl": psl, "told_true_labels": psl == "true-labels",  # then an oracle
                  "prohibit_below": p.predict.prohibit_below if psl == "predicted" else None}
    return numbers, {**on, "means": means, "interval": METHOD, "prediction": prediction, "crf": effective_crf(p)}


def label_metrics(p: Any, on: dict[str, Any], names: Sequence[str], first: Counted, last: Counted | None, *, rounds: int) -> Metrics:
    void_as = p.evaluate.void_as
    numbers = {**mean_and_interval("pseudo_label_miou", first, void_as=void_as),
               "pseudo_label_miou_where_labelled": mean_iou(first.matrix, void_as="left-out")[0],
               "pseudo_label_coverage": coverage(first.matrix), "relabelled_miou": None, **yardstick(on)}
    means = {"pseudo_label_miou": convention(first.matrix, names, void_as=void_as),
             "pseudo_label_miou_where_labelled": convention(first.matrix, names, void_as="left-out")}
    how = {**on, "means": means, "interval": METHOD, "mining": {"rounds": rounds, **p.mine.model_dump()}, "merge": p.merge.model_dump()}
    if last is not None:
        numbers |= mean_and_interval("relabelled_miou", last, void_as=void_as)
        means["relabelled_miou"] = convention(last.matrix, names, void_as=void_as)
        how["relabel"] = {**p.relabel.model_dump(), "crf": effective_crf(p) if p.relabel.crf else {"preset": "none"}}
    return numbers, how


def effective_crf(p: Any) -> dict[str, Any]:
    settings = crf_settings(p.refine.crf, p.refine.custom)
    return {"preset": p.refine.crf, **({"backend": p.refine.backend, **settings.model_dump()} if settings else {})}


def class_table(names: Sequence[str], refined: Counted, before: Counted, first: Counted, last: Counted | None, *,
                void_as: VoidAs) -> list[dict[str, Any]]:
    """One row per class; relabelled labels have empty cells where no pass relabels."""
    columns: dict[str, Any] = {"class": names}
    for counted, split, key in ((refined, "val", "{}"), (before, "val", "{}_before_crf"), (first, "train", "pseudo_label_{}"),
                                (last, "train", "relabelled_{}")):
        scores = counted.per_class(void_as=void_as) if counted else dict.fromkeys(("iou", "precision", "recall"), [None] * len(names))
        for score, values in scores.items():
            columns[f"{split}_{score}" if score in ("pixels", "images") else key.format(score)] = values
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("index", "truth", "scores", "predictions", "merged", "labels", "mined"), outputs=("out",))
