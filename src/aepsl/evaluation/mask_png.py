"""What keeps a file from being a mask as test servers read it: a palette PNG of 8 bits, VOC's colours, a class in every pixel."""

import io

import numpy as np
from PIL.PngImagePlugin import PngImageFile

from aepsl.data.archive import IMAGE_FAULTS, MOST_PIXELS, VOID, image_fault, open_image, verify_png, voc_palette

Size = tuple[int, int]  # width, height in pixels
GREY, PALETTE = 0, 3
KINDS = {GREY: "grey", 2: "RGB", PALETTE: "palette", 4: "grey with alpha", 6: "RGBA"}  # PNG's colour types


def mask_png_faults(data: bytes, size: Size | None, highest: int) -> list[str]:
    """Every fault of a file's bytes as a mask, one line each; empty where there is none.

    Parameters
    ----------
    size : width and height of the image in pixels, None = unknown.
    highest : the largest class number.
    """
    faults: list[str] = []
    try:
        if not data.startswith(b"\x89PNG"):
            raise ValueError("a file of another kind or a damaged one")
        with PngImageFile(io.BytesIO(data)) as image:
            width, height = image.size
        if size is not None and (width, height) != size:
            faults.append(f"expected the size of its image, {size[0]}×{size[1]}, found {width}×{height}")
        if width * height > MOST_PIXELS:
            return [*faults, f"expected at most {MOST_PIXELS} pixels, found {width * height}"]
        if data[12:16] != b"IHDR":
            raise SyntaxError("no header at its beginning")
        verify_png(data)
        bits, colours = data[24:26]
        if (bits, colours) != (8, PALETTE):
            faults.insert(0, f"expected a palette PNG of 8 bits, found {KINDS.get(colours, 'another kind')} of {bits} bits")
        with open_image(data) as image:
            image.load()
            if colours != PALETTE and (bits, colours) != (8, GREY):
                return faults
            counts = np.bincount(np.asarray(image, np.uint8).ravel(), minlength=256)  # (256,)
            palette = image.getpalette() if colours == PALETTE else None
    except IMAGE_FAULTS as error:
        return [f"expected a complete PNG, found {image_fault(error)}"]
    return [*faults, *([] if palette is None else _palette_faults(palette, counts)), *_value_faults(counts, highest)]


def _palette_faults(palette: list[int], counts: np.ndarray) -> list[str]:
    """A palette may be shorter than VOC's as long as it has a colour for every value that occurs."""
    found, expected = (list(zip(*[iter(values)] * 3, strict=True)) for values in (palette, voc_palette()))
    for number, (has, wants) in enumerate(zip(found, expected, strict=False)):
        if has != wants:
            return [f"expected VOC's palette, found {has} instead of {wants} as colour {number}"]
    last = int(np.flatnonzero(counts).max(initial=0))
    return [f"expected VOC's palette, found its first {len(found)} colours only, and the value {last}"] if last >= len(found) else []


def _value_faults(counts: np.ndarray, highest: int) -> list[str]:
    faults = []
    beyond = [value for value in np.flatnonzero(counts).tolist() if highest < value < VOID]
    if beyond:
        faults.append(f"expected values 0 to {highest}, found {', '.join(map(str, beyond))} in {counts[beyond].sum()} pixel(s)")
    if counts[VOID]:
        faults.append(f"expected a class in every pixel, found void, {VOID}, in {counts[VOID]} pixel(s): only the truth may leave pixels out")
    return faults
