"""Between the image and the network's grid.

Every strided layer here is centred (odd kernel, padding kernel // 2), so cell (i, j) of a grid of stride s looks at
pixel (s·i, s·j). Treating the grid as if it covered the image evenly, as a plain resize does, shifts every
border by up to (s − 1) / 2 pixels.
"""

import torch.nn.functional as F
from torch import Tensor


def to_grid(mask: Tensor, stride: int) -> Tensor:
    """The labels (B, H, W) under the cell centres, (B, ⌈H/s⌉, ⌈W/s⌉)."""
    return mask[:, ::stride, ::stride]


def from_grid(maps: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """Bilinear values of grid maps (B, K, h, w) at the pixels of the image, (B, K, H, W); ``size`` is (H, W).

    Pixels right of and below the last cell centre (at most s − 1) repeat it.
    """
    height, width = size
    rows, columns = maps.shape[-2:]
    if (rows, columns) != (-(-height // stride), -(-width // stride)):
        raise ValueError(f"expected a grid of {-(-height // stride)}×{-(-width // stride)} cells for {height}×{width} pixels at stride {stride}, "
                         f"got {rows}×{columns}")
    covered = (rows - 1) * stride + 1, (columns - 1) * stride + 1
    full = F.interpolate(maps, covered, mode="bilinear", align_corners=True)
    return F.pad(full, (0, max(0, width - covered[1]), 0, max(0, height - covered[0])), mode="replicate")
