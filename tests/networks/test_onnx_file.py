"""ONNX files: another runtime gives the labels that the segmenter itself gives without CRF, whatever the size of the photograph."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

from aepsl import Segmenter
from aepsl.errors import AepslError
from aepsl.networks.files import save_model
from aepsl.networks.onnx_file import Whole, between
from aepsl.networks.packages import Crf, write_package
from aepsl.networks.segmenter import Segmenter as Network
from aepsl.networks.trunks import build_trunk
from aepsl.params import Network as Settings
from aepsl.segmentation.masks import upsample

CLASSES = ("cat", "größe", "dog")
SIZES = [(1, 1), (1, 13), (8, 8), (9, 17), (16, 32), (61, 77), (62, 50), (97, 130)]
# Every trunk, both strides and preprocessings, with and without the branch that prohibits, one view and two.
KINDS = {"mobilenet_v2": (0.1, 4, 8, True, True), "vgg16": (0.05, None, 16, False, False), "resnet50": (0.1, 3, 8, True, False)}


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth colours, as classes of an untrained network need to be seen in more than single pixels."""
    small = np.random.default_rng(seed).integers(0, 256, (-(-height // 12) + 1, -(-width // 12) + 1, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR))


def made(folder: Path, trunk: str, *, scales: list[float] | None = None) -> Segmenter:
    """A segmenter of random weights that finds several classes in such photographs."""
    width, stages, stride, branch, flip = KINDS[trunk]
    settings = Settings(trunk=trunk, output_stride=stride, width=width, stages=stages, weights="none", frozen_stages=0)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(7)
    layers = build_trunk(trunk, output_stride=stride, width=width, stages=stages, generator=generator)
    model = Network(layers, len(CLASSES), with_classification=branch, generator=generator).eval()
    model.trunk.preprocessing = "caffe" if trunk == "vgg16" else "imagenet"
    with torch.no_grad():  # the scores of all classes over the photographs, scaled alike: so none wins everywhere
        images = torch.from_numpy(photograph(96, 96, 1)).permute(2, 0, 1)[None].float()
        features = model.trunk((images - 128) / 50)
        model.segment.weight.normal_(generator=generator)
        scores = model.segment(features)
        spread = scores.std((0, 2, 3))
        model.segment.weight.mul_((3 / spread)[:, None, None, None])
        model.segment.bias.copy_(-scores.mean((0, 2, 3)) * 3 / spread)
        if model.classify is not None:  # confidences around a third each: some classes are prohibited, some not
            model.classify.weight.mul_(0.2 / model.classify(features.mean((2, 3))).std())
            model.classify.bias.zero_()
    facts = {"psl": "predicted" if branch else "none", "output": "softmax"}
    save_model(folder / f"{trunk}.pt", model, network=settings, classes=CLASSES, facts=facts)
    write_package(folder / "aepsl.pt", folder / f"{trunk}.pt", scales=scales or [1.0], flip=flip, prohibit_below=0.3,
                  crf=Crf(preset="none", backend="torch", settings=None), largest_side=64, metrics=None)
    return Segmenter.load(folder / "aepsl.pt", "cpu")


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Segmenter, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    segmenter = made(folder, request.param)
    segmenter.to_onnx(folder / "a.onnx")
    return segmenter, folder / "a.onnx"


def test_another_runtime_gives_the_same_labels(exported: tuple[Segmenter, Path]) -> None:
    segmenter, path = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found: set[str] = set()
    differing = pixels = 0
    for number, (height, width) in enumerate(SIZES):
        image = photograph(height, width, number)
        expected = segmenter.predict(image, max_side=None)
        given = dict(zip(names, session.run(None, {"image": image[None]}), strict=True))
        assert (given["labels"].shape, given["labels"].dtype) == ((1, height, width), np.uint8)
        assert expected.scores is not None
        assert np.abs(given["probabilities"][0] - expected.scores.astype(np.float32)).max() < 1e-3  # one step of half precision is 5e-4
        if expected.confidences is None:
            assert "confidences" not in given
        else:
            assert given["confidences"][0].tolist() == pytest.approx(list(expected.confidences.values()), abs=1e-5)
        other = given["labels"][0] != expected.mask
        differing, pixels = differing + int(other.sum()), pixels + other.size
        found |= set(expected.classes)
    assert len(found) >= 2  # else the same labels would say little
    # Sums in another order change the last bits, and so the half-precision numbers that lie between two: where two classes tie, either may win.
    assert differing <= pixels / 2000


def test_the_file_says_what_is_in_it_and_nothing_of_the_machine(exported: tuple[Segmenter, Path]) -> None:
    segmenter, path = exported
    model = onnx.load(path)
    told = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(told["classes"]) == ["background", *CLASSES]
    assert told["sha256"] == segmenter.info["sha256"]
    assert told["trunk"] == segmenter.info["trunk"]
    assert json.loads(told["prohibit_below"]) == (0.3 if KINDS[told["trunk"]][3] else None)
    assert json.loads(told["colours"])[1] == [128, 0, 0]
    [image] = model.graph.input
    assert [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, "height", "width", 3]
    data = path.read_bytes()
    assert not [word for word in (b".py", b"/home", b"site-packages", b"/work", b"/tmp") if word in data]


@pytest.mark.parametrize("exported", ["vgg16"], indirect=True)
def test_equal_segmenters_give_equal_bytes(exported: tuple[Segmenter, Path], tmp_path: Path) -> None:
    exported[0].to_onnx(tmp_path / "another name.onnx")
    assert (tmp_path / "another name.onnx").read_bytes() == exported[1].read_bytes()


@pytest.mark.parametrize("stride", [1, 8, 16])
@pytest.mark.parametrize("size", [(1, 1), (16, 17), (33, 50)])
def test_the_graph_enlarges_as_the_pipeline_does(size: tuple[int, int], stride: int) -> None:
    cells = [-(-side // stride) for side in size]
    grid = np.random.default_rng(2).random((3, *cells), np.float32)
    given = between(between(torch.from_numpy(grid)[None], size[1], stride, axis=3), size[0], stride, axis=2)[0]
    assert np.array_equal(given.numpy(), upsample(grid, size, stride=stride))


def test_writing_changes_nothing_of_the_segmenter(tmp_path: Path) -> None:
    segmenter = made(tmp_path, "mobilenet_v2")
    before = segmenter.predict(photograph(40, 40, 3)).scores
    Whole(segmenter._loaded.model, output="softmax", prohibit_below=0.1, flip=False)
    assert segmenter._loaded.model.trunk.features[1].conv[1].dilation == (2, 2)
    assert np.array_equal(segmenter.predict(photograph(40, 40, 3)).scores, before)


def test_several_scales_are_refused_with_what_to_say(tmp_path: Path) -> None:
    segmenter = made(tmp_path, "vgg16", scales=[0.5, 1.0])
    with pytest.raises(AepslError, match=r"a\.onnx: expected scales \[1\.0\], found \[0\.5, 1\.0\]; say scales=\[1\.0\]"):
        segmenter.to_onnx(tmp_path / "a.onnx")


@pytest.mark.parametrize("missing", ["onnx", "onnxscript"])
def test_a_missing_package_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    segmenter = made(tmp_path, "vgg16")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(AepslError, match=r"expected the packages onnx and onnxscript .*; run `pip install 'aepsl\[onnx\]'`"):
        segmenter.to_onnx(tmp_path / "a.onnx")
    assert not (tmp_path / "a.onnx").exists()
