"""Typed, strict parameters: one class per group of params.yaml.

Loading reports every fault at once, each by its dotted path, with what was expected and what was found.
The meaning, unit and paper value of each key stand beside it in params.yaml.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from aepsl.errors import AepslError, FaultList, shown

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1e9)]
NotNegative = Annotated[float, Field(ge=0, le=1e9)]
Threshold = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Processes = Annotated[int, Field(ge=0, le=1024)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=50)]
Line = Annotated[str, Field(pattern=r"^\P{Cc}*$", max_length=4096)]  # a name, a path: without control characters
Scales = Annotated[list[Annotated[float, Field(gt=0, le=4)]], Field(min_length=1)]


class Group(BaseModel):
    """Strict: no unknown key, no silent conversion, no change after loading."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Shapes(Group):
    """The generated data set."""

    seed: Seed
    train: Count
    val: Count
    size: Annotated[int, Field(ge=48, le=512)]


class Folder(Group):
    """How to read a VOC-style folder."""

    train: Line
    val: Line | None
    test: Line | None
    labels: Line
    masks: Line | None
    mask_values: Literal["voc2012"] | dict[str, Annotated[int, Field(ge=1, le=254)]] | None


class Voc2012(Group):
    """Which part of PASCAL VOC 2012 to build."""

    train: Literal["trainaug", "train"]
    labels: Literal["xml", "masks"]
    test: bool
    mirrors: dict[Line, list[Line]]


class Data(Group):
    source: Literal["shapes", "folder", "voc2012"]
    path: Line
    classes: Annotated[list[str], Field(min_length=1, max_length=254)] | None
    unlisted: Literal["error", "leave-out"]
    shapes: Shapes
    folder: Folder
    voc2012: Voc2012


class Saliency(Group):
    method: Literal["rbd", "maps"]
    maps: Line | None
    size: Annotated[int, Field(ge=32, le=10_000)]
    superpixel: Annotated[int, Field(ge=16, le=100_000_000)]
    compactness: Positive
    sigma_colour: Positive
    sigma_boundary: Positive
    sigma_spatial: Positive
    optimise: bool

    @model_validator(mode="after")
    def _maps_named(self) -> Self:
        if self.method == "maps" and not self.maps:
            raise ValueError("maps: expected a folder or a zip of grey PNGs, because method is maps, found null")
        return self


class Network(Group):
    """A trunk and where its starting weights come from."""

    trunk: Literal["vgg16", "mobilenet_v2", "resnet50"]
    output_stride: Literal[8, 16]
    width: Annotated[float, Field(gt=0, le=1)]
    stages: Annotated[int, Field(ge=2, le=7)] | None
    weights: Line
    frozen_stages: Annotated[int, Field(ge=0, le=6)]

    @model_validator(mode="after")
    def _fits_weights(self) -> Self:
        if self.weights != "none" and (self.width != 1 or self.stages is not None):
            raise ValueError("weights: exist for whole networks: expected width 1.0 and stages null, or weights none; "
                             f"found width {self.width}, stages {self.stages}, weights {self.weights}")
        if self.weights == "none" and self.frozen_stages:
            raise ValueError(f"frozen_stages: expected 0, because weights is none and random layers must learn; found {self.frozen_stages}")
        whole = {"vgg16": 5, "mobilenet_v2": 7, "resnet50": 4}[self.trunk]
        if self.frozen_stages >= whole:
            raise ValueError(f"frozen_stages: expected fewer than the {whole} stages of {self.trunk}, found {self.frozen_stages}")
        return self


class Training(Group):
    """Optimisation of one network; shared by classify and segment."""

    length: Positive
    unit: Literal["epochs", "iterations"]
    batch: Count
    accumulate: Count
    crop: Annotated[int, Field(ge=32, le=10_000)]
    scale: Annotated[list[Annotated[float, Field(ge=0.01, le=16)]], Field(min_length=2, max_length=2)]
    mirror: bool
    lr: Positive
    schedule: Literal["step", "poly"]
    lr_steps: list[NotNegative]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: NotNegative
    last_layer_lr: Positive
    bias_lr: Positive
    batch_norm: Literal["train", "frozen"]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.scale[0] > self.scale[1]:
            raise ValueError(f"scale: expected [smallest, largest], found {self.scale}")
        if self.lr_steps != sorted(self.lr_steps):
            raise ValueError(f"lr_steps: expected ascending values, found {self.lr_steps}")
        return self


