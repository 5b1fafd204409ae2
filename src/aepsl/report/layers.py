"""The panels of an image: which there are, how they are painted, and how its labels compare with the truth."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from PIL import Image

from aepsl.data.archive import VOID, resized_size
from aepsl.evaluation.confusion import VoidAs, mean_iou
from aepsl.report.facts import ERROR_COLOURS, ERRORS, HEAT_COLOURS, REGION_COLOUR, RIGHT_COLOUR, Colour, Layer

# Okabe and Ito's colours without black, which on photographs is a shadow.
OKABE_ITO: tuple[Colour, ...] = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (240, 228, 66), (0, 114, 178), (213, 94, 0))
BACKGROUND: Colour = (0, 0, 0)
HATCH = ((255, 255, 255, 255), (60, 60, 60, 150))  # of ignored pixels: lines, and what lies between
HATCH_STEP, HATCH_LINE = 8, 3  # pixels from line to line along a row, and of a line
HEAT_SHRINK = 8  # pixels of the photograph, on a side, for one of a heatmap
HEAT_LEVELS, GREY_LEVELS = 32, 16
HEAT_ALPHA = (90, 215)  # at 0 and at 1
PHOTO_QUALITY = {"quality": 75, "method": 4}

# Linear RGB as people without one kind of cone see it (Machado, Oliveira & Fernandes, IEEE TVCG 2009, severity 1).
PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))


# ---- colours

@cache
def class_colours(count: int) -> tuple[Colour, ...]:
    """Colours of ``count`` classes or rounds: Okabe and Ito's seven, then always the one that lies furthest from all before it.

    Distance is that in CIE-Lab, the least of what people see who have all cones, no red or no green ones.
    """
    chosen = list(OKABE_ITO[:count])
    if count > len(chosen):
        levels = np.linspace(0, 255, 10).round().astype(int)
        candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
        seen = lab_as_seen(candidates)
        candidates, seen = candidates[(seen[0, :, 0] > 25) & (seen[0, :, 0] < 97)], seen[:, (seen[0, :, 0] > 25) & (seen[0, :, 0] < 97)]
        nearest = np.full(len(candidates), np.inf)
        for colour in lab_as_seen(np.array(chosen)).swapaxes(0, 1):
            nearest = np.minimum(nearest, _distance(seen, colour))
        while len(chosen) < count:
            furthest = int(nearest.argmax())
            chosen.append((int(candidates[furthest, 0]), int(candidates[furthest, 1]), int(candidates[furthest, 2])))
            nearest = np.minimum(nearest, _distance(seen, seen[:, furthest]))
    return tuple(chosen)


def lab_as_seen(colours: np.ndarray) -> np.ndarray:
    """CIE-Lab (3, N, 3) of colours (N, 3) in sRGB 0..255: with all cones, in protanopia, in deuteranopia."""
    from skimage.color import xyz2lab  # here: it brings half of scipy, and seven colours need none of it
    from skimage.color.colorconv import xyz_from_rgb

    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = np.stack([linear, *(np.clip(linear @ np.array(matrix).T, 0, 1) for matrix in (PROTANOPIA, DEUTERANOPIA))])
    lab: np.ndarray = xyz2lab(seen @ xyz_from_rgb.T)
    return lab


def _distance(seen: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Least distance over the ways of seeing, (N,), of colours (3, N, 3) from one (3, 3)."""
    least: np.ndarray = np.sqrt(((seen - colour[:, None]) ** 2).sum(-1)).min(0)
    return least


# ---- which layers there are

def train_layers(rounds: Sequence[str], labels: str | None, *, truth: bool) -> list[Layer]:
    """Layers of a training image.

    Parameters
    ----------
    rounds : their names, first to last.
    labels : name of the last pass where it learns from other labels than the merged ones.
    truth : whether any image has a true mask.
    """
    layers: list[Layer] = []
    for place, name in enumerate(rounds):
        layers += [Layer(f"erased-{name}", f"erased before round {name}", "regions")] if place else []
        layers.append(Layer(f"heat-{name}", f"heatmap, round {name}", "heat"))
    layers += [Layer("mined", "mined regions, by round", "rounds"), Layer("saliency", "saliency", "grey"), Layer("merged", "pseudo-label", "classes")]
    layers += [Layer("labels", f"labels of pass {labels}", "classes")] if labels else []
    return layers + (truth_layers("pseudo-label") if truth else [])


def predicted_layers(*, truth: bool) -> list[Layer]:
    """Layers of a val or test image."""
    return [Layer("before", "prediction before the CRF", "classes"), Layer("after", "prediction", "classes"),
            *(truth_layers("prediction") if truth else [])]


def truth_layers(what: str) -> list[Layer]:
    return [Layer("truth", "truth", "classes"), Layer("errors", f"errors of the {what}", "errors")]


# ---- what an image is

