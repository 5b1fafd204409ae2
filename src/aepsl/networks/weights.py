"""Starting weights: read what others publish, check it, and hand it to a trunk.

Two kinds of file meet here. Published ImageNet files are recognised by their keys and shapes and rewritten in the trunk's own
keys. The project's own weights file is ``{"format": 1, "trunk", "preprocessing", "source", "state", "fresh"}``: ``state`` holds
the tensors, ``fresh`` names those that stay as the trunk was initialised. Both are read with ``weights_only=True``.
"""

import io
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aepsl.data.archive import write_atomically
from aepsl.data.download import fetch
from aepsl.errors import AepslError, FaultList, shown
from aepsl.networks.tensors import load_tensors, tensor_fault
from aepsl.networks.trunks import PREPROCESSING, TRUNKS, Trunk, build_trunk

FORMAT = 1
_HOST = "https://download.pytorch.org/models/"
IMAGENET_FILES = {  # the last eight digits are how the file's SHA-256 begins
    "vgg16": "vgg16-397923af.pth",
    "mobilenet_v2": "mobilenet_v2-b0353104.pth",
    "resnet50": "resnet50-0676ba61.pth",
}
# The whole SHA-256 of those of which it is on record; eight digits tell accidents, not attacks.
_SHA256 = {
    "vgg16": "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    "resnet50": "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
}
_HEADS = {"mobilenet_v2": {"classifier.1.weight", "classifier.1.bias"}, "resnet50": {"fc.weight", "fc.bias"}}
# VGG16 with layers numbered in sequence, as torchvision and others do: the position of each 3×3 convolution.
_VGG_CONVS = {
    0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3",
    17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3",
}  # fmt: skip
_VGG_DENSE = ("classifier.0", "classifier.3", "classifier.6")
_VGG_HIDDEN, _VGG_GRID = 4096, 7  # units of VGG16's fully connected layers; cells on a side of what they look at


@dataclass(frozen=True)
class StartingWeights:
    """Checked weights of a trunk, in its own keys."""

    trunk: str
    preprocessing: str
    source: str  # what the file was recognised as
    state: dict[str, Tensor]
    fresh: list[str] = field(default_factory=list)  # keys that keep their random initialisation


def starting_weights(trunk_name: str, weights: str, *, width: float, cache: Path, stages: int | None = None) -> StartingWeights:
    """The weights that a trunk starts from.

    Parameters
    ----------
    trunk_name : see :func:`aepsl.networks.trunks.build_trunk`.
    weights : "none" (random), "imagenet" (downloaded once into ``cache``, checked by SHA-256) or the path of a file.
    width, stages : of the trunk; published weights exist for width 1 and all stages alone.
    cache : folder for downloads.

    Raises
    ------
    AepslError : no such file, a damaged one, none of the known formats, or keys and shapes that do not fit (all listed).
    """
    shapes = _shapes(trunk_name, width, stages)
    if weights == "none":
        return StartingWeights(trunk_name, "imagenet", "random initialisation", {}, list(shapes))
    if width != 1:
        raise AepslError(f"network.weights: weights exist only for width 1, found {weights!r} with network.width {width}; "
                         "set width to 1 or weights to none")
    if stages is not None:
        raise AepslError(f"network.weights: weights exist only for whole trunks, found {weights!r} with network.stages {stages}; "
                         "set stages to null or weights to none")
    if weights == "imagenet":
        name = IMAGENET_FILES[trunk_name]
        path = fetch([_HOST + name], cache / name, sha256=_SHA256.get(trunk_name, name[-12:-4]))
    else:
        path = Path(weights)
    content = _read(path)
    if "format" in content:
        found = _own(path, content)
        if found.trunk != trunk_name:
            raise AepslError(f"{path}: expected weights of {trunk_name}, found those of {found.trunk}; name another file or trunk")
    else:
        found = _recognise(trunk_name, path, content, shapes)
    _check(found, shapes, path)
    return found


def save_weights(path: Path, weights: StartingWeights) -> None:
    """Write the project's weights file, atomically; equal weights give equal bytes."""
    buffer = io.BytesIO()  # through a buffer, because torch.save records the name of a file in its content
    torch.save({"format": FORMAT, "trunk": weights.trunk, "preprocessing": weights.preprocessing, "source": weights.source,
                "state": weights.state, "fresh": weights.fresh}, buffer)  # fmt: skip
    write_atomically(path, buffer.getvalue())


