"""``from aepsl import Segmenter``: the pipeline's own masks from one file and any photograph."""

import doctest
import json
import subprocess
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import aepsl
from aepsl import Prediction, Segmenter
from aepsl.data import photograph
from aepsl.data.archive import ArchiveReader, decode_indices, encode_mask, voc_palette
from aepsl.data.index import read_index
from aepsl.data.samples import Photographs
from aepsl.errors import AepslError
from aepsl.networks.files import load_segmenter, save_model
from aepsl.networks.packages import Crf, write_package
from aepsl.params import Network, load_params
from aepsl.resume.state import State
from aepsl.segmentation.masks import argmax_mask
from aepsl.segmentation.presets import PRESETS
from aepsl.segmentation.scores import read_scores, read_stride
from stages import package
from tests.conftest import ROOT

STRIPES = np.kron(np.random.default_rng(3).integers(0, 256, (9, 7, 3), np.uint8), np.ones((8, 8, 1), np.uint8))  # (72, 56, 3)
SETTINGS: dict[str, Any] = {"scales": [1.0], "flip": False, "prohibit_below": 0.0, "crf": Crf(preset="psa", backend="torch", settings=PRESETS["psa"]),
                            "largest_side": None, "metrics": None}


@pytest.fixture(scope="module")
def packaged(finished: Any) -> Segmenter:
    """What the pipeline's last stage made."""
    return Segmenter.load(finished / "models/aepsl.pt", device="cpu")


