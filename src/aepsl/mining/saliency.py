"""The background cue: a saliency map per image (method section 3), computed here or read from the user's own maps.

The computed map is robust background detection (Zhu, Liang, Wei, Sun: "Saliency Optimization from Robust Background
Detection", CVPR 2014): a superpixel is background if the region it belongs to touches much of the image's border
for its size; an object is what contrasts with background. It needs no training. AE-PSL itself used a learned map.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image
from scipy.sparse import coo_matrix, diags
from scipy.sparse.csgraph import dijkstra
from scipy.sparse.linalg import spsolve
from skimage.color import rgb2lab
from skimage.segmentation import slic

from aepsl.data.archive import IMAGE_FAULTS, MOST_BYTES, ArchiveReader, image_fault, open_image, resized, resized_size, verify_png
from aepsl.errors import AepslError

SMOOTHNESS_FLOOR = 0.1  # mu of the paper: smooths a little even across strong edges
SUFFIXES = (".png", ".jpg", ".jpeg")


def saliency(image: np.ndarray, *, size: int, superpixel: int, compactness: float, sigma_colour: float = 10, sigma_boundary: float = 1,
             sigma_spatial: float = 0.25, optimise: bool = True, full: tuple[int, int] | None = None) -> np.ndarray:
    """Saliency of each pixel, by robust background detection.

    Parameters
    ----------
    image : (H, W, 3) uint8, RGB.
    size : longer side of the copy that is worked on, pixels; a smaller image is not enlarged.
    superpixel : target area of a superpixel, pixels of that copy.
    compactness : SLIC's weight of place against colour.
    sigma_colour : CIE-Lab distance at which two superpixels stop being one region.
    sigma_boundary : boundary connectivity at which a region becomes background.
    sigma_spatial : reach of contrast, share of the longer side.
    optimise : refine the contrast by the paper's least squares (section 4.2) or return it as it is.
    full : W, H of the photograph, where ``image`` is one that was decoded smaller, see :func:`working_scale`.

    Returns
    -------
    (H, W) float32 in [0, 1], image frame, stretched to the full range; all 0 for an image of one colour.
    """
    width, height = full or (image.shape[1], image.shape[0])
    lab = rgb2lab(resized(image, (width, height), resized_size((width, height), working_scale((width, height), size))))
    segments = superpixels(lab, superpixel=superpixel, compactness=compactness)
    colour, centre, border = _describe(lab, segments)
    edges = _adjacent(segments, border)
    distance = np.linalg.norm(colour[:, None] - colour[None], axis=2)  # (N, N), d_app
    connectivity = boundary_connectivity(distance, edges, border, sigma=sigma_colour)
    background = 1 - np.exp(-connectivity**2 / (2 * sigma_boundary**2))  # (N,), w_bg
    apart = np.linalg.norm(centre[:, None] - centre[None], axis=2)
    values = (distance * np.exp(-apart**2 / (2 * sigma_spatial**2))) @ background  # (N,), wCtr
    values = _stretch(values)
    if optimise:
        values = _optimise(values, background, distance, edges, sigma=sigma_colour)
    grown = Image.fromarray(values.astype(np.float32)[segments]).resize((width, height), Image.Resampling.BILINEAR)
    return _stretch(np.asarray(grown, np.float32))


def working_scale(full: tuple[int, int], size: int) -> float:
    """The factor by which a photograph of this width and height is resized before anything else is done with it."""
    return min(1.0, size / max(full))


def superpixels(lab: np.ndarray, *, superpixel: int, compactness: float) -> np.ndarray:
    """SLIC labels (h, w) int, numbered 0…N-1 without gaps, of a CIE-Lab image (h, w, 3)."""
    height, width = lab.shape[:2]
    count = max(1, round(height * width / superpixel))
    if count == 1 or height * width < 4:
        return np.zeros((height, width), int)
    # slic() stretches its input to [0, 1]; here that is the Lab range over the image, so undo it in the compactness
    # and "compactness" keeps its usual meaning: against Lab units.
    span = float(np.ptp(lab))
    labels = slic(lab, n_segments=count, compactness=compactness / span if span > 1e-3 else 1.0, convert2lab=False, start_label=0)
    present = np.bincount(labels.ravel()) > 0
    numbered: np.ndarray = (np.cumsum(present) - 1)[labels]
    return numbered


def boundary_connectivity(distance: np.ndarray, edges: np.ndarray, border: np.ndarray, *, sigma: float) -> np.ndarray:
    """How far the region around each superpixel lies on the image border, for its size: section 3.2 of the paper.

    Parameters
    ----------
    distance : (N, N) colour distances.
    edges : (E, 2) pairs of neighbours.
    border : (N,) bool, superpixels that touch the image border.
    """
    first, second = edges.T
    graph = coo_matrix((distance[first, second], (first, second)), shape=distance.shape).tocsr()
    geodesic = dijkstra(graph, directed=False)
    same = np.exp(-geodesic**2 / (2 * sigma**2))  # soft membership of the other superpixels in this one's region
    connectivity: np.ndarray = same[:, border].sum(1) / np.sqrt(same.sum(1))
    return connectivity


def _describe(lab: np.ndarray, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean colour (N, 3), centre (N, 2) in units of the longer side, and whether the border is touched (N,) bool."""
    flat, count = segments.ravel(), int(segments.max()) + 1
    rows, columns = np.indices(segments.shape).reshape(2, -1) / max(segments.shape)
    area = np.bincount(flat, minlength=count)
    colour, centre = (np.stack([np.bincount(flat, plane, count) / area for plane in planes], 1)
                      for planes in (lab.reshape(-1, 3).T, (rows, columns)))
    border = np.zeros(count, bool)
    for side in (segments[0], segments[-1], segments[:, 0], segments[:, -1]):
        border[side] = True
    return colour, centre, border


