import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from aepsl.mining.heatmaps import class_heatmaps, confidences, mine, most_confident, normalise_heatmaps
from aepsl.networks.classifier import Classifier
from aepsl.networks.trunks import PREPROCESSING, Preprocessing, Trunk

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def plain_preprocessing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PREPROCESSING, "plain", Preprocessing((0, 0, 0), (1 / 255, 1 / 255, 1 / 255), bgr=False))


class Copy(Trunk):
    """Features are the colours under the cell centres, moved to the right by some cells."""

    name, channels, preprocessing = "copy", 3, "plain"

    def __init__(self, stride: int = 1, shift: int = 0) -> None:
        super().__init__()
        self.output_stride = stride
        self.shift = shift

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, ::self.output_stride, ::self.output_stride].roll(self.shift, 3)


def classifier(stride: int = 1, shift: int = 0) -> Classifier:
    """Class 1 looks at red + 2 green, class 2 at 3 blue − green."""
    model = Classifier(Copy(stride, shift), 2).eval()
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]]))
        model.fc.bias.fill_(100)
    return model


def heatmaps(model: Classifier, image: np.ndarray, classes=(1, 2), *, scales=(1.0,), flip=False) -> np.ndarray:
    return class_heatmaps(model, image, classes, scales=scales, flip=flip, device=CPU)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)


IMAGE = np.array([[[1, 2, 3], [4, 5, 6]], [[0, 0, 0], [10, 0, 1]]], np.uint8)


def test_heatmaps_weight_the_features_by_the_row_of_the_class():
    found = heatmaps(classifier(), IMAGE)
    assert (found.shape, found.dtype) == ((2, 2, 2), np.float32)
    np.testing.assert_allclose(found, [[[5, 14], [0, 10]], [[7, 13], [0, 3]]], rtol=1e-5, atol=1e-5)


def test_heatmaps_come_in_the_order_of_the_classes_asked_for():
    both = heatmaps(classifier(), IMAGE)
    np.testing.assert_array_equal(heatmaps(classifier(), IMAGE, [2, 1]), both[::-1])
    np.testing.assert_array_equal(heatmaps(classifier(), IMAGE, [2]), both[1:])


def test_heatmaps_are_upsampled_from_the_cell_centres():
    image = np.zeros((1, 6, 3), np.uint8)
    image[0, :, 0] = [0, 99, 20, 99, 60, 99]  # a stride of 2 sees 0, 20, 60
    np.testing.assert_allclose(heatmaps(classifier(2), image, [1])[0], [[0, 10, 20, 40, 60, 60]], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("stride", "size"), [(1, (4, 6)), (2, (5, 7)), (8, (9, 17))])
def test_mirroring_changes_nothing_for_a_symmetric_model(stride, size):
    image = noise(*size)
    np.testing.assert_allclose(heatmaps(classifier(stride), image, flip=True), heatmaps(classifier(stride), image), atol=1e-3)


def test_heatmaps_of_the_mirrored_image_are_mirrored_back():
    image = np.zeros((1, 4, 3), np.uint8)
    image[0, :, 0] = [10, 20, 30, 40]
    moved = classifier(shift=1)
    np.testing.assert_allclose(heatmaps(moved, image, [1])[0], [[40, 10, 20, 30]], rtol=1e-5)
    np.testing.assert_allclose(heatmaps(moved, image, [1], flip=True)[0], [[(40 + 20) / 2, (10 + 30) / 2, (20 + 40) / 2, (30 + 10) / 2]], rtol=1e-5)


@pytest.mark.parametrize("flip", [False, True])
def test_scales_are_averaged_in_the_frame_of_the_image(flip):
    image = noise(11, 13)
    model = classifier(4)
    alone = [heatmaps(model, image, scales=[scale], flip=flip) for scale in (0.5, 1.0, 1.7)]
    together = heatmaps(model, image, scales=[0.5, 1.0, 1.7], flip=flip)
    assert together.shape == (2, 11, 13)
    np.testing.assert_allclose(together, np.mean(alone, 0), atol=1e-3)


