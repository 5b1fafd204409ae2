"""Faulty input: the first stage that can see it ends with status 1 and one message that says where, what and what to do; nothing is written."""

import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from aepsl.data import voc
from aepsl.data.archive import encode_mask
from aepsl.errors import AepslError
from stages.rounds import read_stop

DOWNLOAD = {"out": "data/raw.zip"}
PREPARE = {"raw": "data/raw.zip", "images": "data/images.zip", "truth": "data/truth.zip", "index": "data/index.csv",
           "mean_pixel": "data/mean_pixel.json", "metrics": "metrics"}
FOLDER = {"data.source": "folder", "data.path": "own", "data.classes": ["cat", "dog"], "saliency.method": "rbd"}
SIZE = (40, 30)


def files_of(work: Any) -> dict[str, bytes]:
    return {path.relative_to(work.folder).as_posix(): path.read_bytes()
            for path in work.folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".lock"}


def refused(work: Any, stage: str, options: dict[str, str], *said: str) -> str:
    """Run a stage and check that it refuses its input with all that is to be said, and leaves everything as it was."""
    before = files_of(work)
    result: subprocess.CompletedProcess[str] = work.stage(stage, **options)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    assert result.stderr.startswith(f"\n{stage}: "), result.stderr
    missing = [words for words in said if words not in result.stderr]
    assert not missing, f"{missing} not in:\n{result.stderr}"
    assert files_of(work) == before
    return result.stderr


def accepted(work: Any, stage: str, options: dict[str, str]) -> None:
    result = work.stage(stage, **options)
    assert result.returncode == 0, result.stderr


# ---- parameters


@pytest.mark.parametrize(("change", "said"), [
    ({"classify.learning_rate": 0.1}, ["classify.learning_rate: unknown parameter; remove it"]),
    ({"mine.threshold": 1.5}, ["mine.threshold: ", "less than 1", "found 1.5"]),
    ({"refine.crf": "deeplb"}, ["refine.crf: expected 'none', 'deeplab'", "found 'deeplb'"]),
    ({"segment.training.lr": "1e-3"}, ["segment.training.lr: ", "found '1e-3'", "write 0.001"]),
    ({"rounds": {"r1": "r0", "r3": "r2"}, "last_round": "r3"}, ["rounds.r3: expected the step before it", "found 'r2'; add r2 or correct it"]),
    ({"last_round": "r7"}, ["last_round: expected r0 or one of ['r1', 'r2', 'r3'], found 'r7'"]),
    ({"saliency.method": "maps"}, ["saliency.maps: expected a folder or a zip", "found null"])],
    ids=["unknown", "out of range", "misspelt choice", "text for a number", "missing predecessor", "unknown round", "maps not named"])
def test_a_faulty_parameter_is_named(checkout, change: dict[str, Any], said: list[str]) -> None:
    refused(checkout(change), "download", DOWNLOAD, "params.yaml: 1 faulty parameter(s)", *said)


def test_a_missing_parameter_is_named(checkout) -> None:
    work = checkout({})
    params = work.params
    del params["mine"]["rule"]
    (work / "params.yaml").write_text(yaml.safe_dump(params))
    refused(work, "download", DOWNLOAD, "params.yaml: 1 faulty parameter(s)", "mine.rule: missing; take the line from presets/shapes.yaml")


def test_all_faulty_parameters_are_listed_together(checkout) -> None:
    refused(checkout({"mine.threshold": 0, "predict.prohibit": 0.1, "data.shapes.train": 0, "last_pass": "s9"}), "download", DOWNLOAD,
            "faulty parameter(s)", "mine.threshold: ", "predict.prohibit: unknown", "data.shapes.train: ")


@pytest.mark.parametrize(("text", "said"), [("seed: [1", "params.yaml: expected YAML"), ("- 1\n", "params.yaml: expected groups of parameters")])
def test_a_parameter_file_that_is_none_is_explained(checkout, text: str, said: str) -> None:
    work = checkout({})
    (work / "params.yaml").write_text(text)
    refused(work, "download", DOWNLOAD, said)


# ---- a folder of one's own


def photograph(colour: int, size: tuple[int, int] = SIZE) -> bytes:
    buffer = io.BytesIO()
    noise = np.random.default_rng(colour).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(noise).save(buffer, "JPEG")
    return buffer.getvalue()


def square(value: int, size: tuple[int, int] = SIZE) -> bytes:
    mask = np.zeros(size[::-1], np.uint8)
    mask[8:20, 8:20] = value
    return encode_mask(mask)


def annotation(*names: str) -> bytes:
    return voc.format_annotation("x.jpg", *SIZE, [(name, (9, 9, 20, 20)) for name in names])


