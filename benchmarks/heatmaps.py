"""Heatmaps at 4 scales and mirrored, thresholded and stored: stage mine against the field's script, MobileNetV2 with 20 classes, one core."""

import dataclasses
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index, write_index
from aepsl.networks.files import load_classifier
from benchmarks import limits
from benchmarks.checkouts import CLASSIFY, DATA, MINE, Stages, prepared
from benchmarks.harness import one_core, row, seconds_of, tell
from benchmarks.peers import cams as peers
from benchmarks.results import Row

SCALES = [0.5, 1.0, 1.5, 2.0]
CLASSES = 20  # as in VOC; those that the generated images do not hold have a name only
PARAMETERS = {
    "rounds": {"r1": "r0"}, "last_round": "r1", "mine.scales": SCALES, "mine.flip": True, "mine.rule": "relu-max", "mine.threshold": 0.3,
    "classify.network": {"trunk": "mobilenet_v2", "output_stride": 16, "width": 1.0, "stages": None, "weights": "none", "frozen_stages": 0},
    "classify.training.length": 1.0, "classify.training.unit": "iterations", "classify.training.batch": 4, "classify.training.crop": 97,
    "compute.device": "cpu", "compute.processes": 1, "compute.workers": 0, "compute.threads": 1, "compute.precision": "float32"}


def topic(quick: bool) -> Iterator[Row]:
    """Rows: time, and bytes on disk."""
    one_core()
    torch.set_num_threads(1)
    count, size, repeats = (10, 64, 1) if quick else (10, 500, 2)
    scales = SCALES[:2] if quick else SCALES
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = prepared(folder / "ours", {**PARAMETERS, "mine.scales": scales, "data.shapes": {"seed": 1, "train": count, "val": 1, "size": size}})
        with Stages(work) as stages:
            stages(*DATA)
            everything = read_index(work / "data/index.csv")
            more = tuple(f"class{number}" for number in range(len(everything.classes), CLASSES))
            labels = np.pad(everything.labels, ((0, 0), (0, len(more))))
            write_index(dataclasses.replace(everything, classes=everything.classes + more, labels=labels), work / "data/index.csv")
            stages(CLASSIFY)
            index = read_index(work / "data/index.csv").split("train")
            pictures = ArchiveReader(work / "data/images.zip")
            (folder / "images").mkdir()
            files = []
            for identifier in index.ids:
                entry = next(entry for entry in pictures if Path(entry).stem == identifier)
                files.append(folder / "images" / Path(entry).name)
                files[-1].write_bytes(pictures.read(entry))
            model, _ = load_classifier(work / "models/classifier/r1.pt", torch.device("cpu"))
            model = model.to(memory_format=torch.contiguous_format)
            stages(MINE)
            times: dict[str, list[float]] = {precision: [] for precision in ("peer", "float32", "bfloat16")}
            equal = {}
            for _ in range(repeats):
                shutil.rmtree(folder / "maps", ignore_errors=True)
                (folder / "maps").mkdir()
                times["peer"].append(seconds_of(lambda: peers.write_maps(model, files, index.labels, folder / "maps", scales=scales), "cpu"))
                for precision in ("bfloat16", "float32"):
                    work.set({"compute.precision": precision})
                    times[precision].append(stages(MINE)[0])
                    equal[precision] = agreement(ArchiveReader(work / "data/mined/r1.zip"), folder / "maps", index.ids)
        rate = limits.matrix_rate()
        flops = sum(limits.operations(model, (1, 3, round(height * scale), round(width * scale)))
                    for width, height in index.sizes.tolist() for scale in scales) * 2 / count
        kept, written = (work / "data/mined/r1.zip").stat().st_size, sum(path.stat().st_size for path in (folder / "maps").iterdir())
        ms = {side: 1000 * float(np.median(values)) / count for side, values in times.items()}
        what = {"float32": "Both sides must run the same convolutions, a third of them depthwise, which are bound by memory and reach a fraction of "
                           "that rate.",
                "bfloat16": "Processors that multiply bfloat16 (compute.precision) do so at a multiple of that rate; others emulate it, slower."}
        for precision, why in what.items():
            yield row(f"heatmaps, {len(scales)} scales and mirrored, MobileNetV2, {size} px, {CLASSES} classes, one core"
                      + (", bfloat16" if precision == "bfloat16" else ""), ms[precision], ms["peer"], unit="ms per image", aim=3, repeats=repeats,
                      equal=f"{100 * equal[precision]:.2f} % of the pixels of an image's classes are mined by both or by neither",
                      limit=f"The network's {flops / 1e9:.1f} GFLOP per image at the {rate / 1e9:.0f} GFLOP/s of a float32 matrix product "
                            f"are {1000 * flops / rate:.0f} ms, {100 * 1000 * flops / rate / ms[precision]:.0f} % of our time. {why}")
        yield row("heatmaps, bytes on disk", kept / count / 1e3, written / count / 1e3, unit="kB per image", aim=50,
                  limit="One bit of information per pixel and class, with long runs: what zlib makes of it. Full-size float32 is 4 bytes per pixel "
                        "and class.")


def agreement(mined: ArchiveReader, maps: Path, ids: tuple[str, ...], threshold: float = 0.3) -> float:
    """Share of pixels, over images and their classes, that are above the threshold on both sides or on neither."""
    shares = []
    for identifier in ids:
        with np.load(maps / f"{identifier}.npz", allow_pickle=False) as theirs:
            for label in theirs.files:
                region = mined.mask(f"{identifier}/{int(label) + 1}.png") > 0
                shares.append(np.mean(region == (theirs[label] > threshold)))
    return float(np.mean(shares))


if __name__ == "__main__":
    tell(topic)
