"""A trained segmenter in use: one file, any photograph, masks.

    from aepsl import Segmenter

    segmenter = Segmenter.load("models/aepsl.pt")
    found = segmenter.predict("photograph.jpg", crf=True)
    found.classes, found.confidences     # ["cat"], {"bird": 0.01, "cat": 0.98}
    found.save("mask.png")
    found.save_overlay("overlay.png")

The masks are those that the pipeline would make of the same pixels, on a processor byte for byte where torch computes with as many threads.
"""

import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from PIL import Image

from aepsl.data.archive import encode_mask, voc_palette, write_atomically
from aepsl.data.photograph import read_photograph, upright_rgb
from aepsl.errors import AepslError, shown
from aepsl.networks.devices import pick_device, pick_precision
from aepsl.networks.inference import Engine, out_of_memory, ready
from aepsl.networks.onnx_file import write_onnx
from aepsl.networks.packages import Loaded, load_package
from aepsl.parallel import read_ahead
from aepsl.params import Backend, CrfSettings
from aepsl.segmentation.crf import refine, refine_batch
from aepsl.segmentation.densecrf import require_densecrf
from aepsl.segmentation.masks import argmax_mask
from aepsl.segmentation.prediction import class_probabilities, prohibit
from aepsl.segmentation.presets import PRESETS

Photograph = str | os.PathLike[str] | Image.Image | np.ndarray
Colour = tuple[int, int, int]
COLOURS: list[Colour] = [(red, green, blue) for red, green, blue in zip(*[iter(voc_palette())] * 3, strict=True)]


@dataclass(frozen=True)
class Prediction:
    """What was found in a photograph; everything is in the photograph's upright frame.

    Attributes
    ----------
    image : (H, W, 3) uint8 RGB, the photograph as it was read.
    mask : (H, W) uint8, 0 = background, c = ``names[c - 1]``.
    names : of all C classes that the segmenter knows.
    confidences : of the classification branch, by name; None where the network has none.
    scores : (1+C, h, w) float16, class probabilities on the network's grid, zero where a class was prohibited.
    stride : pixels of the image as the network saw it between two cells of the grid.
    source : what was given: a path, an image, an array.

    >>> found = Prediction(np.zeros((1, 4, 3), np.uint8), np.array([[0, 2, 2, 0]], np.uint8), ("cat", "dog"), {"cat": 0.25, "dog": 0.75})
    >>> found.classes, found.shares
    (['dog'], {'dog': 0.5})
    >>> found.colours
    {'cat': (128, 0, 0), 'dog': (0, 128, 0)}
    """

    image: np.ndarray = field(repr=False)
    mask: np.ndarray = field(repr=False)
    names: tuple[str, ...]
    confidences: dict[str, float] | None = None
    scores: np.ndarray | None = field(default=None, repr=False)
    stride: int = 1
    source: Any = field(default=None, repr=False)

    @property
    def classes(self) -> list[str]:
        """Names of the classes that some pixel has, in the order of their numbers."""
        return list(self.shares)

    @property
    def shares(self) -> dict[str, float]:
        """The share of the pixels that each class present has, by name; the background takes the rest."""
        counts = np.bincount(self.mask.ravel(), minlength=1 + len(self.names))[1:]
        return {name: int(count) / self.mask.size for name, count in zip(self.names, counts, strict=True) if count}

    @property
    def colours(self) -> dict[str, Colour]:
        """The legend: the colour of every class in :meth:`overlay` and :meth:`save`."""
        return colours_of(self.names)

    def overlay(self, opacity: float = 0.65) -> np.ndarray:
        """The photograph with the objects painted over in the colours of their classes, (H, W, 3) uint8; 1 hides it, 0 shows it alone."""
        if not 0 <= opacity <= 1:
            raise AepslError(f"opacity: expected 0 to 1, found {shown(opacity)}")
        painted = self.image.copy()
        objects = self.mask > 0
        paint = np.array(COLOURS, np.float32)[self.mask[objects]]
        painted[objects] = (painted[objects] * (1 - opacity) + paint * opacity + 0.5).astype(np.uint8)
        return painted

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as a palette PNG in VOC's colours: pixel values are class numbers."""
        write_atomically(path, encode_mask(self.mask))

    def save_overlay(self, path: str | os.PathLike[str], opacity: float = 0.65) -> None:
        """Write :meth:`overlay` as PNG."""
        write_atomically(path, _png(self.overlay(opacity)))

    def _repr_png_(self) -> bytes:  # what a notebook shows
        return _png(self.overlay())


