"""segment.output reaches the network's training and its prediction: the branch is read as it was trained."""

import csv
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_mask
from aepsl.data.index import Index, write_index
from aepsl.networks.files import load_segmenter
from aepsl.segmentation.scores import read_scores

# A network that has learnt nothing: its scores are near 0, which a soft max over two classes makes 0.5, and a linear output leaves near 0.
UNTRAINED: dict[str, Any] = {"segment.network": {"trunk": "mobilenet_v2", "output_stride": 8, "width": 0.1, "stages": 3, "weights": "none",
                                                 "frozen_stages": 0},
                             **{f"segment.training.{key}": value for key, value in {
                                 "length": 1.0, "unit": "iterations", "batch": 2, "crop": 33, "lr": 1e-6}.items()},
                             "predict.prohibit_below": 0.3, "compute.device": "cpu", "compute.workers": 0, "compute.processes": 1}
COMMON = "--images data/images.zip --index data/index.csv"
COMMANDS = (
    "python -m stages.weights --classify data/weights/classify.pth --segment data/weights/segment.pth",
    f"python -m stages.segment --step s1 {COMMON} --mean-pixel data/mean_pixel.json --weights data/weights/segment.pth"
    " --classifier models/classifier/r1.pt --labels data/labels/s1.zip --out models/segmenter/s1.pt --curve metrics/segmenter/s1.csv",
    f"python -m stages.predict {COMMON} --segmenter models/segmenter/s1.pt --out data/scores.zip")


@pytest.mark.parametrize(("output", "loss", "possible"), [("softmax", (0.5 ** 2 + 0.5 ** 2) / 2, True), ("linear", 1 / 2, False)])
def test_confidences_are_read_as_they_were_trained(checkout, output: str, loss: float, possible: bool) -> None:
    work = checkout(UNTRAINED | {"segment.output": output})
    ids, splits = ("a", "b", "c"), ("train", "train", "val")
    write_index(Index(("cat", "dog"), ids, splits, np.full((3, 2), 33), np.array([[1, 0], [0, 1], [1, 0]], bool)), work / "data/index.csv")
    with ArchiveWriter(work / "data/images.zip") as archive:
        for number, identifier in enumerate(ids):
            buffer = io.BytesIO()
            Image.fromarray(np.random.default_rng(number).integers(0, 256, (33, 33, 3), np.uint8)).save(buffer, "PNG")
            archive.add(f"{identifier}.png", buffer.getvalue())
    (work / "data/labels").mkdir()
    with ArchiveWriter(work / "data/labels/s1.zip") as archive:
        for number, identifier in enumerate(ids[:2], 1):
            archive.add(f"{identifier}.png", encode_mask(np.full((33, 33), number, np.uint8)))
    (work / "data/mean_pixel.json").write_text('{"mean_pixel": [124, 116, 104]}')
    result = work.stages(COMMANDS)
    assert result.returncode == 0, result.stderr
    _, content = load_segmenter(work / "models/segmenter/s1.pt", torch.device("cpu"))
    assert content["facts"]["output"] == output
    [row] = csv.DictReader((work / "metrics/segmenter/s1.csv").open(newline=""))
    assert float(row["classification"]) == pytest.approx(loss, abs=0.08)
    scores = read_scores(ArchiveReader(work / "data/scores.zip"), "c")
    assert [bool(plane.any()) for plane in scores] == [True, possible, possible]
