"""gallery: contact sheets of what was mined, learnt and predicted."""

from pathlib import Path
from typing import Any

from aepsl.data.archive import ArchiveReader, write_atomically
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs, read_mined
from aepsl.evaluation.pictures import contact_sheet, mined_overlay, overlay, spread
from aepsl.mining.record import read_rounds
from aepsl.params import Compute
from aepsl.resume.state import State
from stages import run

PARAMS = ()
ROWS = 8


def main(p: Any, compute: Compute, state: State, *, images: str, index: str, mined: str, saliency: str, merged: str, labels: str, predictions: str,
         truth: str, out: str) -> int:
    everything = read_index(index)
    # Each archive is opened once: what that takes grows with the number of images.
    pictures, masks, regions, salient, first, last, predicted = map(ArchiveReader, (images, truth, mined, saliency, merged, labels, predictions))
    rounds = len(read_rounds(regions))
    train, val = (everything.split(name) for name in ("train", "val"))
    sheet, photographs = [], Photographs(pictures, train)
    for row in spread(train, ROWS):
        name, image = f"{train.ids[row]}.png", photographs[row]
        areas = read_mined(regions, train, row)
        sheet.append([image, *(mined_overlay(image, areas, number) for number in range(1, rounds + 1)), salient.mask(name),
                      *(overlay(image, source.mask(name)) for source in (first, last)),
                      overlay(image, masks.mask(name)) if name in masks else None])
    headings = ["image", *(f"mined, round {number}" for number in range(1, rounds + 1)), "saliency", "merged labels", "last labels", "truth"]
    write_atomically(Path(out) / "train.png", contact_sheet(sheet, headings))
    sheet, photographs = [], Photographs(pictures, val)
    for row in spread(val, ROWS):
        name, image = f"{val.ids[row]}.png", photographs[row]
        sheet.append([image, overlay(image, predicted.mask(name)),
                      overlay(image, masks.mask(name)) if name in masks else None])
    write_atomically(Path(out) / "val.png", contact_sheet(sheet, ["image", "prediction", "truth"]))
    return 2 * ROWS


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("images", "index", "mined", "saliency", "merged", "labels", "predictions", "truth"), outputs=("out",))
