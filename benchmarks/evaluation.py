"""mIoU of 1,449 masks, the size of VOC's val, PNGs on both sides: ours against torchmetrics and against a loop over images and classes."""

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from aepsl.data.archive import ArchiveReader
from aepsl.evaluation.confusion import evaluate_masks, iou
from aepsl.parallel import usable_cores
from benchmarks import limits
from benchmarks.data import HEIGHT, WIDTH, mask_files
from benchmarks.harness import every_core, in_turn, one_core, row, seconds_of, tell
from benchmarks.peers import evaluation as peers
from benchmarks.results import Row

CLASSES = 20


def stored(archive: ArchiveReader, identifier: str) -> np.ndarray:
    """As the stage evaluate reads a prediction."""
    return archive.mask(f"{identifier}.png")


def topic(quick: bool) -> Iterator[Row]:
    """Rows: against each peer on one core, and on all cores."""
    count, repeats = (6, 1) if quick else (1449, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ids = mask_files(folder, count, 3 if quick else 24)
        truth, predictions = ArchiveReader(folder / "truth.zip"), ArchiveReader(folder / "predictions.zip")

        def ours(processes: int = 1) -> np.ndarray:
            return evaluate_masks(ids, truth, partial(stored, predictions), CLASSES, processes=processes).matrix

        every_core()
        cores = usable_cores()
        one_core()
        inflating = limits.inflate_seconds([folder / part / f"{identifier}.png" for part in ("truth", "predictions") for identifier in ids[:100]])
        inflating *= count / len(ids[:100])
        found: dict[str, np.ndarray] = {}

        def keep(side: str, work: Callable[[], np.ndarray]) -> None:
            found[side] = work()

        for label, peer in (("a loop over images and classes", peers.by_a_loop), ("torchmetrics JaccardIndex", peers.by_torchmetrics)):
            theirs = partial(peer, ids, folder / "truth", folder / "predictions", CLASSES)
            seconds = in_turn(partial(keep, "ours", ours), partial(keep, "peer", theirs), repeats=repeats, clock="cpu")
            # Nothing is void in these predictions, so the policy does not matter.
            difference = float(np.abs(np.nan_to_num(iou(found["ours"], void_as="background")) - found["peer"]).max())
            yield row(f"evaluation of {count:,} masks, one core, against {label}", *seconds, unit="s", aim=5, repeats=repeats,
                      equal=f"the IoU of all classes, largest difference {difference:.1g}",
                      limit=f"Both must inflate {2 * count * HEIGHT * WIDTH / 1e6:.0f} MB of PNG rows, {inflating:.2f} s at the "
                            f"{2 * count * HEIGHT * WIDTH / inflating / 1e6:.0f} MB/s that zlib does here on such masks: we take "
                            f"{seconds[0] / inflating:.1f} times "
                            "as long. The rest is finding where runs of equal pixels end, one comparison of each pixel with its neighbour, and "
                            "Python's part of opening two archive entries per image.")
        every_core()
        if cores > 1:
            all_cores = sorted(seconds_of(partial(ours, 0), "wall") for _ in range(1 if quick else 3))[0]
            one_core()
            alone = sorted(seconds_of(ours, "wall") for _ in range(1 if quick else 3))[0]
            every_core()
            yield row(f"evaluation of {count:,} masks, {cores} cores against one core, both ours", all_cores, alone, unit="s", aim=None,
                      repeats=repeats,
                      limit=f"{cores} cores allow {cores} times; starting the processes takes the difference, and is paid once.")


if __name__ == "__main__":
    tell(topic)