@dataclass(frozen=True)
class Panels:
    """What is known of one image, all in its own size (H, W) but for heatmaps.

    Attributes
    ----------
    photograph : (H, W, 3) uint8 RGB.
    heat : round name → class number → (h, w) uint8, heat times 255 on every s-th pixel of the image.
    mined : class number → (H, W) uint8, the round that mined the pixel, 0 = none.
    planes : by a layer's key, (H, W) uint8: masks of classes, and saliency times 255.
    """

    photograph: np.ndarray
    heat: Mapping[str, Mapping[int, np.ndarray]] = field(default_factory=dict)
    mined: Mapping[int, np.ndarray] = field(default_factory=dict)
    planes: Mapping[str, np.ndarray] = field(default_factory=dict)


def painted(panels: Panels, layers: Sequence[Layer], rounds: Sequence[str], colours: Sequence[Colour], side: int, *, void_as: VoidAs,
            per_class: bool) -> tuple[bytes, list[bytes | dict[int, bytes] | None]]:
    """The photograph as WebP, reduced to at most ``side`` pixels on its longer side, and a PNG with transparency per layer.

    Parameters
    ----------
    colours : of background and classes.
    per_class : heatmaps of each class, as a dictionary, instead of the largest heat of any.

    Returns
    -------
    The photograph, and the layers; None where an image lacks one, or it would be empty.
    """
    height, width = panels.photograph.shape[:2]
    size = resized_size((width, height), min(1.0, side / max(width, height)))
    first = first_round(panels.mined, (height, width))
    result: list[bytes | dict[int, bytes] | None] = []
    for layer in layers:
        name = layer.key.partition("-")[2]
        if layer.kind == "heat":
            pictures = {label: painted_heat(heat, (width, height), size) for label, heat in panels.heat.get(name, {}).items()}
            if pictures and not per_class:
                result.append(painted_heat(np.maximum.reduce(list(panels.heat[name].values())), (width, height), size))
            else:
                result.append(pictures or None)
        elif layer.kind == "regions":
            number = rounds.index(name) + 1
            result.append(_flat(((first > 0) & (first < number)).astype(np.uint8), size, [REGION_COLOUR]))
        elif layer.kind == "rounds":
            result.append(_flat(first, size, class_colours(len(rounds))))
        elif layer.key not in panels.planes and layer.kind != "errors":
            result.append(None)
        elif layer.kind == "grey":
            result.append(painted_grey(panels.planes[layer.key], size))
        elif layer.kind == "classes":
            result.append(painted_classes(panels.planes[layer.key], size, colours))
        else:
            known = "truth" in panels.planes
            found = errors(panels.planes["truth"], panels.planes[judged(panels.planes)], void_as=void_as) if known else None
            result.append(None if found is None else _flat(found, size, [*ERROR_COLOURS, RIGHT_COLOUR]))
    return photo(panels.photograph, size), result


def judged(planes: Mapping[str, np.ndarray]) -> str:
    """Key of the plane that is compared with the truth."""
    return "after" if "after" in planes else "merged"


