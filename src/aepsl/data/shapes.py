"""A generated data set with the difficulty adversarial erasing exists for: the class shows in a small part of the object.

Every object is a creature: a *head*, 18-24 % of its area, whose outline, pattern and colours name its class, and a long curved *body* at
one side of it. The body's texture and hue depend on the class only weakly: knowing both exactly names the class in about
53 % of the cases, guessing in 20 %. A classifier can therefore live on heads alone and its heatmap stops there; once the heads are
erased, bodies are the next best evidence. Bodies differ from the cluttered background in kind (closed outline, rounded
shading, colour), but nothing else is class coded: backgrounds, distractors, sizes, places, poses and light are drawn without
looking at the class. Image i of a seed is a function of (seed, i) alone.
"""

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from aepsl.data import voc
from aepsl.data.archive import ArchiveWriter, encode_mask
from aepsl.parallel import in_processes
from aepsl.progress import progress

CLASSES = ("bandling", "checkling", "dotling", "ringling", "splitling")  # named after the pattern of the head
HEAD, BODY = 1, 2  # values of Sample.part
HEAD_SHARE = (0.18, 0.24)  # of the object's area
HEAD_HUES = ((0.14, None), (0.62, None), (0.33, 0.87), (0.99, None), (0.50, 0.07))  # of the two tones; None = dark (first) or white
BODY_HUES = (0.30, 0.10, 0.70, 0.50, 0.90)  # class means on the circle of hues
BODY_HUE_SPREAD = 0.15  # standard deviation, in turns; neighbouring means are 0.2 apart
OWN_TEXTURE = 0.36  # chance of the class's own texture; the other four share the rest
JPEG_QUALITY = 92


@dataclass(frozen=True)
class Sample:
    """One generated image.

    Attributes
    ----------
    image : (H, W, 3) uint8.
    mask : (H, W) uint8, 0 = background, c = class ``CLASSES[c - 1]``.
    part : (H, W) uint8, 0 = background, 1 = head, 2 = body.
    objects : class number and box (xmin, ymin, xmax, ymax; from 1, ends included) of each object.
    """

    image: np.ndarray
    mask: np.ndarray
    part: np.ndarray
    objects: tuple[tuple[int, voc.Box], ...]

    @property
    def labels(self) -> np.ndarray:
        """(C,) bool, image-level labels."""
        return np.isin(np.arange(1, len(CLASSES) + 1), [number for number, _ in self.objects])


@dataclass(frozen=True)
class _Figure:
    """A drawn creature in its own patch: colours (h, w, 3), opacity (h, w) in [0, 1], part (h, w)."""

    colours: np.ndarray
    opacity: np.ndarray
    part: np.ndarray


