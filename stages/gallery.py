"""gallery: contact sheets of what was mined, learnt and predicted."""

from pathlib import Path
from typing import Any

from aepsl.data.archive import ArchiveReader, write_atomically
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs, read_mined
from aepsl.evaluation.pictures import contact_sheet, mined_overlay, overlay, spread
from aepsl.mining.record import read_rounds
from aepsl.params import Compute
from aepsl.report.facts import ERROR_COLOURS, ERRORS, RIGHT_COLOUR
from aepsl.report.layers import BACKGROUND, class_colours, errors
from aepsl.resume.state import State
from aepsl.segmentation.masks import argmax_mask
from aepsl.segmentation.scores import read_scores, read_stride
from stages import run

PARAMS = ()
ROWS = 8
WRONG = (*ERROR_COLOURS, RIGHT_COLOUR)


def main(p: Any, compute: Compute, state: State, *, images: str, index: str, mined: str, saliency: str, merged: str, labels: str, scores: str,
         predictions: str, truth: str, out: str) -> int:
    everything = read_index(index)
    # Each archive is opened once: what that takes grows with the number of images.
    pictures, masks, regions, salient, first, last, coarse, predicted = map(
        ArchiveReader, (images, truth, mined, saliency, merged, labels, scores, predictions))
    rounds = [str(entry["round"]) for entry in read_rounds(regions)]
    colours, of_rounds = (BACKGROUND, *class_colours(len(everything.classes))), class_colours(len(rounds))
    classes = [*zip(everything.classes, colours[1:], strict=True)]
    train, val = (everything.split(name) for name in ("train", "val"))

    sheet, photographs = [], Photographs(pictures, train)
    passes = [("pseudo-labels", first)] if labels == merged else [("pseudo-labels", first), ("labels of the last pass", last)]
    for row in spread(train, ROWS):
        name, image, areas = f"{train.ids[row]}.png", photographs[row], read_mined(regions, train, row)
        sheet.append([image, *(mined_overlay(image, areas, number, of_rounds) for number in range(1, len(rounds) + 1)), salient.mask(name),
                      *(overlay(image, source.mask(name), colours) for _, source in passes),
                      overlay(image, masks.mask(name), colours) if name in masks else None])
    headings = ["photograph", *(f"mined up to {name}" for name in rounds), "saliency", *(heading for heading, _ in passes), "truth"]
    legend = [*((f"mined in {name}", colour) for name, colour in zip(rounds, of_rounds, strict=True)), *classes, ("ignored", None)]
    write_atomically(Path(out) / "train.png", contact_sheet(sheet, headings, legend=legend))

    sheet, photographs, stride = [], Photographs(pictures, val), read_stride(coarse)
    for row in spread(val, ROWS):
        name, image = f"{val.ids[row]}.png", photographs[row]
        mask, true = predicted.mask(name), masks.mask(name) if name in masks else None
        before = argmax_mask(read_scores(coarse, val.ids[row]), mask.shape, stride=stride)
        sheet.append([image, overlay(image, before, colours), overlay(image, mask, colours), None if true is None else overlay(image, true, colours),
                      None if true is None else overlay(image, errors(true, mask, void_as="miss"), [BACKGROUND, *WRONG])])
    legend = [*classes]
    if any(row[-1] is not None for row in sheet):
        legend += [*((f"errors: {name}", colour) for name, colour in zip((*ERRORS, "right"), WRONG, strict=True)), ("void", None)]
    write_atomically(Path(out) / "val.png", contact_sheet(sheet, ["photograph", "before the CRF", "prediction", "truth", "errors"], legend=legend))
    return 2 * ROWS


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("images", "index", "mined", "saliency", "merged", "labels", "scores", "predictions", "truth"), outputs=("out",))
