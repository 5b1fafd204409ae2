"""The pictures of docs/pictures, from a finished run of the shipped parameters: `make pictures`.

They show generated shapes alone. The run's artefacts are read, the heatmaps computed anew from the classifiers of the rounds.
"""

import argparse
import io
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from aepsl.data.archive import ArchiveReader, decode_image, write_atomically
from aepsl.data.index import read_index, read_mean_pixel
from aepsl.data.samples import Photographs, erase, read_mined
from aepsl.evaluation.pictures import contact_sheet, mined_overlay, overlay
from aepsl.mining.heatmaps import class_heatmaps, normalise_heatmaps
from aepsl.networks.files import load_classifier
from aepsl.params import load_params
from aepsl.report.facts import Colour
from aepsl.report.layers import BACKGROUND, class_colours
from aepsl.segmentation.masks import argmax_mask
from aepsl.segmentation.scores import read_scores, read_stride

TRAIN = ("shapes_00443", "shapes_00272", "shapes_00386", "shapes_00215")  # the last is one that goes wrong
VAL = ("shapes_00028", "shapes_00082", "shapes_00010", "shapes_00073", "shapes_00001")
# Five colours of viridis, between which is interpolated: even steps of lightness, told apart by colour-blind readers.
SCALE = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)], float)
CELL = 150  # pixels
Sheet = tuple[list[list[np.ndarray | None]], list[str], list[tuple[str, Colour | None]]]  # rows of pictures, headings, legend


def coloured(values: np.ndarray) -> np.ndarray:
    """Values (H, W) in [0, 1] as colours (H, W, 3) uint8."""
    places = np.clip(values, 0, 1) * (len(SCALE) - 1)
    return np.stack([np.interp(places, range(len(SCALE)), channel) for channel in SCALE.T], -1).astype(np.uint8)


