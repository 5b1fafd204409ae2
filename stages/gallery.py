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
    everything, photographs, masks = read_index(index), ArchiveReader(images), ArchiveReader(truth)
    regions = ArchiveReader(mined)
    rounds = len(read_rounds(regions))
    train, val = (everything.split(name) for name in ("train", "val"))
    sheet = []
    for row in spread(train, ROWS):
        name, image = f"{train.ids[row]}.png", Photographs(photographs, train)[row]
        found = read_mined(regions, train, row)
        sheet.append([image, *(mined_overlay(image, found, number) for number in range(1, rounds + 1)),
                      ArchiveReader(saliency).mask(name),
                      *(overlay(image, ArchiveReader(source).mask(name)) for source in (merged, labels)),
                      overlay(image, masks.mask(name)) if name in masks else None])
    headings = ["image", *(f"mined, round {number}" for number in range(1, rounds + 1)), "saliency", "merged labels", "last labels", "truth"]
    write_atomically(Path(out) / "train.png", contact_sheet(sheet, headings))
    sheet = []
    for row in spread(val, ROWS):
        name, image = f"{val.ids[row]}.png", Photographs(photographs, val)[row]
        sheet.append([image, overlay(image, ArchiveReader(predictions).mask(name)),
                      overlay(image, masks.mask(name)) if name in masks else None])
    write_atomically(Path(out) / "val.png", contact_sheet(sheet, ["image", "prediction", "truth"]))
    return 2 * ROWS


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("images", "index", "mined", "saliency", "merged", "labels", "predictions", "truth"), outputs=("out",))
