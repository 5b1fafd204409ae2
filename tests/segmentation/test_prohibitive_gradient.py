"""The whole loss of prohibitive learning, and its gradient, against a second implementation: loops over pixels, written from the paper's formulas."""

from math import exp, log

import numpy as np
import pytest
import torch
from torch import Tensor

from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import Trunk, normalise
from aepsl.segmentation.prohibitive import SegmentationTerms

CLASSES, STRIDE = 2, 2
GENERATOR = torch.Generator().manual_seed(5)
IMAGES = torch.randint(0, 256, (3, 3, 3, 6), generator=GENERATOR, dtype=torch.uint8)
LABELS = torch.tensor([[True, False], [True, True], [False, True]])
MASK = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)[torch.randint(0, 4, (3, 3, 6), generator=GENERATOR)]


class Cells(Trunk):
    """Features are the colours under the cell centres."""

    name, channels, output_stride = "cells", 3, STRIDE

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, ::STRIDE, ::STRIDE]


def segmenter() -> Segmenter:
    generator = torch.Generator().manual_seed(8)
    model = Segmenter(Cells(), CLASSES, with_classification=True)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def softmax(scores: list[float]) -> list[float]:
    powers = [exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


class ByTheFormulas:
    """J(f, S) + J(f, Ŝ) + weight · ½ Σ (p − y/‖y‖₁)² as a function of the heads' parameters; Ŝ can be held fixed."""

    def __init__(self, weight: float, *, psl: str = "predicted") -> None:
        self.features = normalise(IMAGES, "imagenet")[:, :, ::STRIDE, ::STRIDE].double().numpy()  # (B, D, h, w)
        self.marks = MASK[:, ::STRIDE, ::STRIDE].numpy()
        self.weight = weight
        self.psl = psl

    def online(self, heads: list[np.ndarray]) -> list[list[int]]:
        """Ŝ: for every image the arg max of [1, v] ⊗ f, cell after cell."""
        found = []
        for image, v in zip(self.features, self.confidences(heads), strict=True):
            f = self.probabilities(heads, image)
            found.append([int(np.argmax([share * weight for share, weight in zip(shares, [1.0, *v], strict=True)])) for shares in f])
        return found

    def confidences(self, heads: list[np.ndarray]) -> list[list[float]]:
        _, _, matrix, bias = heads
        if self.psl == "true-labels":
            return [[float(label) for label in labels] for labels in LABELS.tolist()]
        return [softmax(list(matrix @ image.mean((1, 2)) + bias)) for image in self.features]

    @staticmethod
    def probabilities(heads: list[np.ndarray], image: np.ndarray) -> list[list[float]]:
        matrix, bias, _, _ = heads
        return [softmax(list(matrix[:, :, 0, 0] @ cell + bias)) for cell in image.reshape(3, -1).T]

    def __call__(self, heads: list[np.ndarray], online: list[list[int]]) -> float:
        total = 0.0
        for image, v, marks, guess, labels in zip(self.features, self.confidences(heads), self.marks, online, LABELS.tolist(), strict=True):
            f = self.probabilities(heads, image)
            own = {0} | {number for number, label in enumerate(labels, 1) if label}  # O
            for target in (marks.ravel().tolist(), guess):
                counted = [(cell, c) for cell, c in enumerate(target) if c in own]
                total -= sum(log(f[cell][c]) for cell, c in counted) / max(1, len(counted)) / len(IMAGES)
            if self.psl == "predicted":
                wanted = [label / sum(labels) for label in labels]
                total += self.weight * sum((p - t) ** 2 for p, t in zip(v, wanted, strict=True)) / 2 / len(IMAGES)
        return total


def compare(weight: float, *, psl: str = "predicted") -> None:
    model = segmenter()
    assert model.classify is not None
    parameters = [*model.segment.parameters(), *model.classify.parameters()]
    terms = SegmentationTerms(model, psl=psl, classification_weight=weight)(IMAGES, LABELS, MASK, 0.0)
    loss = torch.stack(list(terms.values())).sum()
    loss.backward()

    reference, heads = ByTheFormulas(weight, psl=psl), [parameter.detach().double().numpy() for parameter in parameters]
    online = reference.online(heads)
    assert any(c not in {0, *(np.flatnonzero(labels) + 1)} for cells, labels in zip(online, LABELS.numpy(), strict=True) for c in cells) \
        == (psl == "predicted")  # the case of an arg max outside O occurs
    assert loss.item() == pytest.approx(reference(heads, online), rel=1e-5)
    for place, parameter in enumerate(parameters):
        slope = np.zeros_like(heads[place])
        for at in np.ndindex(slope.shape):
            ends = []
            for step in (1e-5, -1e-5):
                moved = [head.copy() for head in heads]
                moved[place][at] += step
                ends.append(reference(moved, online))  # Ŝ stays: no gradient passes through v or the arg max
            slope[at] = (ends[0] - ends[1]) / 2e-5
        if parameter.grad is None:
            assert not slope.any()
        else:
            np.testing.assert_allclose(parameter.grad.numpy(), slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_loss_and_gradient_of_the_heads_equal_finite_differences_of_the_formulas(weight: float) -> None:
    compare(weight)


def test_loss_and_gradient_with_true_labels_as_confidences() -> None:
    compare(1.0, psl="true-labels")