@pytest.mark.parametrize("scale", [0.5, 2.0, 1.5])
def test_another_scale_shifts_nothing(scale):
    slope = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 30, 0) * np.array([1, 0, 0], np.uint8)
    found = heatmaps(classifier(), slope, [1], scales=[scale])[0]
    np.testing.assert_allclose(found[:, 3:-3], np.broadcast_to(np.arange(0, 240, 4), (30, 60))[:, 3:-3], atol=0.05)


def test_a_constant_image_points_nowhere_at_any_scale():
    grey = np.full((21, 30, 3), 124, np.uint8)
    for flip in (False, True):
        found = heatmaps(classifier(8), grey, scales=[0.5, 1.0, 1.3], flip=flip)
        for rule in ("minmax", "relu-max"):
            assert not normalise_heatmaps(found, rule).any()


# --- normalising

MAP = np.array([[[-2, 0, 2, 6]]], np.float32)


def test_both_rules_by_hand():
    np.testing.assert_allclose(normalise_heatmaps(MAP, "minmax"), [[[0, 0.25, 0.5, 1]]])
    np.testing.assert_allclose(normalise_heatmaps(MAP, "relu-max"), [[[0, 0, 1 / 3, 1]]])
    assert normalise_heatmaps(MAP, "minmax").dtype == np.float32


def test_every_map_is_scaled_by_its_own_values():
    np.testing.assert_allclose(normalise_heatmaps(np.concatenate([MAP, 10 * MAP + 7]), "minmax"), np.repeat(normalise_heatmaps(MAP, "minmax"), 2, 0))


@pytest.mark.parametrize("rule", ["minmax", "relu-max"])
@pytest.mark.parametrize("value", [0, 1e-6, 3, -3, 1e6])
def test_a_map_without_contrast_points_nowhere(rule, value):
    constant = np.full((1, 5, 4), value, np.float32)
    assert not normalise_heatmaps(constant, rule).any()
    constant[0, 2, 2] *= 1 + 3e-7  # as rounding does
    assert not normalise_heatmaps(constant, rule).any()


def test_faint_maps_count_like_strong_ones():
    np.testing.assert_allclose(normalise_heatmaps(MAP * np.float32(1e-9), "minmax"), normalise_heatmaps(MAP, "minmax"), rtol=1e-5)


def test_a_map_that_is_nowhere_positive_points_nowhere_under_relu():
    assert not normalise_heatmaps(MAP - 6, "relu-max").any()
    assert not normalise_heatmaps(MAP - 9, "relu-max").any()
    assert normalise_heatmaps(MAP - 9, "minmax").any()


@settings(deadline=None)
@given(arrays.arrays(np.int16, (2, 3, 4), elements=st.integers(-50, 50)), st.integers(1, 9), st.integers(-20, 20))
def test_normalised_maps_lie_in_0_to_1_and_do_not_depend_on_gain_and_minmax_not_on_offset(values, gain, offset):
    maps = values.astype(np.float32)
    for rule, other in (("minmax", gain * maps + offset), ("relu-max", gain * maps)):
        scaled = normalise_heatmaps(maps, rule)
        assert scaled.min() >= 0
        assert scaled.max() <= 1
        np.testing.assert_allclose(normalise_heatmaps(other, rule), scaled, atol=1e-6)
    for plane, scaled in zip(maps, normalise_heatmaps(maps, "minmax"), strict=True):
        assert (scaled.min(), scaled.max()) == ((0, 1) if np.ptp(plane) else (0, 0))


# --- mining

