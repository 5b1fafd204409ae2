"""What the page shows, as values: gathered from artefacts by :mod:`aepsl.report.gather`, rendered by :mod:`aepsl.report.page`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Colour = tuple[int, int, int]  # RGB
Kind = Literal["heat", "regions", "rounds", "grey", "classes", "errors"]


@dataclass(frozen=True)
class Layer:
    """A panel beside the photograph, drawn over it.

    Attributes
    ----------
    key : short name, unique within its split, e.g. ``heat-r1``.
    title : e.g. ``heatmap, round r1``.
    kind : how to read its colours: ``heat`` and ``grey`` a scale from 0 to 1, ``regions`` one colour, ``rounds`` a colour per round,
        ``classes`` a colour per class and a hatching for ignored pixels, ``errors`` a colour per :data:`ERRORS` and one for what is right.
        Pictures of ``heat`` have fewer pixels than the photograph, to be drawn smoothly over the whole of it; all others have its own.
    """

    key: str
    title: str
    kind: Kind


ERRORS = ("missed", "spilled", "confused")  # of an object's pixels: called background; of the background's: called an object; another class
# Okabe and Ito's colours, told apart by colour-blind readers. The layers are painted with these, and the page's legend and pointer read them.
ERROR_COLOURS: tuple[Colour, ...] = ((0, 114, 178), (213, 94, 0), (240, 228, 66))
RIGHT_COLOUR: Colour = (0, 158, 115)  # of an object's pixels that are neither missed nor confused
REGION_COLOUR: Colour = (230, 159, 0)
HEAT_COLOURS: tuple[Colour, ...] = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))  # at 0, 1/4 … 1, linear between


@dataclass(frozen=True)
class Gallery:
    """One row per image, in the order of the index.

    Attributes
    ----------
    classes : names, background first.
    colours : RGB of every class, as the layers are painted.
    layers : of each split, in the order in which every image of it has them.
    ids, splits : of N images.
    sizes : (width, height) of the photographs, pixels.
    labels : numbers of the image-level labels of each, from 1.
    scores : ``iou``, the mean over the classes in truth or mask, and the shares of :data:`ERRORS` (:func:`aepsl.report.layers.scores_of`),
        each N long; None where there is no truth. Of training images the pseudo-labels are scored, of val images the predictions.
    """

    classes: Sequence[str]
    colours: Sequence[Colour]
    rounds: Sequence[str]
    round_colours: Sequence[Colour]
    layers: Mapping[str, Sequence[Layer]]
    ids: Sequence[str]
    splits: Sequence[str]
    sizes: Sequence[tuple[int, int]]
    labels: Sequence[Sequence[int]]
    scores: Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Overview:
    """What stands above the gallery.

    Attributes
    ----------
    metrics : numbers and words of each metrics/*.json, by its name without extension.
    rounds, per_class : rows of metrics/rounds.csv and per_class.csv; a number, a text, or None for an empty cell.
    confusion : pixels, row = actual, column = predicted, in the order of ``classes``; None = no truth.
    curves : rows of the loss curves by stage, e.g. ``classify@r1``; every row holds ``epoch`` and ``loss``.
    params : all of params.yaml but ``compute``.
    """

    classes: Sequence[str]
    metrics: Mapping[str, Mapping[str, Any]]
    rounds: Sequence[Mapping[str, Any]]
    per_class: Sequence[Mapping[str, Any]]
    confusion: Sequence[Sequence[int]] | None
    curves: Mapping[str, Sequence[Mapping[str, float]]]
    params: Mapping[str, Any]
