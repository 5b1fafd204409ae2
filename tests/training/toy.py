"""A problem small enough to train on in a test: noise that is red or green."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_mask
from aepsl.data.index import Index
from aepsl.data.samples import Augmentation, Photographs, Samples


def toy_samples(folder: Path, count: int) -> Samples:
    """Noise, red for class 1 and green for class 2; the masks are of the class all over."""
    rng = np.random.default_rng([1])
    ids = tuple(f"i{number}" for number in range(count))
    labels = np.eye(2, dtype=bool)[np.arange(count) % 2]
    with ArchiveWriter(folder / "images.zip") as images, ArchiveWriter(folder / "labels.zip") as masks:
        for identifier, label in zip(ids, labels.argmax(1), strict=True):
            pixels = rng.integers(0, 60, (14, 17, 3), np.uint8)
            pixels[..., label] += 150
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            images.add(f"{identifier}.png", buffer.getvalue())
            masks.add(f"{identifier}.png", encode_mask(np.full((14, 17), label + 1, np.uint8)))
    index = Index(("red", "green"), ids, ("train",) * count, np.tile([17, 14], (count, 1)), labels)
    augmentation = Augmentation(crop=12, scale=(0.8, 1.25), mirror=True, fill=(90, 90, 30))
    return Samples(Photographs(ArchiveReader(folder / "images.zip"), index), augmentation, seed=3, masks=ArchiveReader(folder / "labels.zip"))
