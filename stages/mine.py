"""mine@rK: add the regions that round K's classifier looks at to everything mined before (Algorithm 1)."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_grey
from aepsl.data.index import read_index
from aepsl.data.samples import ErasedPhotographs, read_mined
from aepsl.mining.heatmaps import class_heatmaps, mine, whole_image_logits
from aepsl.mining.record import read_rounds, write_rounds
from aepsl.networks.classifier import label_probabilities
from aepsl.networks.files import load_classifier
from aepsl.params import Compute
from aepsl.progress import progress
from aepsl.training.loop import pick_device
from stages import run

PARAMS = ("classify.output", "mine")


def main(p: Any, compute: Compute, *, step: str, images: str, index: str, mean_pixel: str, classifier: str, erased: str, out: str) -> int:
    device = pick_device(compute.device)
    rows = read_index(index).split("train")
    before = ArchiveReader(erased)
    photographs = ErasedPhotographs(ArchiveReader(images), rows, before, json.loads(Path(mean_pixel).read_text())["mean_pixel"])
    model, content = load_classifier(classifier, device)
    rounds = read_rounds(before)
    number = len(rounds) + 1
    further, first = p.mine.further_rounds, number == 1
    threshold = p.mine.threshold if first or further.threshold is None else further.threshold
    area = 0.0
    with ArchiveWriter(out) as archive:
        for row in progress(range(len(rows)), total=len(rows), label=f"mine@{step}"):
            mined = read_mined(before, rows, row)
            if mined:
                image, asked = photographs[row], list(mined)
                if not first and further.confidence:
                    # Once an object is erased its classifier doubts the class, and the heatmap that is left points at context.
                    logits = whole_image_logits(model, image, scale=content["facts"]["scale"], device=device)
                    confidences = label_probabilities(logits[None], p.classify.output)[0]
                    asked = [label for label in asked if confidences[label - 1] >= further.confidence]
                if asked:
                    heatmaps = class_heatmaps(model, image, asked, scales=p.mine.scales, flip=p.mine.flip, device=device)
                    mined |= mine(heatmaps, {label: mined[label] for label in asked}, number, rule=p.mine.rule, threshold=threshold)
                area += float(np.mean(np.logical_or.reduce([region > 0 for region in mined.values()])))
            for label, region in mined.items():
                archive.add(f"{rows.ids[row]}/{label}.png", encode_grey(region))
        write_rounds(archive, [*rounds, {**content["facts"], "mined_area": area / max(1, len(rows))}])
    return len(rows)


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step", "images", "index", "mean-pixel", "classifier", "erased", "out"))
