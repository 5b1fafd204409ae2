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
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

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
NUMBERS = (int, float, np.integer, np.floating)
COLOURS: list[Colour] = [(red, green, blue) for red, green, blue in zip(*[iter(voc_palette())] * 3, strict=True)]


@dataclass(frozen=True, eq=False)  # equal is the same one alone: arrays have no single truth
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
        if not isinstance(opacity, NUMBERS) or not 0 <= opacity <= 1:
            raise AepslError(f"opacity: expected 0 to 1, found {shown(opacity)}")
        painted = self.image.copy()
        objects = self.mask > 0
        paint = np.array(COLOURS, np.float32)[self.mask[objects]]
        painted[objects] = (painted[objects] * (1 - opacity) + paint * opacity + 0.5).astype(np.uint8)
        return painted

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the mask as a palette PNG in VOC's colours: pixel values are class numbers. The name ends in .png or has no ending."""
        write_atomically(_png_path(path), encode_mask(self.mask))

    def save_overlay(self, path: str | os.PathLike[str], opacity: float = 0.65) -> None:
        """Write :meth:`overlay` as PNG, named as for :meth:`save`."""
        write_atomically(_png_path(path), _png(self.overlay(opacity)))

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
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "auto") -> Self:
        """The segmenter of a file: ``models/aepsl.pt``, or a plain ``models/segmenter/sN.pt``, which is then used as the paper does.

        Parameters
        ----------
        device : ``auto`` (CUDA, else Apple's, else the processor), ``cpu``, ``cuda``, ``cuda:1``, ``mps``; or one of torch's own.

        Raises
        ------
        AepslError : there is no such device; the file is missing, damaged, foreign, of another format or was changed after it was written.
        """
        if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?|mps(:0)?", str(device)):
            raise AepslError(f"device: expected auto, cpu, cuda, cuda:N or mps, found {shown(device)}")
        place = pick_device(str(device), parameter="device")
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

    def predict(self, image: Photograph, *, crf: bool | str | CrfSettings | None = False, labels: Iterable[str] | None = None,
                scales: Sequence[float] | None = None, flip: bool | None = None, max_side: int | Literal["auto"] | None = "auto") -> Prediction:
        """Segment one photograph.

        Parameters
        ----------
        image : a path (see :func:`aepsl.data.photograph.read_photograph` for what can be read), a PIL image, or (H, W, 3) uint8 RGB.
        crf : refine with the fully connected CRF: True = with the settings of the file; or the name of a preset, or settings of one's own. False,
            None and "none" = do not.
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
        asked = self._asked(crf=crf, labels=labels, scales=scales, flip=flip, max_side=max_side)
        return self._predict(_pixels(image), image, asked)

    def _predict(self, pixels: np.ndarray, image: Photograph, asked: "_Asked") -> Prediction:
        """:meth:`predict` of pixels that nobody else changes."""
        possible = asked.possible
        seen = _within(pixels, asked.side)
        stride = self._model.trunk.output_stride
        try:
            probabilities, confidences = class_probabilities(self._model, seen, scales=asked.scales, flip=asked.flip, device=self.device,
                                                             output=self._package.output)
            if possible is None and confidences is not None:
                possible = confidences >= self._package.prohibit_below
            if possible is not None:
                probabilities = prohibit(probabilities, possible)
            scores = probabilities.astype(np.float16)  # as the pipeline keeps them
            mask = self._mask(seen, scores, asked.crf, stride)
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

        What lies in memory is copied when it is drawn: a generator may put the next picture into the same array. Where drawing one raises, so does
        this, after the predictions before it.

        Parameters
        ----------
        images : paths, PIL images and arrays, each as in :meth:`predict`; drawn a few ahead.
        on_fault : called with what cannot be read or predicted and why, and the next one follows; None = the error is raised.
        options : those of :meth:`predict`. ``Prediction.source`` tells which photograph a prediction is of.

        Raises
        ------
        AepslError : an option is none, or ``images`` is one photograph or folder: told before the first photograph and not to ``on_fault``.
        """
        if isinstance(images, str | os.PathLike | Image.Image):
            found = shown(os.fspath(images)) if isinstance(images, os.PathLike) else shown(images)
            raise AepslError(f'images: expected several photographs, found {found}; give a list, e.g. sorted(Path("photos").glob("*.jpg"))')
        return self._predictions(images, self._asked(**options), on_fault)

    def _predictions(self, images: Iterable[Photograph], asked: "_Asked",
                     on_fault: Callable[[Photograph, AepslError], None] | None) -> Iterator[Prediction]:
        for (image, _), reading in read_ahead(lambda drawn: drawn[1](), map(_drawn, images)):
            try:
                found = self._predict(reading.result(), image, asked)
            except AepslError as error:
                if on_fault is None:
                    raise
                on_fault(image, error)
                continue
            yield found

    def to_onnx(self, path: str | os.PathLike[str], *, scales: Sequence[float] | None = None, flip: bool | None = None) -> None:
        """Write the network for other runtimes; what goes in and comes out: :func:`aepsl.networks.onnx_file.write_onnx`.

        Everything that :meth:`predict` does without CRF is in the graph, the mirror image included; not several scales, so a segmenter that averages
        over some needs ``scales=[1.0]``. Its labels are then those of ``predict(…, scales=[1.0], max_side=None)``.

        Raises
        ------
        AepslError : the packages onnx and onnxscript are missing, or other scales than 1 were asked for.
        """
        used, mirrored = self._scales(scales), self._flip(flip)
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

    def _asked(self, *, crf: bool | str | CrfSettings | None = False, labels: Iterable[str] | None = None, scales: Sequence[float] | None = None,
               flip: bool | None = None, max_side: int | Literal["auto"] | None = "auto") -> "_Asked":
        """The options of :meth:`predict`, checked."""
        return _Asked(self._crf(crf), None if labels is None else self._possible(labels), self._scales(scales), self._flip(flip),
                      self._side(max_side))

    def _crf(self, crf: bool | str | CrfSettings | None) -> tuple[CrfSettings, Backend] | None:
        if isinstance(crf, CrfSettings):
            return crf, "torch"
        if isinstance(crf, str) and crf in PRESETS:
            return PRESETS[crf], "torch"
        if crf is None or (isinstance(crf, str) and crf == "none"):
            return None
        if not isinstance(crf, bool | np.bool_):
            raise AepslError(f"crf: expected True, False or one of {', '.join(PRESETS)}, or CrfSettings, found {shown(crf)}")
        if not crf:
            return None
        own = self._package.crf
        if own.settings is None:
            raise AepslError(f"crf: expected settings in the file, found refine.crf: none there; name a preset: {', '.join(PRESETS)}")
        if own.backend == "pydensecrf":
            try:
                require_densecrf()
            except AepslError:
                warnings.warn("this segmenter was scored with pydensecrf, which is not installed: refined with backend torch, which gives the same "
                              "labels on at least 99.9 % of the pixels", stacklevel=4)
                return own.settings, "torch"
        return own.settings, own.backend

    def _possible(self, labels: Iterable[str]) -> np.ndarray:
        """Which classes an image holds, (C,) bool."""
        if not isinstance(labels, Iterable):
            raise AepslError(f"labels: expected names among {', '.join(self.classes)}, found {shown(labels)}")
        given = [labels] if isinstance(labels, str) else list(labels)
        if unknown := [label for label in given if label not in self.classes]:
            raise AepslError(f"labels: expected names among {', '.join(self.classes)}, found {', '.join(map(shown, unknown))}")
        return np.array([name in given for name in self.classes])

    def _scales(self, scales: Sequence[float] | None) -> list[float]:
        if scales is None:
            return self._package.scales
        given = list(scales) if isinstance(scales, Iterable) else []
        if not given or not all(isinstance(scale, NUMBERS) and 0 < scale <= 4 for scale in given):
            raise AepslError(f"scales: expected a list of factors above 0 and up to 4, found {shown(scales)}")
        return [float(scale) for scale in given]

    def _flip(self, flip: bool | None) -> bool:
        if flip is None:
            return self._package.flip
        if not isinstance(flip, bool | np.bool_):
            raise AepslError(f"flip: expected True, False or None, as the file says, found {shown(flip)}")
        return bool(flip)

    def _side(self, max_side: int | Literal["auto"] | None) -> int | None:
        if isinstance(max_side, str) and max_side == "auto":
            return self._package.largest_side
        if max_side is None:
            return None
        if not isinstance(max_side, int | np.integer) or isinstance(max_side, bool) or max_side < 1:
            raise AepslError(f"max_side: expected auto, None or pixels from 1, found {shown(max_side)}")
        return int(max_side)


