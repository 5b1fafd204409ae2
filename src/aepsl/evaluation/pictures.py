"""Pictures to look at: masks over photographs, and contact sheets of them with a legend."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from aepsl.data.archive import VOID
from aepsl.data.index import Index
from aepsl.errors import printable
from aepsl.report.facts import Colour

HATCH = 16  # white lines along the longer side where pixels are ignored


def overlay(image: np.ndarray, mask: np.ndarray, colours: Sequence[Colour]) -> np.ndarray:
    """Mask (H, W) uint8 over an image (H, W, 3) uint8: value k in the k-th colour, 0 the photograph, dimmed, 255 hatched in white."""
    known = mask != VOID
    painted = np.array(colours, np.uint8)[np.where(known, mask, 0)]
    strength = np.where(known & (mask > 0), 0.65, 0.5)[..., None]
    result = image * (1 - strength) + painted * strength * (mask > 0)[..., None]
    result[~known] = image[~known] * 0.5 + 90
    step = max(3, max(mask.shape) // HATCH)
    result[~known & (np.add.outer(np.arange(mask.shape[0]), np.arange(mask.shape[1])) % step < step // 3)] = 255
    return np.asarray(result, np.uint8)


def mined_overlay(image: np.ndarray, mined: dict[int, np.ndarray], number: int, colours: Sequence[Colour]) -> np.ndarray:
    """What was mined for any class up to round ``number``, in the colour of the first round to find it, over the image."""
    first = np.zeros(image.shape[:2], np.uint8)
    for round_number in range(number, 0, -1):
        for region in mined.values():
            first[region == round_number] = round_number
    return overlay(image, first, [(0, 0, 0), *colours])


def spread(index: Index, count: int) -> list[int]:
    """Rows spread evenly over an index."""
    return np.unique(np.linspace(0, len(index) - 1, min(count, len(index))).round().astype(int)).tolist() if len(index) else []


def contact_sheet(rows: Sequence[Sequence[np.ndarray | None]], headings: Sequence[str], *, legend: Sequence[tuple[str, Colour | None]] = (),
                  cell: int = 144) -> bytes:
    """PNG of rows of pictures (H, W, 3) or (H, W) uint8, each scaled into a cell of that side, under headings; None stays empty.

    Parameters
    ----------
    legend : names and their colours, below the pictures; None = hatched.
    """
    gap, top, line, swatch = 4, 18, 20, 14
    width = len(headings) * (cell + gap) + gap
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    places: list[tuple[int, int]] = []
    x = gap, 0
    for name, _ in legend:
        wide = swatch + 22 + round(draw.textlength(printable(name, 40)))
        if x[0] + wide > width and x[0] > gap:
            x = gap, x[1] + line
        places.append(x)
        x = x[0] + wide, x[1]
    tiles = [[picture if picture is None else _fitted(picture, cell) for picture in pictures] for pictures in rows] or [[None]]
    tops = [top]
    for line_of_tiles in tiles:
        tops.append(tops[-1] + gap + max((tile.height for tile in line_of_tiles if tile), default=cell))
    below = tops[-1]
    sheet = Image.new("RGB", (width, below + (places[-1][1] + line + gap if places else 0)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, heading in enumerate(headings):
        draw.text((gap + column * (cell + gap), 3), heading, fill="black")
    for down, line_of_tiles in zip(tops, tiles, strict=False):
        for column, tile in enumerate(line_of_tiles):
            if tile:
                sheet.paste(tile, (gap + column * (cell + gap), down))
    for (name, colour), (left, down) in zip(legend, places, strict=True):
        corner = left, below + down + 3
        if colour is None:
            square = np.zeros((swatch, swatch, 3), np.uint8)
            sheet.paste(Image.fromarray(overlay(square, np.full((swatch, swatch), VOID, np.uint8), [(0, 0, 0)])), corner)
        else:
            draw.rectangle((*corner, corner[0] + swatch - 1, corner[1] + swatch - 1), fill=colour)
        draw.text((left + swatch + 6, corner[1] + 1), printable(name, 40), fill="black")
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _fitted(picture: np.ndarray, cell: int) -> Image.Image:
    tile = Image.fromarray(picture).convert("RGB")
    factor = cell / max(tile.size)
    return tile.resize((max(1, round(tile.width * factor)), max(1, round(tile.height * factor))), Image.Resampling.LANCZOS)