def first_round(mined: Mapping[int, np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The first round to mine a pixel for whatever class, (H, W) uint8, 0 = none did."""
    first = np.zeros(shape, np.uint8)
    for region in mined.values():
        first = np.where((region > 0) & ((first == 0) | (region < first)), region, first)
    return first


# ---- compared with the truth

def errors(truth: np.ndarray, mask: np.ndarray, *, void_as: VoidAs) -> np.ndarray:
    """What kind of error each pixel is, (H, W) uint8: 1 missed, 2 spilled, 3 confused, 4 an object's pixel that is right, 0 = none of these.

    Parameters
    ----------
    truth, mask : (H, W) uint8, 255 = void. Pixels of void truth are 0. A void pixel of the mask is missed where the truth is an object, unless
        ``void_as`` is ``left-out``.
    """
    known, thing = truth != VOID, (truth != VOID) & (truth > 0)
    void = mask == VOID
    silent = np.zeros_like(void) if void_as == "left-out" else void
    found = np.zeros(truth.shape, np.uint8)
    found[thing & ((mask == 0) | silent)] = 1
    found[known & (truth == 0) & (mask > 0) & ~void] = 2
    found[thing & (mask > 0) & ~void & (mask != truth)] = 3
    found[thing & (mask == truth)] = 4
    return found


def scores_of(matrix: np.ndarray, *, void_as: VoidAs) -> dict[str, float]:
    """Scores of one image from its counts (1+C, 2+C), rows true and columns predicted classes, the last column void.

    ``iou``
        mean over the classes in truth or mask, background included, as :func:`aepsl.evaluation.confusion.mean_iou`; 0 where no pixel counts.
    ``missed``
        of the pixels of objects, the share called background or, unless void pixels are ``left-out``, nothing at all.
    ``confused``
        of the pixels of objects, the share called another object's class.
    ``spilled``
        of the pixels called an object, the share that is background.

    Pixels of void truth count nowhere; a share of nothing is 0.
    """
    objects, background = matrix[1:], matrix[0]
    void = 0 if void_as == "left-out" else int(objects[:, -1].sum())
    answered, right = int(objects[:, :-1].sum()), int(np.trace(matrix[1:, 1:-1]))
    missed, spilled = int(objects[:, 0].sum()) + void, int(background[1:-1].sum())
    confused = int(objects[:, 1:-1].sum()) - right
    mean = mean_iou(matrix, void_as=void_as)[0]
    return {"iou": 0.0 if np.isnan(mean) else mean,
            **dict(zip(ERRORS, (missed / max(1, answered + void), spilled / max(1, spilled + confused + right), confused / max(1, answered + void)),
                       strict=True))}


# ---- painting

def photo(image: np.ndarray, size: tuple[int, int]) -> bytes:
    """WebP of an image (H, W, 3) uint8, resized to width and height ``size``."""
    picture, buffer = Image.fromarray(image), io.BytesIO()
    (picture if picture.size == size else picture.resize(size, Image.Resampling.BICUBIC)).save(buffer, "WEBP", **PHOTO_QUALITY)
    return buffer.getvalue()


def painted_classes(mask: np.ndarray, size: tuple[int, int], colours: Sequence[Colour]) -> bytes:
    """A mask (H, W) uint8 in the colours of background and classes: background transparent, void hatched."""
    small = _nearest(mask, size).astype(np.int16)
    void, slant = small == VOID, np.add.outer(np.arange(small.shape[0]), np.arange(small.shape[1]))
    small[void] = len(colours)
    small[void & (slant % HATCH_STEP >= HATCH_LINE)] = len(colours) + 1
    return _png(small, [(*BACKGROUND, 0), *((*colour, 255) for colour in colours[1:]), *HATCH])


def painted_grey(plane: np.ndarray, size: tuple[int, int]) -> bytes:
    """Values (H, W) uint8 as shades of grey, opaque."""
    picture = Image.fromarray(plane)
    small = np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.BILINEAR))
    shades = np.linspace(0, 255, GREY_LEVELS).round().astype(int).tolist()
    return _png((small * ((GREY_LEVELS - 1) / 255)).round().astype(np.int16), [(shade, shade, shade, 255) for shade in shades])


def painted_heat(heat: np.ndarray, full: tuple[int, int], size: tuple[int, int]) -> bytes:
    """Heat (h, w) uint8 on every s-th pixel of an image of width and height ``full``, for a picture of it of ``size``."""
    step = stride_of(heat.shape, full)
    if step is None:
        raise ValueError(f"expected heat on a grid of {full[0]}×{full[1]} pixels, found {heat.shape[1]}×{heat.shape[0]} cells")
    small = resized_size(size, 1 / HEAT_SHRINK)
    # Its first cell lies on the middle of the image's first pixel; what lies behind the last one repeats it.
    start, right, bottom = 0.5 - 0.5 / step, (full[0] - 0.5) / step + 0.5, (full[1] - 0.5) / step + 0.5
    picture = Image.fromarray(np.pad(heat, ((0, 1), (0, 1)), "edge")).resize(small, Image.Resampling.BILINEAR, (start, start, right, bottom))
    levels = (np.asarray(picture) * ((HEAT_LEVELS - 1) / 255)).round().astype(np.int16)
    return _png(levels, heat_palette())


@cache
def heat_palette() -> tuple[tuple[int, ...], ...]:
    """RGBA of each level of a heatmap."""
    at = np.linspace(0, 1, HEAT_LEVELS)
    stops = np.linspace(0, 1, len(HEAT_COLOURS))
    channels = [np.interp(at, stops, values) for values in zip(*HEAT_COLOURS, strict=True)]
    return tuple(tuple(row) for row in np.stack([*channels, np.interp(at, (0, 1), HEAT_ALPHA)], 1).round().astype(int).tolist())


def stride_of(shape: tuple[int, ...], full: tuple[int, int]) -> int | None:
    """Pixels of an image of width and height ``full`` from one cell of its grid (h, w) to the next, a power of two; None = it is no grid of it.

    Where several would do, the grid is a single cell and any is right.
    """
    return next((step for step in (1, 2, 4, 8, 16, 32, 64) if (-(-full[1] // step), -(-full[0] // step)) == shape), None)


def _flat(values: np.ndarray, size: tuple[int, int], colours: Sequence[Colour]) -> bytes | None:
    """Value k (H, W) in the k-th colour, 0 transparent; None where there is nothing else."""
    if not values.any():
        return None
    return _png(_nearest(values, size).astype(np.int16), [(0, 0, 0, 0), *((*colour, 255) for colour in colours)])


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    picture = Image.fromarray(values)
    return np.asarray(picture if picture.size == size else picture.resize(size, Image.Resampling.NEAREST))


def _png(values: np.ndarray, palette: Sequence[Sequence[int]]) -> bytes:
    """Palette PNG of values (H, W) int16, with the colours alone that occur: the fewer, the smaller."""
    used = np.flatnonzero(np.bincount(values.ravel(), minlength=len(palette)))[:256]  # a PNG has no more
    places = np.zeros(max(len(palette), int(used[-1]) + 1), np.uint8)
    places[used] = np.arange(len(used))
    picture, buffer = Image.fromarray(places[values]), io.BytesIO()
    picture.putpalette([channel for index in used for channel in palette[index][:3]])
    picture.save(buffer, "PNG", transparency=bytes(palette[index][3] for index in used), compress_level=6)
    return buffer.getvalue()
