import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aepsl.mining.held_out import HeldOut, held_out_accuracy
from aepsl.mining.stop import SaliencySums, last_useful_round, margins
from aepsl.networks.classifier import Classifier
from aepsl.networks.inference import Engine
from aepsl.networks.trunks import PREPROCESSING, Preprocessing, Trunk

CPU = torch.device("cpu")


class Colours(Trunk):
    name, channels, preprocessing, output_stride = "colours", 3, "plain", 1

    def forward(self, images: Tensor) -> Tensor:
        return images


def colour_classifier() -> Classifier:
    """Class 1 is red, 2 green, 3 blue."""
    model = Classifier(Colours(), 3).eval()
    with torch.no_grad():
        model.fc.weight.copy_(torch.eye(3))
        model.fc.bias.zero_()
    return model


def plain(red: int, green: int, blue: int) -> np.ndarray:
    return np.full((4, 6, 3), (red, green, blue), np.uint8)


def photographs(images: list[np.ndarray], labels: np.ndarray) -> Any:
    sizes = np.array([image.shape[1::-1] for image in images]).reshape(-1, 2)
    index = SimpleNamespace(sizes=sizes, labels=labels, ids=[str(row) for row in range(len(images))])
    return type("Given", (list,), {"index": index})(images)


def test_accuracy_counts_images_whose_highest_score_is_one_of_their_classes(monkeypatch):
    monkeypatch.setitem(PREPROCESSING, "plain", Preprocessing((0, 0, 0), (1 / 255, 1 / 255, 1 / 255), bgr=False))
    images = [plain(200, 0, 0), plain(10, 200, 0), plain(0, 0, 90), plain(200, 0, 100)]
    labels = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1]], bool)  # right, right, wrong, wrong
    for batch in (1, 3):
        found = held_out_accuracy(colour_classifier(), photographs(images, labels), scale=0.5, engine=Engine(CPU, batch))
        assert found == HeldOut(accuracy=0.5, chance=0.75)


def test_without_images_there_is_no_accuracy():
    assert held_out_accuracy(colour_classifier(), photographs([], np.zeros((0, 3), bool)), scale=1.0, engine=Engine(CPU)) is None


def test_saliency_is_averaged_over_the_pixels_that_a_round_erased_first():
    saliency = np.array([[0.75, 0.5, 0.25], [1.0, 0.0, 0.5]])
    mined = {1: np.array([[1, 0, 2], [0, 0, 0]], np.uint8), 4: np.array([[2, 2, 2], [0, 0, 0]], np.uint8)}
    rows = SaliencySums.empty(2).add(mined, saliency).rows()
    assert rows[0] == pytest.approx({"new_area": 1 / 6, "mined_area": 1 / 6, "new_saliency": 0.75, "rest_saliency": 2.25 / 5})
    assert rows[1] == pytest.approx({"new_area": 2 / 6, "mined_area": 0.5, "new_saliency": 0.75 / 2, "rest_saliency": 0.5})


def test_sums_of_parts_are_the_sums_of_the_whole():
    rng = np.random.default_rng(0)
    images = [({1: rng.integers(0, 3, (5, 7), dtype=np.uint8)}, rng.random((5, 7))) for _ in range(4)]
    whole, halves = SaliencySums.empty(2), [SaliencySums.empty(2), SaliencySums.empty(2)]
    for place, image in enumerate(images):
        whole.add(*image)
        halves[place % 2].add(*image)
    merged = halves[0].merge(halves[1])
    np.testing.assert_allclose(merged.mined, whole.mined)
    np.testing.assert_allclose(merged.everything, whole.everything)


def test_an_image_without_classes_only_adds_to_the_rest():
    rows = SaliencySums.empty(1).add({}, np.full((2, 2), 0.25)).rows()
    assert rows[0]["new_area"] == 0
    assert math.isnan(rows[0]["new_saliency"])
    assert rows[0]["rest_saliency"] == 0.25


def row(accuracy: float | None, new: float, rest: float = 0.2, area: float = 0.1) -> dict[str, float | None]:
    return {"held_out_accuracy": accuracy, "chance": None if accuracy is None else 0.3, "new_saliency": new, "rest_saliency": rest, "new_area": area}


@pytest.mark.parametrize(("rows", "last"), [
    ([row(0.9, 0.8), row(0.7, 0.6), row(0.62, 0.52)], 3),  # margins of at least 0.3 and 0.3 are asked for
    ([row(0.9, 0.8), row(0.7, 0.6), row(0.58, 0.5)], 2),  # the classifier finds too little
    ([row(0.9, 0.8), row(0.7, 0.45), row(0.8, 0.8)], 1),  # the regions are not salient; a later round cannot mend that
    ([row(0.9, 0.8), row(0.8, 0.7, area=0.001)], 1),  # nothing is left to mine
    ([row(0.25, 0.8), row(0.2, 0.8)], 0),  # no better than chance from the start
    ([row(None, 0.8), row(None, 0.6), row(None, 0.4)], 2),  # no image held out: saliency decides
    ([row(0.9, math.nan, area=0.0)], 0),
    ([], 0),
])
def test_a_round_is_useful_while_it_keeps_half_of_the_first_rounds_margins(rows, last):
    assert last_useful_round(rows) == last


def test_margins_are_above_chance_and_above_what_is_left():
    assert margins(row(0.9, 0.8)) == pytest.approx([0.6, 0.6])
    assert margins(row(None, 0.8)) == pytest.approx([0.6])
