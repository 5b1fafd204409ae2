"""SGD parameter groups and learning-rate schedules of the DeepLab release (method of the paper, section 4.1)."""

from collections.abc import Iterable

import torch
from torch import nn

from aepsl.params import Training


def parameter_groups(model: nn.Module, last_layer: Iterable[nn.Parameter], *, lr: float, weight_decay: float,
                     last_layer_lr: float, bias_lr: float) -> list[dict[str, object]]:
    """Four groups: weights and biases of the trunk, weights and biases of the last layer.

    The last layer learns ``last_layer_lr`` times faster; biases learn ``bias_lr`` times faster and do not decay.
    """
    last = {id(parameter) for parameter in last_layer}
    members: dict[tuple[bool, bool], list[nn.Parameter]] = {(final, bias): [] for final in (False, True) for bias in (False, True)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            members[id(parameter) in last, name.endswith("bias")].append(parameter)
    return [{"params": parameters, "lr": lr * (last_layer_lr if final else 1) * (bias_lr if bias else 1),
             "weight_decay": 0.0 if bias else weight_decay, "name": f"{'last' if final else 'trunk'} {'biases' if bias else 'weights'}"}
            for (final, bias), parameters in members.items() if parameters]


def make_optimiser(model: nn.Module, last_layer: Iterable[nn.Parameter], settings: Training) -> torch.optim.SGD:
    """SGD with momentum over :func:`parameter_groups`."""
    groups = parameter_groups(model, last_layer, lr=settings.lr, weight_decay=settings.weight_decay,
                              last_layer_lr=settings.last_layer_lr, bias_lr=settings.bias_lr)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum)


def lr_factor(step: int, total: int, *, schedule: str, lr_steps: list[float], per_unit: float) -> float:
    """What every learning rate is multiplied by at iteration ``step`` of ``total``.

    Parameters
    ----------
    schedule : ``step``: a tenth after each of ``lr_steps``; ``poly``: (1 − step/total)^0.9.
    per_unit : iterations in one unit of ``lr_steps`` (1, or those of an epoch).
    """
    if schedule == "poly":
        return float((1 - step / total) ** 0.9)
    return float(0.1 ** sum(step >= round(at * per_unit) for at in lr_steps))
