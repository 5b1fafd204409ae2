"""The test split from raw.zip to the archive for the server; and what export makes of data without one, and of faulty predictions."""

import io
import subprocess
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aepsl.data import voc
from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices, encode_mask
from aepsl.data.index import Index, read_index, write_index
from aepsl.networks.files import save_model
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import build_trunk
from aepsl.params import Network
from tests.conftest import TINY

EXPORT = {"index": "data/index.csv", "predictions": "data/predictions.zip", "out": "data/submission.tar.gz"}
TEST_IDS = ["2008_000006", "2012_004328"]
SIZES = {"2008_000006": (40, 30), "2012_004328": (26, 40)}


def succeed(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def photograph(identifier: str) -> bytes:
    width, height = SIZES.get(identifier, (24, 24))
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(len(identifier)).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_raw(path: Path) -> None:
    """VOC in small: a train image for every class, one of val, two of test; as download writes it, without any masks."""
    train = {f"2007_{number:06d}": name for number, name in enumerate(voc.CLASSES)}
    labels = train | {"2007_999999": "cat"}
    with ArchiveWriter(path) as archive:
        archive.add(voc.DESCRIPTION, voc.Description("voc2012", list(voc.CLASSES), dict(voc.MASK_VALUES), "xml").to_json())
        for name, content in voc.format_lists({"train": list(train), "val": ["2007_999999"], "test": TEST_IDS}).items():
            archive.add(name, content)
        for identifier, name in labels.items():
            archive.add(f"{voc.ANNOTATIONS}/{identifier}.xml", voc.format_annotation("", 24, 24, [(name, (1, 1, 2, 2))]))
        for identifier in [*labels, *TEST_IDS]:
            archive.add(f"{voc.IMAGES}/{identifier}.jpg", photograph(identifier))


def untrained(path: Path) -> None:
    """A segmenter of VOC's classes as segment would leave it after no training at all."""
    network = Network(trunk="mobilenet_v2", output_stride=8, width=0.1, stages=3, weights="none", frozen_stages=0)
    torch.manual_seed(1)
    model = Segmenter(build_trunk(network.trunk, output_stride=8, width=0.1, stages=3), len(voc.CLASSES), with_classification=False)
    save_model(path, model, network=network, classes=voc.CLASSES, facts={"pass": "s1", "psl": "none", "output": "softmax", "final_loss": 1.0})


@pytest.fixture(scope="module")
def exported(checkout) -> tuple[Any, str]:
    """A checkout in which VOC's test images went from raw.zip to the archive, and what was printed."""
    work = checkout({"refine.custom.iterations": 1, "compute": TINY["compute"]})
    write_raw(work / "data/raw.zip")
    untrained(work / "models/segmenter/s1.pt")
    common = "--images data/images.zip --index data/index.csv"
    return work, succeed(work.stages([
        f"python -m stages.prepare --raw data/raw.zip {common} --truth data/truth.zip --mean-pixel data/mean_pixel.json --metrics metrics",
        f"python -m stages.predict {common} --segmenter models/segmenter/s1.pt --out data/scores.zip",
        f"python -m stages.refine {common} --scores data/scores.zip --out data/predictions.zip",
        "python -m stages.export " + " ".join(f"--{name} {value}" for name, value in EXPORT.items())]))


def test_every_test_image_reaches_the_archive(exported: Any) -> None:
    work, printed = exported
    assert list(read_index(work / "data/index.csv").split("test").ids) == TEST_IDS
    predictions = ArchiveReader(work / "data/predictions.zip")
    assert predictions.names() == ["2007_999999.png", *(f"{identifier}.png" for identifier in TEST_IDS)]
    with tarfile.open(work / "data/submission.tar.gz", "r:gz") as tar:
        assert tar.getnames() == [f"results/VOC2012/Segmentation/comp6_test_cls/{identifier}.png" for identifier in TEST_IDS]
        for member, identifier in zip(tar.getmembers(), TEST_IDS, strict=True):
            content = tar.extractfile(member)
            assert content is not None
            mask = decode_indices(content.read())
            assert mask.shape[::-1] == SIZES[identifier]
            assert np.array_equal(mask, decode_indices(predictions.read(f"{identifier}.png")))
    assert "export: 2 masks in data/submission.tar.gz, sound for the VOC test server" in printed


def test_the_commands_agree(exported: Any) -> None:
    work = exported[0]
    command = partial(work.call, "python", "-m", "aepsl", PYTHONPATH=str(work / "src"))
    assert "sound. 2 masks in results/VOC2012/" in succeed(command("validate", "data/submission.tar.gz"))
    said = succeed(command("export", "data/predictions.zip", "--out", "again.tar.gz"))
    assert "again.tar.gz: 2 masks in results/VOC2012/" in said
    assert (work / "again.tar.gz").read_bytes() == (work / "data/submission.tar.gz").read_bytes()


def with_predictions(work: Any, classes: tuple[str, ...], splits: dict[str, str], masks: dict[str, np.ndarray]) -> Any:
    """Put an index of images of 6 × 5 pixels and predictions into a checkout."""
    sizes, labels = np.array([(6, 5)] * len(splits)), np.zeros((len(splits), len(classes)), bool)
    write_index(Index(classes, tuple(splits), tuple(splits.values()), sizes, labels), work / "data/index.csv")
    with ArchiveWriter(work / "data/predictions.zip") as archive:
        for identifier, mask in masks.items():
            archive.add(f"{identifier}.png", encode_mask(mask))
    return work


def test_without_test_images_the_archive_is_empty_and_the_stage_says_so(checkout) -> None:
    work = with_predictions(checkout({}), ("cat", "dog"), {"a": "val"}, {"a": np.zeros((5, 6), np.uint8)})
    assert succeed(work.stage("export", **EXPORT)) == "export: the data set has no test images, so data/submission.tar.gz is empty\n"
    with tarfile.open(work / "data/submission.tar.gz", "r:gz") as tar:
        assert tar.getnames() == []


def test_classes_that_are_not_vocs_keep_their_numbers_and_are_not_passed_off_as_vocs(checkout) -> None:
    work = with_predictions(checkout({}), ("cat", "dog"), {"a": "val", "b/1": "test"}, {"b/1": np.full((5, 6), 2, np.uint8)})
    assert "the classes are not VOC's 20, so it is not for the VOC test server" in succeed(work.stage("export", **EXPORT))
    with tarfile.open(work / "data/submission.tar.gz", "r:gz") as tar:
        assert tar.getnames() == ["results/b/1.png"]


def test_faulty_predictions_leave_no_archive(checkout) -> None:
    masks = {"a": np.full((5, 6), 3, np.uint8), "b": np.zeros((6, 5), np.uint8)}
    work = with_predictions(checkout({}), ("cat", "dog"), dict.fromkeys(masks, "test"), masks)
    result = work.stage("export", **EXPORT)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert "export: data/submission.tar.gz: 2 fault(s)" in result.stderr
    assert "results/a.png: expected values 0 to 2, found 3 in 30 pixel(s)" in result.stderr
    assert "results/b.png: expected the size of its image, 6×5, found 5×6" in result.stderr
    assert not (work / "data/submission.tar.gz").exists()


def test_a_missing_prediction_is_named(checkout) -> None:
    result = with_predictions(checkout({}), ("cat", "dog"), {"a": "test"}, {}).stage("export", **EXPORT)
    assert result.returncode == 1
    assert "data/predictions.zip: expected an entry 'a.png', found none" in result.stderr
