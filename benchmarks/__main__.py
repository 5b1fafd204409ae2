"""make bench: ratios of our code against the usual way, measured side by side in one run, interleaved, medians over repeats.

Only ratios are reported: absolute times belong to a machine and its load.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices, encode_mask
from aepsl.evaluation.confusion import Confusion
from aepsl.segmentation.crf import PRESETS, refine

REPEATS = 5


def compare(name: str, ours: Callable[[], object], peer: Callable[[], object]) -> dict[str, object]:
    """Time both in turn and return the row of the table; a ratio above 1 means ours is faster."""
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(REPEATS):
        for side, work in (("ours", ours), ("peer", peer)):
            start = time.perf_counter()
            work()
            seconds[side].append(time.perf_counter() - start)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    return {"name": name, **{side: round(value, 4) for side, value in medians.items()}, "unit": "s",
            "ratio": round(medians["peer"] / medians["ours"], 2)}


def evaluation(rng: np.random.Generator) -> dict[str, object]:
    """One bincount per image against a comparison per class, 20 images of 500×375, 21 classes."""
    pairs = [tuple(rng.integers(0, 21, (2, 375, 500), np.uint8)) for _ in range(20)]

    def ours() -> None:
        counts = Confusion(20)
        for truth, prediction in pairs:
            counts.add(truth, prediction)

    def per_class() -> None:
        for truth, prediction in pairs:
            for label in range(21):
                np.logical_and(truth == label, prediction == label).sum(), np.logical_or(truth == label, prediction == label).sum()

    return compare("evaluation, 20 masks against a loop over classes", ours, per_class)


def crf(rng: np.random.Generator) -> dict[str, object]:
    """Only the classes that are possible against all 21, one image of 240×180."""
    image = np.repeat(np.repeat(rng.integers(0, 256, (23, 30, 3), np.uint8), 8, 0), 8, 1)[:180, :240]
    scores = np.zeros((21, 23, 30), np.float32)
    scores[[0, 8, 12]] = rng.dirichlet((1, 1, 1), (23, 30)).transpose(2, 0, 1)
    everything = np.maximum(scores, 1e-4)
    return compare("dense CRF, 3 possible classes against all 21", lambda: refine(image, scores, PRESETS["deeplab"], stride=8),
                   lambda: refine(image, everything, PRESETS["deeplab"], stride=8))


def storage(rng: np.random.Generator) -> dict[str, object]:
    """1,000 masks written and read back: one archive against a folder of files."""
    masks = [encode_mask(np.kron(rng.integers(0, 3, (8, 8), np.uint8), np.ones((16, 16), np.uint8))) for _ in range(1000)]
    with tempfile.TemporaryDirectory() as folder:
        archive, files = Path(folder) / "masks.zip", Path(folder) / "masks"
        files.mkdir()

        def ours() -> None:
            with ArchiveWriter(archive) as out:
                for number, data in enumerate(masks):
                    out.add(f"{number}.png", data)
            reader = ArchiveReader(archive)
            for number in range(len(masks)):
                decode_indices(reader.read(f"{number}.png"))

        def peer() -> None:
            for number, data in enumerate(masks):
                (files / f"{number}.png").write_bytes(data)
            for number in range(len(masks)):
                decode_indices((files / f"{number}.png").read_bytes())

        return compare("1,000 masks, one archive against a folder (without DVC)", ours, peer)


def main() -> None:
    """Run all comparisons, print the table and write benchmarks/results.json."""
    rows = [work(np.random.default_rng(0)) for work in (evaluation, crf, storage)]
    for row in rows:
        print(f"{row['name']:58} ours {row['ours']:>8} s   peer {row['peer']:>8} s   ratio {row['ratio']:>6}")
    Path("benchmarks/results.json").write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
