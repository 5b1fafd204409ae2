"""Mean-field inference in the fully connected CRF of Krähenbühl and Koltun ("Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials", NIPS 2011), on any device, several images of one size at once.

Potts compatibility and symmetric normalisation; a pixel's features are its place and colour over the standard deviations. pydensecrf's defaults.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from aepsl.params import CrfSettings
from aepsl.segmentation.permutohedral import Lattice, lattice

# A class counts as long as some pixel holds this share of its own best class; what leaving others out changes: docs/performance.md.
SIGNIFICANT = 0.5
LEAST = -30.0  # logarithm of the least share: far below float32's resolution, and no number on the way is so small that processors slow down


@torch.inference_mode()
def marginals(logits: Tensor, images: Tensor, settings: CrfSettings) -> Tensor:
    """Marginals (B, K, H, W) of CRFs with logits, the negative unary energies, (B, K, H, W) float32 on images (B, H, W, 3) uint8 RGB."""
    sets, count, height, width = logits.shape
    now, _ = _inference(_by_class(logits), None, _terms(images, settings), settings.iterations, share=0)
    return F.softmax(now, 0).transpose(0, 1).reshape(sets, count, height, width)


@torch.inference_mode()
def labels(logits: Tensor, images: Tensor, settings: CrfSettings, rest: Tensor | None = None) -> Tensor:
    """The most probable class of each pixel, (B, H, W) int64, in the CRFs of :func:`marginals`, and faster.

    A class that before an iteration is nowhere within :data:`SIGNIFICANT` of a pixel's best is left out of that image from then on: it sends
    and receives no more messages, and only the mass it has at each pixel stays. A logit of −inf prohibits a class; not all may be prohibited.
    ``rest`` (B, H, W) is the logarithm of the mass of classes that were left out beforehand, see :func:`may_count`.
    """
    rest = None if rest is None else rest.flatten(1)
    now, classes = _inference(_by_class(logits), rest, _terms(images, settings), settings.iterations, share=SIGNIFICANT)
    best, found = now[0], torch.zeros_like(now[0], dtype=torch.int64)
    for place, other in enumerate(now[1:], 1):  # of equal ones the first
        found.masked_fill_(other > best, place)
        best = torch.maximum(best, other)
    return classes[found].view(len(logits), *logits.shape[2:])


def may_count(grid: Tensor, floor: float) -> Tensor:
    """Whether each class may count, (B, K) bool, at some pixel between the cells of a grid of probabilities (B, K, h, w).

    One that does not holds less than :data:`SIGNIFICANT` of a mean over classes in all corners of every cell, less a ``floor``; both are linear
    between corners, and no mean exceeds the best class. The mean is that over the best classes of the cell's corners.
    """
    edges = F.pad(grid, (0, grid.shape[3] == 1, 0, grid.shape[2] == 1), mode="replicate")
    corners = F.unfold(edges, 2).unflatten(1, (-1, 4))  # (B, K, 4, cells)
    best = corners.argmax(1)[:, :, None].expand(-1, -1, 4, -1)
    counts: Tensor = corners >= SIGNIFICANT * corners.gather(1, best).mean(1, keepdim=True) - floor
    return counts.any(3).any(2)


def _inference(unary: Tensor, rest: Tensor | None, terms: list[Lattice], iterations: int, *, share: float) -> tuple[Tensor, Tensor]:
    """Logits (K, B, P) after the last iteration, and the classes (K) that are left; with ``share`` = 0 all.

    ``rest`` (B, P) is the logarithm of the mass of classes left out.
    """
    classes = torch.arange(len(unary), device=unary.device)
    if not terms:
        return unary, classes
    now, rows = unary, unary.new_empty(0)
    for _ in range(iterations):
        best = now.amax(0)
        mass = (now - best).clamp_(min=LEAST).exp_()
        if share:
            counts = mass.amax(2) >= share  # (K, B)
            if not counts.all():
                gone = (mass * ~counts[:, :, None]).sum(0).log_()
                gone.add_(best)
                rest = gone if rest is None else torch.logaddexp(rest, gone)
                left = counts.any(1)
                classes, counts = classes[left], counts[left]
                unary, mass = unary[left], mass[left]
                if len(counts) == 1:
                    return unary, classes
                if not counts.all():
                    unary.masked_fill_(~counts[:, :, None], -torch.inf)
                    mass *= counts[:, :, None]
        total = mass.sum(0)
        if rest is not None:
            total += (rest - best).clamp_(min=LEAST).exp_()
        rows = rows if rows.shape[1:] == (len(mass),) else unary.new_empty(total.numel(), len(mass))
        torch.div(mass.flatten(1).t(), total.view(-1, 1), out=rows)
        now = unary.flatten(1)
        for term in terms:
            now = torch.add(now, term.filtered(rows).t(), out=mass.flatten(1))
        now = now.view_as(unary)
    return now, classes


def _by_class(logits: Tensor) -> Tensor:
    """(B, K, H, W) → (K, B, H·W) contiguous: sums and exponentials run along the pixels."""
    return logits.flatten(2).transpose(0, 1).contiguous()


def _terms(images: Tensor, settings: CrfSettings) -> list[Lattice]:
    """The lattices whose kernels have a weight, which is multiplied in."""
    sets, height, width, _ = images.shape
    terms = []
    if settings.spatial_weight:
        terms.append(_spatial(sets, height, width, settings.spatial_xy, images.device).weighted(settings.spatial_weight))
    if settings.bilateral_weight:
        place = _places(sets, height, width, settings.bilateral_xy, images.device)
        colour = images.reshape(sets, -1, 3).permute(2, 0, 1).float() / settings.bilateral_rgb
        terms.append(lattice(torch.cat([place, colour])).normalised().weighted(settings.bilateral_weight))
    return terms


@lru_cache(maxsize=4)  # images of a data set have few sizes
def _spatial(sets: int, height: int, width: int, deviation: float, device: torch.device) -> Lattice:
    return lattice(_places(sets, height, width, deviation, device)).normalised()


def _places(sets: int, height: int, width: int, deviation: float, device: torch.device) -> Tensor:
    """x and y of each pixel over the standard deviation, (2, B, H·W) float32."""
    y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return (torch.stack([x, y]).view(2, 1, -1).float() / deviation).expand(2, sets, -1)