def heated(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """A heatmap (H, W) in [0, 1] over its image (H, W, 3) uint8."""
    return np.asarray(0.3 * image + 0.7 * coloured(heat), np.uint8)


def save(path: Path, sheet: Sheet) -> None:
    """A contact sheet as a small JPEG."""
    buffer, (rows, headings, legend) = io.BytesIO(), sheet
    Image.fromarray(decode_image(contact_sheet(rows, headings, legend=legend, cell=CELL))).save(buffer, "JPEG", quality=70, optimize=True)
    write_atomically(path, buffer.getvalue())
    print(f"{path}: {len(buffer.getvalue()) / 1000:.0f} kB")


def erasing(run: Path, ids: Sequence[str]) -> Sheet:
    """Per image: what each round looks at, what it then erases, and what all have mined."""
    params = load_params(run / "params.yaml")
    index = read_index(run / "data/index.csv").split("train")
    photographs = Photographs(ArchiveReader(run / "data/images.zip"), index)
    fill = read_mean_pixel(run / "data/mean_pixel.json")
    mined = ArchiveReader(run / f"data/mined/{params.last_round}.zip")
    names = [f"r{number}" for number in range(1, len(params.rounds) + 1)]
    device, colours = torch.device("cpu"), class_colours(len(names))
    models = [load_classifier(run / f"models/classifier/{name}.pt", device)[0].eval() for name in names]
    rows: list[list[np.ndarray | None]] = []
    for row in map(index.ids.index, ids):
        image, regions = photographs[row], read_mined(mined, index, row)
        line: list[np.ndarray | None] = [image]
        for number, model in enumerate(models):
            before = np.logical_or.reduce([(region > 0) & (region <= number) for region in regions.values()])
            seen = erase(image, before, fill)
            heat = normalise_heatmaps(class_heatmaps(model, seen, list(regions), scales=params.mine.scales, flip=params.mine.flip, device=device),
                                      params.mine.rule).max(0)
            line += [*([seen] if number else []), heated(seen, heat)]
        rows.append([*line, mined_overlay(image, regions, len(models), colours)])
    columns = [column for name, before in zip(names, ["", *names], strict=False)
               for column in ([f"{before} erased"] if before else []) + [f"heatmap {name}"]]
    return rows, ["image", *columns, "mined, by round"], [(f"mined in round {name}", colour) for name, colour in zip(names, colours, strict=True)]


def labels(run: Path, ids: Sequence[str]) -> Sheet:
    """Per image: what a pseudo-label is made of, and the truth it is scored against."""
    params = load_params(run / "params.yaml")
    index = read_index(run / "data/index.csv").split("train")
    photographs = Photographs(ArchiveReader(run / "data/images.zip"), index)
    mined, saliency, merged, truth = (ArchiveReader(run / f"data/{name}.zip") for name in
                                      (f"mined/{params.last_round}", "saliency", "labels/s1", "truth"))
    rows: list[list[np.ndarray | None]] = []
    rounds, colours = len(params.rounds), class_colours(len(index.classes))
    for row in map(index.ids.index, ids):
        name, image = f"{index.ids[row]}.png", photographs[row]
        salient = saliency.mask(name) / 255
        low = np.where((salient < params.merge.background_below)[..., None], image, 255).astype(np.uint8)
        rows.append([image, mined_overlay(image, read_mined(mined, index, row), rounds, class_colours(rounds)), coloured(salient), low,
                     *(overlay(image, masks.mask(name), (BACKGROUND, *colours)) for masks in (merged, truth))])
    return rows, ["image", "mined, by round", "saliency", "low saliency", "pseudo-label", "truth"], [
        *zip(index.classes, colours, strict=True), ("ignored", None)]


def predictions(run: Path, ids: Sequence[str]) -> Sheet:
    """Per image: the segmenter's mask before and after the CRF, and the truth."""
    index = read_index(run / "data/index.csv").split("val")
    photographs = Photographs(ArchiveReader(run / "data/images.zip"), index)
    scores, refined, truth = (ArchiveReader(run / f"data/{name}.zip") for name in ("scores", "predictions", "truth"))
    stride, colours = read_stride(scores), class_colours(len(index.classes))
    rows: list[list[np.ndarray | None]] = []
    for row in map(index.ids.index, ids):
        name, image = f"{index.ids[row]}.png", photographs[row]
        rough = argmax_mask(read_scores(scores, index.ids[row]), image.shape[:2], stride=stride)
        rows.append([image, *(overlay(image, mask, (BACKGROUND, *colours)) for mask in (rough, refined.mask(name), truth.mask(name)))])
    return rows, ["image", "before the CRF", "after the CRF", "truth"], list(zip(index.classes, colours, strict=True))


def screenshot(run: Path, out: Path) -> None:
    """The gallery of the run's report, where there is a browser."""
    if (browser := shutil.which("chromium") or shutil.which("chromium-browser")) is None:
        print(f"{out}: stays as it is, for there is no chromium", file=sys.stderr)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page(viewport={"width": 1120, "height": 710}, color_scheme="light")
        page.goto(f"{(run / 'report/index.html').resolve().as_uri()}#gallery&split=train&class=checkling&sort=-iou")
        page.locator(".card").first.wait_for()
        page.wait_for_timeout(5000)  # the pictures follow; the page's policy forbids to ask it for them
        picture = page.screenshot(type="jpeg", quality=70)
        chromium.close()
    write_atomically(out, picture)
    print(f"{out}: {len(picture) / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.pictures", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path(), help="checkout with the artefacts")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    parser.add_argument("--train", default=",".join(TRAIN), help="ids of the images to show, joined by commas")
    parser.add_argument("--val", default=",".join(VAL))
    args = parser.parse_args()
    torch.set_num_threads(1)
    save(args.out / "erasing.jpg", erasing(args.run, args.train.split(",")))
    save(args.out / "labels.jpg", labels(args.run, args.train.split(",")))
    save(args.out / "prediction.jpg", predictions(args.run, args.val.split(",")))
    screenshot(args.run, args.out / "report.jpg")


if __name__ == "__main__":
    main()
