"""A segmenter to be used elsewhere, as one file: its tensors, and all that its predictions depend on.

The file is a model file of :mod:`aepsl.networks.files` with two entries more, ``package``, a :class:`Package`, and ``sha256``. So there is one
layout of tensors, one way to read them, and every stage that takes a segmenter takes a package too.
"""

import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from aepsl.data.archive import write_atomically
from aepsl.errors import AepslError, printable, shown
from aepsl.networks.files import load_segmenter
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.tensors import load_tensors
from aepsl.networks.trunks import PREPROCESSING
from aepsl.params import Backend, Count, CrfSettings, Group, Line, Probability, Scales
from aepsl.segmentation.presets import PRESETS
from aepsl.version import VERSION

FORMAT: Final = 1
Share = Probability | None


class Crf(Group):
    """The fully connected CRF of ``refine``, in full."""

    preset: Line
    backend: Backend
    settings: CrfSettings | None  # None = no CRF


class Scores(Group):
    """What was measured on the val images, shares from 0 to 1; None without truth. ``interval`` says how low and high came about."""

    miou: Share
    miou_low: Share
    miou_high: Share
    miou_before_crf: Share
    pixel_accuracy: Share
    images: Annotated[int, Field(ge=0)]
    yardstick: Line | None
    interval: Line | None
    pseudo_label_miou: Share
    pseudo_label_coverage: Share


class Package(Group):
    """How to predict with a segmenter, and what it reached.

    Attributes
    ----------
    version : of aepsl that wrote it.
    scales, flip : resized and mirrored copies whose probabilities are averaged.
    prohibit_below : confidence of the classification branch below which a class is prohibited.
    psl : variant of prohibitive segmentation learning; ``true-labels`` was told an image's labels when it was scored.
    output : how the branch's scores become confidences.
    preprocessing : (RGB / 255 − mean) / std, then perhaps in the order blue, green, red.
    largest_side : of the photographs it was trained and scored on, pixels; None = unknown.
    metrics : None = unknown.
    """

    format: Literal[1]
    version: Line
    scales: Scales
    flip: bool
    prohibit_below: Probability
    psl: Literal["none", "predicted", "true-labels"]
    output: Literal["softmax", "linear"]
    crf: Crf
    preprocessing: dict[str, Any]
    largest_side: Count | None
    metrics: Scores | None


@dataclass(frozen=True)
class Loaded:
    """A segmenter and what its file says.

    Attributes
    ----------
    model : ready for inference.
    classes : names of classes 1 to C.
    network : the settings its trunk was built with.
    facts : how it was made.
    sha256 : of everything in it, see :func:`digest`.
    """

    model: Segmenter
    package: Package
    classes: tuple[str, ...]
    network: dict[str, Any]
    preprocessing: str
    facts: dict[str, Any]
    sha256: str


def write_package(path: str | os.PathLike[str], segmenter: str | os.PathLike[str], *, scales: Sequence[float], flip: bool, prohibit_below: float,
                  crf: Crf, largest_side: int | None, metrics: Scores | None) -> str:
    """Write a package of a segmenter's file; equal inputs give equal bytes.

    Parameters
    ----------
    segmenter : a file of ``segment``.

    Returns
    -------
    Its SHA-256, see :func:`digest`.
    """
    load_segmenter(segmenter, torch.device("cpu"))  # what does not load is not packed
    content = {name: value for name, value in load_tensors(segmenter).items() if name not in ("package", "sha256")}
    package = Package(format=FORMAT, version=VERSION, scales=list(scales), flip=flip, prohibit_below=prohibit_below,
                      psl=_fact(segmenter, content, "psl"), output=_fact(segmenter, content, "output"), crf=crf,
                      preprocessing=spelt_out(content["preprocessing"]), largest_side=largest_side, metrics=metrics)
    content["package"] = package.model_dump(mode="json")
    content["sha256"] = digest(content)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())
    return str(content["sha256"])


