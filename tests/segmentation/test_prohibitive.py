from math import log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aepsl.networks.classifier import squared_label_loss
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import Trunk, normalise
from aepsl.segmentation.prohibitive import SegmentationTerms, allowed_classes, labelled_loss, online_labels


def scores_of(*pixels: list[float]) -> Tensor:
    """Scores (1, 1+C, 1, pixels) whose soft max is the given probabilities of every pixel."""
    return torch.tensor(pixels).log().T[None, :, None]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- O and Ŝ

def test_allowed_are_background_and_the_classes_of_the_image():
    assert allowed_classes(torch.tensor([[True, False], [False, False]])).tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize(("confidences", "expected"), [
    ([1, 1], [1, 0, 2]),  # [1, v] = 1: the arg max of f
    ([0, 1], [2, 0, 2]),  # 0.25 | 0 | 0.35
    ([0.5, 0.5], [0, 0, 2]),  # 0.25 | 0.2 | 0.175: background has weight 1; 0.1 | 0.05 | 0.4
    ([0.9, 0.01], [1, 0, 0]),  # 0.1 | 0.09 | 0.008
    ([0, 0], [0, 0, 0]),
])
def test_online_labels_by_hand(confidences, expected):
    scores = scores_of([0.25, 0.4, 0.35], [0.7, 0.1, 0.2], [0.1, 0.1, 0.8])
    found = online_labels(scores, torch.tensor([confidences], dtype=torch.float32))
    assert found.tolist() == [[expected]]
    assert found.dtype == torch.int64


def test_confidences_weigh_probabilities_not_scores():
    # All scores negative: multiplying them by a small confidence would raise them.
    assert online_labels(torch.tensor([-1.0, -0.5]).view(1, 2, 1, 1), torch.tensor([[0.1]])).item() == 0


def test_every_image_has_its_own_confidences():
    scores = scores_of([0.3, 0.7]).repeat(2, 1, 1, 1)
    assert online_labels(scores, torch.tensor([[1.0], [0.1]])).tolist() == [[[1]], [[0]]]


def test_no_gradient_passes_through_the_confidences_or_the_arg_max():
    allowed = torch.ones(2, 4, dtype=torch.bool)

    def gradients(detached: bool) -> tuple[Tensor, Tensor | None]:
        scores, v = noise(2, 4, 3, 5).requires_grad_(), noise(2, 3, seed=1).sigmoid().requires_grad_()
        labels = online_labels(scores, v.detach() if detached else v)
        labelled_loss(scores, labels, allowed).backward()
        # What J(f, Ŝ) would give for these labels, had they come from elsewhere.
        fixed = scores.detach().clone().requires_grad_()
        labelled_loss(fixed, labels.clone(), allowed).backward()
        torch.testing.assert_close(scores.grad, fixed.grad)
        return scores.grad, v.grad

    attached, of_v = gradients(detached=False)
    assert of_v is None
    torch.testing.assert_close(attached, gradients(detached=True)[0])


# --- J

def test_the_loss_by_hand():
    f = [[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.2, 0.2, 0.6], [0.1, 0.1, 0.8]]
    target = torch.tensor([[[0, 1, 2, 255]]])
    every, first = torch.tensor([[True, True, True]]), torch.tensor([[True, True, False]])
    assert labelled_loss(scores_of(*f), target, every).item() == pytest.approx(-(log(0.5) + log(0.6) + log(0.6)) / 3)
    assert labelled_loss(scores_of(*f), target, first).item() == pytest.approx(-(log(0.5) + log(0.6)) / 2)


