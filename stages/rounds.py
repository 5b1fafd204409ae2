"""rounds: what every round gained, scored against the truth, beside what could be told without it; and how well the stop rule did."""

import csv
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from aepsl.data.archive import ArchiveReader, parse_json
from aepsl.data.index import read_index
from aepsl.errors import AepslError
from aepsl.evaluation.confusion import evaluate_masks, mean_iou
from aepsl.evaluation.mining import mined_rounds
from aepsl.evaluation.tables import write_csv, write_metrics
from aepsl.evaluation.truth import measured_on, with_truth, yardstick
from aepsl.mining.pseudo_labels import background_thresholds, merge_stored
from aepsl.params import Compute
from aepsl.resume.state import State
from stages import run

PARAMS = ("merge", "evaluate")
TOLD = ("round", "final_loss", "held_out_accuracy", "mined_area", "new_area", "new_saliency", "rest_saliency")
SCORED = ("precision", "recall", "miou", "pseudo_label_miou")


def main(p: Any, compute: Compute, state: State, *, index: str, truth: str, mined: str, saliency: str, told: str, rule: str, out: str) -> int:
    everything, masks, regions, void_as = read_index(index), ArchiveReader(truth), ArchiveReader(mined), p.evaluate.void_as
    train = with_truth(everything.split("train"), masks)
    below = background_thresholds(train, below=p.merge.background_below, indoor_classes=p.merge.indoor_classes,
                                  below_outdoors=p.merge.background_below_outdoors)
    places = {identifier: row for row, identifier in enumerate(train.ids)}
    label = partial(label_of, places=places, index=train, mined=regions, saliency=ArchiveReader(saliency), background_below=below)
    rows, last_useful = read_stop(told, rule)
    scored = mined_rounds(train.ids, masks, regions, train.labels, rounds=len(rows), void_as=void_as, processes=compute.processes)
    for number, (row, scores) in enumerate(zip(rows, scored, strict=True), 1):
        counted = evaluate_masks(train.ids, masks, partial(label, rounds=number), len(train.classes), processes=compute.processes)
        row |= {"precision": scores["precision"], "recall": scores["recall"], "miou": scores["mean_iou"],
                "pseudo_label_miou": mean_iou(counted.matrix, void_as=void_as)[0]}
    write_csv(Path(out) / "rounds.csv", rows, (*TOLD, *SCORED))
    on = measured_on(everything, masks, "train", void_as=void_as, processes=compute.processes)
    write_metrics(Path(out) / "rounds.json", {**against_oracle(rows, last_useful), **yardstick(on)}, {**on, "merge": p.merge.model_dump()})
    return len(train) * len(rows)


def read_stop(told: str, rule: str) -> tuple[list[dict[str, Any]], int]:
    """What stage stop wrote: a row per round, and the number of the last useful one."""
    try:
        with Path(told).open(encoding="utf-8", newline="") as file:
            rows: list[dict[str, Any]] = [{name: row[name] for name in TOLD} for row in csv.DictReader(file)]
        return rows, int(parse_json(Path(rule).read_bytes())["last_useful_round"])
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise AepslError(f"{told}, {rule}: expected what stage stop writes, found another content ({type(error).__name__}: {error}); "
                         "run `dvc repro --force stop`") from error


def label_of(identifier: str, *, places: dict[str, int], **where: Any) -> np.ndarray:
    return merge_stored(places[identifier], **where)


def against_oracle(rows: list[dict[str, Any]], stop: int) -> dict[str, Any]:
    """The stop rule's round beside the one with the best pseudo-labels, and what following the rule loses."""
    scores = [row["pseudo_label_miou"] for row in rows]
    if not stop or not scores or np.isnan(scores).all():
        return {"last_useful_round": stop, "best_round_oracle": None, "lost_by_stop_rule": None}
    return {"last_useful_round": stop, "best_round_oracle": int(np.nanargmax(scores)) + 1, "lost_by_stop_rule": np.nanmax(scores) - scores[stop - 1]}


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("index", "truth", "mined", "saliency", "told", "rule"), outputs=("out",))
