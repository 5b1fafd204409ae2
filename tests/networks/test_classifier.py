"""The classifier: heatmaps against logits, and the squared label loss by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from aepsl.errors import AepslError
from aepsl.networks.classifier import Classifier, label_probabilities, squared_label_loss
from aepsl.networks.trunks import Trunk, build_trunk


class Given(Trunk):
    """A trunk whose features are its input."""

    name, channels, output_stride = "given", 2, 1

    def forward(self, images: Tensor) -> Tensor:
        return images


def by_hand() -> tuple[Classifier, Tensor]:
    network = Classifier(Given(), 2)
    with torch.no_grad():
        network.fc.weight.copy_(torch.tensor([[1.0, 2.0], [0.0, -1.0]]))
        network.fc.bias.copy_(torch.tensor([0.5, 10.0]))
    return network, torch.tensor([[[[1.0, 2.0]], [[3.0, 5.0]]]])  # (1, 2, 1, 2)


def test_logits_are_pooled_features_through_the_last_layer() -> None:
    network, features = by_hand()
    assert network(features).tolist() == [[1.5 + 2 * 4 + 0.5, -4 + 10]]


def test_heatmaps_weight_the_features_and_leave_the_bias_out() -> None:
    network, features = by_hand()
    assert network.heatmaps(features).tolist() == [[[[7.0, 12.0]], [[-3.0, -5.0]]]]


def test_the_mean_of_a_heatmap_plus_the_bias_is_the_logit() -> None:
    generator = torch.Generator().manual_seed(0)
    network = Classifier(build_trunk("mobilenet_v2", output_stride=8, width=0.1, generator=generator), 5, generator=generator).eval()
    nn.init.normal_(network.fc.bias, generator=generator)
    images = torch.randn(2, 3, 49, 65, generator=generator)
    with torch.no_grad():
        heatmaps = network.heatmaps(images)
        assert heatmaps.shape == (2, 5, 7, 9)
        torch.testing.assert_close(heatmaps.mean((2, 3)) + network.fc.bias, network(images))


def test_the_last_layer_starts_small_and_is_named_for_its_learning_rate() -> None:
    trunk = build_trunk("vgg16", output_stride=8, width=0.5)
    network = Classifier(trunk, 20, generator=torch.Generator().manual_seed(0))
    assert network.fc.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert network.fc.bias.abs().sum().item() == 0
    last = {id(parameter) for parameter in network.last_layer_parameters()}
    rest = {id(parameter) for parameter in trunk.parameters()}
    assert last | rest == {id(parameter) for parameter in network.parameters()}
    assert not last & rest


@pytest.mark.parametrize(("count", "expected"), [(1, 0.475), (2, 0.225), (4, 0.1)])
def test_a_uniform_softmax_over_twenty_classes_costs_half_of_one_over_n_less_a_twentieth(count: int, expected: float) -> None:
    labels = torch.zeros(1, 20, dtype=torch.bool)
    labels[0, :count] = True
    assert squared_label_loss(torch.full((1, 20), 3.0), labels, output="softmax").item() == pytest.approx(expected)


def test_a_zero_linear_output_costs_half_of_one_over_n_averaged_over_the_batch() -> None:
    labels = torch.tensor([[True, False, False], [True, True, False]])
    assert squared_label_loss(torch.zeros(2, 3), labels, output="linear").item() == pytest.approx((1 / 2 + 1 / 4) / 2)


def test_the_loss_by_hand() -> None:
    labels = torch.tensor([[True, False, True]])
    logits = torch.tensor([[0.9, 0.1, 0.2]])
    assert squared_label_loss(logits, labels, output="linear").item() == pytest.approx((0.4**2 + 0.1**2 + 0.3**2) / 2)
    p = [0.5, 0.2, 0.3]
    assert squared_label_loss(torch.tensor([p]).log(), labels, output="softmax").item() == pytest.approx((0.0 + 0.2**2 + 0.2**2) / 2)


def test_an_image_without_labels_is_an_error_not_a_nan() -> None:
    labels = torch.tensor([[True, False], [False, False]])
    with pytest.raises(AepslError, match=r"position\(s\) \[1\]"):
        squared_label_loss(torch.zeros(2, 2), labels, output="softmax")


def test_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected labels"):
        squared_label_loss(torch.zeros(2, 3), torch.ones(2, 1, dtype=torch.bool), output="softmax")


@given(st.lists(st.booleans(), min_size=2, max_size=6).filter(any), st.integers(0, 1000))
def test_the_loss_vanishes_at_its_target_and_is_never_negative(labels: list[bool], seed: int) -> None:
    wanted = torch.tensor([labels])
    target = wanted.float() / wanted.sum()
    assert squared_label_loss(target, wanted, output="linear").item() == pytest.approx(0, abs=1e-12)
    logits = torch.randn(1, len(labels), generator=torch.Generator().manual_seed(seed))
    assert 0 <= squared_label_loss(logits, wanted, output="softmax").item() <= 1


def test_half_precision_logits_give_float32_confidences() -> None:
    p = label_probabilities(torch.tensor([[0.0, 0.0]], dtype=torch.float16), "softmax")
    assert p.dtype == torch.float32
    assert p.tolist() == [[0.5, 0.5]]
