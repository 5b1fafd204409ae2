"""Layers that see the whole batch though each process holds a share of it: the same training, whatever the number of processes."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass
class Share:
    """Which rows of the part of a batch that is being computed this process holds."""

    first: int = 0
    count: int = 0
    whole: int = 0


class SharedDropout(nn.Module):
    """Dropout that draws for the whole part, as one process would, and takes the rows of this one's share."""

    def __init__(self, p: float, share: Share) -> None:
        super().__init__()
        self.p = p
        self._share = share

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        share = self._share
        # The order of drawing follows the order in memory, so this must be laid out as the whole would be.
        whole = x.new_ones((share.whole, *x.shape[1:]))
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        return x * F.dropout(whole, self.p)[share.first:share.first + share.count]


class _Sum(torch.autograd.Function):
    """Sum over all processes; the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total


class SharedBatchNorm(nn.BatchNorm2d):
    """Batch norm whose statistics in training are those of all processes' images. torch's own, which is faster, knows CUDA alone."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        x = input.float()
        count = float(_Sum.apply(x.new_full((1,), x.numel() / x.shape[1])))
        mean: Tensor = _Sum.apply(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale: Tensor = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def share_layers(model: nn.Module, share: Share, device: torch.device) -> None:
    """Put such layers, in place, where the model has dropout, and batch norm that is in training."""
    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, nn.Dropout) and layer.p:
                setattr(module, name, SharedDropout(layer.p, share).train(layer.training))
            elif isinstance(layer, nn.BatchNorm2d) and layer.training:
                kind = nn.SyncBatchNorm if device.type == "cuda" else SharedBatchNorm
                ours = kind(layer.num_features, layer.eps, layer.momentum, device=device)
                # The very same tensors: the optimiser and whoever saves the model hold them.
                ours.weight, ours.bias = layer.weight, layer.bias
                ours.running_mean, ours.running_var, ours.num_batches_tracked = layer.running_mean, layer.running_var, layer.num_batches_tracked
                setattr(module, name, ours)
