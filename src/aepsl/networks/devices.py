"""Where a network runs, and in which number format."""

import torch

from aepsl.errors import AepslError


def pick_device(name: str, *, parameter: str = "compute.device") -> torch.device:
    """The device asked for by a parameter; ``auto`` takes CUDA, then Apple's, then the CPU.

    Raises
    ------
    AepslError : the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    fault = None
    if device.type == "cuda" and not torch.cuda.is_available():
        fault = "no CUDA device"
    elif device.type == "cuda" and device.index and device.index >= (count := torch.cuda.device_count()):
        fault = f"no CUDA device above cuda:{count - 1}"
    elif device.type == "mps" and not torch.backends.mps.is_available():
        fault = "no Apple GPU"
    if fault:
        raise AepslError(f"{parameter}: {name} asked for, but torch finds {fault}; use auto or cpu")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The number format of ``compute.precision``; ``auto`` takes bfloat16 on CUDA devices that compute with it, else float32.

    Raises
    ------
    AepslError : the device does not compute with it.
    """
    if name == "float16" and device.type != "cuda":
        raise AepslError(f"compute.precision: float16 is for CUDA devices, found {device.type}; use auto, float32 or bfloat16")
    if device.type == "cuda" and name in ("auto", "bfloat16"):
        with torch.cuda.device(device):
            if torch.cuda.is_bf16_supported(including_emulation=False):
                return torch.bfloat16
        if name == "bfloat16":
            raise AepslError(f"compute.precision: bfloat16 asked for, but {torch.cuda.get_device_name(device)} does not compute with it; "
                             "use auto, float16 or float32")
    return {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
