"""Prohibitive segmentation learning (section 3.3).

The classification branch says which classes an image holds; its confidences v weigh the segmentation scores, and the
arg max of the product is a second, online pseudo-label Ŝ. The loss is J(f, S) + J(f, Ŝ) plus the classification loss.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from aepsl.networks.classifier import Output, label_probabilities, squared_label_loss
from aepsl.networks.grid import to_grid
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import normalise


def allowed_classes(labels: Tensor) -> Tensor:
    """O: background and the image's own classes, (B, 1+C) bool, from labels (B, C) bool."""
    return F.pad(labels, (1, 0), value=True)


def online_labels(scores: Tensor, confidences: Tensor) -> Tensor:
    """Ŝ = arg max over classes of [1, v] ⊗ f: (B, h, w) int64.

    Parameters
    ----------
    scores : (B, 1+C, h, w) segmentation scores before the soft max; f is their soft max.
    confidences : (B, C) v; background has weight 1. No gradient passes through either.
    """
    with torch.no_grad():
        weights = F.pad(confidences, (1, 0), value=1.0)
        return (scores.softmax(1) * weights[:, :, None, None]).argmax(1)


def labelled_loss(scores: Tensor, target: Tensor, allowed: Tensor) -> Tensor:
    """J(f, S) = −(1/Σ_{c∈O}|S_c|) Σ_{c∈O} Σ_{u∈S_c} log f_{u,c}, per image, averaged over the batch.

    Parameters
    ----------
    scores : (B, 1+C, h, w) before the soft max.
    target : (B, h, w) integer; pixels of a class outside O, and 255, do not count.
    allowed : O, (B, 1+C) bool.

    An image in which no pixel counts contributes zero.
    """
    classes = scores.shape[1]
    target = target.long()
    known = target < classes
    index = torch.where(known, target, 0)
    counts = known & allowed.gather(1, index.flatten(1)).view_as(index)
    # log_softmax + gather: the usual NLL loss has no deterministic backward on CUDA.
    picked = scores.log_softmax(1).gather(1, index[:, None])[:, 0]
    per_image = (picked * counts).sum((1, 2)) / counts.sum((1, 2)).clamp(min=1)
    return -per_image.mean()


class SegmentationTerms:
    """The loss terms of one batch, for :func:`aepsl.training.loop.train`.

    Parameters
    ----------
    psl : ``none``: J(f, S) alone; ``predicted``: v from the classification branch; ``true-labels``: v = the image's labels.
    classification_weight : weight of the classification loss.
    online_from : share of the training after which J(f, Ŝ) joins. 0 is the paper's; without pretrained weights the network would
        first learn its own early guess, that all is background.
    output : how the branch turns scores into confidences, ``softmax`` or ``linear``.
    """

    def __init__(self, model: Segmenter, *, psl: str, classification_weight: float, online_from: float = 0.0, output: Output = "softmax") -> None:
        self._model = model
        self._psl = psl
        self._weight = classification_weight
        self._online_from = online_from
        self._output = output

    def __call__(self, images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        if mask is None:
            raise ValueError("expected pseudo-labels with every batch, got none")
        inputs = normalise(images, self._model.trunk.preprocessing).contiguous(memory_format=torch.channels_last)
        scores, class_scores = self._model(inputs)
        allowed = allowed_classes(labels)
        terms = {"segmentation": labelled_loss(scores, to_grid(mask, self._model.trunk.output_stride), allowed)}
        if self._psl == "none":
            return terms
        confidences = labels.float()
        if self._psl == "predicted":
            confidences = label_probabilities(class_scores, self._output).clamp(0, 1)
            terms["classification"] = self._weight * squared_label_loss(class_scores, labels, output=self._output)
        online = labelled_loss(scores, online_labels(scores, confidences), allowed)
        terms["online"] = online if done >= self._online_from else torch.zeros_like(online)
        return terms