def load_package(path: str | os.PathLike[str], device: torch.device) -> Loaded:
    """The segmenter of a package or of a plain file of ``segment``.

    A plain file does not say how to predict: it is used as the paper does, with one view, classes below a confidence of 0.1 prohibited, DeepLab's
    CRF.

    Raises
    ------
    AepslError : damaged, foreign or of another format, or its SHA-256 is not that of its content.
    """
    model, content = load_segmenter(path, device, advice="what predicts is a segmenter: models/aepsl.pt, or one of models/segmenter")
    content = {**content, "facts": dict(content["facts"])}
    for name, known in (("psl", ("none", "predicted", "true-labels")), ("output", ("softmax", "linear"))):
        if not isinstance(value := _fact(path, content, name), str) or value not in known:
            raise AepslError(f"{path}: expected {name} to be one of {', '.join(known)}, found {shown(value)}; {_AGAIN}")
    if plain := "package" not in content:
        package = Package(format=FORMAT, version=VERSION, scales=[1.0], flip=False, prohibit_below=0.1, psl=content["facts"]["psl"],
                          output=content["facts"]["output"], crf=Crf(preset="deeplab", backend="torch", settings=PRESETS["deeplab"]),
                          preprocessing=spelt_out(content["preprocessing"]), largest_side=None, metrics=None)
        content["package"] = package.model_dump(mode="json")
    try:
        found = digest(content)  # before anything in it is compared: what can be told as JSON holds no tensor
    except (TypeError, ValueError, RecursionError) as error:
        raise AepslError(f"{path}: expected numbers, texts and lists of them beside the tensors, found others ({printable(str(error), 200)}); "
                         f"{_AGAIN}") from None
    if not plain:
        package = _described(path, content)
        if not isinstance(named := content.get("sha256"), str) or named != found:
            raise AepslError(f"{path}: expected tensors and a description with the SHA-256 {shown(named)} that it names, found "
                             f"{found}; it was changed after it was written: {_AGAIN}")
    return Loaded(model, package, tuple(content["classes"]), content["network"], content["preprocessing"], content["facts"], found)


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the description and the tensors of a package.

    It is that of one line of JSON, keys sorted, of all that is no tensor, and of a line ``name dtype shape`` and the values, little-endian, of every
    tensor in the order of their names: a file written anew by another version of torch keeps it.
    """
    told = {name: value for name, value in content.items() if name not in ("state", "sha256")}
    total = hashlib.sha256(json.dumps(told, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n")
    for name in sorted(content["state"]):
        value: Tensor = content["state"][name].contiguous()
        total.update(f"{name} {str(value.dtype).removeprefix('torch.')} {'x'.join(map(str, value.shape))}\n".encode("utf-8", "surrogatepass"))
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def spelt_out(preprocessing: str) -> dict[str, Any]:
    """A preprocessing by its name and its numbers."""
    known = PREPROCESSING[preprocessing]
    return {"name": preprocessing, "mean": list(known.mean), "std": list(known.std), "bgr": known.bgr}


_AGAIN = "ask for the file again, or run `dvc repro package`"


def _described(path: str | os.PathLike[str], content: dict[str, Any]) -> Package:
    """The package entry of a file, which must be whole and belong to the tensors beside it."""
    given = content["package"]
    if isinstance(given, dict) and (type(given.get("format")) is not int or given["format"] != FORMAT):
        raise AepslError(f"{path}: expected a package of format {FORMAT}, found {shown(given.get('format'))}, written by aepsl "
                         f"{shown(given.get('version'))}; this is aepsl {VERSION}: use the other one, or package the segmenter anew")
    try:
        package = Package.model_validate(given)
    except (ValidationError, RecursionError) as error:
        reasons = error.errors() if isinstance(error, ValidationError) else []
        faults = [f"{'.'.join(map(str, reason['loc']))}: {reason['msg']}, found {shown(reason['input'])}" for reason in reasons]
        raise AepslError(f"{path}: expected a package as this project writes it, found another "
                         f"({printable('; '.join(faults) or 'nested too deep', 300)}); {_AGAIN}") from None
    told = package.psl, package.output, package.preprocessing
    if told != (content["facts"]["psl"], content["facts"]["output"], spelt_out(content["preprocessing"])):
        raise AepslError(f"{path}: expected a description that fits its network, found another variant or preprocessing; {_AGAIN}")
    return package


def _fact(path: str | os.PathLike[str], content: Mapping[str, Any], name: str) -> Any:
    if name not in content["facts"]:
        raise AepslError(f"{path}: expected a segmenter that tells its {name}, found {', '.join(map(shown, content['facts'])) or 'nothing'}; "
                         "run the stage that makes it again")
    return content["facts"][name]
