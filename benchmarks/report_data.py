"""Made-up reports of any size: facts and data files as the stage report writes them, from a few pictures used again and again."""

import base64
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from aepsl.data.archive import VOID
from aepsl.report.facts import Gallery, Layer, Overview
from aepsl.report.layers import Panels, class_colours, painted, predicted_layers, train_layers
from aepsl.report.page import write_page
from aepsl.report.shards import PER_SHARD, image_json, index_script, script, shard_name, shard_script

VOC = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse", "motorbike", "person",
       "pottedplant", "sheep", "sofa", "train", "tvmonitor")
ROUNDS = ("r1", "r2", "r3")
PICTURES = 4  # different ones of each split
DIGEST = "0123456789abcdef"


def gallery_of(count: int, classes: Sequence[str] = VOC, *, truth: bool = True, train: float = 0.8, ids: Sequence[str] | None = None,
               size: tuple[int, int] = (500, 375)) -> Gallery:
    """``count`` images of a width and height, the first ``train`` of them for training, with one or two labels each and scores spread over [0, 1]."""
    rng = np.random.default_rng(0)
    splits = ["train" if row < train * count else "val" for row in range(count)]
    columns: dict[str, list[float | None]] = {
        name: [round(float(value), 3) if truth else None for value in rng.random(count)] for name in ("iou", "missed", "spilled", "confused")}
    layers: dict[str, Sequence[Layer]] = {"train": train_layers(ROUNDS, None, truth=truth), "val": predicted_layers(truth=truth)}
    return Gallery(
        classes=("background", *classes), colours=((0, 0, 0), *class_colours(len(classes))), rounds=ROUNDS, round_colours=class_colours(len(ROUNDS)),
        layers={split: layers[split] for split in dict.fromkeys(splits)}, ids=ids or [f"2007_{row:06d}" for row in range(count)], splits=splits,
        sizes=[size] * count, labels=[sorted({row % len(classes) + 1, row // 3 % len(classes) + 1}) for row in range(count)], scores=columns)


def overview_of(classes: Sequence[str] = VOC, *, truth: bool = True, epochs: int = 15) -> Overview:
    """Tables, curves and parameters as a finished run has them; without truth no scores."""
    rng = np.random.default_rng(1)
    names = ("background", *classes)
    pixels = rng.integers(20_000, 400_000, len(names))
    confusion = [[int(pixels[row] * (0.62 if row == column else 0.38 * share))
                  for column, share in enumerate(rng.dirichlet(np.full(len(names), 0.15)))] for row in range(len(names))]
    per_class = [{"class": name, "val_pixels": float(pixels[row]), "val_images": float(20 + row), "iou": float(rng.uniform(0.2, 0.8)),
                  "precision": float(rng.uniform(0.4, 0.9)), "recall": float(rng.uniform(0.3, 0.9)), "iou_before_crf": float(rng.uniform(0.2, 0.7)),
                  "train_images": float(80 + row), "pseudo_label_iou": float(rng.uniform(0.2, 0.6)), "relabelled_iou": None}
                 for row, name in enumerate(names)]
    rounds: list[dict[str, Any]] = [
        {"round": name, "final_loss": 0.1 + 0.08 * place, "held_out_accuracy": None, "mined_area": 0.09 + 0.07 * place, "new_area": 0.08,
         "precision": 0.62 - 0.04 * place if truth else None, "recall": 0.24 + 0.17 * place if truth else None,
         "pseudo_label_miou": 0.27 + 0.08 * place if truth else None} for place, name in enumerate(ROUNDS)]
    curves = {**{f"classify@{name}": [{"epoch": float(epoch), "lr": 0.001, "loss": (0.5 + 0.1 * place) * math.exp(-epoch / 6) + 0.05 * place}
                                      for epoch in range(1, epochs + 1)] for place, name in enumerate(ROUNDS)},
              **{f"segment@{name}": [{"epoch": float(epoch), "lr": 0.001, "loss": 1.5 * math.exp(-epoch / 8) + 0.1 * place,
                                      "segmentation": 1.2 * math.exp(-epoch / 8), "classification": 0.3 * math.exp(-epoch / 9) + 0.1, "online": 0.0}
                                     for epoch in range(1, epochs + 1)] for place, name in enumerate(("s1", "s2"))}}
    val = {"miou": 0.54127, "miou_low": 0.5291, "miou_high": 0.5528, "miou_before_crf": 0.5013, "miou_before_crf_low": 0.491,
           "miou_before_crf_high": 0.512, "pixel_accuracy": 0.8713, "yardstick": "val 1449 miss f42906bf"}
    labels = {"pseudo_label_miou": 0.4322, "pseudo_label_miou_low": 0.4189, "pseudo_label_miou_high": 0.4443, "pseudo_label_coverage": 0.586,
              "relabelled_miou": None, "yardstick": "train 10582 miss acc29f18"}
    unknown = dict.fromkeys((*val, *labels))
    return Overview(
        classes=names, metrics={"val": val, "pseudo_labels": labels} if truth else {"val": unknown, "pseudo_labels": {"pseudo_label_coverage": None}},
        rounds=rounds, per_class=per_class if truth else [{"class": name, "val_images": float(20 + row)} for row, name in enumerate(names)],
        confusion=confusion if truth else None, curves=curves,
        params={"seed": 1, "rounds": {"r1": "r0", "r2": "r1", "r3": "r2"}, "data": {"source": "folder", "classes": list(classes)},
                "mine": {"threshold": 0.5, "rule": "relu-max", "scales": [1.0], "further_rounds": {"threshold": None}}})


def panels_of(seed: int, size: tuple[int, int], labels: Sequence[int], *, truth: bool) -> Panels:
    """A photograph of blurred noise with ellipses on it, and all that is known of it."""
    rng, (width, height) = np.random.default_rng(seed), size
    rows, columns = np.mgrid[:height, :width]
    mask = np.zeros((height, width), np.uint8)
    for place, label in enumerate(labels):
        x, y = (0.3 + 0.4 * place + rng.uniform(-0.05, 0.05)) * width, rng.uniform(0.4, 0.6) * height
        mask[((columns - x) / (0.2 * width)) ** 2 + ((rows - y) / (0.3 * height)) ** 2 < 1] = label
    noise = [np.asarray(Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).filter(ImageFilter.GaussianBlur(radius)), np.float32)
             for radius in (1, 12)]
    picture = 128 + 1.1 * (noise[0] - 128) + 3 * (noise[1] - 128) + 40 * (mask[..., None] > 0)
    predicted = np.roll(mask, width // 25, 1)
    merged = np.where(np.roll(mask, width // 20, 0) != mask, VOID, mask).astype(np.uint8)
    step = 8
    heat = {label: np.asarray(Image.fromarray(((mask == label) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(width / 16)))[::step, ::step]
            for label in labels}
    found = {label: np.where(mask == label, np.clip(1 + (columns * 3 // width), 1, len(ROUNDS)), 0).astype(np.uint8) for label in labels}
    saliency = np.asarray(Image.fromarray(((mask > 0) * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(width / 30)))
    planes = {"before": np.roll(predicted, 4, 0), "after": predicted, "merged": merged, "saliency": saliency, **({"truth": mask} if truth else {})}
    return Panels(picture.clip(0, 255).astype(np.uint8), dict.fromkeys(ROUNDS, heat), found, planes)


def encoded(gallery: Gallery, split: str, sides: tuple[int, int]) -> list[dict[str, bytes]]:
    """The pictures of :data:`PICTURES` images of a split, as shards hold them."""
    rows = [row for row, other in enumerate(gallery.splits) if other == split][:PICTURES]
    truth = any(value is not None for value in gallery.scores["iou"])
    result: list[dict[str, bytes]] = []
    for row in rows:
        whole = panels_of(row, gallery.sizes[row], gallery.labels[row], truth=truth)
        here = replace(whole, planes={key: whole.planes[key] for key in (("merged", "saliency", "truth") if split == "train" else
                                                                        ("before", "after", "truth")) if key in whole.planes})
        entries = {}
        for kind, side in zip(PER_SHARD, sides, strict=True):
            photo, layers = painted(here, gallery.layers[split], gallery.rounds, gallery.colours, side, void_as="miss", per_class=kind == "full")
            entries[kind] = image_json(text(photo), [{label: text(one) for label, one in layer.items()} if isinstance(layer, dict)
                                                     else text(layer) if layer else None for layer in layers])
        result.append(entries)
    return result


def text(data: bytes) -> str:
    """Base64."""
    return base64.b64encode(data).decode("ascii")


def write_report(out: Path, overview: Overview, gallery: Gallery, *, sides: tuple[int, int] = (128, 512), most_shards: int | None = None,
                 run: dict[str, Any] | None = None) -> None:
    """A whole report in a folder.

    Parameters
    ----------
    most_shards : of each kind that are written, the first ones; None = all.
    run : what run.js says, beside the digest; None = there is no run.js.
    """
    pictures = {split: encoded(gallery, split, sides) for split in dict.fromkeys(gallery.splits)}
    for kind, per in PER_SHARD.items():
        for number in range(-(-len(gallery.ids) // per))[:most_shards]:
            rows = range(number * per, min(len(gallery.ids), (number + 1) * per))
            images = [pictures[gallery.splits[row]][row % len(pictures[gallery.splits[row]])][kind] for row in rows]
            (out / "data" / kind).mkdir(parents=True, exist_ok=True)
            (out / "data" / shard_name(kind, number)).write_bytes(shard_script(kind, number, images))
    (out / "data").mkdir(parents=True, exist_ok=True)
    (out / "data/index.js").write_bytes(index_script(gallery, DIGEST))
    if run is not None:
        (out / "run.js").write_bytes(script("run", {"digest": DIGEST, "revision": None, "versions": {}, "runtime": [], "against": None, **run}))
    write_page(out, overview, gallery)


RUN: dict[str, Any] = {
    "revision": {"commit": "7f4b66c0c2d5f1f6a7c8e9d0b1a2f3e4d5c6b7a8", "branch": "finer-threshold", "dirty": True},
    "versions": {"python": "3.11.7", "aepsl": "0.1.0", "torch": "2.15.0"},
    "runtime": [{"stage": stage, "seconds": seconds, "count": "10582", "unit": "images", "per_second": "81.4", "peak_memory_mib": "2183",
                 "resumed": "no", "device": "NVIDIA H100", "cores": "16", "python": "3.11.7", "torch": "2.15.0"}
                for stage, seconds in (("classify@r1", 5321.0), ("mine@r1", 402.5), ("segment@s1", 9876.4), ("refine", 61.2))],
    "against": {"name": "main", "params": [["mine.threshold", 0.4, 0.5], ["rounds", {"r1": "r0"}, {"r1": "r0", "r2": "r1"}]],
                "metrics": [["val.miou", 0.5213, 0.54127], ["val.pixel_accuracy", 0.88, 0.8713], ["val.yardstick", "val 9 miss a", "val 9 miss f"]],
                "artefacts": [["data/mined/r3.zip", "0123456789abcdef" * 2, "fedcba9876543210" * 2], ["models/new.pt", None, "ab" * 16]]}}
