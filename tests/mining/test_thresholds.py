"""Both readings of δ at their exact values, and the frame of a heatmap at the paper's stride."""

import numpy as np
import pytest
import torch
from torch import Tensor

from aepsl.data.samples import erase
from aepsl.mining.heatmaps import class_heatmaps, mine
from aepsl.networks.classifier import Classifier
from aepsl.networks.trunks import PREPROCESSING, Preprocessing, Trunk


class Red(Trunk):
    """The only feature is the red under the cell centres."""

    name, channels, output_stride, preprocessing = "red", 1, 8, "plain"

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1, ::8, ::8]


def heatmap(image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.setitem(PREPROCESSING, "plain", Preprocessing((0, 0, 0), (1 / 255, 1 / 255, 1 / 255), bgr=False))
    model = Classifier(Red(), 1).eval()
    with torch.no_grad():
        model.fc.weight.fill_(2)
        model.fc.bias.fill_(50)
    maps = class_heatmaps(model, image, [1], scales=[1.0], flip=False, device=torch.device("cpu"))
    found: np.ndarray = maps[0]
    return found


def test_a_cell_of_stride_8_peaks_on_its_pixel_and_falls_to_nothing_on_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((33, 41, 3), np.uint8)
    image[16, 24, 0] = 64  # cell (2, 3)
    rows = np.clip(1 - abs(np.arange(33) - 16) / 8, 0, None)
    columns = np.clip(1 - abs(np.arange(41) - 24) / 8, 0, None)
    np.testing.assert_allclose(heatmap(image, monkeypatch), 2 * 64 * rows[:, None] * columns, atol=1e-3)


def test_the_region_of_a_cell_above_half_is_centred_on_its_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.zeros((1, 41, 3), np.uint8)
    image[0, 24, 0] = 64
    region = mine(heatmap(image, monkeypatch)[None], {1: np.zeros((1, 41), np.uint8)}, 1, rule="minmax", threshold=0.5)[1]
    assert region[0].nonzero()[0].tolist() == [21, 22, 23, 24, 25, 26, 27]  # half the height at 20 and 28 is not above it


@pytest.mark.parametrize(("rule", "threshold", "values", "expected"), [
    ("minmax", 0.5, [-3, 1, 2, 5], [0, 0, 1, 1]),  # 0, 0.5, 0.625, 1
    ("minmax", 0.2, [10, 12, 12.1, 20], [0, 0, 1, 1]),  # 0, 0.2, 0.21, 1
    ("relu-max", 0.2, [-3, 1, 1.1, 5], [0, 0, 1, 1]),  # 0, 0.2, 0.22, 1
    ("relu-max", 0.5, [-3, 2.5, 2.6, 5], [0, 0, 1, 1]),  # minmax would give 0, 0.69, 0.7, 1
    ("relu-max", 0.2, [10, 12, 15, 20], [1, 1, 1, 1]),  # minmax would leave out the first two
])
def test_both_rules_take_what_is_above_the_threshold_and_not_what_is_at_it(rule: str, threshold: float, values: list[float],
                                                                         expected: list[int]) -> None:
    found = mine(np.array([[values]], np.float32), {1: np.zeros((1, 4), np.uint8)}, 1, rule=rule, threshold=threshold)
    assert found[1][0].tolist() == expected


def test_the_papers_fill_is_its_mean_pixel_rounded_and_the_photograph_stays() -> None:
    photograph = np.random.default_rng([1]).integers(0, 256, (4, 5, 3), np.uint8)
    before = photograph.copy()
    region = np.zeros((4, 5), bool)
    region[1:3, 2:] = True
    erased = erase(photograph, region, (123.68, 116.28, 103.53))
    assert (erased[region] == [124, 116, 104]).all()
    np.testing.assert_array_equal(erased[~region], before[~region])
    np.testing.assert_array_equal(photograph, before)