class FurtherClassify(Group):
    """What classifiers after the first do otherwise."""

    start: Literal["weights", "previous"]
    length: Positive | None


class Classify(Group):
    network: Network
    output: Literal["softmax", "linear"]
    held_out: Annotated[float, Field(ge=0, le=0.5)]
    training: Training
    further_rounds: FurtherClassify


class FurtherMine(Group):
    """What rounds after the first mine otherwise."""

    threshold: Threshold | None
    confident_share: Annotated[float, Field(gt=0, le=1)]


class Mine(Group):
    rule: Literal["minmax", "relu-max"]
    threshold: Threshold
    scales: Scales
    flip: bool
    further_rounds: FurtherMine


class Merge(Group):
    background_below: Probability
    indoor_classes: list[str]
    background_below_outdoors: Probability


class Segment(Group):
    network: Network
    start: Literal["weights", "classifier"]
    psl: Literal["none", "predicted", "true-labels"]
    output: Literal["softmax", "linear"]
    classification_weight: NotNegative
    online_from: Probability
    training: Training


class Relabel(Group):
    scales: Scales
    flip: bool
    crf: bool
    least_confidence: Probability


class Predict(Group):
    prohibit_below: Probability
    scales: Scales
    flip: bool


Backend = Literal["torch", "pydensecrf"]


class CrfSettings(Group):
    """Fully connected CRF: weights, and standard deviations in pixels (xy) and grey levels (rgb)."""

    iterations: Count
    bilateral_weight: NotNegative
    bilateral_xy: Positive
    bilateral_rgb: Positive
    spatial_weight: NotNegative
    spatial_xy: Positive


class Refine(Group):
    crf: Literal["none", "deeplab", "deeplab-v2", "psa", "afa", "custom"]
    backend: Backend
    custom: CrfSettings


class Evaluate(Group):
    void_as: Literal["miss", "background", "left-out"]


class Report(Group):
    """How large the report's pictures are, pixels of the longer side."""

    thumbnail: Annotated[int, Field(ge=16, le=1024)]
    side: Annotated[int, Field(ge=16, le=4096)]


class Compute(Group):
    """Where and how parallel a run is; never part of what is cached."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:[0-9]{1,3})?|mps)$")]
    devices: Processes
    launcher: Line
    precision: Literal["auto", "float32", "bfloat16", "float16"]
    compile: bool
    inference_batch: Processes
    scheduler: Line
    workers: Processes | Literal["auto"]
    processes: Processes
    threads: Processes
    save_every: NotNegative

    @property
    def loaders(self) -> int:
        """``workers`` as a number. What auto stands for the stages' shell puts into its place, for it knows the machine; here it is none."""
        return self.workers if isinstance(self.workers, int) else 0


class Params(Group):
    """The whole of params.yaml."""

    seed: Seed
    rounds: dict[Name, Name]
    last_round: Name
    passes: Annotated[list[Name], Field(min_length=1)]
    relabels: dict[Name, Name]
    oracles: list[Name]
    last_pass: Name
    data: Data
    saliency: Saliency
    classify: Classify
    mine: Mine
    merge: Merge
    segment: Segment
    relabel: Relabel
    predict: Predict
    refine: Refine
    evaluate: Evaluate
    report: Report
    compute: Compute

    @model_validator(mode="after")
    def _chains(self) -> Self:
        faults = [
            *chain_faults("rounds", self.rounds, "r0", "last_round", self.last_round),
            *chain_faults("relabels", self.relabels, "s1", "last_pass", self.last_pass, beside=self.oracles),
            *pass_faults(self.passes, self.relabels, self.oracles, self.last_pass),
        ]
        if faults:
            raise ValueError("\n".join(faults))
        return self


