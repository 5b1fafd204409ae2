"""How a classifier does on images that it was not trained on: what tells when to stop."""

from dataclasses import dataclass

import numpy as np

from aepsl.data.samples import Photographs
from aepsl.mining.heatmaps import batch_confidences
from aepsl.networks.classifier import Classifier
from aepsl.networks.inference import Engine, over, ready


@dataclass(frozen=True)
class HeldOut:
    """How a classifier does on images it was not trained on, as erased as those it was.

    Attributes
    ----------
    accuracy : share of the images whose highest score is one of their classes.
    chance : the same share for always naming the class that most of them hold.
    """

    accuracy: float
    chance: float


def held_out_accuracy(model: Classifier, photographs: Photographs, *, scale: float, engine: Engine) -> HeldOut | None:
    """Score a classifier on whole images, mined regions erased, of known labels; None without images.

    Parameters
    ----------
    scale : resize factor, the middle of those it was trained on.
    """
    labels = photographs.index.labels
    if not len(labels):
        return None
    fast = ready(model, engine)
    best = over(photographs, range(len(labels)), lambda batch, rows: [batch_confidences(fast, batch, scale=scale, output="softmax").argmax(1)],
                lambda row, place: bool(labels[row, place]), engine=engine)
    return HeldOut(float(np.mean(list(best))), float(labels.mean(0).max()))
