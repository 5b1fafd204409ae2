"""Where a network runs."""

import torch

from aepsl.errors import AepslError


def pick_device(name: str) -> torch.device:
    """The device of ``compute.device``; ``auto`` takes CUDA, then Apple's, then the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise AepslError(f"compute.device: {name} asked for, but torch finds no CUDA device; use auto or cpu")
    return torch.device(name)