def chain_faults(key: str, chain: dict[str, str], start: str, last_key: str, last: str, *, beside: Sequence[str] = ()) -> list[str]:
    """What is wrong with a chain ``{step: the step before it}`` that begins after ``start`` and is used up to ``last``.

    ``beside`` names what may be used in place of a step although it is no part of the chain.
    """
    faults = []
    for step, before in chain.items():
        if step == start:
            faults.append(f"{key}.{step}: {start} is the start of the chain and has no step before it; remove the key")
        elif before != start and before not in chain:
            faults.append(f"{key}.{step}: expected the step before it to be {start} or one of {sorted(chain)}, found {before!r}; "
                          f"add {before} or correct it")
        else:
            seen, at = {step}, before
            while at != start and at in chain and at not in seen:
                seen.add(at)
                at = chain[at]
            if at in seen:
                faults.append(f"{key}.{step}: expected a chain that leads back to {start}, found a circle through {at}")
    if last not in {start, *chain, *beside}:
        faults.append(f"{last_key}: expected {start} or one of {sorted({*chain, *beside})}, found {last!r}")
    return faults


def pass_faults(passes: Sequence[str], relabels: dict[str, str], oracles: Sequence[str], last: str) -> list[str]:
    """What is wrong with the list of passes: every one needs a stage that makes its labels, and every such stage its pass.

    s1 learns from merge, a key of ``relabels`` from relabel, one of ``oracles`` from the truth. Where an oracle is the ``last`` pass and
    nothing is relabelled, s1 may be left out.
    """
    faults = [f"oracles: expected names that merge and relabel do not use, found {name!r}" for name in oracles if name in {"s1", *relabels}]
    faults += [f"{key}: expected every name once, found {sorted(names)}"
               for key, names in (("oracles", oracles), ("passes", passes)) if len(names) != len(set(names))]
    needed = {"s1", *relabels, *oracles}
    if set(passes) != needed and not (last in oracles and not relabels and set(passes) == set(oracles)):
        sources = "s1, every key of relabels and every one of oracles" if oracles else "s1 and every key of relabels"
        faults.append(f"passes: expected {sources} {sorted(needed)}, found {sorted(passes)}")
    return faults


def chain_to(chain: Mapping[str, str], start: str, last: str) -> list[str]:
    """The steps from the first after ``start`` up to ``last``, in order.

    >>> chain_to({"r1": "r0", "r2": "r1", "r3": "r2"}, "r0", "r2")
    ['r1', 'r2']

    Raises
    ------
    KeyError : the chain does not lead back to ``start``.
    """
    steps: list[str] = []
    while last != start:
        if last in steps:
            raise KeyError(last)
        steps.append(last)
        last = chain[last]
    return steps[::-1]


