"""Robust background detection as it is usually written in Python: loops over pixels and superpixels, a graph of dictionaries, a queue.

Zhu et al., CVPR 2014, with the same superpixels and the same formulas as ours, so that the maps can be compared.
"""

import heapq
import math

import numpy as np
from PIL import Image
from skimage.color import rgb2lab
from skimage.segmentation import slic

Graph = dict[int, dict[int, float]]


def saliency(image: np.ndarray, *, size: int, superpixel: int, compactness: float, sigma_colour: float = 10, sigma_boundary: float = 1,
             sigma_spatial: float = 0.25) -> np.ndarray:
    """Saliency (H, W) float32 in [0, 1] of an image (H, W, 3) uint8."""
    height, width = image.shape[:2]
    scale = min(1.0, size / max(height, width))
    small = Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
    lab = rgb2lab(np.asarray(small))
    h, w = lab.shape[:2]
    segments = slic(lab, n_segments=round(h * w / superpixel), compactness=compactness / float(np.ptp(lab)), convert2lab=False, start_label=0)
    labels = list(np.unique(segments))

    colour, centre, border = {}, {}, set()
    for label in labels:
        rows, columns = np.nonzero(segments == label)
        colour[label] = lab[rows, columns].mean(0)
        centre[label] = np.array([rows.mean(), columns.mean()]) / max(h, w)
        if rows.min() == 0 or columns.min() == 0 or rows.max() == h - 1 or columns.max() == w - 1:
            border.add(label)

    graph: Graph = {label: {} for label in labels}

    def connect(one: int, other: int) -> None:
        if one != other:
            graph[one][other] = graph[other][one] = float(np.linalg.norm(colour[one] - colour[other]))

    for y in range(h):
        for x in range(w):
            if x + 1 < w:
                connect(segments[y, x], segments[y, x + 1])
            if y + 1 < h:
                connect(segments[y, x], segments[y + 1, x])
    for one in border:
        for other in border:
            connect(one, other)

    background = {}
    for label in labels:
        paths = shortest_paths(graph, label)
        area = length = 0.0
        for other in labels:
            same = math.exp(-paths[other] ** 2 / (2 * sigma_colour**2))
            area += same
            if other in border:
                length += same
        background[label] = 1 - math.exp(-(length / math.sqrt(area)) ** 2 / (2 * sigma_boundary**2))

    contrast = {}
    for label in labels:
        contrast[label] = 0.0
        for other in labels:
            apart = float(np.linalg.norm(centre[label] - centre[other]))
            differ = float(np.linalg.norm(colour[label] - colour[other]))
            contrast[label] += differ * math.exp(-apart**2 / (2 * sigma_spatial**2)) * background[other]
    low, high = min(contrast.values()), max(contrast.values())
    wanted = {label: (value - low) / max(high - low, 1e-9) for label, value in contrast.items()}

    place = {label: number for number, label in enumerate(labels)}
    system, right = np.zeros((len(labels), len(labels))), np.zeros(len(labels))
    for label in labels:
        here = place[label]
        system[here, here] += background[label] + wanted[label]
        right[here] = wanted[label]
        for other, differ in graph[label].items():
            weight = math.exp(-differ**2 / (2 * sigma_colour**2)) + 0.1
            system[here, here] += weight
            system[here, place[other]] -= weight
    solved = np.linalg.solve(system, right)
    result = np.zeros((h, w), np.float32)
    for label in labels:
        result[segments == label] = solved[place[label]]
    grown = np.asarray(Image.fromarray(result).resize((width, height), Image.Resampling.BILINEAR))
    stretched: np.ndarray = (grown - grown.min()) / max(float(np.ptp(grown)), 1e-9)
    return stretched


def shortest_paths(graph: Graph, source: int) -> dict[int, float]:
    """Dijkstra's distances from one node to all."""
    distance = {source: 0.0}
    queue, done = [(0.0, source)], set()
    while queue:
        so_far, node = heapq.heappop(queue)
        if node in done:
            continue
        done.add(node)
        for other, weight in graph[node].items():
            if so_far + weight < distance.get(other, math.inf):
                distance[other] = so_far + weight
                heapq.heappush(queue, (so_far + weight, other))
    return distance