def test_mined_are_the_pixels_above_the_threshold_not_at_it():
    nothing = {3: np.zeros((1, 4), np.uint8)}
    assert mine(MAP, nothing, 1, rule="minmax", threshold=0.5)[3].tolist() == [[0, 0, 0, 1]]
    assert mine(MAP, nothing, 1, rule="minmax", threshold=0.49)[3].tolist() == [[0, 0, 1, 1]]
    assert mine(MAP, nothing, 1, rule="relu-max", threshold=0.2)[3].tolist() == [[0, 0, 1, 1]]
    assert nothing[3].tolist() == [[0, 0, 0, 0]]


def test_a_pixel_keeps_the_round_that_found_it_and_every_class_its_own_record():
    mined = {2: np.array([[1, 0, 0, 2]], np.uint8), 5: np.zeros((1, 4), np.uint8)}
    maps = np.array([[[9, 9, 0, 9]], [[0, 0, 4, 0]]], np.float32)
    found = mine(maps, mined, 3, rule="minmax", threshold=0.5)
    assert {label: region.tolist() for label, region in found.items()} == {2: [[1, 3, 0, 2]], 5: [[0, 0, 3, 0]]}
    assert all(region.dtype == np.uint8 for region in found.values())


def test_a_constant_map_mines_nothing():
    before = {1: np.array([[1, 0], [0, 0]], np.uint8)}
    for rule in ("minmax", "relu-max"):
        np.testing.assert_array_equal(mine(np.full((1, 2, 2), 7, np.float32), before, 2, rule=rule, threshold=0.1)[1], before[1])


def test_without_classes_nothing_is_mined():
    assert mine(np.zeros((0, 2, 2), np.float32), {}, 1, rule="minmax", threshold=0.5) == {}


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.sampled_from(["minmax", "relu-max"]), st.floats(0.05, 0.95))
def test_rounds_only_add(seed, classes, rule, threshold):
    rng = np.random.default_rng([seed])
    mined = {label: np.zeros((4, 5), np.uint8) for label in range(1, classes + 1)}
    for number in (1, 2, 3):
        maps = rng.normal(size=(classes, 4, 5)).astype(np.float32)
        after = mine(maps, mined, number, rule=rule, threshold=threshold)
        assert list(after) == list(mined)
        for place, (label, region) in enumerate(mined.items()):
            above = normalise_heatmaps(maps, rule)[place] > threshold
            np.testing.assert_array_equal(after[label][region > 0], region[region > 0])
            np.testing.assert_array_equal(after[label] == number, above & (region == 0))
            assert set(np.unique(after[label])) <= set(range(number + 1))
        mined = after


def test_confidences_are_those_of_the_resized_image():
    model = classifier()
    image = np.full((6, 8, 3), (10, 20, 40), np.uint8)
    for scale in (1.0, 0.5, 0.01):  # one colour is the same at any scale, down to a single pixel
        found = confidences(model, image, scale=scale, output="linear", device=CPU)
        np.testing.assert_allclose(found, [10 + 2 * 20 + 100, 3 * 40 - 20 + 100], rtol=1e-5)
    found = confidences(model, image, scale=1.0, output="softmax", device=CPU)
    assert found[1] == pytest.approx(1 / (1 + np.exp(-50)))


def test_the_images_surest_of_a_class_are_mined_further():
    # By hand: class 1 labels images 0, 1, 2 and 4, class 2 labels 3 and 4, class 3 none.
    labels = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0]], bool)
    sure = np.array([[0.9, 0.1, 0.9], [0.8, 0.9, 0.9], [0.1, 0.9, 0.9], [0.9, 0.2, 0.9], [0.8, 0.3, 0.9]])
    assert np.argwhere(most_confident(sure, labels, share=0.25)).tolist() == [[0, 0], [4, 1]]
    assert np.argwhere(most_confident(sure, labels, share=0.26)).tolist() == [[0, 0], [1, 0], [4, 0], [4, 1]]  # two of four, and a tie
    assert np.argwhere(most_confident(sure, labels, share=0.01)).tolist() == [[0, 0], [4, 1]]  # never none
    np.testing.assert_array_equal(most_confident(sure, labels, share=1.0), labels)