class Segmenter:
    """A trained segmenter, ready to predict; made by :meth:`load`.

    Attributes
    ----------
    classes : names of classes 1 to C; 0 is the background.
    device : where it runs.
    """

    def __init__(self, loaded: Loaded, device: torch.device) -> None:
        self.classes = list(loaded.classes)
        self.device = device
        self._loaded = loaded
        self._package = loaded.package
        self._model = ready(loaded.model, Engine(device, precision=pick_precision("auto", device)))

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str = "auto") -> Self:
        """The segmenter of a file: ``models/aepsl.pt``, or a plain ``models/segmenter/sN.pt``, which is then used as the paper does.

        Parameters
        ----------
        device : ``auto`` (CUDA, else Apple's, else the processor), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

        Raises
        ------
        AepslError : the file is missing, damaged, foreign, of another format or was changed after it was written.
        """
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?|mps", device):
            raise AepslError(f"device: expected auto, cpu, cuda, cuda:N or mps, found {shown(device)}")
        place = pick_device(device)
        return cls(load_package(path, place), place)

    @property
    def colours(self) -> dict[str, Colour]:
        """The colour of every class in overlays and saved masks."""
        return colours_of(self.classes)

    @property
    def info(self) -> dict[str, Any]:
        """Everything the file says, as plain values: version, trunk, classes, preprocessing, how to predict, metrics, SHA-256."""
        told = self._package.model_dump(mode="json")
        network = self._loaded.network
        return {"version": told["version"], "sha256": self._loaded.sha256, "trunk": network["trunk"],
                "network": {**network, "parameters": sum(value.numel() for value in self._loaded.model.parameters())},
                "classes": list(self.classes), "preprocessing": told["preprocessing"],
                "prediction": {name: told[name] for name in ("scales", "flip", "prohibit_below", "psl", "output")},
                "crf": told["crf"], "largest_side": told["largest_side"], "metrics": told["metrics"], "made": dict(self._loaded.facts)}

    def __repr__(self) -> str:
        names = ", ".join(self.classes[:4]) + (", …" if len(self.classes) > 4 else "")
        metrics = self._package.metrics
        score = f", val mIoU {metrics.miou:.3f}" if metrics and metrics.miou is not None else ""
        return (f"Segmenter({self._loaded.network['trunk']}, {len(self.classes)} classes: {names}{score}, sha256 {self._loaded.sha256[:8]}, "
                f"{self.device})")

    def predict(self, image: Photograph, *, crf: bool | str | CrfSettings = False, labels: Iterable[str] | None = None,
                scales: Sequence[float] | None = None, flip: bool | None = None, max_side: int | Literal["auto"] | None = "auto") -> Prediction:
        """Segment one photograph.

        Parameters
        ----------
        image : a path (see :func:`aepsl.data.photograph.read_photograph` for what can be read), a PIL image, or (H, W, 3) uint8 RGB.
        crf : refine with the fully connected CRF: True = with the settings of the file; or the name of a preset, or settings of one's own.
        labels : the classes that the photograph shows, where they are known: no other is found. None = unknown; an empty list = none.
        scales, flip : average over resized and mirrored copies; None = as the file says.
        max_side : a photograph with a longer side, in pixels, is resized for the network, whose mask is brought back to full size: objects then
            have about the size that the network has learnt, and memory stays small. ``auto`` = the longest side among the photographs that it was
            trained and scored on, where the file knows it; None = never.

        Returns
        -------
        The mask and all else in the upright frame and full size of the photograph.

        Raises
        ------
        AepslError : the photograph cannot be read, an option is none, or memory ran out.
        """
        settings = self._crf(crf)
        possible = None if labels is None else self._possible(labels)
        views = self._views(scales, flip)
        pixels = _pixels(image)
        seen = _within(pixels, self._side(max_side))
        stride = self._model.trunk.output_stride
        try:
            probabilities, confidences = class_probabilities(self._model, seen, scales=views[0], flip=views[1], device=self.device,
                                                             output=self._package.output)
            if possible is None and confidences is not None:
                possible = confidences >= self._package.prohibit_below
            if possible is not None:
                probabilities = prohibit(probabilities, possible)
            scores = probabilities.astype(np.float16)  # as the pipeline keeps them
            mask = self._mask(seen, scores, settings, stride)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise AepslError(f"{_name(image)}: memory of {self.device} ran out with {seen.shape[1]}×{seen.shape[0]} pixels; give a smaller max_side, "
                             f"e.g. {max(seen.shape) // 2}") from error
        known = None if confidences is None else dict(zip(self.classes, confidences.tolist(), strict=True))
        return Prediction(pixels, enlarged(mask, (pixels.shape[0], pixels.shape[1])), tuple(self.classes), known, scores, stride, image)

    def predict_many(self, images: Iterable[Photograph], *, on_fault: Callable[[Photograph, AepslError], None] | None = None,
                     **options: Any) -> Iterator[Prediction]:
        """:meth:`predict` of many photographs, in order; the next ones are read while the network is at work.

        Parameters
        ----------
        on_fault : called with what cannot be read or predicted and why, and the next one follows; None = the error is raised.
        options : those of :meth:`predict`. ``Prediction.source`` tells which photograph a prediction is of.
        """
        for image, reading in read_ahead(_pixels, images):
            try:
                found = self.predict(reading.result(), **options)
            except AepslError as error:
                if on_fault is None:
                    raise
                on_fault(image, error)
                continue
            yield replace(found, source=image)

    def to_onnx(self, path: str | os.PathLike[str], *, scales: Sequence[float] | None = None, flip: bool | None = None) -> None:
        """Write the network for other runtimes; what goes in and comes out: :func:`aepsl.networks.onnx_file.write_onnx`.

        Everything that :meth:`predict` does without CRF is in the graph, the mirror image included; not several scales, so a segmenter that averages
        over some needs ``scales=[1.0]``. Its labels are then those of ``predict(…, scales=[1.0], max_side=None)``.

        Raises
        ------
        AepslError : the packages onnx and onnxscript are missing, or other scales than 1 were asked for.
        """
        used, mirrored = self._views(scales, flip)
        if used != [1.0]:
            raise AepslError(f"{path}: expected scales [1.0], found {used}; say scales=[1.0] to leave the other scales out")
        described = {"aepsl": self.info["version"], "sha256": self._loaded.sha256, "classes": ["background", *self.classes],
                     "colours": [list(colour) for colour in COLOURS[:1 + len(self.classes)]],
                     **{name: self.info[name] for name in ("trunk", "largest_side", "metrics")}}
        write_onnx(path, self._loaded.model, output=self._package.output, prohibit_below=self._package.prohibit_below, flip=mirrored,
                   described=described)

    def _mask(self, image: np.ndarray, scores: np.ndarray, crf: tuple[CrfSettings, Backend] | None, stride: int) -> np.ndarray:
        if crf is None:
            return argmax_mask(scores, (image.shape[0], image.shape[1]), stride=stride)
        settings, backend = crf
        if backend == "torch" and self.device.type == "cuda":
            mask: np.ndarray = refine_batch(image[None], scores[None], settings, stride=stride, device=self.device)[0]
            return mask
        return refine(image, scores, settings, stride=stride, backend=backend)

    def _crf(self, crf: bool | str | CrfSettings) -> tuple[CrfSettings, Backend] | None:
        if crf is False or crf == "none":
            return None
        if isinstance(crf, CrfSettings):
            return crf, "torch"
        if isinstance(crf, str):
            if crf not in PRESETS:
                raise AepslError(f"crf: expected True, False or one of {', '.join(PRESETS)}, found {shown(crf)}")
            return PRESETS[crf], "torch"
        own = self._package.crf
        if own.settings is None:
            raise AepslError(f"crf: expected settings in the file, found refine.crf: none there; name a preset: {', '.join(PRESETS)}")
        if own.backend == "pydensecrf":
            try:
                require_densecrf()
            except AepslError:
                warnings.warn("this segmenter was scored with pydensecrf, which is not installed: refined with backend torch, which gives the same "
                              "labels on at least 99.9 % of the pixels", stacklevel=3)
                return own.settings, "torch"
        return own.settings, own.backend

    def _possible(self, labels: Iterable[str]) -> np.ndarray:
        """Which classes an image holds, (C,) bool."""
        given = [labels] if isinstance(labels, str) else list(labels)
        if unknown := [label for label in given if label not in self.classes]:
            raise AepslError(f"labels: expected names among {', '.join(self.classes)}, found {', '.join(map(shown, unknown))}")
        return np.array([name in given for name in self.classes])

    def _views(self, scales: Sequence[float] | None, flip: bool | None) -> tuple[list[float], bool]:
        used = self._package.scales if scales is None else [float(scale) for scale in scales]
        if not used or not all(0 < scale <= 4 for scale in used):
            raise AepslError(f"scales: expected factors above 0 and up to 4, found {shown(used)}")
        return used, self._package.flip if flip is None else flip

    def _side(self, max_side: int | Literal["auto"] | None) -> int | None:
        if max_side == "auto":
            return self._package.largest_side
        if max_side is not None and (isinstance(max_side, str) or max_side < 1):
            raise AepslError(f"max_side: expected auto, None or pixels from 1, found {shown(max_side)}")
        return max_side