SOUND: dict[str, bytes] = {
    f"{voc.LISTS}/train.txt": b"a\nb\n", f"{voc.LISTS}/val.txt": b"c\n",
    **{f"{voc.IMAGES}/{name}.jpg": photograph(ord(name)) for name in "abc"},
    **{f"{voc.ANNOTATIONS}/{name}.xml": annotation(label) for name, label in (("a", "cat"), ("b", "dog"), ("c", "dog"))},
    **{f"{voc.MASKS}/{name}.png": square(value) for name, value in (("a", 1), ("b", 2), ("c", 2))}}


@pytest.fixture
def own(checkout):
    """``own({path: content or None, …})``: a checkout with a sound folder, in which these files are replaced or missing."""
    def make(changes: dict[str, bytes | None], **parameters: Any) -> Any:
        work = checkout(FOLDER | parameters)
        for name, content in (SOUND | changes).items():
            if content is not None:
                path: Path = work / "own" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
        return work
    return make


def without(folder: str) -> dict[str, bytes | None]:
    return {name: None for name in SOUND if name.startswith(f"{folder}/")}


def test_a_sound_folder_is_accepted(own) -> None:
    work = own({})
    accepted(work, "download", DOWNLOAD)
    accepted(work, "prepare", PREPARE)
    assert (work / "data/index.csv").read_text() == "id,split,width,height,cat,dog\na,train,40,30,1,0\nb,train,40,30,0,1\nc,val,40,30,0,1\n"


@pytest.mark.parametrize(("changes", "said"), [
    (dict.fromkeys(SOUND), ["data.path: expected a folder that holds JPEGImages/, found no such folder", "own"]),
    (without(voc.IMAGES), ["data.path: expected a folder that holds JPEGImages/", "missing in it"]),
    ({f"{voc.LISTS}/train.txt": None}, ["data.folder.train: expected the name of a list", "found 'train'", "there are ['val']"]),
    ({f"{voc.IMAGES}/a.jpg": None}, ["JPEGImages/a.jpg: expected an image of train", "found no such file", "take their ids off the lists"]),
    ({f"{voc.ANNOTATIONS}/b.xml": None}, ["Annotations/b.xml: expected the labels of an image of train, found no such file"]),
    (without(voc.MASKS), ["data.folder.masks: expected a folder of PNG masks, found none", "or null for no masks"]),
    ({f"{voc.MASKS}/c.png": None}, ["SegmentationClass/c.png: expected the mask of an image of val, found none"])],
    ids=["folder", "images folder", "list", "image", "annotation", "mask folder", "mask of val"])
def test_what_a_folder_lacks_is_found_by_download(own, changes: dict[str, bytes | None], said: list[str]) -> None:
    refused(own(changes), "download", DOWNLOAD, *said)


@pytest.mark.parametrize(("changes", "parameters", "said"), [
    ({f"{voc.IMAGES}/a.jpg": photograph(1)[:-400]}, {}, ["JPEGImages/a.jpg: expected a complete JPEG or PNG, found "]),
    ({f"{voc.IMAGES}/a.jpg": b"GIF89a"}, {}, ["JPEGImages/a.jpg: expected a complete JPEG or PNG, found "]),
    ({f"{voc.MASKS}/b.png": square(2, (41, 30))}, {}, ["SegmentationClass/b.png: expected the size of its image, 40×30, found 41×30"]),
    ({f"{voc.MASKS}/c.png": square(7)}, {}, ["SegmentationClass/c.png: expected values out of [0, 1, 2, 255], found [7] too", "mask_values"]),
    ({f"{voc.ANNOTATIONS}/a.xml": annotation("cat", "cow")}, {}, ["class 'cow' is not in data.classes", "such as 'a'", "list it"]),
    ({f"{voc.ANNOTATIONS}/c.xml": annotation()}, {}, ["labels of 'c' (val): expected at least one class, found none"]),
    ({f"{voc.ANNOTATIONS}/c.xml": b"<annotation><object>"}, {}, ["Annotations/c.xml: expected VOC annotation XML, found "]),
    ({f"{voc.LISTS}/val.txt": b"\n"}, {}, ["ImageSets/Segmentation/val.txt: expected at least one id, found an empty list"]),
    ({f"{voc.LISTS}/val.txt": b"b\nc\n"}, {}, ["id 'b' is in the list of train too"]),
    ({}, {"data.classes": ["cat", "dog", "cow"]}, ["data.classes: class 'cow' has no training image; correct its spelling or remove it"]),
    ({f"{voc.ANNOTATIONS}/c.xml": annotation("cow")}, {"data.unlisted": "leave-out"},
     ["split val: expected at least one image with a class of data.classes, all were left out"])],
    ids=["truncated image", "no image", "mask size", "mask value", "unknown class", "no class", "broken annotation", "empty list",
         "id in two lists", "class never seen", "split left out"])