def _adjacent(segments: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Pairs (E, 2), each once, of superpixels that touch; all on the border count as touching one another.

    The links along the border let a background that an object cuts in two still be one region (section 3.2).
    """
    count = len(border)
    outer = np.flatnonzero(border)
    beside = np.stack([segments[:, :-1].ravel(), segments[:, 1:].ravel()], 1)
    below = np.stack([segments[:-1].ravel(), segments[1:].ravel()], 1)
    met = np.concatenate([pairs[pairs[:, 0] != pairs[:, 1]] for pairs in (beside, below)])
    pairs = np.concatenate([met, outer[np.stack(np.triu_indices(len(outer), 1), 1)]])
    codes = np.unique(pairs.min(1) * count + pairs.max(1))
    edges: np.ndarray = np.stack([codes // count, codes % count], 1)
    return edges


def _optimise(contrast: np.ndarray, background: np.ndarray, distance: np.ndarray, edges: np.ndarray, *, sigma: float) -> np.ndarray:
    """The s that minimises Σ w_bg s² + Σ w_fg (s - 1)² + Σ w_ij (s_i - s_j)² with w_fg the contrast: section 4.2."""
    count = len(contrast)
    first, second = edges.T
    weight = np.exp(-distance[first, second]**2 / (2 * sigma**2)) + SMOOTHNESS_FLOOR
    links = coo_matrix((weight, (first, second)), shape=(count, count))
    links = links + links.T
    laplacian = diags(np.asarray(links.sum(1)).ravel()) - links
    system = (diags(background + contrast) + laplacian).tocsc()
    return np.atleast_1d(spsolve(system, contrast))


def _stretch(values: np.ndarray) -> np.ndarray:
    """Min-max normalised to [0, 1]; zeros where the range is no more than rounding."""
    low, high = values.min(), values.max()
    return np.clip((values - low) / (high - low), 0, 1) if high - low > 1e-6 else np.zeros_like(values)


class UserMaps(Mapping[str, Callable[[], bytes]]):
    """The maps of a folder or a zip of ``<id>.png`` or ``<id>.jpg``: id → loader of the encoded file. It can be handed to workers."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._archive: ArchiveReader | None = None
        if self.path.is_dir():
            names = sorted(entry.name for entry in self.path.iterdir() if entry.is_file())
        elif self.path.is_file():
            self._archive = ArchiveReader(self.path)
            names = sorted(name for name in self._archive.names() if not name.endswith("/"))
        else:
            raise AepslError(f"{self.path}: expected a folder or a zip of saliency maps, found nothing there; correct saliency.maps")
        self._names: dict[str, str] = {}
        for name in names:
            entry = PurePosixPath(name)
            if entry.suffix.lower() not in SUFFIXES or entry.name.startswith("."):
                continue
            other = self._names.setdefault(entry.stem, name)
            if other != name:
                raise AepslError(f"{self.path}: expected one map per image, found {other} and {name}; remove one")

    def __getitem__(self, identifier: str) -> Callable[[], bytes]:
        name = self._names[identifier]
        return partial(self._archive.read, name) if self._archive else partial(_read_file, self.path / name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read_file(path: Path) -> bytes:
    if path.stat().st_size > MOST_BYTES:
        raise AepslError(f"{path}: expected a saliency map of at most {MOST_BYTES} bytes, found {path.stat().st_size}")
    return path.read_bytes()


def user_maps(path: str | os.PathLike[str]) -> UserMaps:
    """The user's own maps: id → loader of the encoded file; ``path`` is a folder or a zip. List once, not per image."""
    return UserMaps(path)


def missing_maps(path: str | os.PathLike[str], ids: Iterable[str]) -> list[str]:
    """The ids, in their order, that have no map under ``path``."""
    maps = user_maps(path)
    return [identifier for identifier in ids if identifier not in maps]


def load_map(data: bytes, *, size: tuple[int, int], name: str) -> np.ndarray:
    """A user's saliency map as (H, W) float32 in [0, 1], image frame, values as they are: 0 = black, 1 = white.

    Parameters
    ----------
    data : grey PNG or JPEG of 8 or 16 bits.
    size : width and height of the image it belongs to.
    name : what to call it in an error.

    Raises
    ------
    AepslError : not an image, not grey, or of another size.
    """
    try:
        verify_png(data)
        with open_image(data) as image:
            mode, values = image.mode, np.asarray(image)
    except IMAGE_FAULTS as error:
        raise AepslError(f"{name}: expected a saliency map as PNG or JPEG, found {image_fault(error)}; replace the file") from error
    if mode not in ("L", "I", "I;16"):
        raise AepslError(f"{name}: expected a grey saliency map of 8 or 16 bits, found mode {mode}; convert it to grey")
    if values.shape != (size[1], size[0]):
        raise AepslError(f"{name}: expected {size[0]}×{size[1]} pixels like the image, found {values.shape[1]}×{values.shape[0]}; "
                         "make the map at the image's size")
    return np.clip(values.astype(np.float32) / (255 if mode == "L" else 65535), 0, 1)