def colours_of(classes: Sequence[str]) -> dict[str, Colour]:
    """The colour of each class, by name: VOC's, from class 1 on.

    >>> colours_of(["aeroplane", "bicycle"])
    {'aeroplane': (128, 0, 0), 'bicycle': (0, 128, 0)}
    """
    return dict(zip(classes, COLOURS[1:], strict=False))


def enlarged(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask (h, w) uint8 resized to (H, W): each pixel the class with the largest bilinear share, which keeps borders smooth; the lower on a tie.

    >>> enlarged(np.array([[0, 3]], np.uint8), (1, 4)).tolist()
    [[0, 0, 3, 3]]
    """
    if mask.shape == size:
        return mask
    present = np.unique(mask)
    found: np.ndarray = np.full(size, present[0], np.uint8)
    best = _resized(mask == present[0], size)
    for value in present[1:]:
        share = _resized(mask == value, size)
        found[share > best] = value
        np.maximum(best, share, out=best)
    return found


def _resized(plane: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.array(Image.fromarray(plane.astype(np.float32)).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def _within(pixels: np.ndarray, side: int | None) -> np.ndarray:
    """An image (H, W, 3) uint8, made smaller where a side is longer than ``side``."""
    height, width = pixels.shape[:2]
    if side is None or max(height, width) <= side:
        return pixels
    factor = side / max(height, width)
    return np.array(Image.fromarray(pixels).resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.BILINEAR))


def _pixels(image: Photograph) -> np.ndarray:
    """What is to be segmented as (H, W, 3) uint8."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise AepslError(f"{_name(image)}: expected (height, width, 3) uint8, RGB; grey: np.stack([grey] * 3, 2)")
        return image
    if isinstance(image, Image.Image):
        try:
            pixels = upright_rgb(image)
        except (ValueError, OSError) as error:
            raise AepslError(f"{_name(image)}: expected an image of grey or colour, found {error}") from error
        if 0 in pixels.shape:
            raise AepslError(f"{_name(image)}: expected at least one pixel")
        return pixels
    if isinstance(image, str | os.PathLike):
        return read_photograph(image)
    raise AepslError(f"image: expected a path, a PIL image or an array (height, width, 3) uint8, found {type(image).__name__}")


def _name(image: Photograph) -> str:
    """What to call a photograph in an error."""
    if isinstance(image, np.ndarray):
        return f"array {'×'.join(map(str, image.shape))} {image.dtype}"
    return f"image {image.width}×{image.height} {image.mode}" if isinstance(image, Image.Image) else str(Path(image))


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
