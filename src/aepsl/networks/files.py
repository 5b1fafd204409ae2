"""A trained network as one self-describing file: kind, trunk, classes, preprocessing, tensors. No pickled code."""

import io
import os
from typing import Any

import torch

from aepsl.data.archive import write_atomically
from aepsl.errors import AepslError, printable, shown
from aepsl.networks.blank import is_blank
from aepsl.networks.classifier import Classifier
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.tensors import load_tensors, tensor_fault
from aepsl.networks.trunks import PREPROCESSING, build_trunk
from aepsl.params import Network

FORMAT = 1
AGAIN = "run the stage that makes it again"


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


class _Facts(dict[str, Any]):
    """What a file says of how its model was made; asking for what it does not say is an explained error."""

    def __init__(self, path: str | os.PathLike[str], facts: dict[str, Any]) -> None:
        super().__init__(facts)
        self._path = path

    def __missing__(self, name: str) -> Any:
        raise AepslError(f"{self._path}: expected a model that tells its {name}, found {', '.join(map(shown, self)) or 'none'}; "
                         "run the stage that makes it again")


def _load(path: str | os.PathLike[str], *kinds: str, advice: str = AGAIN) -> dict[str, Any]:
    try:
        content = {"format": FORMAT, "kind": "Blank"} if is_blank(path) else load_tensors(path)
    except FileNotFoundError:
        raise AepslError(f"{path}: no such file; `dvc repro` or `dvc pull` makes it") from None
    except (OSError, ValueError) as error:
        raise AepslError(f"{path}: expected a model file of this project, found a damaged or foreign one ({error}); "
                         "if it is one that a run has made, delete it and run `dvc checkout` or `dvc repro`") from error
    given = content if isinstance(content, dict) else {}
    if type(given.get("format")) is not int or given["format"] != FORMAT or not isinstance(given.get("kind"), str) or given["kind"] not in kinds:
        kind = given.get("kind")
        found = type(content).__name__ if not isinstance(kind, str) else kind if kind.isidentifier() else shown(kind)
        raise AepslError(f"{path}: expected a {' or '.join(kinds)} of format {FORMAT}, found {found}; {advice}")
    if given["kind"] != "Blank" and (fault := _content_fault(given)):
        raise AepslError(f"{path}: expected a {given['kind']} as this project writes it, found another: {fault}; run the stage that makes it again")
    return given | {"facts": _Facts(path, given.get("facts", {}))}


def _content_fault(content: dict[str, Any]) -> str | None:
    """What is wrong with the parts of a model file, or None. Whether the tensors fit the network shows when they are taken over."""
    network, classes, facts, state = (content.get(name) for name in ("network", "classes", "facts", "state"))
    if not isinstance(network, dict) or set(network) != {"trunk", "output_stride", "width", "stages"}:
        return f"network {shown(network)}"
    if not isinstance(network["trunk"], str) or type(network["width"]) not in (int, float) or any(
            type(network[name]) is not int for name in ("output_stride", "stages") if network[name] is not None):
        return f"network {shown(network)}"
    if not isinstance(content.get("preprocessing"), str) or content["preprocessing"] not in PREPROCESSING:
        return f"preprocessing {shown(content.get('preprocessing'))}"
    if not isinstance(classes, list) or not 1 <= len(classes) <= 254 or not all(isinstance(name, str) for name in classes):
        return f"classes {shown(classes)}"
    if not isinstance(facts, dict) or not all(isinstance(name, str) for name in facts):
        return f"facts {shown(facts)}"
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        return "a state that is no table of tensors"
    return next((f"{shown(name)}: {fault}" for name, value in state.items() if (fault := tensor_fault(value))), None)


def load_classifier(path: str | os.PathLike[str], device: torch.device) -> tuple[Classifier, dict[str, Any]]:
    """The classifier, ready for inference, and everything the file says of it."""
    content = _load(path, "Classifier")
    model = Classifier(_trunk(path, content), len(content["classes"]))
    return _ready(path, model, content, device), content


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
        state |= {f"classify.{name}": content["state"][f"fc.{name}"] for name in ("weight", "bias") if f"fc.{name}" in content["state"]}
    own = {name: value for name, value in model.state_dict().items() if name.startswith("segment.")}
    _take_over(path, model, state | own, content["preprocessing"])


def _take_over(path: str | os.PathLike[str], model: Classifier | Segmenter, state: dict[str, Any], preprocessing: str) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise AepslError(f"{path}: expected the trunk and the classes of the network that is to start from it, found others "
                         f"({printable(' '.join(str(error).split()), 300)}); give classify.network and segment.network the same trunk, "
                         "or start from weights") from error
    _require_finite(path, model)
    model.trunk.preprocessing = preprocessing


def load_segmenter(path: str | os.PathLike[str], device: torch.device, *, advice: str = AGAIN) -> tuple[Segmenter, dict[str, Any]]:
    """The segmenter, ready for inference, and everything the file says of it.

    Parameters
    ----------
    advice : what to do where the file holds another network.
    """
    content = _load(path, "Segmenter", advice=advice)
    with_classification = any(name.startswith("classify.") for name in content["state"])
    model = Segmenter(_trunk(path, content), len(content["classes"]), with_classification=with_classification)
    return _ready(path, model, content, device), content


def _trunk(path: str | os.PathLike[str], content: dict[str, Any]) -> Any:
    network = content["network"]
    try:
        trunk = build_trunk(network["trunk"], output_stride=network["output_stride"], width=network["width"], stages=network["stages"])
    except AepslError as error:
        raise AepslError(f"{path}: {error}; the file is damaged or of another version, run the stage that makes it again") from None
    trunk.preprocessing = content["preprocessing"]
    return trunk


def _ready(path: str | os.PathLike[str], model: Any, content: dict[str, Any], device: torch.device) -> Any:
    try:
        model.load_state_dict(content["state"])
    except RuntimeError as error:
        raise AepslError(f"{path}: expected the tensors of its own network, found others ({printable(' '.join(str(error).split()), 300)}); "
                         "run the stage that makes it again") from error
    _require_finite(path, model)
    return model.to(device, memory_format=torch.channels_last).eval()


def _require_finite(path: str | os.PathLike[str], model: Classifier | Segmenter) -> None:
    wrong = [name for name, value in model.state_dict().items() if not bool(value.isfinite().all())]
    if wrong:
        raise AepslError(f"{path}: expected finite numbers, found NaN or infinity in {', '.join(wrong[:3])}; run the stage that makes it again")
