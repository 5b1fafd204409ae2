"""Samples for training: a photograph, perhaps with mined regions erased, perhaps with a pseudo-label, augmented.

Randomness is stateless: the augmentation of image i in epoch e depends on (seed, e, i) alone, so neither the
number of workers nor an interruption changes what a network sees.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from aepsl.data.archive import VOID, ArchiveReader, reduction, resized, resized_size
from aepsl.data.index import Index
from aepsl.data.voc import image_names
from aepsl.errors import AepslError


class Photographs:
    """The photographs of an index, by row, as (H, W, 3) uint8 RGB in original size."""

    def __init__(self, images: ArchiveReader, index: Index) -> None:
        names = image_names(images)
        missing = [identifier for identifier in index.ids if identifier not in names]
        if missing:
            raise AepslError(f"{images.path}: expected every image of the index, {len(missing)} are missing, first {missing[0]!r}; run `dvc repro prepare`")
        self.index = index
        self._images = images
        self._names = [names[identifier] for identifier in index.ids]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: int) -> np.ndarray:
        return self._images.photograph(self._names[row])

    def reduced(self, row: int, factor: float) -> tuple[np.ndarray, tuple[int, int]]:
        """The photograph as far as it is needed to resize it by ``factor``, and its full width and height.

        See :func:`aepsl.data.archive.decode_reduced`.
        """
        return self._images.reduced(self._names[row], factor)


@dataclass(frozen=True)
class Augmentation:
    """Random resize, crop and mirror.

    Attributes
    ----------
    crop : side of the square crop, pixels. Smaller images are padded with ``fill``, their masks with void.
    scale : range of the resize factor, drawn log-uniformly.
    mirror : flip left to right with probability one half.
    fill : RGB 0..255 of the padding.
    """

    crop: int
    scale: tuple[float, float]
    mirror: bool
    fill: tuple[float, float, float]

    def draw(self, rng: np.random.Generator) -> tuple[float, np.ndarray, bool]:
        """What happens to one image: resize factor, place (2,) of the crop in [0, 1), whether it is mirrored."""
        factor = float(np.exp(rng.uniform(np.log(self.scale[0]), np.log(self.scale[1]))))
        return factor, rng.random(2), bool(rng.random() < 0.5) and self.mirror

    def __call__(self, image: np.ndarray, mask: np.ndarray | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray | None]:
        """Augment an image (H, W, 3) uint8 and its mask (H, W) uint8 alike; both come back (crop, crop, …)."""
        return self.apply(image, mask, *self.draw(rng))

    def apply(self, image: np.ndarray, mask: np.ndarray | None, factor: float, corner: np.ndarray, flip: bool,
              full: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray | None]:
        """Augment as drawn.

        Parameters
        ----------
        full : width and height of which ``factor`` is meant, where the image is a reduced one; None = its own. The mask never is.
        """
        height, width = image.shape[:2]
        size = resized_size(full or (width, height), factor)
        if factor != 1:
            image = resized(image, full or (width, height), size)
            mask = mask if mask is None else np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
            height, width = image.shape[:2]
        # With room to spare the crop lies inside the image; without, the image lies inside the crop.
        top, left = (int(np.floor(place * (abs(side - self.crop) + 1))) for place, side in zip(corner, (height, width), strict=True))
        rows, columns = min(height, self.crop), min(width, self.crop)
        y, x = (top if height > self.crop else 0), (left if width > self.crop else 0)
        to_y, to_x = (0 if height > self.crop else top), (0 if width > self.crop else left)
        canvas = np.empty((self.crop, self.crop, 3), np.uint8)
        canvas[:] = np.round(self.fill)
        canvas[to_y:to_y + rows, to_x:to_x + columns] = image[y:y + rows, x:x + columns]
        labels = None
        if mask is not None:
            labels = np.full((self.crop, self.crop), VOID, np.uint8)
            labels[to_y:to_y + rows, to_x:to_x + columns] = mask[y:y + rows, x:x + columns]
        if flip:
            canvas, labels = canvas[:, ::-1], None if labels is None else labels[:, ::-1]
        return np.ascontiguousarray(canvas), None if labels is None else np.ascontiguousarray(labels)


def erase(image: np.ndarray, regions: np.ndarray, fill: Sequence[float]) -> np.ndarray:
    """Fill the regions (H, W) bool of an image (H, W, 3) uint8 with the mean pixel (section 3.1)."""
    erased = image.copy()
    erased[regions] = np.round(fill).astype(np.uint8)
    return erased


def read_mined(archive: ArchiveReader, index: Index, row: int) -> dict[int, np.ndarray]:
    """Mined regions of one image: class number → (H, W) uint8, the round that mined the pixel, 0 = not mined.

    A class of the image that has no entry (nothing mined yet) is all zeros.
    """
    width, height = index.sizes[row]
    regions = {}
    for label in np.flatnonzero(index.labels[row]) + 1:
        name = f"{index.ids[row]}/{label}.png"
        region = regions[int(label)] = archive.mask(name) if name in archive else np.zeros((height, width), np.uint8)
        if region.shape != (height, width):
            raise AepslError(f"{archive.describe(name)}: expected the size of its image, {width}×{height}, found {region.shape[1]}×{region.shape[0]}; "
                             "the artefact belongs to other data, run `dvc repro`")
    return regions


class ErasedPhotographs(Photographs):
    """Photographs with everything mined so far, of whatever class, filled with the mean pixel."""

    def __init__(self, images: ArchiveReader, index: Index, mined: ArchiveReader, fill: Sequence[float]) -> None:
        super().__init__(images, index)
        self._mined = mined
        self._fill = fill

    def __getitem__(self, row: int) -> np.ndarray:
        return self._erased(super().__getitem__(row), row, None)

    def reduced(self, row: int, factor: float) -> tuple[np.ndarray, tuple[int, int]]:
        """As of photographs; a pixel of the reduced image is erased where any that it stands for is."""
        image, full = super().reduced(row, factor)
        return self._erased(image, row, full), full

    def _erased(self, image: np.ndarray, row: int, full: tuple[int, int] | None) -> np.ndarray:
        found = read_mined(self._mined, self.index, row).values()
        if not found:
            return image
        regions: np.ndarray = np.logical_or.reduce([region > 0 for region in found])
        if full and (step := reduction(image, full)) > 1:
            rows, columns = (range(0, side, step) for side in regions.shape)
            regions = np.logical_or.reduceat(np.logical_or.reduceat(regions, rows, 0), columns, 1)
        return erase(image, regions, self._fill)


class Samples:
    """Training samples, addressed by (epoch, row). JPEGs that are to be made smaller are decoded no larger than that needs.

    A sample holds ``id`` str, ``image`` (crop, crop, 3) uint8 RGB, ``labels`` (C,) bool and, where pseudo-labels are
    given, ``mask`` (crop, crop) uint8, all NumPy's: what reads images need not import torch.
    """

    def __init__(self, photographs: Photographs, augmentation: Augmentation, *, seed: int, masks: ArchiveReader | None = None) -> None:
        self.photographs = photographs
        self.index = photographs.index
        self._augmentation = augmentation
        self._seed = seed
        self._masks = masks

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, row = key
        mask = None if self._masks is None else self._masks.mask(f"{self.index.ids[row]}.png")
        drawn = self._augmentation.draw(np.random.default_rng([self._seed, epoch, row]))
        image, full = self.photographs.reduced(row, drawn[0])
        image, mask = self._augmentation.apply(image, mask, *drawn, full)
        sample = {"id": self.index.ids[row], "image": image, "labels": self.index.labels[row]}
        return sample if mask is None else sample | {"mask": mask}


def batches(count: int, batch: int, total: int, *, seed: int, first: int = 0) -> Iterator[list[tuple[int, int]]]:
    """Batches ``first`` to ``total`` - 1 of (epoch, row): every epoch a fresh permutation, its incomplete last batch left out."""
    size = min(batch, count)
    per_epoch = count // size
    for step in range(first, total):
        epoch, place = divmod(step, per_epoch)
        if place == 0 or step == first:
            order = np.random.default_rng([seed, epoch]).permutation(count)
        yield [(epoch, int(row)) for row in order[place * size:(place + 1) * size]]
