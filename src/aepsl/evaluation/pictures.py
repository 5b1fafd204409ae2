"""Pictures to look at: masks over photographs, and contact sheets of them."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from aepsl.data.archive import VOID, voc_palette
from aepsl.data.index import Index

ROUND_COLOURS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (240, 228, 66))  # Okabe and Ito: told apart by colour-blind readers
PALETTE = np.array(voc_palette(), np.uint8).reshape(-1, 3)


def overlay(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Mask (H, W) uint8 in VOC colours over an image (H, W, 3) uint8; void is white, background the photograph, dimmed."""
    colours = PALETTE[mask]
    colours[mask == VOID] = 255
    strength = np.where(mask == 0, 0.5, 0.65)[..., None]
    return np.asarray(image * (1 - strength) + colours * strength, np.uint8)


def mined_overlay(image: np.ndarray, mined: dict[int, np.ndarray], number: int) -> np.ndarray:
    """What was mined for any class up to round ``number``, coloured by round, over the image."""
    result = image * 0.6
    for round_number in range(number, 0, -1):  # the first round to find a pixel, for whatever class, is painted last
        for region in mined.values():
            found = region == round_number
            result[found] = image[found] * 0.35 + np.array(ROUND_COLOURS[(round_number - 1) % len(ROUND_COLOURS)]) * 0.65
    return np.asarray(result, np.uint8)


def spread(index: Index, count: int) -> list[int]:
    """Rows spread evenly over an index."""
    return np.unique(np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int)).tolist() if len(index) else []


def contact_sheet(rows: Sequence[Sequence[np.ndarray | None]], headings: Sequence[str], *, cell: int = 144) -> bytes:
    """PNG of rows of pictures (H, W, 3) or (H, W) uint8, each scaled into a square cell, under headings; None stays empty."""
    gap, top = 4, 18
    sheet = Image.new("RGB", (len(headings) * (cell + gap) + gap, top + max(1, len(rows)) * (cell + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        draw.text((gap + column * (cell + gap), 3), heading, fill="black")
    for line, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            if picture is not None:
                tile = Image.fromarray(picture).convert("RGB")
                factor = cell / max(tile.size)
                tile = tile.resize((max(1, round(tile.width * factor)), max(1, round(tile.height * factor))), Image.Resampling.LANCZOS)
                sheet.paste(tile, (gap + column * (cell + gap), top + line * (cell + gap)))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
