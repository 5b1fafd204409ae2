"""A training as most scripts have it: a data set of files, Pillow and torchvision's transforms in the workers, float32 batches, a plain loop."""

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from aepsl.networks.classifier import squared_label_loss


class Folder(Dataset[Any]):
    """Images of a folder with their labels, augmented."""

    def __init__(self, files: Sequence[Path], labels: np.ndarray, crop: int) -> None:
        self.files, self.labels = files, labels
        self.transform = transforms.Compose([
            transforms.RandomAffine(0, scale=(0.8, 1.25), interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.RandomCrop(crop, pad_if_needed=True), transforms.RandomHorizontalFlip(), transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        image: Tensor = self.transform(JpegImageFile(self.files[number]).convert("RGB"))
        return image, torch.from_numpy(self.labels[number])


def steps(model: nn.Module, data: Folder, *, batch: int, workers: int) -> Generator[None, None, None]:
    """Train for ever, one step at a time."""
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    model.train()
    while True:
        for images, labels in DataLoader(data, batch, shuffle=True, num_workers=workers, drop_last=True):
            loss = squared_label_loss(model(images), labels, output="softmax")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            yield
