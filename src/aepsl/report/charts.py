"""Line charts as numbers: where ticks, lines and their labels stand. The template draws them; all that is SVG here is that y grows downwards."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Point = tuple[float, float]
WIDTH, HEIGHT = 400.0, 250.0  # units of the view box; a chart is shown at about one pixel per unit
LEFT, TOP, BOTTOM = 46.0, 14.0, 40.0
LETTER, LINE = 6.6, 14.0  # of the labels: most of a letter's width, distance of two lines
MOST_POINTS = 400  # of a line: more than there are pixels across


@dataclass(frozen=True)
class Line:
    """A named line: its points as an SVG ``points`` attribute, its last point, and the height of its label beside that."""

    name: str
    points: str
    end: Point
    label: float


@dataclass(frozen=True)
class Chart:
    """Everything at its place in a view box of ``width`` × ``height``; ``plot`` is left, top, right, bottom of the area with lines."""

    title: str
    x_label: str
    y_label: str
    width: float
    height: float
    plot: tuple[float, float, float, float]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    lines: Sequence[Line]


def ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers, at most ``most`` + 2 of them and one step of 1, 2 or 5 apart, that reach from at most ``low`` to at least ``high``."""
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def line_chart(title: str, lines: Mapping[str, Sequence[Point]], *, x_label: str, y_label: str) -> Chart | None:
    """A chart of lines by name, each with its name at its end; None where there is no finite point.

    A line of more than :data:`MOST_POINTS` points is thinned, its last point kept. The y axis starts at 0 where that costs less than half the height.
    """
    kept = {name: thinned([point for point in points if all(map(math.isfinite, point))]) for name, points in lines.items()}
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return None
    xs, ys = ([point[axis] for points in kept.values() for point in points] for axis in (0, 1))
    low, high = min(ys), max(ys)
    y_ticks = ticks(0.0 if 0 <= low < 0.5 * high else low, high, 4)
    x_low, x_high = (min(xs), max(xs)) if max(xs) > min(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    x_ticks = [tick for tick in ticks(x_low, x_high, 5) if x_low <= tick <= x_high]
    x_ticks = [tick for tick in x_ticks if tick == int(tick)] or x_ticks
    right = WIDTH - 14 - LETTER * max(map(len, kept))
    bottom = HEIGHT - BOTTOM

    def place(point: Point) -> Point:
        return (round(LEFT + (point[0] - x_low) / (x_high - x_low) * (right - LEFT), 1),
                round(bottom - (point[1] - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - TOP), 1))

    placed = {name: [place(point) for point in points] for name, points in kept.items()}
    heights = apart([points[-1][1] for points in placed.values()], LINE, TOP + 4, bottom)
    return Chart(title, x_label, y_label, WIDTH, HEIGHT, (LEFT, TOP, right, bottom),
                 [(place((tick, 0))[0], f"{tick:g}") for tick in x_ticks], [(place((x_low, tick))[1], f"{tick:g}") for tick in y_ticks],
                 [Line(name, " ".join(f"{x:g},{y:g}" for x, y in points), points[-1], height)
                  for (name, points), height in zip(placed.items(), heights, strict=True)])


def thinned(points: Sequence[Point]) -> list[Point]:
    """Every n-th point and the last."""
    step = -(-len(points) // MOST_POINTS) or 1
    return [*points[:-1:step], *points[-1:]]


def apart(heights: Sequence[float], least: float, top: float, bottom: float) -> list[float]:
    """Heights moved as little as needed to lie ``least`` apart, in their order, and between top and bottom while there is room."""
    order = sorted(range(len(heights)), key=lambda number: heights[number])
    moved = [heights[number] for number in order]
    for place in range(1, len(moved)):
        moved[place] = max(moved[place], moved[place - 1] + least)
    for place in range(len(moved) - 1, -1, -1):
        moved[place] = max(top, min(moved[place], bottom - least * (len(moved) - 1 - place)))
    result = [0.0] * len(heights)
    for place, number in enumerate(order):
        result[number] = round(moved[place], 1)
    return result
