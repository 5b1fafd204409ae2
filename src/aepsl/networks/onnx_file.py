"""A segmenter as an ONNX file, for runtimes without torch: from a photograph's pixels to its labels, without CRF."""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aepsl.data.archive import write_atomically
from aepsl.errors import AepslError
from aepsl.networks.classifier import Output, label_probabilities
from aepsl.networks.inference import folded
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import PREPROCESSING

OPSET = 18
EXAMPLE = (61, 77)  # height and width with which the graph is traced; it holds for all


class Whole(nn.Module):
    """A photograph (1, H, W, 3) uint8 RGB to labels, probabilities and confidences, as ``stages/predict`` and an arg max compute them.

    With ``flip`` the probabilities are the mean over the photograph and its mirror image.
    """

    mean: Tensor
    std: Tensor
    background: Tensor

    def __init__(self, model: Segmenter, *, output: Output, prohibit_below: float, flip: bool) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).float().cpu().eval()
        self.stride = model.trunk.output_stride
        preprocessing = PREPROCESSING[model.trunk.preprocessing]
        self.bgr = preprocessing.bgr
        self.model.trunk = folded(self.model.trunk)
        for layer in self.model.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                layer.dilation = (1, 1)  # of which 1×1 windows have none; other runtimes are the faster for it
        self.register_buffer("mean", torch.tensor(preprocessing.mean).mul(255)[:, None, None])
        self.register_buffer("std", torch.tensor(preprocessing.std).mul(255)[:, None, None])
        self.register_buffer("background", torch.ones(1, 1))
        self.output, self.prohibit_below, self.flip = output, prohibit_below, flip

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        height, width = image.shape[1], image.shape[2]
        inputs = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        probabilities, confidences = self._view(inputs.flip(1) if self.bgr else inputs)
        if self.flip:
            mirrored, again = self._view(inputs.flip(1, 3) if self.bgr else inputs.flip(3))
            # Mirrored back pixel by pixel: where the width is no multiple of the stride plus one, the two grids do not lie on each other.
            probabilities = (probabilities + between(mirrored, width, self.stride, axis=3).flip(3)[:, :, :, ::self.stride]) / 2
            confidences = None if confidences is None or again is None else (confidences + again) / 2
        if confidences is not None:
            possible = torch.cat([self.background, (confidences >= self.prohibit_below).float()], 1)
            probabilities = probabilities * possible[:, :, None, None]
        probabilities = probabilities.half().float()  # as the pipeline keeps them
        full = between(between(probabilities, width, self.stride, axis=3), height, self.stride, axis=2)
        labels = full.argmax(1).to(torch.uint8)
        return (labels, probabilities) if confidences is None else (labels, probabilities, confidences)

    def _view(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        scores, class_scores = self.model(inputs)
        return scores.softmax(1), None if class_scores is None else label_probabilities(class_scores, self.output)


def between(values: Tensor, length: int, stride: int, *, axis: int) -> Tensor:
    """As :func:`aepsl.segmentation.masks.upsample` does along one axis: values of every ``stride``-th of ``length`` places, at all of them."""
    places = torch.arange(length, device=values.device)
    before = places // stride
    after = torch.minimum(before + 1, torch.zeros_like(before) + (values.shape[axis] - 1))
    share = (places - before * stride).float() / stride
    first = values.index_select(axis, before)
    return (values.index_select(axis, after) - first) * (share[:, None] if axis == 2 else share) + first


def write_onnx(path: str | os.PathLike[str], model: Segmenter, *, output: Output, prohibit_below: float, flip: bool,
               described: Mapping[str, Any]) -> None:
    """Write the file; the metadata of the graph say what is in it.

    It takes ``image`` (1, H, W, 3) uint8 RGB, upright, any H and W, and gives ``labels`` (1, H, W) uint8, 0 = background, classes below their
    confidence prohibited; ``probabilities`` (1, 1+C, ⌈H/s⌉, ⌈W/s⌉) float32 on the network's grid; and, where there is a classification branch,
    ``confidences`` (1, C) float32.

    Parameters
    ----------
    output : how the branch's scores become confidences.
    flip : average over the mirror image too.
    described : plain values for the metadata, each written as JSON.

    Raises
    ------
    AepslError : the packages onnx and onnxscript are missing, or the graph would be larger than a file of ONNX can be.
    """
    onnx = _require_onnx(path)
    whole = Whole(model, output=output, prohibit_below=prohibit_below, flip=flip).eval().requires_grad_(False)
    names = ["labels", "probabilities"] + ([] if model.classify is None else ["confidences"])
    image = torch.zeros(1, *EXAMPLE, 3, dtype=torch.uint8)
    with torch.no_grad():
        program: Any = torch.onnx.export(whole, (image,), dynamo=True, opset_version=OPSET, input_names=["image"], output_names=names, verbose=False,
                                         dynamic_shapes=({1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC},))
    proto = program.model_proto
    _tidy(proto)
    told = {**described, "stride": whole.stride, "flip": flip, "prohibit_below": None if model.classify is None else prohibit_below,
            "image": "(1, H, W, 3) uint8, RGB, upright", "labels": "(1, H, W) uint8, numbers of classes"}
    onnx.helper.set_model_props(proto, {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                                        for name, value in told.items()})
    onnx.checker.check_model(proto)
    if proto.ByteSize() >= 1 << 31:
        raise AepslError(f"{path}: expected less than 2 GiB, the most that one file of ONNX holds, found {proto.ByteSize()} bytes")
    write_atomically(path, proto.SerializeToString(deterministic=True))


def _tidy(proto: Any) -> None:
    """Take out what the exporter notes of the machine it ran on: paths and lines of source files."""
    for part in (proto.graph, *proto.functions):
        for item in (part, *part.node, *part.value_info):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
    for item in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    for part, names in ((proto.graph.input[0], ("height", "width")), (proto.graph.output[0], ("height", "width")),
                        (proto.graph.output[1], ("rows", "columns"))):
        for place, name in zip((1, 2) if part is not proto.graph.output[1] else (2, 3), names, strict=True):
            part.type.tensor_type.shape.dim[place].dim_param = name


def _require_onnx(path: str | os.PathLike[str]) -> Any:
    """The module onnx, or an error that says how to get it."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnxscript  # noqa: F401 - torch's exporter takes it
    except ImportError as error:
        raise AepslError(f"{Path(path)}: expected the packages onnx and onnxscript for an ONNX file, found them missing ({error}); "
                         "run `pip install 'aepsl[onnx]'` or `pip install onnx onnxscript`") from error
    return onnx
