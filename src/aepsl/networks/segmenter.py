"""The segmentation network: one trunk, a pixel-wise head and, for prohibitive learning, a classification branch.

Paper, sections 3.2 and 3.3. The losses live in ``segmentation``.
"""

import torch
from torch import Tensor, nn

from aepsl.networks.classifier import initialise_head
from aepsl.networks.trunks import Trunk, widen_points


class Segmenter(nn.Module):
    """Images (B, 3, H, W), normalised → scores of background and ``classes`` classes on the trunk's grid.

    Parameters
    ----------
    trunk : shared by both heads.
    classes : C, without the background.
    with_classification : add the branch that tells which classes the image shows.
    generator : source of the heads' random weights; without one, torch's global generator.
    """

    def __init__(self, trunk: Trunk, classes: int, *, with_classification: bool, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.trunk = trunk
        self.segment = nn.Conv2d(trunk.channels, 1 + classes, 1)
        widen_points(self.segment)
        initialise_head(self.segment, generator)
        # A linear layer on the mean of the features equals the mean of a 1×1 convolution, at a fraction of the work.
        self.classify = nn.Linear(trunk.channels, classes) if with_classification else None
        if self.classify is not None:
            initialise_head(self.classify, generator)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Segmentation scores (B, 1+C, h, w), channel 0 = background, and class logits (B, C) or None."""
        features = self.trunk(images)  # (B, D, h, w)
        class_logits = None if self.classify is None else self.classify(features.mean((2, 3)))
        return self.segment(features), class_logits

    def last_layer_parameters(self) -> list[nn.Parameter]:
        """The parameters that learn at the higher rate."""
        heads = [self.segment] if self.classify is None else [self.segment, self.classify]
        return [parameter for head in heads for parameter in head.parameters()]
