"""From artefacts to what the page shows: the pictures of every image, its scores, and the tables above them."""

import base64
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aepsl.data.archive import VOID, ArchiveReader, parse_json, write_atomically
from aepsl.data.index import SPLITS, Index
from aepsl.data.samples import Photographs, read_mined
from aepsl.errors import AepslError
from aepsl.evaluation.confusion import Confusion, VoidAs
from aepsl.report.facts import Gallery, Layer, Overview
from aepsl.report.layers import BACKGROUND, Panels, class_colours, judged, painted, predicted_layers, scores_of, stride_of, train_layers
from aepsl.report.shards import PER_SHARD, image_json, index_script, shard_name, shard_script
from aepsl.resume.parts import Entries
from aepsl.segmentation.masks import argmax_mask
from aepsl.segmentation.scores import read_scores, read_stride

SCORES = ("iou", "missed", "spilled", "confused")
SIDES = ("thumbs", "full")


@dataclass(frozen=True)
class Sources:
    """The artefacts that the pictures of an image are made from; picklable.

    Attributes
    ----------
    rounds : names of the rounds that were mined.
    labels : the last pass's labels, and its name; None where they are the merged ones.
    void_as : what an ignored pixel of a pseudo-label counts as.
    sides : most pixels of the longer side of the photographs in thumbs and full views.
    """

    index: Index
    photographs: Photographs
    heatmaps: ArchiveReader
    mined: ArchiveReader
    saliency: ArchiveReader
    merged: ArchiveReader
    labels: tuple[str, ArchiveReader] | None
    scores: ArchiveReader
    stride: int
    predictions: ArchiveReader
    truth: ArchiveReader
    rounds: tuple[str, ...]
    layers: Mapping[str, Sequence[Layer]]
    void_as: VoidAs
    sides: tuple[int, int]

    @classmethod
    def of(cls, index: Index, *, images: ArchiveReader, truth: ArchiveReader, scores: ArchiveReader, labels: tuple[str, ArchiveReader] | None,
           rounds: Sequence[str], **others: Any) -> "Sources":
        """The sources of a data set, with the layers that each of its splits has."""
        known = {split for identifier, split in zip(index.ids, index.splits, strict=True) if f"{identifier}.png" in truth}
        layers = {split: train_layers(rounds, labels and labels[0], truth=split in known) if split == "train"
                  else predicted_layers(truth=split in known) for split in SPLITS if split in index.splits}
        return cls(index=index, photographs=Photographs(images, index), truth=truth, scores=scores, labels=labels, rounds=tuple(rounds),
                   layers=layers, stride=read_stride(scores), **others)

    @property
    def names(self) -> tuple[str, ...]:
        """Of background and classes."""
        return ("background", *self.index.classes)

    @property
    def colours(self) -> tuple[tuple[int, int, int], ...]:
        """Of background and classes."""
        return (BACKGROUND, *class_colours(len(self.index.classes)))

    def panels(self, row: int) -> Panels:
        """What is known of an image, in its own size."""
        identifier, (width, height) = self.index.ids[row], self.index.sizes[row].tolist()
        name, photograph = f"{identifier}.png", self.photographs[row]
        masks = {"truth": self.truth} if name in self.truth else {}
        planes: dict[str, np.ndarray] = {}
        heat: dict[str, dict[int, np.ndarray]] = {}
        mined: dict[int, np.ndarray] = {}
        if self.index.splits[row] == "train":
            masks |= {"merged": self.merged, **({"labels": self.labels[1]} if self.labels else {})}
            mined = read_mined(self.mined, self.index, row)
            heat = {step: {label: self.heatmaps.mask(entry) for label in mined if (entry := heat_name(identifier, label, number)) in self.heatmaps}
                    for number, step in enumerate(self.rounds, 1)}
            planes["saliency"] = self.saliency.mask(name)
        else:
            masks["after"] = self.predictions
            planes["before"] = argmax_mask(read_scores(self.scores, identifier), (height, width), stride=self.stride)
        for key, archive in masks.items():
            planes[key] = archive.mask(name)
            if (beyond := planes[key][(planes[key] > len(self.index.classes)) & (planes[key] != VOID)]).size:
                raise AepslError(f"{archive.describe(name)}: expected values 0 to {len(self.index.classes)} and {VOID}, found {beyond[0]}; "
                                 "it was made for other classes, run `dvc repro`")
        for key, plane in [("photograph", photograph), *planes.items()]:
            if plane.shape[:2] != (height, width):
                raise AepslError(f"{name}: {key}: expected {width}×{height} pixels, as the index says, found {plane.shape[1]}×{plane.shape[0]}; "
                                 "they belong to different data, run `dvc repro`")
        for step, maps in heat.items():
            for label, plane in maps.items():
                if stride_of(plane.shape, (width, height)) is None:
                    raise AepslError(f"{name}: heatmap of class {label}, round {step}: expected a grid of {width}×{height} pixels, found "
                                     f"{plane.shape[1]}×{plane.shape[0]} cells; they belong to different data, run `dvc repro`")
        return Panels(photograph, heat, mined, planes)


def heat_name(identifier: str, label: int, number: int) -> str:
    """Entry of the heatmap of a class in the ``number``-th round."""
    return f"{identifier}/{label}/{number}.png"