class _Asked(NamedTuple):
    """The options of a prediction; None = no CRF, unknown labels, never smaller."""

    crf: tuple[CrfSettings, Backend] | None
    possible: np.ndarray | None  # which classes an image holds, (C,) bool
    scales: list[float]
    flip: bool
    side: int | None


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


def _drawn(image: Photograph) -> tuple[Photograph, Callable[[], np.ndarray]]:
    """A photograph and what gives its pixels later; of what lies in memory they are taken now, before its owner changes it."""
    if isinstance(image, str | os.PathLike):
        return image, partial(_pixels, image)
    taken = Future[np.ndarray]()
    try:
        taken.set_result(_pixels(image))
    except AepslError as error:
        taken.set_exception(error)
    return image, taken.result


def _pixels(image: Photograph) -> np.ndarray:
    """What is to be segmented as (H, W, 3) uint8, an array of its own."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise AepslError(f"{_name(image)}: expected (height, width, 3) uint8, RGB; grey: np.stack([grey] * 3, 2)")
        return np.array(image, order="C")
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


def _png_path(path: str | os.PathLike[str]) -> Path:
    if (ending := Path(path).suffix).lower() not in ("", ".png"):
        raise AepslError(f"{path}: expected a name that ends in .png, found {ending}; what is written is a PNG")
    return Path(path)


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
