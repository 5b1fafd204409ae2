"""The squared label prediction loss at the start of training, and its gradient, by hand."""

import pytest
import torch
from torch import Tensor

from aepsl.networks.classifier import squared_label_loss

# Images with 1, 2, 3 and 4 of the 20 classes out of a hundred, such that the mean of 1/n is the 0.806 of VOC's training images.
COUNTS = [1] * 64 + [2] * 28 + [3] * 7 + [4]


def images_with(counts: list[int]) -> Tensor:
    return torch.tensor([[place < count for place in range(20)] for count in counts])


def test_training_starts_at_0_378_for_a_softmax_and_at_0_403_for_a_linear_output() -> None:
    mean = (64 / 1 + 28 / 2 + 7 / 3 + 1 / 4) / 100  # of 1/n
    labels = images_with(COUNTS)
    uniform = squared_label_loss(torch.full((100, 20), -2.5), labels, output="softmax").item()
    zero = squared_label_loss(torch.zeros(100, 20), labels, output="linear").item()
    # n targets 1/n against p = 1/20: n (1/n − 1/20)² + (20 − n) (1/20)² = 1/n − 1/20.
    assert uniform == pytest.approx((mean - 1 / 20) / 2, rel=1e-5)
    assert zero == pytest.approx(mean / 2, rel=1e-5)
    assert (round(uniform, 3), round(zero, 3)) == (0.378, 0.403)


def test_the_gradient_of_the_softmax_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]).log().requires_grad_()
    squared_label_loss(logits, torch.tensor([[True, True, False], [False, False, True]]), output="softmax").backward()
    # d = p − p̂; dJ/dz = p ∘ (d − Σ p d), and a half of it for a batch of two.
    d = [[0.0, -0.2, 0.2], [0.1, 0.1, -0.2]]
    sums = [0.3 * -0.2 + 0.2 * 0.2, 0.1 * 0.1 + 0.1 * 0.1 + 0.8 * -0.2]
    expected = [[p * (value - total) / 2 for p, value in zip(row, of_row, strict=True)]
                for row, of_row, total in zip([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], d, sums, strict=True)]
    torch.testing.assert_close(logits.grad, torch.tensor(expected))


def test_the_gradient_of_a_linear_output_is_the_difference_over_the_batch() -> None:
    logits = torch.tensor([[0.9, 0.1, 0.2], [0.0, 2.0, -1.0]]).requires_grad_()
    squared_label_loss(logits, torch.tensor([[True, False, True], [False, True, False]]), output="linear").backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.4, 0.1, -0.3], [0.0, 1.0, -1.0]]) / 2)
