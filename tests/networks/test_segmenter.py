"""The segmentation network: both heads on one trunk."""

import pytest
import torch

from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import Trunk, build_trunk


def trunk(stride: int = 8) -> Trunk:
    return build_trunk("mobilenet_v2", output_stride=stride, width=0.1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("stride", "cells"), [(8, (7, 9)), (16, (4, 5))])
def test_scores_are_background_and_classes_on_the_grid(stride: int, cells: tuple[int, int]) -> None:
    network = Segmenter(trunk(stride), 4, with_classification=True).eval()
    scores, class_logits = network(torch.zeros(2, 3, 49, 65))
    assert scores.shape == (2, 5, *cells)
    assert class_logits.shape == (2, 4)


def test_without_the_branch_there_are_no_class_logits_and_no_parameters_for_them() -> None:
    network = Segmenter(trunk(), 4, with_classification=False)
    assert network(torch.zeros(2, 3, 16, 16))[1] is None
    assert [name for name, _ in network.named_parameters() if not name.startswith("trunk.")] == ["segment.weight", "segment.bias"]


def test_the_branch_equals_a_convolution_followed_by_average_pooling() -> None:
    network = Segmenter(trunk(), 4, with_classification=True).eval()
    assert network.classify is not None
    images = torch.randn(2, 3, 33, 41, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        _, pooled = network(images)
        maps = torch.nn.functional.conv2d(network.trunk(images), network.classify.weight[:, :, None, None], network.classify.bias)
    torch.testing.assert_close(pooled, maps.mean((2, 3)))


def test_both_heads_reach_the_shared_trunk() -> None:
    network = Segmenter(trunk(), 4, with_classification=True)
    for head in range(2):
        network.zero_grad()
        network(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)))[head].square().sum().backward()
        first = next(network.trunk.parameters())
        assert first.grad is not None
        assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("with_classification", [True, False])
def test_the_last_layers_are_the_heads(with_classification: bool) -> None:
    network = Segmenter(trunk(), 4, with_classification=with_classification)
    heads = {id(parameter) for name, parameter in network.named_parameters() if not name.startswith("trunk.")}
    assert {id(parameter) for parameter in network.last_layer_parameters()} == heads
    assert len(heads) == (4 if with_classification else 2)


def test_the_heads_follow_the_generator() -> None:
    one, two = (Segmenter(trunk(), 4, with_classification=True, generator=torch.Generator().manual_seed(7)).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert one["segment.weight"].std().item() == pytest.approx(0.01, rel=0.2)
    assert one["segment.bias"].abs().sum() == 0
