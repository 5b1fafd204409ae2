"""The classifier of a mining round: trunk, global average pooling, one fully connected layer; its loss and its heatmaps.

Paper, section 3.1; class activation maps after Zhou et al. (CVPR 2016). Normalising and thresholding the maps is mining's.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from aepsl.errors import AepslError
from aepsl.networks.trunks import Trunk

Output = Literal["softmax", "linear"]


def initialise_head(layer: nn.Conv2d | nn.Linear, generator: torch.Generator | None = None) -> None:
    """New last layers start at N(0, 0.01), biases at 0, as in DeepLab."""
    nn.init.normal_(layer.weight, std=0.01, generator=generator)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


class Classifier(nn.Module):
    """Images (B, 3, H, W), normalised → one score for each of ``classes`` classes."""

    def __init__(self, trunk: Trunk, classes: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.fc = nn.Linear(trunk.channels, classes)
        initialise_head(self.fc, generator)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C)."""
        features = self.trunk(images)  # (B, D, h, w)
        logits: Tensor = self.fc(features.mean((2, 3)))
        return logits

    def heatmaps(self, images: Tensor, asked: Tensor | None = None) -> Tensor:
        """Class activation maps (B, C, h, w) at the trunk's stride, not normalised.

        The features weighted by the fully connected layer's row of each class; the bias is left out. So the mean of a map
        plus the bias is the logit of its class.

        Parameters
        ----------
        asked : (B, K) int64, the classes of each image whose maps (B, K, h, w) are wanted, from 0; None = all.
        """
        features = self.trunk(images)
        if asked is None:
            return torch.einsum("bdhw,cd->bchw", features, self.fc.weight)
        return torch.einsum("bdhw,bkd->bkhw", features, self.fc.weight[asked])

    def last_layer_parameters(self) -> list[nn.Parameter]:
        """The parameters that learn at the higher rate."""
        return list(self.fc.parameters())


def label_probabilities(logits: Tensor, output: Output) -> Tensor:
    """Class confidences p (B, C) float32: the softmax of the logits, or, for "linear", the logits themselves (not confined to [0, 1])."""
    if output == "softmax":
        return logits.float().softmax(1)
    if output == "linear":
        return logits.float()
    raise ValueError(f"expected output 'softmax' or 'linear', got {output!r}")


def squared_label_loss(logits: Tensor, labels: Tensor, *, output: Output) -> Tensor:
    """The paper's squared label prediction loss, a scalar: ½ Σ_k (p_k − y_k / ‖y‖₁)², averaged over the batch.

    Parameters
    ----------
    logits : (B, C).
    labels : (B, C) bool; every image needs at least one.
    output : how p follows from the logits, see :func:`label_probabilities`.

    Raises
    ------
    AepslError : an image has no label, so its target is undefined.
    """
    if labels.shape != logits.shape:
        raise ValueError(f"expected labels {tuple(logits.shape)} like the logits, got {tuple(labels.shape)}")
    counts = labels.sum(1, keepdim=True)
    # Asking a GPU would make the processor wait for it; there such a batch has a loss of NaN, which is refused.
    unlabelled = [] if labels.is_cuda else (counts[:, 0] == 0).nonzero()[:, 0].tolist()
    if unlabelled:
        raise AepslError(f"image labels: expected at least one class for every training image, found none at position(s) {unlabelled} "
                         "of the batch; leave such images out of the training split")
    targets = labels.float() / counts
    return (label_probabilities(logits, output) - targets).square().sum(1).mean() / 2
