"""Saliency by robust background detection at 500×375, settings of presets/voc2012-paper.yaml: ours against the straightforward Python."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from skimage.color import rgb2lab

from aepsl.mining.saliency import saliency, superpixels
from benchmarks.data import HEIGHT, WIDTH, photographs
from benchmarks.harness import best, in_turn, one_core, row, tell
from benchmarks.peers import saliency as peers
from benchmarks.results import Row

SETTINGS: dict[str, Any] = {"size": 400, "superpixel": 600, "compactness": 10.0}


def topic(quick: bool) -> Iterator[Row]:
    """One row."""
    one_core()
    images = [image for image, _ in photographs(3 if quick else 24)][:2 if quick else 8]
    pairs = [(saliency(image, **SETTINGS), peers.saliency(image, **SETTINGS)) for image in images]
    alike = min(float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1]) for ours, theirs in pairs)
    repeats = 1 if quick else 5
    seconds = in_turn(lambda: [saliency(image, **SETTINGS) for image in images], lambda: [peers.saliency(image, **SETTINGS) for image in images],
                      repeats=repeats, clock="cpu")
    ours, theirs = (1000 * value / len(images) for value in seconds)
    lab = [rgb2lab(np.asarray(Image.fromarray(image).resize((400, 300), Image.Resampling.BILINEAR))) for image in images]
    clustering = 1000 * best(lambda: [superpixels(part, superpixel=600, compactness=10.0) for part in lab], 3) / len(images)
    converting = 1000 * best(lambda: [rgb2lab(np.asarray(Image.fromarray(image).resize((400, 300)))) for image in images], 3) / len(images)
    yield row(f"saliency, {WIDTH}×{HEIGHT}, one core", ours, theirs, unit="ms per image", aim=2, repeats=repeats,
              equal=f"least correlation of two maps {alike:.6f}",
              limit=f"Both call scikit-image for the superpixels ({clustering:.1f} ms: ten iterations over 120,000 pixels) and for the change to "
                    f"CIE-Lab "
                    f"({converting:.1f} ms): together {100 * (clustering + converting) / ours:.0f} % of our time, which no graph code can save. "
                    f"The peer loses "
                    "the rest in loops over pixels and pairs of superpixels.")


if __name__ == "__main__":
    tell(topic)