def test_what_is_wrong_inside_the_files_is_found_by_prepare(own, changes: dict[str, bytes | None], parameters: dict[str, Any],
                                                           said: list[str]) -> None:
    work = own(changes, **parameters)
    accepted(work, "download", DOWNLOAD)
    refused(work, "prepare", PREPARE, "data/raw.zip: 1 fault(s) in the data; mend them and run again", *said)


def test_everything_that_is_missing_is_listed_at_once(own) -> None:
    work = own({f"{voc.IMAGES}/a.jpg": None, f"{voc.ANNOTATIONS}/b.xml": None, f"{voc.MASKS}/c.png": None, f"{voc.LISTS}/val.txt": b"c\nd\n"})
    refused(work, "download", DOWNLOAD, "6 fault(s)", "JPEGImages/a.jpg", "Annotations/b.xml", "SegmentationClass/c.png", "JPEGImages/d.jpg",
            "Annotations/d.xml", "SegmentationClass/d.png")


def test_everything_that_is_wrong_is_listed_at_once(own) -> None:
    work = own({f"{voc.IMAGES}/a.jpg": photograph(1)[:-400], f"{voc.MASKS}/b.png": square(2, (41, 30)), f"{voc.MASKS}/c.png": square(7),
                f"{voc.ANNOTATIONS}/c.xml": annotation("cow"), f"{voc.LISTS}/train.txt": b"a\nb\na\n"}, **{"data.classes": ["cat", "dog", "hen"]})
    accepted(work, "download", DOWNLOAD)
    refused(work, "prepare", PREPARE, "6 fault(s)", "a.jpg", "b.png", "c.png", "'cow'", "'hen'", "'a' is listed 2 times")


# ---- what is used later is looked at before anything is trained


def test_a_missing_saliency_map_is_named(own) -> None:
    work = own({"../maps/a.png": square(200)}, **{"saliency.method": "maps", "saliency.maps": "maps"})
    accepted(work, "download", DOWNLOAD)
    accepted(work, "prepare", PREPARE)
    refused(work, "saliency", {"images": "data/images.zip", "index": "data/index.csv", "out": "data/saliency.zip"},
            "maps: expected a saliency map for every training image", "b: no map", "set saliency.method to rbd")


def test_a_missing_weights_file_is_named(checkout) -> None:
    work = checkout({"segment.network.width": 1.0, "segment.network.stages": None, "segment.network.weights": "weights/of-mine.pth"})
    refused(work, "weights", {"classify": "data/weights/classify.pth", "segment": "data/weights/segment.pth"},
            "weights/of-mine.pth: no such weights file; set network.weights to none, imagenet or the path of a file")


START = {"index": "data/index.csv", "classifier": "models/classifier/r0.pt", "out": "data/mined/r0.zip", "heatmaps": "data/heatmaps/r0.zip"}
HEADER = "id,split,width,height,cat,dog\na,train,40,30,1,0\n"


def with_index(work: Any, text: str) -> Any:
    (work / "data").mkdir(exist_ok=True)
    (work / "data/index.csv").write_text(text)
    return work


def test_an_unknown_indoor_class_is_named(checkout) -> None:
    work = with_index(checkout({"merge.indoor_classes": ["sofa", "cat"]}), HEADER)
    refused(work, "start", START, "merge.indoor_classes: expected names out of cat, dog, found sofa")


def test_a_single_class_is_refused(checkout) -> None:
    work = with_index(checkout({}), "id,split,width,height,cat\na,train,40,30,1\n")
    refused(work, "start", START, "data.classes: expected two classes or more, found 1")


def test_a_missing_crf_package_is_found_before_training(checkout) -> None:
    work = with_index(checkout({"refine.crf": "psa", "refine.backend": "pydensecrf"}), HEADER)
    (work / "pydensecrf.py").write_text("raise ImportError('not built')\n")  # found before the installed one
    refused(work, "start", START, "refine.backend: expected the package pydensecrf", "pip install pydensecrf2", "set refine.backend to torch")
    for change in ({"refine.backend": "torch"}, {"refine.crf": "none"}):
        work.set({"refine.crf": "psa", "refine.backend": "pydensecrf", **change})
        accepted(work, "start", START)


@pytest.mark.parametrize(("table", "summary"), [
    ("round,final_loss\nr1,0.5\n", '{"last_useful_round": 1}'), ("", "{"), ("", "[1]"), ("", '{"rounds": 1}')])
def test_what_stop_did_not_write_is_refused_by_rounds(tmp_path: Path, table: str, summary: str) -> None:
    (tmp_path / "stop.csv").write_text(table)
    (tmp_path / "stop.json").write_text(summary)
    with pytest.raises(AepslError, match=r"stop\.csv, .*stop\.json: expected what stage stop writes, found .* run `dvc repro --force stop`"):
        read_stop(str(tmp_path / "stop.csv"), str(tmp_path / "stop.json"))