def load_weights(path: Path) -> StartingWeights:
    """Read a file of :func:`save_weights`; whether it fits a trunk is checked by :func:`load_into`."""
    content = _read(path)
    if "format" not in content:
        raise AepslError(f"{path}: expected a weights file of this project, found other content; run `dvc repro` to make it")
    return _own(path, content)


def load_into(trunk: Trunk, path: Path) -> StartingWeights:
    """Load a file of :func:`save_weights` into a trunk, strictly, and set ``trunk.preprocessing``.

    Raises
    ------
    FaultList : every missing, unexpected or misshapen key at once; the trunk is left as it was.
    """
    weights = load_weights(path)
    if weights.trunk != trunk.name:
        raise AepslError(f"{path}: expected weights of {trunk.name}, found those of {weights.trunk}; run `dvc repro`")
    _check(weights, {key: value.shape for key, value in trunk.state_dict().items()}, path)
    trunk.load_state_dict(weights.state, strict=False)  # what is absent is named in `fresh`, as just checked
    trunk.preprocessing = weights.preprocessing
    return weights


def _shapes(trunk_name: str, width: float, stages: int | None) -> dict[str, torch.Size]:
    with torch.device("meta"):  # shapes without memory; the output stride changes none of them
        trunk = build_trunk(trunk_name, output_stride=8, width=width, stages=stages)
    return {key: value.shape for key, value in trunk.state_dict().items()}


def _read(path: Path) -> dict[str, Any]:
    try:
        content = load_tensors(path)
    except FileNotFoundError:
        raise AepslError(f"{path}: no such weights file; set network.weights to none, imagenet or the path of a file") from None
    except (OSError, ValueError) as error:
        raise AepslError(f"{path}: expected a PyTorch file of plain tensors, found {error}; delete it and fetch it again") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise AepslError(f"{path}: expected a dictionary of named tensors, found {type(content).__name__}; save the network's state_dict()")
    return content


def _own(path: Path, content: dict[str, Any]) -> StartingWeights:
    if type(content["format"]) is not int or content["format"] != FORMAT:
        raise AepslError(f"{path}: expected a weights file of format {FORMAT}, found format {shown(content['format'])}; run `dvc repro`")
    state, fresh = content.get("state"), content.get("fresh")
    plain = isinstance(state, dict) and all(isinstance(key, str) and tensor_fault(value) is None for key, value in state.items())
    named = isinstance(fresh, list) and all(isinstance(key, str) for key in fresh)
    known = content.get("trunk") in list(TRUNKS) and content.get("preprocessing") in list(PREPROCESSING)  # lists: no hash needed
    source = content.get("source")
    if not (plain and named and known and isinstance(source, str)):
        raise AepslError(f"{path}: expected trunk, preprocessing, source, state and fresh as this project writes them, found other content; "
                         "run `dvc repro`")
    return StartingWeights(content["trunk"], content["preprocessing"], source, dict(state or {}), list(fresh or []))


def _check(weights: StartingWeights, shapes: dict[str, torch.Size], path: Path) -> None:
    faults = []
    for key in sorted(shapes.keys() | weights.state.keys() | set(weights.fresh)):
        expected, found = shapes.get(key), weights.state.get(key)
        if expected is None:
            faults.append(f"{key}: unexpected")
        elif found is None:
            if key not in weights.fresh:
                faults.append(f"{key}: missing, expected {tuple(expected)}")
        elif found.shape != expected:
            faults.append(f"{key}: expected {tuple(expected)}, found {tuple(found.shape)}")
        elif not bool(found.isfinite().all()):
            faults.append(f"{key}: expected finite numbers, found NaN or infinity")
    if faults:
        raise FaultList(f"{path} ({weights.source}): {len(faults)} key(s) do not fit the trunk {weights.trunk} of this width; "
                        "name a file that fits network.trunk", faults)