def test_every_image_is_normalised_by_its_own_counted_pixels():
    scores = torch.cat([scores_of([0.5, 0.5], [0.25, 0.75], [0.5, 0.5]), scores_of([0.9, 0.1], [0.5, 0.5], [0.5, 0.5])])
    target = torch.tensor([[[0, 0, 0]], [[1, 255, 255]]])
    expected = -((log(0.5) + log(0.25) + log(0.5)) / 3 + log(0.1)) / 2
    assert labelled_loss(scores, target, torch.ones(2, 2, dtype=torch.bool)).item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_an_image_without_a_counted_pixel_adds_nothing_and_no_nan(dtype):
    scores = scores_of([0.5, 0.2, 0.3], [0.5, 0.2, 0.3]).repeat(2, 1, 1, 1).requires_grad_()
    target = torch.tensor([[[255, 2]], [[1, 255]]], dtype=dtype)
    loss = labelled_loss(scores, target, torch.tensor([[True, True, False]] * 2))
    assert loss.item() == pytest.approx(-log(0.2) / 2)
    loss.backward()
    assert scores.grad.isfinite().all()
    assert scores.grad[0].abs().sum() == 0


def test_ignored_everywhere_is_zero_with_a_finite_gradient():
    scores = noise(2, 3, 4, 4).requires_grad_()
    loss = labelled_loss(scores, torch.full((2, 4, 4), 255, dtype=torch.uint8), torch.ones(2, 3, dtype=torch.bool))
    assert loss.item() == 0
    loss.backward()
    assert scores.grad.abs().sum() == 0


def test_scores_far_apart_stay_finite():
    scores = torch.tensor([1e4, -1e4]).view(1, 2, 1, 1).requires_grad_()
    loss = labelled_loss(scores, torch.tensor([[[1]]]), torch.ones(1, 2, dtype=torch.bool))
    assert loss.item() == 2e4
    loss.backward()
    assert scores.grad.flatten().tolist() == [1, -1]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(0, 10_000))
def test_loss_and_gradient_equal_the_sum_of_the_paper(images, classes, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(images, 1 + classes, 3, 4, generator=generator, dtype=torch.float64).requires_grad_()
    target = torch.randint(0, classes + 2, (images, 3, 4), generator=generator)
    target[target > classes] = 255
    allowed = allowed_classes(torch.rand(images, classes, generator=generator) < 0.5)
    total, expected = 0.0, torch.zeros_like(scores)
    f = scores.detach().softmax(1)
    for image in range(images):
        counted = [(row, column) for row in range(3) for column in range(4)
                   if target[image, row, column] != 255 and allowed[image, target[image, row, column]]]
        for row, column in counted:
            c = target[image, row, column]
            total -= log(f[image, c, row, column]) / len(counted) / images
            expected[image, :, row, column] = (f[image, :, row, column] - torch.eye(1 + classes)[c]) / len(counted) / images
    loss = labelled_loss(scores, target, allowed)
    assert loss.item() == pytest.approx(total)
    loss.backward()
    torch.testing.assert_close(scores.grad, expected)


# --- the terms of a batch

class Corners(Trunk):
    """Features are the colours under the cell centres."""

    name, channels, output_stride = "corners", 3, 2

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, ::2, ::2]


def segmenter(*, with_classification: bool) -> Segmenter:
    generator = torch.Generator().manual_seed(0)
    model = Segmenter(Corners(), 2, with_classification=with_classification, generator=generator)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


GENERATOR = torch.Generator().manual_seed(3)
IMAGES = torch.randint(0, 256, (3, 3, 5, 7), generator=GENERATOR, dtype=torch.uint8)
LABELS = torch.tensor([[True, False], [True, True], [False, True]])
MASK = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[torch.randint(0, 4, (3, 5, 7), generator=GENERATOR)]


def outputs(model: Segmenter) -> tuple[Tensor, Tensor | None]:
    return model(normalise(IMAGES, "imagenet"))


def offline(model: Segmenter) -> Tensor:
    return labelled_loss(outputs(model)[0], MASK[:, ::2, ::2], allowed_classes(LABELS))


