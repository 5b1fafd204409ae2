"""Rules of the method that live in the stages: Algorithm 1 over two rounds, the background threshold of each image, the prohibition of classes."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices, encode_grey
from aepsl.data.index import Index, read_index, write_index
from aepsl.errors import AepslError
from aepsl.mining.record import read_rounds, write_rounds
from aepsl.networks.classifier import Classifier
from aepsl.networks.trunks import PREPROCESSING, Preprocessing, Trunk
from aepsl.params import Compute
from aepsl.resume.state import State
from aepsl.segmentation.scores import read_scores
from stages import classify, merge, mine, predict

HERE = Compute(device="cpu", devices=1, launcher="", precision="float32", compile=False, inference_batch=1, scheduler="",
               workers=0, processes=1, threads=0, save_every=60)
NO_STATE = State(None, 60)


def packed(path: Path, entries: dict[str, bytes], *, record: bool = False) -> str:
    with ArchiveWriter(path) as out:
        for name, data in entries.items():
            out.add(name, data)
        if record:
            write_rounds(out, [])
    return str(path)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def index_of(folder: Path, classes: Sequence[str], labels: list[list[bool]], width: int, split: str = "train") -> str:
    ids = tuple(f"i{number}" for number in range(len(labels)))
    write_index(Index(tuple(classes), ids, (split,) * len(ids), np.tile([width, 1], (len(ids), 1)), np.array(labels)), folder / "index.csv")
    return str(folder / "index.csv")


# --- Algorithm 1

class Colours(Trunk):
    """Features are red and green."""

    name, channels, output_stride, preprocessing = "colours", 2, 1, "plain"

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :2]


def colour_classifier() -> Classifier:
    """Class 1 looks at red, class 2 at green, class 3 at nothing that an image of this test is labelled with."""
    model = Classifier(Colours(), 3).eval()
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
        model.fc.bias.fill_(9)
    return model


def test_rounds_mine_what_is_left_and_keep_what_was_mined_for_every_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PREPROCESSING, "plain", Preprocessing((0, 0, 0), (1 / 255, 1 / 255, 1 / 255), bgr=False))
    monkeypatch.setattr(mine, "load_classifier", lambda path, device: (colour_classifier(), {"facts": {"round": path, "final_loss": 0.5}}))
    red = [200, 150, 80, 0, 0, 95]
    green = [0, 0, 0, 90, 30, 200]
    image = np.dstack([[red], [green], [[7] * 6]]).astype(np.uint8)
    images = packed(tmp_path / "images.zip", {"i0.png": png(image), "i1.png": png(image)})
    index = index_of(tmp_path, "abc", [[True, True, False], [True, False, False]], 6)
    (tmp_path / "mean.json").write_text(json.dumps({"mean_pixel": [9.6, 10.4, 7.0]}))
    as_the_first = SimpleNamespace(threshold=None, confident_share=1.0)
    settings: Any = SimpleNamespace(mine=SimpleNamespace(rule="minmax", threshold=0.5, scales=[1.0], flip=False, further_rounds=as_the_first),
                                    classify=SimpleNamespace(output="softmax"))

    def one_round(step: str, before: str) -> tuple[dict[str, list[int]], list[dict[str, Any]]]:
        out = tmp_path / f"{step}.zip"
        mine.main(settings, HERE, NO_STATE, step=step, images=images, index=index, mean_pixel=str(tmp_path / "mean.json"), classifier=step,
                  erased=before, seen=f"{before}.heat", out=str(out), heatmaps=f"{out}.heat")
        archive = ArchiveReader(out)
        return {name: decode_indices(archive.read(name))[0].tolist() for name in archive if name.endswith(".png")}, read_rounds(archive)

    regions, _ = one_round("r1", packed(tmp_path / "r0.zip", {}, record=True))
    # Of its own range: red above 100, so not the 95; green above 100.
    assert regions == {"i0/1.png": [1, 1, 0, 0, 0, 0], "i0/2.png": [0, 0, 0, 0, 0, 1], "i1/1.png": [1, 1, 0, 0, 0, 0]}

    regions, rounds = one_round("r2", str(tmp_path / "r1.zip"))
    # First image: pixels 0, 1 and 5 are now (10, 10, 7), whichever class had mined them.
    # Red 10 10 80 0 0 10: above 40. Green 10 10 0 90 30 10: above 45.
    # Second image: its own class alone mined, so pixel 5 still has red 95. Red 10 10 80 0 0 95: above 47.5.
    assert regions == {"i0/1.png": [1, 1, 2, 0, 0, 0], "i0/2.png": [0, 0, 0, 2, 0, 1], "i1/1.png": [1, 1, 2, 0, 0, 2]}
    # The heatmaps those were cut from, of both rounds: of 255, over their own range.
    heat = ArchiveReader(tmp_path / "r2.zip.heat")
    assert {name: decode_indices(heat.read(name))[0].tolist() for name in heat} == {
        "i0/1/1.png": [255, 191, 102, 0, 0, 121], "i0/1/2.png": [32, 32, 255, 0, 0, 32],
        "i0/2/1.png": [0, 0, 0, 115, 38, 255], "i0/2/2.png": [28, 28, 0, 255, 85, 28],
        "i1/1/1.png": [255, 191, 102, 0, 0, 121], "i1/1/2.png": [27, 27, 215, 0, 0, 255]}
    assert [(row["round"], row["final_loss"]) for row in rounds] == [("r1", 0.5), ("r2", 0.5)]
    assert [row["mined_area"] for row in rounds] == pytest.approx([(3 / 6 + 2 / 6) / 2, (5 / 6 + 4 / 6) / 2])


def test_a_later_round_mines_only_where_its_classifier_is_surest_and_by_its_own_threshold(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PREPROCESSING, "plain", Preprocessing((0, 0, 0), (1 / 255, 1 / 255, 1 / 255), bgr=False))
    monkeypatch.setattr(mine, "load_classifier",
                        lambda path, device: (colour_classifier(), {"facts": {"round": path, "final_loss": 0.5, "scale": 1.0}}))
    # Mean red minus mean green decides between classes 1 and 2: after round 1 the first image is red still, the second no more.
    first = np.dstack([[[200, 150, 80, 60]], [[0, 0, 0, 0]], [[0] * 4]]).astype(np.uint8)
    second = np.dstack([[[200, 0, 0, 3]], [[0, 0, 20, 30]], [[0] * 4]]).astype(np.uint8)
    images = packed(tmp_path / "images.zip", {"i0.png": png(first), "i1.png": png(second)})
    index = index_of(tmp_path, "ab", [[True, False]] * 2, 4)
    (tmp_path / "mean.json").write_text(json.dumps({"mean_pixel": [0, 0, 0]}))

    def last_round(share: float, threshold: float | None) -> dict[str, list[int]]:
        further = SimpleNamespace(threshold=threshold, confident_share=share)
        settings: Any = SimpleNamespace(mine=SimpleNamespace(rule="relu-max", threshold=0.7, scales=[1.0], flip=False, further_rounds=further),
                                        classify=SimpleNamespace(output="softmax"))
        before = packed(tmp_path / "r0.zip", {}, record=True)
        for step in ("r1", "r2"):
            out = str(tmp_path / f"{step}.zip")
            mine.main(settings, HERE, NO_STATE, step=step, images=images, index=index, mean_pixel=str(tmp_path / "mean.json"), classifier=step,
                      erased=before, seen=f"{before}.heat", out=out, heatmaps=f"{out}.heat")
            before = out
        # An image that a round does not ask has no heatmap of it.
        assert ArchiveReader(f"{out}.heat").names() == ["i0/1/1.png", "i0/1/2.png", "i1/1/1.png", *(["i1/1/2.png"] if share == 1 else [])]
        return {name: decode_indices(ArchiveReader(out).read(name))[0].tolist() for name in ("i0/1.png", "i1/1.png")}

    # Round 2 sees red 0 0 80 60 in the first image, 0 0 0 3 in the second, whose green now outweighs it.
    assert last_round(1.0, None) == {"i0/1.png": [1, 1, 2, 2], "i1/1.png": [1, 0, 0, 2]}
    assert last_round(1.0, 0.8) == {"i0/1.png": [1, 1, 2, 0], "i1/1.png": [1, 0, 0, 2]}
    assert last_round(0.5, None) == {"i0/1.png": [1, 1, 2, 2], "i1/1.png": [1, 0, 0, 0]}


def test_a_share_that_holds_out_every_image_is_refused(tmp_path: Path) -> None:
    index = index_of(tmp_path, "ab", [[True, False]] * 64, 4)
    held = read_index(index).hold_out(0.5)[1]
    assert 0 < len(held) < 64
    write_index(held.take([0]), index)
    (tmp_path / "mean.json").write_text(json.dumps({"mean_pixel": [0, 0, 0]}))
    settings: Any = SimpleNamespace(classify=SimpleNamespace(training=None, network=None, held_out=0.5, further_rounds=SimpleNamespace(length=None)))
    with pytest.raises(AepslError, match=r"classify\.held_out: .* found 0\.5, which takes all 1 training images; lower it"):
        classify.main(settings, HERE, NO_STATE, step="r1", images="", index=index, mean_pixel=str(tmp_path / "mean.json"), weights="", previous="",
                      erased=packed(tmp_path / "r0.zip", {}, record=True), out="", curve="")


# --- the background cue

def test_images_without_an_indoor_class_have_their_own_background_threshold(tmp_path: Path) -> None:
    saliency = encode_grey(np.array([[15, 16, 30, 31]], np.uint8))  # 0.0588, 0.0627, 0.1176, 0.1216 of 255
    maps = packed(tmp_path / "saliency.zip", {f"i{number}.png": saliency for number in range(4)})
    index = index_of(tmp_path, ["sofa", "sheep", "tv"], [[True, False, False], [False, True, False], [False, True, True], [False] * 3], 4)
    mined = packed(tmp_path / "mined.zip", {"i1/2.png": encode_grey(np.array([[1, 2, 0, 3]], np.uint8))})
    settings: Any = SimpleNamespace(merge=SimpleNamespace(background_below=0.06, background_below_outdoors=0.12, indoor_classes=["sofa", "tv"]))
    merge.main(settings, HERE, NO_STATE, index=index, mined=mined, saliency=maps, out=str(tmp_path / "labels.zip"))
    archive = ArchiveReader(tmp_path / "labels.zip")
    assert [decode_indices(archive.read(name))[0].tolist() for name in archive] == [
        [0, 255, 255, 255],  # indoors
        [255, 255, 0, 2],  # outdoors; low saliency inside a mined region is ignored
        [0, 255, 255, 255],  # one indoor class suffices
        [0, 0, 0, 255]]


# --- prohibition at test time

def scores_written(folder: Path, monkeypatch: pytest.MonkeyPatch, confidences: list[float] | None, *, psl: str = "predicted",
                   labels: tuple[bool, ...] = (False, False, False)) -> list[bool]:
    """Whether each of four planes, background first, survives the stage."""
    f = np.full((4, 1, 2), 0.25, np.float32)
    v = None if confidences is None else np.array(confidences, np.float32)
    model = SimpleNamespace(trunk=SimpleNamespace(output_stride=8))
    monkeypatch.setattr(predict, "load_segmenter", lambda path, device: (model, {"facts": {"psl": psl, "output": "softmax"}}))
    monkeypatch.setattr(predict, "ready", lambda loaded, engine: loaded)
    batch = torch.from_numpy(f)[None], None if v is None else torch.from_numpy(v)[None]
    monkeypatch.setattr(predict, "batch_probabilities", lambda *_, **__: batch)
    index = index_of(folder, "abc", [list(labels)], 9, "val")
    images = packed(folder / "images.zip", {"i0.png": png(np.zeros((1, 9, 3), np.uint8))})
    settings: Any = SimpleNamespace(predict=SimpleNamespace(prohibit_below=0.1, scales=[1.0], flip=False))
    predict.main(settings, HERE, NO_STATE, images=images, index=index, segmenter="", out=str(folder / "scores.zip"))
    planes = read_scores(ArchiveReader(folder / "scores.zip"), "i0")
    assert set(np.unique(planes)) <= {0, 0.25}
    return [bool(plane.any()) for plane in planes]


def test_a_class_below_a_confidence_of_a_tenth_is_prohibited_at_it_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tenth = np.float32(0.1)
    below, above = (float(np.nextafter(tenth, np.float32(towards))) for towards in (0, 1))
    assert scores_written(tmp_path, monkeypatch, [below, 0.1, above]) == [True, False, True, True]


def test_the_background_is_never_prohibited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scores_written(tmp_path, monkeypatch, [0.0, 0.05, 0.09]) == [True, False, False, False]


def test_without_a_classification_branch_nothing_is_prohibited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scores_written(tmp_path, monkeypatch, None, psl="none") == [True] * 4


def test_the_variant_with_true_labels_prohibits_all_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scores_written(tmp_path, monkeypatch, None, psl="true-labels", labels=(False, True, False)) == [True, False, True, False]
