import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from aepsl.networks.classifier import Classifier
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import build_trunk
from aepsl.params import Training
from aepsl.training.optimiser import lr_factor, make_optimiser

PAPER = Training(length=6000, unit="iterations", batch=30, accumulate=1, crop=321, scale=[1.0, 1.0], mirror=True, lr=0.001, schedule="step",
                 lr_steps=[2000, 4000], momentum=0.9, weight_decay=0.0005, last_layer_lr=10.0, bias_lr=2.0, batch_norm="train")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4, 2)


def test_the_groups_of_the_release_are_read_back_from_the_optimiser():
    model = Small()
    groups = {group["name"]: group for group in make_optimiser(model, model.last.parameters(), PAPER).param_groups}
    assert {name: (pytest.approx(group["lr"]), group["weight_decay"]) for name, group in groups.items()} == {
        "trunk weights": (0.001, 0.0005), "trunk biases": (0.002, 0), "last weights": (0.01, 0.0005), "last biases": (0.02, 0)}
    assert {name: [id(parameter) for parameter in group["params"]] for name, group in groups.items()} == {
        "trunk weights": [id(model.conv.weight), id(model.norm.weight)], "trunk biases": [id(model.norm.bias)],
        "last weights": [id(model.last.weight)], "last biases": [id(model.last.bias)]}
    for group in groups.values():  # passing the weight decay as the momentum is an error that others made
        assert (group["momentum"], group["dampening"], group["nesterov"], group["maximize"]) == (0.9, 0, False, False)


def test_two_updates_by_hand():
    model = nn.Linear(1, 1)
    with torch.no_grad():
        model.weight.fill_(2)
        model.bias.fill_(1)
    optimiser = make_optimiser(model, [], PAPER.model_copy(update={"lr": 0.1, "weight_decay": 0.5}))
    for _ in range(2):
        model.weight.grad, model.bias.grad = torch.full((1, 1), 3.0), torch.full((1,), 4.0)
        optimiser.step()
    # Weight: 2 − 0.1·(3 + 0.5·2) = 1.6; momentum 0.9·4 + (3 + 0.5·1.6) = 7.4. Bias, without decay, twice as fast: 1 − 0.2·4 = 0.2; 0.9·4 + 4 = 7.6.
    assert model.weight.item() == pytest.approx(1.6 - 0.1 * 7.4)
    assert model.bias.item() == pytest.approx(0.2 - 0.2 * 7.6)


@pytest.mark.parametrize("kind", ["classifier", "segmenter", "segmenter without branch"])
@pytest.mark.parametrize("trunk", ["mobilenet_v2", "vgg16"])
def test_every_parameter_of_a_network_is_in_exactly_one_group(kind, trunk):
    base = build_trunk(trunk, output_stride=8, width=0.1)
    model = Classifier(base, 3) if kind == "classifier" else Segmenter(base, 3, with_classification=kind == "segmenter")
    groups = make_optimiser(model, model.last_layer_parameters(), PAPER).param_groups
    placed = {id(parameter): group for group in groups for parameter in group["params"]}
    assert sum(len(group["params"]) for group in groups) == len(placed) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        head, bias = not name.startswith("trunk."), name.endswith("bias")
        assert placed[id(parameter)]["lr"] == pytest.approx(0.001 * (10 if head else 1) * (2 if bias else 1))
        assert placed[id(parameter)]["weight_decay"] == (0 if bias else 0.0005)


def test_parameters_that_do_not_learn_are_in_no_group():
    model = Small()
    model.conv.requires_grad_(False)
    model.norm.requires_grad_(False)
    assert [group["name"] for group in make_optimiser(model, model.last.parameters(), PAPER).param_groups] == ["last weights", "last biases"]


def test_the_step_schedule_of_the_release():
    found = [lr_factor(step, 6000, schedule="step", lr_steps=[2000, 4000], per_unit=1) for step in (0, 1999, 2000, 3999, 4000, 5999)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_steps_are_given_in_units():
    found = [lr_factor(step, 9, schedule="step", lr_steps=[1, 2.5], per_unit=3) for step in range(9)]
    assert found == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.01])  # 2.5 epochs of 3 iterations end in the middle of an iteration
    assert lr_factor(8, 9, schedule="step", lr_steps=[], per_unit=3) == 1


def test_the_poly_schedule_by_hand():
    found = [lr_factor(step, 4, schedule="poly", lr_steps=[1], per_unit=1) for step in range(4)]
    assert found == pytest.approx([1, 0.7719, 0.5359, 0.2872], abs=1e-4)


@given(st.integers(1, 500), st.sampled_from(["step", "poly"]), st.lists(st.floats(0, 500), max_size=3))
def test_the_learning_rate_starts_at_most_whole_stays_positive_and_never_rises(total, schedule, lr_steps):
    factors = [lr_factor(step, total, schedule=schedule, lr_steps=sorted(lr_steps), per_unit=1) for step in range(total)]
    assert factors[0] <= 1
    assert factors[-1] > 0
    assert sorted(factors, reverse=True) == factors
