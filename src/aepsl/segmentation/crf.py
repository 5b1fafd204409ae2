"""From class probabilities on the network's grid to a mask of the image, by the fully connected CRF.

The CRF is that of Krähenbühl and Koltun ("Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials", NIPS 2011) with Potts
compatibility and symmetric normalisation, by :mod:`aepsl.segmentation.mean_field` or by pydensecrf.
"""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from aepsl.networks.grid import from_grid
from aepsl.params import Backend, CrfSettings
from aepsl.segmentation import densecrf, mean_field
from aepsl.segmentation.masks import argmax_mask, checked

Item = tuple[int, np.ndarray, np.ndarray]  # number, image (H, W, 3) uint8, probabilities (1+C, h, w)
LEAST_PROBABILITY = 1e-5  # the logarithm needs a floor; half precision holds no less without loss

def refine(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings, *, stride: int, backend: Backend = "torch") -> np.ndarray:
    """The most probable class of each pixel after the fully connected CRF.

    Parameters
    ----------
    image : (H, W, 3) uint8, RGB.
    probabilities : (1+C, h, w) float16 or float32 on a grid of the given stride. They need not add up to 1: a class
        whose plane is zero everywhere is prohibited, and no pixel can become that class.

    Returns
    -------
    (H, W) uint8, image frame.
    """
    if backend == "torch":
        mask: np.ndarray = refine_batch(image[None], probabilities[None], settings, stride=stride)[0]
        return mask
    size = (image.shape[0], image.shape[1])
    present = np.flatnonzero((checked(probabilities) != 0).any((1, 2)))
    if len(present) < 2:
        return np.full(size, present[0] if len(present) else 0, np.uint8)
    logits = _logits(torch.from_numpy(np.asarray(probabilities[present], np.float32)[None]), size, stride)[0].numpy()
    mask = present[densecrf.marginals(-logits, image, settings).argmax(0)].astype(np.uint8)
    return mask


def refine_batch(images: np.ndarray, probabilities: np.ndarray, settings: CrfSettings, *, stride: int,
                 device: torch.device | None = None) -> np.ndarray:
    """:func:`refine` of images (B, H, W, 3) with probabilities (B, 1+C, h, w) at once on a device (the CPU): (B, H, W) uint8."""
    present: np.ndarray = (checked(probabilities) != 0).any((2, 3))
    present[:, 0] |= ~present.any(1)  # background where nothing is possible
    classes = np.flatnonzero(present.any(0))
    if len(classes) == 1:
        return np.full(images.shape[:3], classes[0], np.uint8)
    pixels = torch.from_numpy(np.array(images)).to(device)
    grid = torch.from_numpy(np.asarray(probabilities[:, classes], np.float32)).to(device)
    allowed = torch.from_numpy(present[:, classes]).to(device)
    kept = (mean_field.may_count(grid, LEAST_PROBABILITY) & allowed).any(0)  # the others are interpolated as one
    logits = _logits(torch.cat([grid[:, kept], grid[:, ~kept].sum(1, keepdim=True)], 1), (images.shape[1], images.shape[2]), stride)
    rest = logits[:, -1]
    logits = logits[:, :-1].masked_fill(~allowed[:, kept, None, None], -torch.inf)
    masks: np.ndarray = classes[kept.cpu().numpy()][mean_field.labels(logits, pixels, settings, rest).cpu().numpy()].astype(np.uint8)
    return masks


def _logits(probabilities: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Logarithms (B, K, H, W) of each pixel's shares. Where prohibition and half precision left nothing, all are equal: the neighbours decide."""
    share = from_grid(probabilities, size, stride)
    share = share / share.sum(1, keepdim=True).clamp_(min=LEAST_PROBABILITY)
    return share.clamp_(min=LEAST_PROBABILITY).log_()


def marginals(unary: np.ndarray, image: np.ndarray, settings: CrfSettings, *, backend: Backend = "torch") -> np.ndarray:
    """Marginals (K, H, W) float32 of the CRF with unary energies (K, H, W) on an image (H, W, 3) uint8 RGB, K ≥ 2."""
    if image.shape != (*unary.shape[1:], 3) or image.dtype != np.uint8:
        raise ValueError(f"expected an image {(*unary.shape[1:], 3)} uint8 for the unary energies, got {image.shape} {image.dtype}")
    if backend == "pydensecrf":
        return densecrf.marginals(unary, image, settings)
    logits = torch.from_numpy(np.negative(unary, dtype=np.float32))
    found: np.ndarray = mean_field.marginals(logits[None], torch.from_numpy(np.array(image))[None], settings)[0].numpy()
    return found


def final_mask(image: np.ndarray, probabilities: np.ndarray, settings: CrfSettings | None, *, stride: int, backend: Backend = "torch") -> np.ndarray:
    """The mask (H, W) uint8 of an image: by :func:`refine`, or by the arg max alone where there are no settings."""
    if settings is None:
        return argmax_mask(probabilities, image.shape[:2], stride=stride)
    return refine(image, probabilities, settings, stride=stride, backend=backend)


def refined_on(device: torch.device, items: Iterable[Item], settings: CrfSettings, *, stride: int,
               batch: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """The number and the mask by :func:`refine` of every item, in order, up to ``batch`` images of one size (0 = 16) at once on a device."""
    remaining, batch = iter(items), batch or 16
    while window := list(islice(remaining, 4 * batch)):
        masks: dict[int, np.ndarray] = {}
        for size in dict.fromkeys(image.shape for _, image, _ in window):
            alike = [item for item in window if item[1].shape == size]
            for start in range(0, len(alike), batch):
                numbers, images, probabilities = zip(*alike[start:start + batch], strict=True)
                found = refine_batch(np.stack(images), np.stack(probabilities), settings, stride=stride, device=device)
                masks |= zip(numbers, found, strict=True)
        yield from ((number, masks[number]) for number, _, _ in window)
