"""The package: one file that says all a prediction needs, and that is refused when any of it was changed."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from aepsl.errors import AepslError
from aepsl.networks.classifier import Classifier
from aepsl.networks.files import load_segmenter, save_model
from aepsl.networks.packages import Crf, Scores, load_package, write_package
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import build_trunk
from aepsl.params import CrfSettings, Network
from aepsl.version import VERSION

CPU = torch.device("cpu")
SMALL = Network(trunk="mobilenet_v2", output_stride=16, width=0.1, stages=4, weights="none", frozen_stages=0)
CLASSES = ("cat", "größe, b")
CRF = Crf(preset="custom", backend="torch", settings=CrfSettings(iterations=2, bilateral_weight=1, bilateral_xy=2, bilateral_rgb=3, spatial_weight=4,
                                                                 spatial_xy=5))
SCORES = Scores(miou=0.5, miou_low=0.4, miou_high=0.6, miou_before_crf=0.45, pixel_accuracy=0.9, images=7, yardstick="val 7 miss 01234567",
                interval="95% of something", pseudo_label_miou=0.3, pseudo_label_coverage=0.2)
HOW: dict[str, Any] = {"scales": [0.5, 1.0], "flip": True, "prohibit_below": 0.25, "crf": CRF, "largest_side": 500, "metrics": SCORES}


def trunk() -> Any:
    return build_trunk(SMALL.trunk, output_stride=SMALL.output_stride, width=SMALL.width, stages=SMALL.stages,
                       generator=torch.Generator().manual_seed(0))


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    model = Segmenter(trunk(), 2, with_classification=True, generator=torch.Generator().manual_seed(1))
    save_model(tmp_path / "s1.pt", model, network=SMALL, classes=CLASSES, facts={"pass": "s1", "psl": "predicted", "output": "softmax",
                                                                                 "final_loss": 0.25})
    return tmp_path / "s1.pt"


@pytest.fixture
def package(plain: Path) -> Path:
    write_package(plain.with_name("aepsl.pt"), plain, **HOW)
    return plain.with_name("aepsl.pt")


def content_of(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


def refusal(path: Path, content: Any | None = None) -> str:
    if content is not None:
        torch.save(content, path)
    with pytest.raises(AepslError) as caught:
        load_package(path, CPU)
    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)
    return str(caught.value)


def test_everything_that_was_written_comes_back(plain: Path, package: Path) -> None:
    loaded, (model, _) = load_package(package, CPU), load_segmenter(plain, CPU)
    assert (loaded.classes, loaded.facts["pass"], loaded.network["trunk"], loaded.preprocessing) == (CLASSES, "s1", "mobilenet_v2", "imagenet")
    told = loaded.package
    assert {name: getattr(told, name) for name in HOW} == HOW
    assert (told.version, told.psl, told.output) == (VERSION, "predicted", "softmax")
    assert told.preprocessing == {"name": "imagenet", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "bgr": False}
    assert not loaded.model.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value)


def test_a_package_is_a_segmenter_for_every_stage_that_takes_one(package: Path) -> None:
    _, content = load_segmenter(package, CPU)
    assert content["facts"]["psl"] == "predicted"


def test_equal_inputs_give_equal_bytes_whatever_the_name(plain: Path, package: Path) -> None:
    digest = write_package(plain.with_name("another name.pt"), plain, **HOW)
    assert plain.with_name("another name.pt").read_bytes() == package.read_bytes()
    assert digest == load_package(package, CPU).sha256


def test_packing_a_package_anew_changes_how_to_predict_and_no_tensor(package: Path, tmp_path: Path) -> None:
    before = load_package(package, CPU)
    other = write_package(tmp_path / "b.pt", package, **HOW | {"flip": False, "metrics": None, "largest_side": None})
    after = load_package(tmp_path / "b.pt", CPU)
    assert (other != before.sha256, after.package.flip, after.package.metrics, after.package.largest_side) == (True, False, None, None)
    assert write_package(tmp_path / "c.pt", tmp_path / "b.pt", **HOW) == before.sha256


def test_the_checksum_is_the_documented_one(package: Path) -> None:
    content = content_of(package)
    lines = [json.dumps({name: value for name, value in content.items() if name not in ("state", "sha256")}, sort_keys=True, ensure_ascii=False,
                        separators=(",", ":")).encode() + b"\n"]
    for name, value in sorted(content["state"].items()):
        lines += [f"{name} {str(value.dtype)[6:]} {'x'.join(map(str, value.shape))}\n".encode(), value.numpy().tobytes()]
    assert hashlib.sha256(b"".join(lines)).hexdigest() == content["sha256"] == load_package(package, CPU).sha256


def test_a_plain_file_is_used_as_the_paper_does(plain: Path) -> None:
    loaded = load_package(plain, CPU)
    told = loaded.package
    assert (told.scales, told.flip, told.prohibit_below, told.crf.preset) == ([1.0], False, 0.1, "deeplab")
    assert (told.largest_side, told.metrics) == (None, None)
    assert len(loaded.sha256) == 64


# ---- refusals


CHANGES: dict[str, Any] = {
    "a weight": lambda content: content["state"]["segment.bias"].add_(0.001), "a class": lambda content: content["classes"].reverse(),
    "a score": lambda content: content["package"]["metrics"].update(miou=0.9), "a setting": lambda content: content["package"].update(flip=False),
    "a fact": lambda content: content["facts"].update(final_loss=0.1), "its own checksum": lambda content: content.update(sha256="0" * 64),
    "no checksum": lambda content: content.pop("sha256"), "something new": lambda content: content.update(more=1)}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_refused_by_its_checksum(package: Path, change: Any) -> None:
    content = content_of(package)
    change(content)
    assert "SHA-256" in refusal(package, content)


@pytest.mark.parametrize(("path", "value", "told"), [
    ("scales", [], "scales"), ("scales", "1", "scales"), ("flip", 1, "flip"), ("prohibit_below", 2.0, "prohibit_below"), ("psl", "other", "psl"),
    ("crf", {}, "crf.preset"), ("metrics", {"miou": 1}, "metrics.miou_low"), ("largest_side", -1, "largest_side"), ("more", 1, "more"),
    ("version", "\x1b[2J", "version")])
def test_a_description_that_makes_no_sense_is_refused_by_its_place(package: Path, path: str, value: Any, told: str) -> None:
    content = content_of(package)
    content["package"][path] = value
    message = refusal(package, content)
    assert told in message
    assert message.isprintable()


@pytest.mark.parametrize("described", [None, [], "text", 1, {}])
def test_a_description_of_another_kind_is_refused(package: Path, described: Any) -> None:
    assert "package" in refusal(package, content_of(package) | {"package": described})


def test_another_format_is_refused_with_the_version_that_wrote_it(package: Path) -> None:
    content = content_of(package)
    content["package"] |= {"format": 2, "version": "7.0"}
    assert "format 1, found 2, written by aepsl '7.0'" in refusal(package, content)
    assert "expected a Segmenter of format 1" in refusal(package, content_of(package) | {"format": 2})


@pytest.mark.parametrize("place", ["format", "scales", "preprocessing", "sha256"])
def test_a_tensor_where_a_value_belongs_is_refused_and_not_computed_with(package: Path, place: str) -> None:
    content = content_of(package)
    vast = torch.zeros(1).expand(10**6, 10**6)  # of four bytes; compared with anything it would take a terabyte
    if place == "preprocessing":
        content["package"][place]["mean"] = vast
    else:
        (content if place == "sha256" else content["package"])[place] = vast
    refusal(package, content)


def test_a_description_of_another_network_is_refused(package: Path) -> None:
    content = content_of(package)
    content["package"]["preprocessing"]["bgr"] = True
    assert "fits its network" in refusal(package, content)


def test_what_is_no_package_is_refused(tmp_path: Path, package: Path) -> None:
    for data in (b"", b"no model", b"PK\x03\x04", package.read_bytes()[:-30], package.read_bytes()[:1000]):
        (tmp_path / "a.pt").write_bytes(data)
        assert "damaged or foreign" in refusal(tmp_path / "a.pt")
    assert "found dict" in refusal(tmp_path / "a.pt", {"state_dict": {}})
    with pytest.raises(AepslError, match="no such file"):
        load_package(tmp_path / "b.pt", CPU)


def test_who_gives_a_classifier_is_told_what_is_wanted(tmp_path: Path) -> None:
    save_model(tmp_path / "r1.pt", Classifier(trunk(), 2), network=SMALL, classes=CLASSES, facts={})
    assert "found Classifier; what predicts is a segmenter: models/aepsl.pt" in refusal(tmp_path / "r1.pt")
    with pytest.raises(AepslError, match="found Classifier; run the stage that makes it again"):
        write_package(tmp_path / "out.pt", tmp_path / "r1.pt", **HOW)


def test_facts_that_are_missing_or_none_of_ours_are_named(plain: Path, tmp_path: Path) -> None:
    content = content_of(plain)
    odd: list[tuple[dict[str, Any], str]] = [({"psl": "none"}, "output"), ({"psl": torch.zeros(1), "output": "softmax"}, "psl"),
                                             ({"psl": "x", "output": "softmax"}, "psl")]
    for facts, told in odd:
        assert told in refusal(tmp_path / "a.pt", content | {"facts": facts})
        if "output" not in facts:
            with pytest.raises(AepslError, match="tells its output"):
                write_package(tmp_path / "b.pt", tmp_path / "a.pt", **HOW)
    facts = content["facts"] | {"more": torch.zeros(1)}
    assert "numbers, texts and lists" in refusal(tmp_path / "a.pt", content | {"facts": facts})


def test_only_a_sound_segmenter_is_packed(tmp_path: Path, plain: Path) -> None:
    save_model(tmp_path / "r1.pt", Classifier(trunk(), 2), network=SMALL, classes=CLASSES, facts={})
    content = content_of(plain)
    content["state"]["segment.bias"][0] = torch.nan
    torch.save(content, tmp_path / "nan.pt")
    for name, told in (("r1.pt", "found Classifier"), ("nan.pt", "finite"), ("nothing.pt", "no such file")):
        with pytest.raises(AepslError, match=told):
            write_package(tmp_path / "out.pt", tmp_path / name, **HOW)
    assert not (tmp_path / "out.pt").exists()