def generate(seed: int, index: int, size: int) -> Sample:
    """Image ``index`` of the data set ``seed``; the sides lie between 7/8 ``size`` and ``size`` pixels."""
    rng = np.random.default_rng([seed, index])
    height, width = (size - rng.integers(0, size // 8 + 1, 2)).tolist()
    canvas = _background(rng, height, width)
    mask, part, owner = (np.zeros((height, width), np.uint8) for _ in range(3))

    # The first class goes through all classes every few images, which balances their frequencies even in small sets.
    first = np.random.default_rng([seed, index // len(CLASSES), 1]).permutation(len(CLASSES))[index % len(CLASSES)]
    count = int(rng.choice(3, p=(0.5, 0.35, 0.15))) + 1
    classes = [int(first), *rng.integers(0, len(CLASSES), count - 1).tolist()]
    for kind in classes:
        length = min(height, width) * rng.uniform(0.7, 1.1) * (1, 0.85, 0.7)[count - 1]
        for shrink in (1, 0.85, 0.7, 0.55):  # the first creature finds room at last; others may not, and are left out
            figure = _figure(rng, kind, length * shrink)
            place = _place(rng, figure, part)
            if place is not None:
                solid = figure.part > 0
                canvas[place] += (figure.colours - canvas[place]) * figure.opacity[..., None]
                mask[place][solid] = kind + 1
                part[place][solid] = figure.part[solid]
                owner[place][solid] = owner.max() + 1
                break

    objects = []
    for number in range(1, int(owner.max()) + 1):
        ys, xs = np.nonzero(owner == number)
        objects.append((int(mask[ys[0], xs[0]]), (int(xs.min()) + 1, int(ys.min()) + 1, int(xs.max()) + 1, int(ys.max()) + 1)))
    return Sample(_light(rng, canvas), mask, part, tuple(objects))


def _hsv(hue: float, saturation: float, value: float) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def _noise(rng: np.random.Generator, height: int, width: int, cells: Sequence[int]) -> np.ndarray:
    """Smooth noise (H, W) float32, mean 0 and deviation about 1: one octave per number of cells, each half as strong."""
    total = np.zeros((height, width), np.float32)
    for octave, number in enumerate(cells):
        grid = Image.fromarray(rng.standard_normal((number, number)).astype(np.float32))
        total += np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC)) / 2**octave
    return total


def _background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Textured ground of dull colours with distractors of any colour, (H, W, 3) float32 in about [0, 1]."""
    tones = [_hsv(rng.random(), rng.uniform(0.05, 0.35), rng.uniform(0.3, 0.85)) for _ in range(3)]
    canvas = np.broadcast_to(tones[0], (height, width, 3))
    for tone in tones[1:]:
        weight = 1 / (1 + np.exp(-rng.uniform(1, 4) * _noise(rng, height, width, (3, 6, 12, 24))))
        canvas = canvas + (tone - canvas) * weight[..., None]
    canvas = canvas * (1 + rng.uniform(0.04, 0.12) * _noise(rng, height, width, (height // 6, height // 2)))[..., None]
    for _ in range(rng.integers(6, 14)):
        _distract(rng, canvas)
    return canvas.astype(np.float32)


def _distract(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Blend one lobed blob or bar into the canvas, flat or striped, mostly dull, now and then vivid."""
    side = min(canvas.shape[:2])
    long = side * rng.uniform(0.03, 0.11)
    wide = long * rng.uniform(0.25, 1)
    reach = int(long * 1.4) + 2
    top, left = int(rng.integers(0, canvas.shape[0])), int(rng.integers(0, canvas.shape[1]))
    place = np.s_[max(0, top - reach):top + reach, max(0, left - reach):left + reach]
    y, x = np.mgrid[place[0].start:min(place[0].stop, canvas.shape[0]), place[1].start:min(place[1].stop, canvas.shape[1])]
    turn = rng.uniform(0, 2 * np.pi)
    u = ((x - left) * np.cos(turn) + (y - top) * np.sin(turn)) / long
    v = ((y - top) * np.cos(turn) - (x - left) * np.sin(turn)) / wide
    lobes = 1 + rng.uniform(0, 0.3) * np.cos(rng.integers(2, 6) * np.arctan2(v, u) + rng.uniform(0, 6))
    opacity = np.clip((lobes - np.hypot(u, v)) * wide / rng.uniform(1, 4) + 0.5, 0, 1) * rng.uniform(0.5, 1)
    colour = _hsv(rng.random(), rng.uniform(0.5, 0.9) if rng.random() < 0.1 else rng.uniform(0.05, 0.4), rng.uniform(0.2, 0.95))
    stripes = 1 + rng.uniform(0, 0.35) * np.sin(rng.uniform(2, 12) * u + rng.uniform(0, 6))
    canvas[place] += (colour * stripes[..., None] - canvas[place]) * opacity[..., None]


def _figure(rng: np.random.Generator, kind: int, length: float) -> _Figure:
    """A creature of class ``kind`` whose spine is ``length`` pixels long, drawn at a random pose."""
    steps = max(32, int(length / 1.5))
    along = np.linspace(0, 1, steps, dtype=np.float32)
    turn = rng.choice((-1, 1)) * rng.uniform(0.5, 3.0)
    heading = rng.uniform(0, 2 * np.pi) + turn * along + rng.uniform(0, 0.5) * np.sin(2 * np.pi * along + rng.uniform(0, 6))
    forward = np.stack([np.cos(heading), np.sin(heading)], 1).astype(np.float32)  # (steps, xy)
    spine = np.cumsum(forward, 0) * (length / steps)
    girth = length * rng.uniform(0.13, 0.17)
    tail = rng.uniform(0.3, 0.8)  # how much narrower the far end is
    radius = girth * (1 - tail * along ** 2) * (1 + rng.uniform(0, 0.15) * np.sin(2 * np.pi * along + rng.uniform(0, 6)))
    share = rng.uniform(*HEAD_SHARE)
    head_radius = float(np.sqrt(share / (1 - share) * 2 * radius.mean() * length / np.pi))
    centre = spine[0] - forward[0] * head_radius * 0.75

    low = np.floor(np.minimum((spine - radius[:, None]).min(0), centre - 1.5 * head_radius)) - 1
    high = np.ceil(np.maximum((spine + radius[:, None]).max(0), centre + 1.5 * head_radius)) + 1
    width, height = (high - low).astype(int).tolist()
    x, y = np.meshgrid(np.arange(width, dtype=np.float32) + low[0], np.arange(height, dtype=np.float32) + low[1])

    squared = np.square(x[0, :, None] - spine[:, 0]), np.square(y[:, 0, None] - spine[:, 1])  # (w, steps), (h, steps)
    nearest = (squared[0] + squared[1][:, None]).argmin(-1)  # (h, w), step of the spine
    dx, dy, here = x - spine[nearest, 0], y - spine[nearest, 1], radius[nearest]
    distance = np.hypot(dx, dy)
    across = (dy * forward[nearest, 0] - dx * forward[nearest, 1]) / here  # -1 … 1 from flank to flank
    body = np.clip(here - distance + 0.5, 0, 1)
    colours = _skin(rng, kind, along[nearest] * length, across, girth)

    jitter = rng.normal(0, 0.2)
    ahead = np.array([[np.cos(jitter), -np.sin(jitter)], [np.sin(jitter), np.cos(jitter)]]) @ forward[0]
    u = ((x - centre[0]) * ahead[0] + (y - centre[1]) * ahead[1]) / head_radius
    v = ((y - centre[1]) * ahead[0] - (x - centre[0]) * ahead[1]) / head_radius
    head, face = _face(rng, kind, u, v, head_radius)
    colours = colours + (face - colours) * head[..., None]
    part = np.where(head > 0.5, HEAD, np.where(body > 0.5, BODY, 0)).astype(np.uint8)
    return _Figure(colours, np.maximum(head, body), part)


def body_style(rng: np.random.Generator, kind: int) -> tuple[int, float]:
    """Texture number and hue (in turns) of a body of class ``kind``: all that a body tells about the class."""
    others = (1 - OWN_TEXTURE) / (len(CLASSES) - 1)
    chances = np.where(np.arange(len(CLASSES)) == kind, OWN_TEXTURE, others)
    return int(rng.choice(len(CLASSES), p=chances)), float(rng.normal(BODY_HUES[kind], BODY_HUE_SPREAD) % 1)


def _skin(rng: np.random.Generator, kind: int, along: np.ndarray, across: np.ndarray, girth: float) -> np.ndarray:
    """Colours (h, w, 3) of a body in its own coordinates: pixels along the spine, -1 … 1 across it."""
    texture, hue = body_style(rng, kind)
    phase, pace = rng.uniform(0, 2 * np.pi), 2 * np.pi / (girth * rng.uniform(0.9, 1.3))
    if texture == 0:  # rings
        wave = np.sin(pace * along + phase)
    elif texture == 1:  # lines from head to tail
        wave = np.cos(2.5 * np.pi * across)
    elif texture == 2:  # spots
        wave = 1.6 * np.cos(pace * along + phase) * np.cos(1.5 * np.pi * across) - 0.4
    elif texture == 3:  # chevrons
        wave = np.sin(pace * (along + 0.9 * girth * np.abs(across)) + phase)
    else:  # marbling
        wave = _noise(rng, along.shape[0], along.shape[1], (max(2, int(along.shape[0] * 1.3 / girth)),))
    pattern = 1 / (1 + np.exp(-4 * wave))
    saturation, value = rng.uniform(0.3, 0.55), rng.uniform(0.65, 0.95)
    light, dark = _hsv(hue, saturation, value), _hsv(hue, min(1, saturation * 1.2), value * rng.uniform(0.4, 0.6))
    rounded = 1 - 0.35 * across**2 - 0.25 * (np.abs(across) > 0.8)
    colours: np.ndarray = (dark + (light - dark) * pattern[..., None]) * rounded[..., None]
    return colours


def _face(rng: np.random.Generator, kind: int, u: np.ndarray, v: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Opacity (h, w) and colours (h, w, 3) of a head of class ``kind``; u ahead, v across, in units of its radius."""
    distance, angle = np.hypot(u, v), np.arctan2(v, u)
    if kind == 0:  # square, bands
        edge, wave = 0.89 - np.maximum(np.abs(u), np.abs(v)), np.sin(2 * np.pi * u / 0.75)
    elif kind == 1:  # diamond, checks
        edge, wave = (1.25 - np.abs(u) - np.abs(v)) * 0.71, np.sin(np.pi * (u + v) / 0.62) * np.sin(np.pi * (u - v) / 0.62)
    elif kind == 2:  # disc, dots
        edge, wave = 1 - distance, np.where(distance < 0.35, -1, np.where(distance > 0.6, np.cos(5 * angle), 1))
    elif kind == 3:  # five-pointed star, rings
        edge, wave = 1 + 0.25 * np.cos(5 * angle) - distance, np.cos(2 * np.pi * distance / 0.66)
    else:  # triangle, halves
        sides = [u * np.cos(turn) + v * np.sin(turn) for turn in (np.pi / 3, np.pi, -np.pi / 3)]
        edge, wave = 0.78 - np.maximum.reduce(sides), v * 4
    jitter = rng.normal(0, 0.025)
    first, second = HEAD_HUES[kind]
    one = _hsv(first + jitter, rng.uniform(0.85, 1), rng.uniform(0.85, 1))
    two = _hsv(second + jitter, 0.9, rng.uniform(0.75, 0.95)) if second is not None else _hsv(0, 0, 0.08 if kind == 0 else 0.97)
    pattern = 1 / (1 + np.exp(-6 * wave))
    return np.clip(edge * radius + 0.5, 0, 1), two + (one - two) * pattern[..., None]


def _place(rng: np.random.Generator, figure: _Figure, part: np.ndarray) -> tuple[slice, slice] | None:
    """Where the figure goes: inside the image, off all heads, over little of other bodies; None if there is no room."""
    solid = figure.part > 0
    height, width = solid.shape
    room = part.shape[0] - height, part.shape[1] - width
    if min(room) < 0:
        return None
    for _ in range(30):
        top, left = int(rng.integers(0, room[0] + 1)), int(rng.integers(0, room[1] + 1))
        place = np.s_[top:top + height, left:left + width]
        covered = part[place][solid]
        if not (covered == HEAD).any() and (covered == BODY).mean() < 0.06:
            return place
    return None


def _light(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Uneven light, a colour cast and sensor noise; (H, W, 3) uint8."""
    height, width = canvas.shape[:2]
    slope = np.linspace(-1, 1, height)[:, None] * rng.uniform(-0.2, 0.2) + np.linspace(-1, 1, width) * rng.uniform(-0.2, 0.2)
    lit = canvas * (rng.uniform(0.75, 1.1) + slope)[..., None] * rng.uniform(0.93, 1.07, 3)
    lit = lit + rng.standard_normal(canvas.shape, np.float32) * rng.uniform(0.01, 0.03)
    return np.rint(np.clip(lit, 0, 1) * 255).astype(np.uint8)


def _encode(number: int, seed: int, size: int) -> dict[str, bytes]:
    sample = generate(seed, number, size)
    identifier = identify(number)
    photograph = io.BytesIO()
    Image.fromarray(sample.image).save(photograph, "JPEG", quality=JPEG_QUALITY)
    height, width = sample.mask.shape
    objects = [(CLASSES[kind - 1], box) for kind, box in sample.objects]
    return {f"{voc.IMAGES}/{identifier}.jpg": photograph.getvalue(),
            f"{voc.ANNOTATIONS}/{identifier}.xml": voc.format_annotation(f"{identifier}.jpg", width, height, objects),
            f"{voc.MASKS}/{identifier}.png": encode_mask(sample.mask),
            f"{voc.PARTS}/{identifier}.png": encode_mask(sample.part)}


def identify(index: int) -> str:
    """The id of image ``index``."""
    return f"shapes_{index + 1:05d}"


def pack(out: Path, *, seed: int, train: int, val: int, size: int) -> dict[str, int]:
    """Generate the data set as raw.zip, with the part maps as ``Parts/<id>.png``; returns the number of images per split.

    The val images come first, so that a larger train keeps all images of a smaller one and the same val.
    """
    numbers = range(val + train)
    splits = {"train": [identify(number) for number in numbers[val:]], "val": [identify(number) for number in numbers[:val]]}
    description = voc.Description("shapes", list(CLASSES), {name: value for value, name in enumerate(CLASSES, 1)}, "xml")
    with ArchiveWriter(out) as archive:
        archive.add(voc.DESCRIPTION, description.to_json())
        for name, content in voc.format_lists(splits).items():
            archive.add(name, content)
        encoded = in_processes(partial(_encode, seed=seed, size=size), numbers, processes=0 if len(numbers) > 500 else 1)
        for files in progress(encoded, total=len(numbers), label="generate"):
            for name, content in files.items():
                archive.add(name, content)
    return {split: len(ids) for split, ids in splits.items()}