@pytest.fixture(scope="module")
def wild(finished: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A segmenter that finds every class somewhere: the trained one of a handful of images with a larger, random last layer."""
    folder = tmp_path_factory.mktemp("wild")
    model, content = load_segmenter(finished / "models/segmenter/s2.pt", torch.device("cpu"))
    with torch.no_grad():
        model.segment.weight.normal_(0, 2, generator=torch.Generator().manual_seed(5))
    network = Network(**content["network"], weights="none", frozen_stages=0)
    save_model(folder / "s.pt", model, network=network, classes=tuple(content["classes"]), facts=dict(content["facts"]))
    write_package(folder / "aepsl.pt", folder / "s.pt", **SETTINGS)
    return folder / "aepsl.pt"


@pytest.fixture(scope="module")
def segmenter(wild: Path) -> Segmenter:
    return Segmenter.load(wild, "cpu")


# ---- the pipeline's masks


def test_the_masks_are_the_pipelines_byte_for_byte(finished: Any, packaged: Segmenter) -> None:
    rows = read_index(finished / "data/index.csv").split("val", "test")
    photographs = Photographs(ArchiveReader(finished / "data/images.zip"), rows)
    predictions, scores = ArchiveReader(finished / "data/predictions.zip"), ArchiveReader(finished / "data/scores.zip")
    stride = read_stride(scores)
    assert len(rows) == 6
    for row, identifier in enumerate(rows.ids):
        image = photographs[row]
        refined, coarse = packaged.predict(image, crf=True), packaged.predict(image)
        assert encode_mask(refined.mask) == predictions.read(f"{identifier}.png")
        assert np.array_equal(coarse.scores, read_scores(scores, identifier))
        assert np.array_equal(coarse.mask, argmax_mask(read_scores(scores, identifier), image.shape[:2], stride=stride))
        assert coarse.stride == stride
        assert coarse.confidences is not None
        prohibited = [name for name, plane in zip(packaged.classes, coarse.scores[1:], strict=True) if not plane.any()]
        assert prohibited == [name for name, confidence in coarse.confidences.items() if confidence < 0.1]


def test_the_package_says_what_the_run_says(finished: Any, packaged: Segmenter) -> None:
    told, params = packaged.info, finished.params
    assert told["prediction"] == {**params["predict"], "psl": "predicted", "output": "softmax"}
    assert told["crf"] == {"preset": "custom", "backend": "torch", "settings": params["refine"]["custom"]}
    metrics = json.loads((finished / "metrics/val.json").read_text())
    assert {name: told["metrics"][name] for name in ("miou", "miou_low", "miou_high", "yardstick")} == {
        name: metrics[name] for name in ("miou", "miou_low", "miou_high", "yardstick")}
    assert told["metrics"]["pseudo_label_miou"] == json.loads((finished / "metrics/pseudo_labels.json").read_text())["pseudo_label_miou"]
    assert (told["largest_side"], told["made"]["pass"], told["trunk"]) == (64, "s2", "mobilenet_v2")
    assert told["classes"] == packaged.classes == list(read_index(finished / "data/index.csv").classes)
    assert json.loads(json.dumps(told)) == told
    assert repr(packaged).startswith(f"Segmenter(mobilenet_v2, 5 classes: bandling, checkling, dotling, ringling, …, val mIoU {metrics['miou']:.3f}")


def test_a_plain_segmenter_of_the_pipeline_predicts_too(finished: Any, packaged: Segmenter) -> None:
    plain = Segmenter.load(finished / "models/segmenter/s2.pt", "cpu")
    assert np.array_equal(plain.predict(STRIPES, max_side=None).scores, packaged.predict(STRIPES, max_side=None).scores)
    assert "mIoU" not in repr(plain)


def test_without_truth_the_package_has_no_scores(finished: Any, tmp_path: Path) -> None:
    for name in ("val", "pseudo_labels"):
        content = json.loads((finished / f"metrics/{name}.json").read_text())
        content = {key: None if key != "how" else value for key, value in content.items() if key != "yardstick"}
        content["how"][0] |= {"images": 0}
        (tmp_path / f"{name}.json").write_text(json.dumps(content | {"note": "no truth"}))
    settings_of_run = load_params(finished / "params.yaml")
    paths = {"segmenter": str(finished / "models/segmenter/s2.pt"), "index": str(finished / "data/index.csv"), "val": str(tmp_path / "val.json"),
             "pseudo_labels": str(tmp_path / "pseudo_labels.json"), "out": str(tmp_path / "aepsl.pt")}
    package.main(settings_of_run, settings_of_run.compute, State(None, 60), **paths)
    metrics = Segmenter.load(tmp_path / "aepsl.pt", "cpu").info["metrics"]
    assert (metrics["miou"], metrics["yardstick"], metrics["interval"], metrics["images"]) == (None, None, None, 0)
    with pytest.raises(AepslError, match=r"pseudo_labels\.json: expected metrics of val"):
        package.main(settings_of_run, settings_of_run.compute, State(None, 60), **paths | {"val": paths["pseudo_labels"]})
    (tmp_path / "val.json").write_text(json.dumps({"miou": 2, "how": [{"split": "val", "images": 0}]}))
    with pytest.raises(AepslError, match=r"val\.json, .*: expected shares from 0 to 1"):
        package.main(settings_of_run, settings_of_run.compute, State(None, 60), **paths)


# ---- photographs in, predictions out


def test_a_path_an_image_and_an_array_give_the_same(segmenter: Segmenter, tmp_path: Path) -> None:
    Image.fromarray(STRIPES).save(tmp_path / "a.png")
    expected = segmenter.predict(STRIPES)
    assert len(expected.classes) > 2
    for given_image in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(STRIPES), Image.fromarray(STRIPES).convert("RGBA")):
        found = segmenter.predict(given_image)
        assert np.array_equal(found.mask, expected.mask)
        assert found.source is given_image


def test_the_mask_is_in_the_upright_frame(segmenter: Segmenter, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(STRIPES).save(tmp_path / "a.png", exif=exif)
    found = segmenter.predict(tmp_path / "a.png")
    assert found.mask.shape == found.image.shape[:2] == STRIPES.shape[1::-1]
    assert np.array_equal(found.mask, segmenter.predict(np.rot90(STRIPES, -1)).mask)


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([None, 1, 7, 16]), st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_masks_have_the_size_of_their_photograph(segmenter: Segmenter, height: int, width: int, side: int | None, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    found = segmenter.predict(image, max_side=side)
    assert (found.mask.shape, found.mask.dtype) == ((height, width), np.uint8)
    assert found.classes == [name for number, name in enumerate(segmenter.classes, 1) if (found.mask == number).any()]
    assert sum(found.shares.values()) + (found.mask == 0).mean() == pytest.approx(1)
    assert found.overlay().shape == image.shape


def test_known_labels_leave_no_other_class(segmenter: Segmenter) -> None:
    free = segmenter.predict(STRIPES)
    first, second, *_ = free.classes
    found = segmenter.predict(STRIPES, labels=[second])
    assert found.classes == [second]
    assert found.confidences == free.confidences
    assert segmenter.predict(STRIPES, labels=second).classes == [second]
    assert segmenter.predict(STRIPES, labels=[]).classes == []
    assert set(segmenter.predict(STRIPES, crf=True, labels={first, second}).classes) <= {first, second}


def test_a_larger_photograph_is_seen_at_the_size_that_the_network_knows(packaged: Segmenter, segmenter: Segmenter) -> None:
    large = np.array(Image.fromarray(STRIPES).resize((560, 720), Image.Resampling.BICUBIC))
    found = segmenter.predict(large, max_side=72)
    assert (found.mask.shape, found.scores.shape) == ((720, 560), (6, 9, 7))
    small = segmenter.predict(np.array(Image.fromarray(large).resize((56, 72), Image.Resampling.BILINEAR)))
    assert (found.mask[5::10, 5::10] == small.mask).mean() > 0.95
    assert segmenter.predict(large).scores.shape == (6, 90, 70)  # a file that does not know a size changes none
    assert packaged.predict(large).scores.shape == (6, 8, 7)  # 64 pixels, as in its data set


def test_scales_flip_and_crf_are_as_the_file_says_or_as_asked_for(wild: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    write_package(tmp_path / "b.pt", wild, **SETTINGS | {"scales": [0.5, 1.0], "flip": True})
    averaged = Segmenter.load(tmp_path / "b.pt", "cpu")
    expected = averaged.predict(STRIPES).scores
    assert np.array_equal(segmenter.predict(STRIPES, scales=[0.5, 1], flip=True).scores, expected)
    assert not np.array_equal(segmenter.predict(STRIPES).scores, expected)
    refined = segmenter.predict(STRIPES, crf=True).mask
    assert np.array_equal(segmenter.predict(STRIPES, crf="psa").mask, refined)
    assert np.array_equal(segmenter.predict(STRIPES, crf=PRESETS["psa"]).mask, refined)
    assert np.array_equal(segmenter.predict(STRIPES, crf=np.True_).mask, refined)
    for off in ("none", None, np.False_):
        assert np.array_equal(segmenter.predict(STRIPES, crf=off).mask, segmenter.predict(STRIPES).mask)


def test_the_backend_that_is_not_installed_is_replaced_and_said(wild: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path / "b.pt", wild, **SETTINGS | {"crf": Crf(preset="psa", backend="pydensecrf", settings=PRESETS["psa"])})
    other = Segmenter.load(tmp_path / "b.pt", "cpu")
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.warns(UserWarning, match="pydensecrf, which is not installed"):
        found = other.predict(STRIPES, crf=True)
    assert np.array_equal(found.mask, Segmenter.load(wild, "cpu").predict(STRIPES, crf=True).mask)


def test_many_photographs_come_in_order_and_a_bad_one_is_left_out_or_raised(segmenter: Segmenter, tmp_path: Path) -> None:
    images: list[Any] = [STRIPES, STRIPES[:40], tmp_path / "nothing.jpg", Image.fromarray(STRIPES[:, :20]), np.zeros((2, 2), np.uint8), STRIPES[:9]]
    faults: list[tuple[Any, str]] = []
    found = list(segmenter.predict_many(images, on_fault=lambda image, error: faults.append((image, str(error))), labels=segmenter.classes[:1]))
    assert [prediction.mask.shape for prediction in found] == [(72, 56), (40, 56), (72, 20), (9, 56)]
    assert [prediction.source is image for prediction, image in zip(found, [images[0], images[1], images[3], images[5]], strict=True)] == [True] * 4
    for prediction, image in zip(found, (images[0], images[1], images[3], images[5]), strict=True):
        assert np.array_equal(prediction.mask, segmenter.predict(image, labels=segmenter.classes[:1]).mask)
    assert faults[0][0] is images[2]
    assert "no such file" in faults[0][1]
    assert "uint8" in faults[1][1]
    started = segmenter.predict_many(images)
    assert next(started).mask.shape == (72, 56)
    assert next(started).mask.shape == (40, 56)
    with pytest.raises(AepslError, match="no such file"):
        next(started)
    assert list(segmenter.predict_many([])) == []
    endless = segmenter.predict_many(STRIPES for _ in iter(int, 1))
    next(endless)
    endless.close()


def test_one_array_or_image_for_all_pictures_of_a_film_will_do(segmenter: Segmenter) -> None:
    pictures = [np.roll(STRIPES, 8 * number, 0) for number in range(5)]
    array, image = STRIPES.copy(), Image.fromarray(STRIPES)

    def film(kind: str) -> Iterator[Any]:
        for picture in pictures:
            array[:] = picture
            image.paste(Image.fromarray(picture))
            yield array if kind == "array" else image

    for kind in ("array", "image"):
        for found, picture in zip(segmenter.predict_many(film(kind)), pictures, strict=True):
            assert np.array_equal(found.image, picture)
            assert np.array_equal(found.mask, segmenter.predict(picture).mask)
    kept = segmenter.predict(array)
    array[:] = 0
    assert np.array_equal(kept.image, pictures[-1])


def test_an_array_that_may_not_be_written_gives_no_warning(segmenter: Segmenter) -> None:
    locked = np.asarray(Image.fromarray(STRIPES))
    assert not locked.flags.writeable
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert segmenter.predict(locked).image.flags.writeable


def test_photographs_that_end_in_an_error_are_predicted_up_to_it(segmenter: Segmenter) -> None:
    def broken() -> Iterator[Any]:
        yield from (STRIPES, STRIPES)
        raise OSError("the camera is gone")

    found = segmenter.predict_many(broken())
    assert [next(found).mask.shape for _ in range(2)] == [(72, 56)] * 2
    with pytest.raises(OSError, match="the camera is gone"):
        next(found)


def test_masks_and_overlays_are_saved_in_the_projects_colours(segmenter: Segmenter, tmp_path: Path) -> None:
    found = segmenter.predict(STRIPES)
    found.save(tmp_path / "new/mask.png")
    found.save_overlay(tmp_path / "overlay.png", opacity=1)
    data = (tmp_path / "new/mask.png").read_bytes()
    assert np.array_equal(decode_indices(data), found.mask)
    assert Image.open(tmp_path / "new/mask.png").getpalette() == voc_palette()
    painted = np.array(Image.open(tmp_path / "overlay.png"))
    for number, (name, colour) in enumerate(segmenter.colours.items(), 1):
        assert colour == tuple(voc_palette()[3 * number:3 * number + 3]) == found.colours[name]
        assert (painted[found.mask == number] == colour).all()
    assert np.array_equal(painted[found.mask == 0], STRIPES[found.mask == 0])
    assert np.array_equal(found.overlay(0), STRIPES)
    assert np.abs(found.overlay(0.5).astype(int) - (STRIPES.astype(int) + found.overlay(1)) / 2).max() <= 1
    assert found._repr_png_().startswith(b"\x89PNG")
    for save in (found.save, found.save_overlay):
        save(tmp_path / "plain")
        assert (tmp_path / "plain").read_bytes().startswith(b"\x89PNG")
        with pytest.raises(AepslError, match=r"m\.jpg: expected a name that ends in \.png, found \.jpg"):
            save(tmp_path / "m.jpg")
    assert not (tmp_path / "m.jpg").exists()
    assert found != segmenter.predict(STRIPES)
    assert found in {found}
    assert repr(found) == f"Prediction(names={tuple(segmenter.classes)!r}, confidences={found.confidences!r}, stride=8)"


# ---- what is refused


@pytest.mark.parametrize(("options", "told"), [
    ({"crf": "other"}, "crf: expected True, False or one of deeplab"), ({"crf": {}}, "crf: expected"), ({"crf": 0}, "crf: expected"),
    ({"flip": "no"}, "flip: expected True, False or None"), ({"flip": 1}, "flip: expected"), ({"labels": 1}, "labels: expected"),
    ({"scales": 1.0}, "scales: expected"), ({"scales": ["a"]}, "scales: expected"), ({"scales": "1"}, "scales: expected"),
    ({"max_side": True}, "max_side: expected"), ({"max_side": 1.5}, "max_side: expected"), ({"max_side": float("nan")}, "max_side: expected"),
    ({"labels": ["dog"]}, "labels: expected names among bandling"),
    ({"scales": []}, "scales: expected"), ({"scales": [0]}, "scales: expected"), ({"scales": [float("nan")]}, "scales: expected"),
    ({"max_side": 0}, "max_side: expected"), ({"max_side": "large"}, "max_side: expected")])
def test_an_option_that_is_none_is_explained(segmenter: Segmenter, options: Any, told: str) -> None:
    with pytest.raises(AepslError, match=told):
        segmenter.predict(STRIPES, **options)
    with pytest.raises(AepslError, match=told):  # once, and not of every photograph
        segmenter.predict_many([STRIPES], on_fault=lambda *_: None, **options)


@pytest.mark.parametrize("images", ["photos", Path("photos"), Image.fromarray(STRIPES)])
def test_one_photograph_or_folder_is_not_many(segmenter: Segmenter, images: Any) -> None:
    with pytest.raises(AepslError, match=r"images: expected several photographs, found .*; give a list"):
        segmenter.predict_many(images)


@pytest.mark.parametrize("image", [np.zeros((3, 3), np.uint8), np.zeros((3, 3, 3)), np.zeros((3, 3, 4), np.uint8), np.zeros((0, 3, 3), np.uint8), 7,
                                   None, Image.fromarray(np.zeros((2, 2), np.float32)), b"bytes"])
def test_what_is_no_photograph_is_explained(segmenter: Segmenter, image: Any) -> None:
    with pytest.raises(AepslError, match="expected"):
        segmenter.predict(image)


def test_devices_and_opacities_that_are_none_are_explained(wild: Path, segmenter: Segmenter) -> None:
    with pytest.raises(AepslError, match="device: expected auto, cpu"):
        Segmenter.load(wild, "gpu")
    with pytest.raises(AepslError, match="device: expected auto, cpu"):
        Segmenter.load(wild, torch.device("meta"))
    assert Segmenter.load(wild, torch.device("cpu")).device == torch.device("cpu")
    for opacity in (65, "a", float("nan")):
        with pytest.raises(AepslError, match="opacity: expected 0 to 1"):
            segmenter.predict(STRIPES).overlay(opacity)  # type: ignore[arg-type]


def test_a_file_without_crf_asks_for_a_preset(wild: Path, tmp_path: Path) -> None:
    write_package(tmp_path / "b.pt", wild, **SETTINGS | {"crf": Crf(preset="none", backend="torch", settings=None)})
    other = Segmenter.load(tmp_path / "b.pt", "cpu")
    with pytest.raises(AepslError, match=r"crf: expected settings in the file, found refine\.crf: none there; name a preset: deeplab"):
        other.predict(STRIPES, crf=True)
    assert other.predict(STRIPES, crf="afa").mask.shape == (72, 56)


def test_too_little_memory_is_explained_by_a_smaller_side(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    def starved(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr("aepsl.segmenter.class_probabilities", starved)
    with pytest.raises(AepslError, match=r"memory of cpu ran out with 56×72 pixels; give a smaller max_side, e\.g\. 36"):
        segmenter.predict(STRIPES)


# ---- the package aepsl


def test_importing_aepsl_loads_no_torch_until_a_segmenter_is_asked_for() -> None:
    code = "import sys, aepsl; aepsl.__version__; assert not {'torch', 'numpy', 'PIL'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT / "src", timeout=120)


def test_the_names_for_users() -> None:
    assert aepsl.Segmenter is Segmenter
    assert aepsl.Prediction is Prediction
    assert aepsl.__version__ == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert all(getattr(aepsl, name) for name in aepsl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Segmentor'"):
        _ = aepsl.Segmentor  # type: ignore[attr-defined]


@pytest.mark.parametrize("module", [sys.modules["aepsl.segmenter"], photograph], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module: Any) -> None:
    failed, tried = doctest.testmod(module, extraglobs={"np": np})
    assert (failed, tried > 1) == (0, True)


def test_the_examples_in_users_words(finished: Any, tmp_path: Path, third_party: Callable[[str], Path]) -> None:
    """A real photograph, larger than any of the data set, by the commands of the module's docstring."""
    file = sorted(third_party("voc-animals").rglob("*.jpg"))[0]
    found = Segmenter.load(finished / "models/aepsl.pt").predict(file, crf=True)
    found.save(tmp_path / "mask.png")
    assert decode_indices((tmp_path / "mask.png").read_bytes()).shape == found.image.shape[:2]
