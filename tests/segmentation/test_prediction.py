import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import PREPROCESSING, Preprocessing, Trunk
from aepsl.segmentation.prediction import class_probabilities, prohibit

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="module")
def plain_preprocessing():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PREPROCESSING, "plain", Preprocessing((0, 0, 0), (1 / 255, 1 / 255, 1 / 255), bgr=False))
        yield


class Copy(Trunk):
    """Features are the colours, 0 to 255, under the cell centres, moved to the right by some cells."""

    name, channels, preprocessing = "copy", 3, "plain"

    def __init__(self, stride: int, shift: int) -> None:
        super().__init__()
        self.output_stride = stride
        self.shift = shift

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, ::self.output_stride, ::self.output_stride].roll(self.shift, 3)


def segmenter(stride: int, *, shift: int = 0, with_classification: bool = False) -> Segmenter:
    """Scores of background and two classes: the colours / 100. Class logits: mean red / 10 and 0."""
    model = Segmenter(Copy(stride, shift), 2, with_classification=with_classification).eval()
    with torch.no_grad():
        model.segment.weight.copy_(torch.eye(3)[:, :, None, None] / 100)
        if model.classify is not None:
            model.classify.weight.copy_(torch.tensor([[0.1, 0, 0], [0, 0, 0]]))
    return model


def predict(model: Segmenter, image: np.ndarray, *, scales=(1.0,), flip=False, output="softmax") -> tuple[np.ndarray, np.ndarray | None]:
    return class_probabilities(model, image, scales=scales, flip=flip, device=CPU, output=output)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), np.uint8)


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores)
    return powers / powers.sum(0)


def test_probabilities_are_the_soft_max_on_the_grid():
    image = noise(5, 7)
    found, confidences = predict(segmenter(2), image)
    assert (found.shape, found.dtype, confidences) == ((3, 3, 4), np.float32, None)
    np.testing.assert_allclose(found, softmax(image[::2, ::2].transpose(2, 0, 1) / 100), rtol=1e-4)


@pytest.mark.parametrize(("stride", "size"), [(1, (4, 6)), (2, (5, 7)), (8, (9, 17))])
def test_mirroring_changes_nothing_for_a_symmetric_model(stride, size):
    image = noise(*size)
    np.testing.assert_allclose(predict(segmenter(stride), image, flip=True)[0], predict(segmenter(stride), image)[0], atol=1e-5)


def test_the_mirrored_copy_is_mirrored_back():
    image = noise(3, 4)
    columns = softmax(image.transpose(2, 0, 1) / 100)
    expected = (np.roll(columns, 1, 2) + np.roll(columns, -1, 2)) / 2
    np.testing.assert_allclose(predict(segmenter(1, shift=1), image, flip=True)[0], expected, atol=1e-5)


def test_the_grid_of_the_mirrored_copy_is_brought_to_that_of_the_image():
    image = noise(1, 6)  # cells at 0, 2, 4; mirrored ones at 5, 3, 1
    at = softmax(image[0].T / 100).T
    mirrored = np.stack([at[1], (at[1] + at[3]) / 2, (at[3] + at[5]) / 2])
    np.testing.assert_allclose(predict(segmenter(2), image, flip=True)[0][:, 0].T, (at[::2] + mirrored) / 2, atol=1e-5)


@pytest.mark.parametrize("scale", [0.5, 1.5, 2.0])
def test_another_scale_shifts_nothing(scale):
    slope = np.zeros((33, 65, 3), np.uint8)
    slope[..., 1] = np.arange(0, 195, 3)
    found, _ = predict(segmenter(4), slope, scales=[scale])
    expected, _ = predict(segmenter(4), slope)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found[:, :, 1:-2], expected[:, :, 1:-2], atol=0.001)  # a pixel makes 0.004


def test_scales_and_mirrored_copies_are_averaged_with_their_confidences():
    image = noise(19, 22)
    model = segmenter(4, shift=1, with_classification=True)
    alone = [predict(model, image, scales=[scale], flip=True) for scale in (0.5, 1.0, 1.7)]
    probabilities, confidences = predict(model, image, scales=[0.5, 1.0, 1.7], flip=True)
    np.testing.assert_allclose(probabilities, np.mean([found for found, _ in alone], 0), atol=1e-5)
    np.testing.assert_allclose(confidences, np.mean([v for _, v in alone], 0), atol=1e-5)


def test_confidences_follow_from_the_classification_branch():
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = [[0, 20], [20, 0]]
    model = segmenter(1, with_classification=True)
    np.testing.assert_allclose(predict(model, image)[1], softmax(np.array([1.0, 0.0])), rtol=1e-5)
    np.testing.assert_allclose(predict(model, image, output="linear")[1], [1, 0], rtol=1e-5)
    assert predict(model, image)[1].dtype == np.float32


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 2, 8]), st.lists(st.floats(0.2, 2), min_size=1, max_size=2), st.booleans())
def test_probabilities_of_any_size_and_scale_fill_the_grid_and_add_up_to_one(height, width, stride, scales, flip):
    found, _ = predict(segmenter(stride), noise(height, width), scales=scales, flip=flip)
    assert found.shape == (3, -(-height // stride), -(-width // stride))
    assert found.min() >= 0
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)


def test_prohibited_classes_are_planes_of_zeros_and_background_never_is():
    probabilities = np.random.default_rng([1]).random((4, 2, 3)).astype(np.float32)
    found = prohibit(probabilities, np.array([False, True, False]))
    np.testing.assert_array_equal(found, probabilities * np.array([1, 0, 1, 0], np.float32)[:, None, None])
    assert found.dtype == np.float32
    assert (probabilities > 0).all()
    nothing = prohibit(probabilities, np.zeros(3, bool))
    np.testing.assert_array_equal(nothing[0], probabilities[0])
    assert not nothing[1:].any()
    np.testing.assert_array_equal(prohibit(probabilities, np.ones(3, bool)), probabilities)