def image_entries(row: int, sources: Sources) -> Entries:
    """The pictures of an image, as the shards hold them, and its counts against the truth if it has any."""
    panels, split = sources.panels(row), sources.index.splits[row]
    entries: Entries = {}
    for kind, side in zip(SIDES, sources.sides, strict=True):
        photo, layers = painted(panels, sources.layers[split], sources.rounds, sources.colours, side, void_as=sources.void_as,
                                per_class=kind == "full")
        entries[kind] = image_json(_text(photo), [
            {label: _text(picture) for label, picture in layer.items()} if isinstance(layer, dict) else _text(layer) if layer else None
            for layer in layers])
    if "truth" in panels.planes:
        matrix = Confusion(len(sources.index.classes)).add(panels.planes["truth"], panels.planes[judged(panels.planes)],
                                                           name=sources.index.ids[row]).matrix
        cells = np.flatnonzero(matrix)
        entries["counts"] = json.dumps([cells.tolist(), matrix.ravel()[cells].tolist()]).encode()
    return entries


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def write_data(folder: Path, found: Iterable[Entries], sources: Sources) -> tuple[Gallery, np.ndarray | None, str]:
    """Write the shards of all images, given what :func:`image_entries` made of each, in order.

    Returns
    -------
    The gallery; confusion (1+C, 2+C) int64 of the val images, None where they have no truth; digest of the shards.
    """
    index, digest = sources.index, hashlib.sha256()
    columns: dict[str, list[float | None]] = {name: [] for name in SCORES}
    total, val = Confusion(len(index.classes)).matrix, 0
    pending: dict[str, list[bytes]] = {kind: [] for kind in SIDES}
    for row, entries in enumerate(found):
        scores: Mapping[str, float | None] = dict.fromkeys(SCORES)
        if "counts" in entries:
            matrix = np.zeros_like(total)
            cells, counts = json.loads(entries["counts"])
            matrix.ravel()[cells] = counts
            scores = scores_of(matrix, void_as=sources.void_as)
            if index.splits[row] == "val":
                total, val = total + matrix, val + 1
        for name in SCORES:
            columns[name].append(scores[name])
        for kind, images in pending.items():
            images.append(entries[kind])
            if len(images) == PER_SHARD[kind] or row == len(index) - 1:
                number = row // PER_SHARD[kind]
                data = shard_script(kind, number, images)
                digest.update(data)
                write_atomically(folder / shard_name(kind, number), data)
                images.clear()
    gallery = Gallery(classes=sources.names, colours=sources.colours, rounds=sources.rounds, round_colours=class_colours(len(sources.rounds)),
                      layers=sources.layers, ids=index.ids, splits=index.splits, sizes=[(width, height) for width, height in index.sizes.tolist()],
                      labels=[(np.flatnonzero(labels) + 1).tolist() for labels in index.labels], scores=columns)
    return gallery, total if val else None, digest.hexdigest()


def write_index_script(folder: Path, gallery: Gallery, overview: Overview, shards: str) -> str:
    """Write index.js, and return the digest in it: of the overview, the gallery and the shards."""
    content = json.dumps(vars(overview), sort_keys=True, default=list).encode() + index_script(gallery, shards)
    digest = hashlib.sha256(content).hexdigest()[:16]
    write_atomically(folder / "index.js", index_script(gallery, digest))
    return digest


# ---- the overview

def overview_of(*, names: Sequence[str], metrics: Mapping[str, str], rounds: str, per_class: str, confusion: np.ndarray | None,
                curves: Mapping[str, str], params: Mapping[str, Any]) -> Overview:
    """What stands above the gallery, read from the files of the stages before.

    Parameters
    ----------
    metrics : path of each metrics file by its name without extension.
    rounds, per_class : paths of the tables.
    confusion : (1+C, 2+C) int64 of val, or None.
    curves : path of each loss curve by the stage that wrote it.
    """
    return Overview(classes=names, metrics={name: read_metrics(path) for name, path in metrics.items()}, rounds=read_rows(rounds),
                    per_class=read_rows(per_class), confusion=None if confusion is None else confusion[:, :-1].tolist(),
                    curves={stage: read_rows(path) for stage, path in curves.items()}, params=params)


def read_metrics(path: str) -> dict[str, Any]:
    """Numbers and words of a metrics file; lists, which tell how they came about, are left out."""
    try:
        content = parse_json(Path(path).read_bytes())
        return {name: value for name, value in content.items() if not isinstance(value, list)}
    except (OSError, ValueError, AttributeError) as error:
        raise AepslError(f"{path}: expected the metrics that a stage wrote, found {error}; run `dvc repro`") from None


def read_rows(path: str) -> list[dict[str, Any]]:
    """Rows of a CSV: numbers where the cells are such, None where they are empty."""
    try:
        rows = list(csv.DictReader(io.StringIO(Path(path).read_bytes().decode("utf-8"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise AepslError(f"{path}: expected a table that a stage wrote, found {error}; run `dvc repro`") from None
    if any(None in row or None in row.values() for row in rows):
        raise AepslError(f"{path}: expected as many cells in every line as in the first; run `dvc repro`")
    return [{name: _cell(name, text) for name, text in row.items()} for row in rows]


def _cell(name: str, text: str) -> Any:
    if name in ("class", "round") or not text:
        return text or None
    try:
        return float(text)
    except ValueError:
        return text


def loss_curves(stages: Mapping[str, tuple[str, Iterable[str]]]) -> dict[str, str]:
    """Path of the loss curve ``folder/step.csv`` of every step that has one, by the stage that wrote it, such as ``classify@r1``.

    Parameters
    ----------
    stages : the folder and the steps of each stage.
    """
    paths = {f"{stage}@{step}": Path(folder) / f"{step}.csv" for stage, (folder, steps) in stages.items() for step in steps}
    return {stage: str(path) for stage, path in paths.items() if path.is_file()}
