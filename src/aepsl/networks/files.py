"""A trained network as one self-describing file: kind, trunk, classes, preprocessing, tensors. No pickled code."""

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from aepsl.data.archive import ZIP_FAULTS, write_atomically
from aepsl.errors import AepslError
from aepsl.networks.classifier import Classifier
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import build_trunk
from aepsl.params import Network

FORMAT = 1


def save_model(path: str | os.PathLike[str], model: Classifier | Segmenter, *, network: Network, classes: tuple[str, ...],
               facts: dict[str, Any]) -> None:
    """Write the model; equal tensors give equal bytes.

    Parameters
    ----------
    network : the settings its trunk was built with.
    facts : what a reader should know about how it was made, e.g. the final loss; numbers, strings and lists of them.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "kind": type(model).__name__, "network": network.model_dump(exclude={"weights", "frozen_stages"}),
                "preprocessing": model.trunk.preprocessing, "classes": list(classes), "facts": facts,
                # A clone with the usual strides: those of the channels-last layout would be part of the bytes.
                "state": {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in model.state_dict().items()}},
               buffer)
    write_atomically(path, buffer.getvalue())


def save_blank(path: str | os.PathLike[str]) -> None:
    """Write what stands before the first classifier of a chain: a file that says that nothing is learnt yet."""
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "kind": "Blank"}, buffer)
    write_atomically(path, buffer.getvalue())


def load_tensors(path: str | os.PathLike[str], *, what: str = "model file") -> Any:
    """What ``torch.save`` wrote: tensors, numbers, strings, lists and dictionaries; never code. Checksums are compared.

    Raises
    ------
    AepslError : no such file, or a damaged one.
    """
    try:
        data = Path(path).read_bytes()
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            damaged = archive.testzip()  # torch does not compare the checksums it writes
        if damaged is not None:
            raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise AepslError(f"{path}: no such file; `dvc repro` or `dvc pull` makes it") from None
    except (*ZIP_FAULTS, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise AepslError(f"{path}: expected a {what} of this project, found a damaged or foreign one ({str(error)[:100]}); "
                         "delete it and run `dvc checkout` or `dvc repro`") from error


def _load(path: str | os.PathLike[str], *kinds: str) -> dict[str, Any]:
    content = load_tensors(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.get("kind") not in kinds:
        found = content.get("kind") if isinstance(content, dict) else type(content).__name__
        raise AepslError(f"{path}: expected a {' or '.join(kinds)} of format {FORMAT}, found {found}; run the stage that makes it again")
    return content


def load_classifier(path: str | os.PathLike[str], device: torch.device) -> tuple[Classifier, dict[str, Any]]:
    """The classifier, ready for inference, and everything the file says of it."""
    content = _load(path, "Classifier")
    model = Classifier(_trunk(content), len(content["classes"]))
    return _ready(model, content, device), content


def continue_classifier(path: str | os.PathLike[str], model: Classifier) -> None:
    """Give a classifier, in place, the tensors of the one in the file; a blank file changes nothing.

    Raises
    ------
    AepslError : the file holds another network than ``model``.
    """
    content = _load(path, "Classifier", "Blank")
    if content["kind"] == "Classifier":
        _take_over(path, model, content["state"], content["preprocessing"])


def start_from_classifier(path: str | os.PathLike[str], model: Segmenter) -> None:
    """Give a segmenter, in place, the trunk of the classifier in the file and, for its classification branch, the last layer.

    Raises
    ------
    AepslError : the file holds another trunk than ``model``, or other classes.
    """
    content = _load(path, "Classifier")
    state = {name: value for name, value in content["state"].items() if name.startswith("trunk.")}
    if model.classify is not None:
        state |= {f"classify.{name}": content["state"][f"fc.{name}"] for name in ("weight", "bias")}
    own = {name: value for name, value in model.state_dict().items() if name.startswith("segment.")}
    _take_over(path, model, state | own, content["preprocessing"])


def _take_over(path: str | os.PathLike[str], model: Classifier | Segmenter, state: dict[str, Any], preprocessing: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise AepslError(f"{path}: expected the trunk and the classes of the network that is to start from it, found others "
                         f"({' '.join(str(error).split())[:200]}); give classify.network and segment.network the same trunk, "
                         "or start from weights") from error
    model.trunk.preprocessing = preprocessing


def load_segmenter(path: str | os.PathLike[str], device: torch.device) -> tuple[Segmenter, dict[str, Any]]:
    """The segmenter, ready for inference, and everything the file says of it."""
    content = _load(path, "Segmenter")
    with_classification = any(name.startswith("classify.") for name in content["state"])
    model = Segmenter(_trunk(content), len(content["classes"]), with_classification=with_classification)
    return _ready(model, content, device), content


def _trunk(content: dict[str, Any]) -> Any:
    network = content["network"]
    trunk = build_trunk(network["trunk"], output_stride=network["output_stride"], width=network["width"], stages=network["stages"])
    trunk.preprocessing = content["preprocessing"]
    return trunk


def _ready(model: Any, content: dict[str, Any], device: torch.device) -> Any:
    model.load_state_dict(content["state"])
    return model.to(device, memory_format=torch.channels_last).eval()
