"""Class activation maps as the scripts of the field make them: one image at a time, every scale resized by Pillow, full-size float32 maps on disk.

Their dictionary of maps is written as .npz instead of a pickle: the same bytes of numbers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from aepsl.networks.classifier import Classifier

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@torch.no_grad()
def write_maps(model: Classifier, files: Sequence[Path], labels: np.ndarray, out: Path, *, scales: Sequence[float]) -> None:
    """``out/<id>.npz`` of every image: for each of its classes a map (H, W) float32, its largest value 1.

    Parameters
    ----------
    labels : (N, C) bool.
    """
    for path, own in zip(files, labels, strict=True):
        image = JpegImageFile(path).convert("RGB")
        width, height = image.size
        total: np.ndarray = np.zeros((), np.float32)
        for scale in scales:
            scaled = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
            values = ((np.asarray(scaled) / 255.0 - MEAN) / STD).astype(np.float32)
            for view in (values, values[:, ::-1]):
                batch = torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1)))[None]
                maps = F.relu(model.heatmaps(batch))
                full: np.ndarray = F.interpolate(maps, (height, width), mode="bilinear", align_corners=False)[0].numpy()
                total = total + (full if view is values else full[:, :, ::-1])
        total[~own] = 0
        total = total / (total.max((1, 2), keepdims=True) + 1e-5)
        kept: dict[str, Any] = {str(label): np.ascontiguousarray(total[label]) for label in np.flatnonzero(own)}
        np.savez(out / f"{path.stem}.npz", **kept)
