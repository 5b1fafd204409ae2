"""What is measured on: generated photographs and masks of the size of PASCAL VOC's, the same on every machine."""

import hashlib
import io
from functools import cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

from aepsl.data import shapes
from aepsl.data.archive import VOID, ArchiveReader, ArchiveWriter, encode_mask
from aepsl.parallel import in_processes

ROOT = Path(__file__).resolve().parents[1]
HEIGHT, WIDTH = 375, 500


@cache
def photographs(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Images (375, 500, 3) and masks (375, 500) uint8 with VOC's void lines around objects. Kept in scratch/ for the next topic."""
    code = hashlib.sha256(Path(shapes.__file__).read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    path = ROOT / "scratch/benchmarks" / f"{count}-{code}.zip"
    if not path.exists():
        with ArchiveWriter(path) as out:
            for number, files in enumerate(in_processes(_generated, range(count))):
                out.update({f"{number}{suffix}": data for suffix, data in files.items()})
    kept = ArchiveReader(path)
    return [(kept.photograph(f"{number}.jpg"), kept.mask(f"{number}.png")) for number in range(count)]


def _generated(number: int) -> dict[str, bytes]:
    sample = shapes.generate(1, number, 572)  # sides from 500 to 572
    return {".jpg": jpeg(sample.image[:HEIGHT, :WIDTH]), ".png": encode_mask(outlined(sample.mask[:HEIGHT, :WIDTH]))}


def outlined(mask: np.ndarray, width: int = 3) -> np.ndarray:
    """The mask (H, W) uint8 with void lines of about ``width`` pixels between regions, as in VOC."""
    other = np.zeros(mask.shape, bool)
    for step in range(1, width):
        other[step:] |= mask[step:] != mask[:-step]
        other[:, step:] |= mask[:, step:] != mask[:, :-step]
    return np.where(other, VOID, mask).astype(np.uint8)


def jpeg(image: np.ndarray) -> bytes:
    """A JPEG of VOC's usual quality."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def varied(masks: list[np.ndarray], number: int) -> np.ndarray:
    """Mask ``number`` of as many as are asked for: one of the given ones, mirrored and shifted, its classes dealt out over VOC's 20."""
    mask = masks[number % len(masks)]
    turned = mask[:, ::-1] if number // len(masks) % 2 else mask
    deal = np.zeros(256, np.uint8)
    deal[1:VOID] = (np.arange(1, VOID) + number) % 20 + 1
    deal[VOID] = VOID
    dealt: np.ndarray = deal[np.roll(turned, (number * 7 % HEIGHT, number * 13 % WIDTH), (0, 1))]
    return dealt


def truth_and_prediction(masks: list[np.ndarray], number: int) -> tuple[bytes, bytes]:
    """A true mask and one that errs: objects a few pixels off, every third of another class, nothing void. As palette PNGs."""
    truth = varied(masks, number)
    guess = np.roll(np.where(truth == VOID, 0, truth), (4, -6), (0, 1))
    guess[guess > 0] = guess[guess > 0] % 20 + 1 if number % 3 == 0 else guess[guess > 0]
    return encode_mask(truth), encode_mask(guess.astype(np.uint8))


def mask_files(folder: Path, count: int, base: int) -> list[str]:
    """Write ``count`` pairs as truth.zip and predictions.zip, and as folders of PNGs; their ids."""
    masks = [mask for _, mask in photographs(base)]
    ids = [f"2012_{number:06d}" for number in range(count)]
    for name in ("truth", "predictions"):
        (folder / name).mkdir()
    with ArchiveWriter(folder / "truth.zip") as truth, ArchiveWriter(folder / "predictions.zip") as predictions:
        for identifier, pair in zip(ids, in_processes(partial(truth_and_prediction, masks), range(count)), strict=True):
            for archive, name, data in zip((truth, predictions), ("truth", "predictions"), pair, strict=True):
                archive.add(f"{identifier}.png", data)
                (folder / name / f"{identifier}.png").write_bytes(data)
    return ids


def compressed_rows(data: bytes) -> bytes:
    """The compressed rows of a PNG, as zlib takes them."""
    place, parts = 8, []
    while place < len(data):
        length = int.from_bytes(data[place:place + 4], "big")
        if data[place + 4:place + 8] == b"IDAT":
            parts.append(data[place + 8:place + 8 + length])
        place += 12 + length
    return b"".join(parts)