def _recognise(trunk_name: str, path: Path, content: dict[str, Any], shapes: dict[str, torch.Size]) -> StartingWeights:
    odd = [f"{key}: {fault}" for key, value in content.items() if (fault := tensor_fault(value))]
    if odd:
        raise FaultList(f"{path}: expected a dictionary of named tensors; save the network's state_dict()", odd)
    if trunk_name == "vgg16":
        source, preprocessing, state = _recognise_vgg(path, content)
    else:
        source, preprocessing = f"torchvision {trunk_name}", "imagenet"
        state = {key: value for key, value in content.items() if key not in _HEADS[trunk_name]}
        # Counters that files from before PyTorch 0.4.1 lack; momentum being fixed, nothing reads them.
        counters = {key for key in shapes if key.endswith(".num_batches_tracked")} - state.keys()
        state |= {key: torch.zeros((), dtype=torch.int64) for key in sorted(counters)}
    # What does not fit is left for the check to tell, and not copied: a file can claim any size.
    ordered = {key: _plain(state[key]) if shapes.get(key) == state[key].shape else state[key]
               for key in [*(k for k in shapes if k in state), *sorted(state.keys() - shapes.keys())]}
    # A file with some of fc6 and fc7 is faulty: left random, what it lacks would go unnoticed.
    random = trunk_name == "vgg16" and not any(key.startswith("fc") for key in state)
    fresh = [key for key in shapes if key.startswith("fc")] if random else []
    return StartingWeights(trunk_name, preprocessing, source, ordered, fresh)


def _plain(tensor: Tensor) -> Tensor:
    """Own, contiguous memory, so that a slice does not drag the whole tensor into the file; halves become float32."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(dtype).clone(memory_format=torch.contiguous_format)


def _recognise_vgg(path: Path, content: dict[str, Any]) -> tuple[str, str, dict[str, Tensor]]:
    """Which VGG16 file this is, the preprocessing it expects, and its tensors in the trunk's keys.

    torchvision's full file: fc6 and fc7 are made from the fully connected layers as DeepLab did, by taking every
    fourth unit and, of fc6's 7×7 window, rows and columns 0, 3 and 6. Its counterpart with the original scaling has the same
    keys but NaN in the fully connected layers; that, the convolutions alone, and the decimated file of SSD expect grey levels.
    """
    prefix = "features." if "features.0.weight" in content else ""
    names = {f"{prefix}{at}": name for at, name in _VGG_CONVS.items()}
    if not prefix:
        names |= {"31": "fc6", "33": "fc7"}
    state, dense = {}, {}
    for key, value in content.items():
        layer, _, kind = key.rpartition(".")
        if layer in names:
            state[f"{names[layer]}.{kind}"] = value
        elif prefix and layer in _VGG_DENSE:
            dense[key] = value
        else:
            state[key] = value  # reported as unexpected
    if "0.weight" not in content and not prefix:
        raise AepslError(f"{path}: expected VGG16 with keys features.0.weight … (torchvision) or 0.weight … (convolutions alone, or with "
                         f"31.weight and 33.weight), found {_sample(content)}; name another file")
    if any(key.startswith("fc") for key in state):
        return "VGG16 with decimated fc6 and fc7, original scaling", "caffe", state
    if not dense:
        return "VGG16 convolutions, original scaling", "caffe", state
    wide = (_VGG_HIDDEN, 512 * _VGG_GRID**2)
    bias, square = wide[:1], wide[:1] * 2
    shapes = {"classifier.0.weight": wide, "classifier.0.bias": bias, "classifier.3.weight": square, "classifier.3.bias": bias}
    found = {key: tuple(dense[key].shape) if key in dense else None for key in shapes}
    faults = [f"{key}: expected {shapes[key]}, found {found[key] or 'none'}" for key in shapes if found[key] != shapes[key]]
    if faults:
        raise FaultList(f"{path}: {len(faults)} key(s) differ from torchvision's VGG16; name another file", faults)
    every = _VGG_HIDDEN // 1024
    fc6 = dense["classifier.0.weight"][::every].unflatten(1, (512, _VGG_GRID, _VGG_GRID))[:, :, ::3, ::3]  # (1024, 512, 3, 3)
    if bool(fc6.isnan().all()):
        return "VGG16 convolutions, original scaling", "caffe", state
    state |= {
        "fc6.weight": fc6,
        "fc6.bias": dense["classifier.0.bias"][::every],
        "fc7.weight": dense["classifier.3.weight"][::every, ::every, None, None],  # (1024, 1024, 1, 1)
        "fc7.bias": dense["classifier.3.bias"][::every],
    }
    return "torchvision vgg16", "imagenet", state


def _sample(content: dict[str, Any]) -> str:
    keys = [re.sub(r"[^\w.]", "?", key)[:60] for key in list(content)[:4]]
    return ", ".join(keys) + (f" … ({len(content)} keys)" if len(content) > 4 else "") or "no keys"
