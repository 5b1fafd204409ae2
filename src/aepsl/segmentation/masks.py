"""From class probabilities on the network's grid to a mask of the image, without a CRF; by NumPy alone, for stages that do without torch."""

import numpy as np

from aepsl.errors import AepslError


def upsample(probabilities: np.ndarray, size: tuple[int, int], *, stride: int) -> np.ndarray:
    """Probabilities (1+C, h, w) of any float type on a grid of the given stride → (1+C, H, W) float32, image frame, bilinear.

    As :func:`aepsl.networks.grid.from_grid`: cell (i, j) lies on pixel (stride·i, stride·j); pixels behind the last cell repeat it.

    Parameters
    ----------
    size : (H, W) of the image.
    stride : pixels between two cells of the grid; 1 leaves the values as they are.
    """
    height, width = size
    cells = -(-height // stride), -(-width // stride)
    if probabilities.shape[1:] != cells:
        raise ValueError(f"expected a grid of {cells[0]}×{cells[1]} cells for {height}×{width} pixels at stride {stride}, "
                         f"got {probabilities.shape[1]}×{probabilities.shape[2]}")
    grid = np.asarray(probabilities, np.float32)
    return _between(_between(grid, width, stride, axis=2), height, stride, axis=1)


def _between(values: np.ndarray, length: int, stride: int, *, axis: int) -> np.ndarray:
    """Values (C, n, m), of every ``stride``-th of ``length`` places along an axis, at all of them."""
    before, step = np.divmod(np.arange(length), stride)
    share = (step / stride).astype(np.float32).reshape(-1, *[1] * (2 - axis))
    between: np.ndarray = values.take(np.minimum(before + 1, values.shape[axis] - 1), axis)
    first = values.take(before, axis)
    between -= first
    between *= share
    between += first
    return between


def argmax_mask(probabilities: np.ndarray, size: tuple[int, int], *, stride: int) -> np.ndarray:
    """The most probable class of each pixel, (H, W) uint8; background where all are prohibited. Parameters as of :func:`upsample`."""
    mask: np.ndarray = upsample(checked(probabilities), size, stride=stride).argmax(0).astype(np.uint8)
    return mask


def checked(probabilities: np.ndarray) -> np.ndarray:
    """The probabilities, which must be finite."""
    if not np.isfinite(probabilities).all():
        raise AepslError("expected finite class probabilities, found NaN or infinity; the network they come from diverged, train it again")
    return probabilities
