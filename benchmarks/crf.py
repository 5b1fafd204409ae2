"""Dense CRF at 500×375, 21 classes, 10 iterations, one core: ours against pydensecrf with all classes."""

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageFilter

from aepsl.params import CrfSettings
from aepsl.segmentation.crf import refine
from aepsl.segmentation.masks import upsample
from aepsl.segmentation.presets import PRESETS
from benchmarks import limits
from benchmarks.data import HEIGHT, WIDTH, photographs
from benchmarks.harness import in_turn, one_core, row, tell
from benchmarks.peers import crf as peers
from benchmarks.results import Row

CLASSES, STRIDE = 20, 8


def scores(mask: np.ndarray, seed: int) -> np.ndarray:
    """Probabilities (21, h, w) float16 on the grid, as of a network that is right about most of an object: blurred, with a tail for every class."""
    rng = np.random.default_rng(seed)
    planes = []
    for label in range(1 + CLASSES):
        inside = Image.fromarray(((mask == label) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(10))
        noise = Image.fromarray(rng.standard_normal((6, 8)).astype(np.float32)).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        planes.append(7 * np.asarray(inside, np.float32) / 255 + np.asarray(noise))
    logits = np.stack(planes)[:, ::STRIDE, ::STRIDE]
    share = np.exp(logits - logits.max(0))
    probabilities: np.ndarray = (share / share.sum(0)).astype(np.float16)
    return probabilities


def topic(quick: bool) -> Iterator[Row]:
    """A row per preset."""
    one_core()
    torch.set_num_threads(1)
    count, repeats = (1, 1) if quick else (2, 3)
    pairs = photographs(3 if quick else 24)[:count]
    work = [(image, scores(mask, number)) for number, (image, mask) in enumerate(pairs)]
    if quick:
        work = [(np.ascontiguousarray(image[:120, :160]), grid[:, :15, :20]) for image, grid in work]
    copying = limits.copy_rate(64)
    for preset in ("deeplab", "psa"):
        settings = PRESETS[preset]
        found: dict[str, list[np.ndarray]] = {}

        def run_ours(found: dict[str, list[np.ndarray]] = found, settings: CrfSettings = settings) -> None:
            found["ours"] = [refine(image, grid, settings, stride=STRIDE) for image, grid in work]

        def run_peer(found: dict[str, list[np.ndarray]] = found, settings: CrfSettings = settings) -> None:
            found["peer"] = [peers.refine(image, upsample(grid, image.shape[:2], stride=STRIDE), settings) for image, grid in work]

        seconds = in_turn(run_ours, run_peer, repeats=repeats, clock="cpu")
        equal = np.mean([np.mean(one == other) for one, other in zip(found["ours"], found["peer"], strict=True)])
        # Per iteration and class: splat and slice touch each pixel's 6 corners (bilateral) and 3 (spatial), weight and offset beside the value.
        pixels = work[0][0].shape[0] * work[0][0].shape[1]
        moved = settings.iterations * (1 + CLASSES) * pixels * (6 + 3) * 2 * 4
        yield row(f"dense CRF, {WIDTH}×{HEIGHT}, 21 classes, preset {preset}, one core", *(1000 * value / count for value in seconds),
                  unit="ms per image", aim=3,
                  repeats=repeats, equal=f"{100 * equal:.3f} % of the labels are equal",
                  limit=f"Splatting and slicing all 21 classes moves at least {moved / 1e9:.1f} GB of values per image in {settings.iterations} "
                        f"iterations; at the "
                        f"{copying / 1e9:.1f} GB/s of a plain copy here that is {1000 * moved / copying:.0f} ms, against our "
                        f"{1000 * seconds[0] / count:.0f} ms. The accesses "
                        "are scattered over the lattice and not in a row, so a copy's rate is out of reach; fewer classes are what saves.")


if __name__ == "__main__":
    tell(topic)