def leaves(group: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested groups by dotted path; an empty group is a value."""
    for name, value in group.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def load_params(path: str | os.PathLike[str]) -> Params:
    """Read and check a parameter file.

    Raises
    ------
    FaultList : every fault at once, by dotted path.
    """
    try:
        content = parse_yaml(Path(path).read_bytes())
    except FileNotFoundError:
        raise AepslError(f"{path}: no such file; copy one from presets/") from None
    except (OSError, ValueError) as error:
        raise AepslError(f"{path}: expected YAML, found {error}") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise AepslError(f"{path}: expected groups of parameters, found {found}; copy one from presets/")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        faults = [line for fault in error.errors() for line in _explain(dict(fault))]
        raise FaultList(f"{path}: {len(faults)} faulty parameter(s); mend them and run again", faults) from None


# ---- YAML


MOST_BYTES = 1 << 18  # of a parameter file; those of the project have some 12,000
MOST_VALUES = 20_000  # in it, what is written once and referred to often counted as often
DEEPEST = 32  # groups within groups


def parse_yaml(data: bytes) -> Any:
    """What a parameter file says. Stricter than YAML: no key twice in a group, no number that YAML and people read differently.

    Raises
    ------
    ValueError : what was found instead.
    """
    if len(data) > MOST_BYTES:
        raise ValueError(f"{len(data)} bytes, more than the {MOST_BYTES} that are read")
    try:
        loader = _Loader(data.decode("utf-8-sig"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _count(node, {}) > MOST_VALUES:
                raise ValueError(f"references that grow it to more than {MOST_VALUES} values")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: " if error.problem_mark else ""
        raise ValueError(f"{where}{' '.join(filter(None, [error.context, error.problem]))}") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    except RecursionError:
        raise ValueError("brackets or groups nested a hundredfold") from None


class _Loader(yaml.SafeLoader):
    """Plain values alone: a tag that names anything else is refused by the safe loader."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys: set[Any] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "expected a name as key, found a list or a group", key.start_mark)
            if key.value in keys and key.tag != MERGE:
                raise yaml.constructor.ConstructorError(None, None, f"expected every key once in its group, found {shown(key.value)} again",
                                                        key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        if isinstance(node, yaml.ScalarNode) and re.search("[\ud800-\udfff]", node.value):
            raise yaml.constructor.ConstructorError(None, None, f"expected letters, found half of one: {shown(node.value)}", node.start_mark)
        return super().construct_scalar(node)

    def construct_number(self, node: Any) -> int:
        # YAML takes 010 for eight, 1:30 for ninety and 1_0 for ten.
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9]{0,30})", node.value):
            raise yaml.constructor.ConstructorError(None, None, f"expected a decimal number, found {shown(node.value)}", node.start_mark)
        return int(node.value)

    def construct_fraction(self, node: Any) -> float:
        if ":" in node.value:
            raise yaml.constructor.ConstructorError(None, None, f"expected a decimal number, found {shown(node.value)}", node.start_mark)
        return float(self.construct_yaml_float(node))

    def construct_switch(self, node: Any) -> bool:
        # YAML takes no and off for false, where DVC reads the words.
        if node.value.lower() not in ("true", "false"):
            raise yaml.constructor.ConstructorError(None, None, f"expected true or false, or a name in quotes, found {shown(node.value)}",
                                                    node.start_mark)
        return bool(node.value.lower() == "true")

    def construct_text(self, node: Any) -> str:
        return str(node.value)


MERGE = "tag:yaml.org,2002:merge"
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_fraction)
_Loader.add_constructor("tag:yaml.org,2002:bool", _Loader.construct_switch)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", _Loader.construct_text)  # a folder may be named by a date


def _count(node: Any, known: dict[int, int], depth: int = 0) -> int:
    """Values below a node, each as often as it is referred to."""
    if depth > DEEPEST:
        raise ValueError(f"groups nested more than {DEEPEST} deep, or one that contains itself")
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        below = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_count(part, known, depth + 1) for part in below)
    return known[id(node)]


def _explain(fault: dict[str, Any]) -> list[str]:
    # Where several types are possible, pydantic also names the one it tried, such as "dict[str,int]".
    where = ".".join(str(part) for part in fault["loc"] if not str(part).startswith(("literal[", "dict[")))
    found = fault["input"]
    kind, context = fault["type"], fault.get("ctx", {})
    if kind == "missing":
        return [f"{where}: missing; take the line from presets/shapes.yaml"]
    if kind == "extra_forbidden":
        return [f"{where}: unknown parameter; remove it or correct its spelling"]
    if kind == "value_error":
        return [f"{where}.{line}" if where else line for line in str(context["error"]).split("\n")]
    if kind == "literal_error":
        return [f"{where}: expected {context['expected']}, found {shown(found)}"]
    hint = ""
    if kind in ("float_type", "int_type") and isinstance(found, str) and re.fullmatch(r"[-+.\d]+[eE][-+]?\d+", found):
        hint = " (YAML reads 1e-3 as text: write 0.001)"
    return [f"{where}: {fault['msg'][0].lower()}{fault['msg'][1:]}, found {shown(found)}{hint}"]