@pytest.mark.parametrize("with_classification", [False, True])
def test_without_prohibitive_learning_there_is_the_segmentation_loss_alone(with_classification):
    model = segmenter(with_classification=with_classification)
    terms = SegmentationTerms(model, psl="none", classification_weight=1)(IMAGES, LABELS, MASK, 1.0)
    assert list(terms) == ["segmentation"]
    torch.testing.assert_close(terms["segmentation"], offline(model))


@pytest.mark.parametrize("weight", [0.0, 1.0, 0.25])
def test_predicted_confidences_add_the_classification_and_the_online_loss(weight):
    model = segmenter(with_classification=True)
    terms = SegmentationTerms(model, psl="predicted", classification_weight=weight)(IMAGES, LABELS, MASK, 1.0)
    scores, logits = outputs(model)
    assert set(terms) == {"segmentation", "classification", "online"}
    torch.testing.assert_close(terms["segmentation"], offline(model))
    torch.testing.assert_close(terms["classification"], weight * squared_label_loss(logits, LABELS, output="softmax"))
    torch.testing.assert_close(terms["online"], labelled_loss(scores, online_labels(scores, logits.softmax(1)), allowed_classes(LABELS)))


@pytest.mark.parametrize("with_classification", [False, True])
def test_true_labels_as_confidences_need_no_branch(with_classification):
    model = segmenter(with_classification=with_classification)
    terms = SegmentationTerms(model, psl="true-labels", classification_weight=1)(IMAGES, LABELS, MASK, 1.0)
    scores, _ = outputs(model)
    assert set(terms) == {"segmentation", "online"}
    torch.testing.assert_close(terms["online"], labelled_loss(scores, online_labels(scores, LABELS.float()), allowed_classes(LABELS)))


def test_linear_confidences_are_confined_to_0_and_1():
    model = segmenter(with_classification=True)
    with torch.no_grad():
        model.classify.weight.zero_()
        model.classify.bias.copy_(torch.tensor([40.0, -3.0]))
    terms = SegmentationTerms(model, psl="predicted", classification_weight=1, output="linear")(IMAGES, LABELS, MASK, 1.0)
    scores, logits = outputs(model)
    expected = labelled_loss(scores, online_labels(scores, torch.tensor([[1.0, 0.0]] * 3)), allowed_classes(LABELS))
    torch.testing.assert_close(terms["online"], expected)
    torch.testing.assert_close(terms["classification"], squared_label_loss(logits, LABELS, output="linear"))


def test_the_online_loss_teaches_the_segmentation_head_and_not_the_classification_branch():
    model = segmenter(with_classification=True)
    terms = SegmentationTerms(model, psl="predicted", classification_weight=1)(IMAGES, LABELS, MASK, 1.0)
    for term, taught, left_alone in (("online", model.segment, model.classify), ("segmentation", model.segment, model.classify),
                                     ("classification", model.classify, model.segment)):
        parameters = [*taught.parameters(), *left_alone.parameters()]
        gradients = torch.autograd.grad(terms[term], parameters, retain_graph=True, allow_unused=True)
        assert all(gradient.abs().sum() > 0 for gradient in gradients[:2])
        assert all(gradient is None for gradient in gradients[2:])


def test_training_without_pseudo_labels_is_refused():
    terms = SegmentationTerms(segmenter(with_classification=True), psl="predicted", classification_weight=1)
    with pytest.raises(ValueError, match="expected pseudo-labels with every batch"):
        terms(IMAGES, LABELS, None, 0.0)


@pytest.mark.parametrize(("done", "joined"), [(0.0, False), (0.49, False), (0.5, True), (1.0, True)])
def test_the_online_loss_joins_after_its_share_of_the_training(done, joined):
    model = segmenter(with_classification=True)
    terms = SegmentationTerms(model, psl="predicted", classification_weight=1, online_from=0.5)(IMAGES, LABELS, MASK, done)
    assert (terms["online"].item() > 0) == joined
    assert terms["segmentation"].item() > 0
    assert terms["classification"].item() > 0
