"""The preset that carries the paper's name holds the paper's numbers, and published files their published checksums."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from aepsl.data.voc2012 import Archives

PRESET = Path(__file__).parents[1] / "presets/voc2012-paper.yaml"
BOTH = {"network.trunk": "vgg16", "network.output_stride": 8, "network.width": 1.0, "network.stages": None, "network.weights": "imagenet",
        "network.frozen_stages": 0,
        "training.batch": 30, "training.crop": 321, "training.scale": [1.0, 1.0], "training.mirror": True, "training.lr": 0.001,
        "training.schedule": "step", "training.momentum": 0.9, "training.weight_decay": 0.0005, "training.last_layer_lr": 10.0,
        "training.bias_lr": 2.0}
VALUES: dict[str, Any] = {
    "rounds": {"r1": "r0", "r2": "r1", "r3": "r2"}, "last_round": "r3", "relabels": {"s2": "s1"}, "last_pass": "s2",
    "data.source": "voc2012", "data.voc2012.train": "trainaug",
    **{f"{stage}.{key}": value for stage in ("classify", "segment") for key, value in BOTH.items()},
    "classify.output": "softmax", "classify.training.length": 15.0, "classify.training.unit": "epochs", "classify.training.lr_steps": [12.0],
    "classify.held_out": 0.0, "classify.further_rounds": {"start": "weights", "length": None},
    "mine.rule": "minmax", "mine.threshold": 0.5, "mine.scales": [1.0], "mine.flip": False,
    "mine.further_rounds": {"threshold": None, "confident_share": 1.0},
    "merge.background_below": 0.06,
    "segment.psl": "predicted", "segment.classification_weight": 1.0, "segment.online_from": 0.0,
    "segment.start": "weights", "segment.output": "softmax",
    "segment.training.length": 6000.0, "segment.training.unit": "iterations", "segment.training.lr_steps": [2000.0, 4000.0],
    "predict.prohibit_below": 0.1, "predict.scales": [1.0], "predict.flip": False, "refine.crf": "deeplab"}


@pytest.mark.parametrize("path", VALUES)
def test_the_paper_preset_holds_the_papers_value(path: str) -> None:
    value = yaml.safe_load(PRESET.read_text(encoding="utf-8"))
    for key in path.split("."):
        value = value[key]
    assert value == VALUES[path]


def test_archives_have_the_checksums_of_the_files_that_were_published() -> None:
    archives = Archives()
    assert {archive.name: archive.md5 for archive in (archives.trainval, archives.test, archives.sbd)} == {
        "VOCtrainval_11-May-2012.tar": "6cd6e144f989b92b3379bac3b3de84fd", "VOC2012test.tar": "9065beb292b6c291fad82b2725749fda",
        "benchmark.tgz": "82b4d87ceb2ed10f6038a1cba92111cb"}
