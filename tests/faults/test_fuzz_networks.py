"""Model files, weights and scores from anywhere. What they hold is never run, and a network is never given other numbers than were saved."""

import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from aepsl import Segmenter
from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.errors import AepslError
from aepsl.networks.blank import save_blank
from aepsl.networks.classifier import Classifier
from aepsl.networks.files import continue_classifier, load_classifier, load_segmenter, save_model
from aepsl.networks.packages import Crf, digest, load_package, write_package
from aepsl.networks.segmenter import Segmenter as SegmenterNetwork
from aepsl.networks.trunks import build_trunk
from aepsl.networks.weights import StartingWeights, load_into, load_weights, save_weights, starting_weights
from aepsl.params import Network
from aepsl.segmentation.presets import PRESETS
from aepsl.segmentation.scores import encoded_scores, read_scores
from tests.faults.fuzzing import LONG, TEXTS, TOKENS, fuzz, mutated, paths_of

CPU = torch.device("cpu")
SMALL = Network(trunk="mobilenet_v2", output_stride=16, width=0.05, stages=4, weights="none", frozen_stages=0)
SCRAPS = [*TOKENS[-12:], b"cos\nsystem\n", b"cposix\nsystem\nX\x01\0\0\0xR.", b"c__builtin__\neval\n", b"\x80\x02}q\0",
          b"torch._utils\n_rebuild_tensor_v2\n", b"X\xff\xff\xff\x7f", b"t", b"R", b"."]


def trunk() -> Any:
    return build_trunk(SMALL.trunk, output_stride=SMALL.output_stride, width=SMALL.width, stages=SMALL.stages,
                       generator=torch.Generator().manual_seed(0))


def saved(content: Any, *, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("models")
    facts = {"round": "r1", "final_loss": 0.5, "scale": 1.0, "psl": "predicted", "output": "softmax"}
    save_model(folder / "classifier.pt", Classifier(trunk(), 2, generator=torch.Generator().manual_seed(1)), network=SMALL, classes=("cat", "dog"),
               facts=facts)
    segmenter = SegmenterNetwork(trunk(), 2, with_classification=True, generator=torch.Generator().manual_seed(1))
    save_model(folder / "segmenter.pt", segmenter, network=SMALL, classes=("cat", "dog"), facts=facts)
    write_package(folder / "package.pt", folder / "segmenter.pt", scales=[1.0], flip=False, prohibit_below=0.1,
                  crf=Crf(preset="psa", backend="torch", settings=PRESETS["psa"]), largest_side=64, metrics=None)
    save_blank(folder / "blank.pt")
    save_weights(folder / "weights.pt", StartingWeights("mobilenet_v2", "imagenet", "test", trunk().state_dict()))
    return {path.stem: path.read_bytes() for path in folder.iterdir()}


def equal(state: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return state.keys() == expected.keys() and all(torch.equal(value, expected[name]) for name, value in state.items())


def test_models_with_changed_bytes(tmp_path: Path, models: dict[str, bytes]) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(models["classifier"])
    expected = load_classifier(path, CPU)[0].state_dict()

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        model, content = load_classifier(path, CPU)
        return equal(model.state_dict(), expected) and content["classes"] == ["cat", "dog"] and content["facts"]["scale"] == 1

    samples = [models["classifier"], models["classifier"], models["segmenter"], models["blank"], models["weights"]]
    fuzz("model, bytes", mutated(samples, SCRAPS), judge, names=[str(path)], short=60, long=1500, isolated=tmp_path)


def repacked(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """A file of torch with changed entries and checksums that hold."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return buffer.getvalue()


def test_models_with_a_changed_pickle(tmp_path: Path, models: dict[str, bytes]) -> None:
    """The checksums hold, so the changed bytes reach torch: whatever then loads is a network of finite numbers."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(io.BytesIO(models["classifier"])) as archive:
        inner = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))

    def judge(data: bytes) -> bool:
        path.write_bytes(repacked(models["classifier"], lambda name, before: data if name.endswith("data.pkl") else before))
        model, content = load_classifier(path, CPU)
        assert content["facts"] is not None
        return all(bool(value.isfinite().all()) for value in model.state_dict().values())

    fuzz("model, pickle", mutated([inner], SCRAPS), judge, names=[str(path)], short=60, long=1500, isolated=tmp_path)


ODD_TENSORS = st.sampled_from([
    lambda: torch.zeros(1).expand(10**6, 10**6), lambda: torch.zeros(3, 3).to_sparse(), lambda: torch.full((2, 2), torch.nan),
    lambda: torch.zeros(2, dtype=torch.complex64),
    lambda: torch.empty(2, 2, device="meta"), lambda: torch.nn.Parameter(torch.zeros(2)), lambda: torch.zeros(0), lambda: torch.tensor(1.0),
    lambda: torch.zeros(2, dtype=torch.bool),
    lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8), lambda: torch.zeros(2, dtype=torch.float64),
    lambda: torch.zeros(2, dtype=torch.bfloat16)])
PLAIN = st.none() | st.booleans() | st.integers(-2**62, 2**62) | st.floats() | TEXTS | st.lists(st.integers(0, 9),
    max_size=2) | st.dictionaries(TEXTS, st.none(), max_size=2)


@st.composite
def changed(draw: st.DrawFn, content: dict[str, Any]) -> dict[str, Any]:
    """A model's content with values of other kinds at some places."""
    def copy(value: Any) -> Any:
        return {key: copy(part) for key, part in value.items()} if isinstance(value, dict) else list(value) if isinstance(value, list) else value

    content = copy(content)
    for _ in range(draw(st.integers(0, 2))):
        deepest = draw(st.integers(1, 2))  # else most would be tensors
        path = draw(st.sampled_from([path for path in paths_of(content) if 1 <= len(path) <= deepest]))
        group = content
        for key in path[:-1]:
            group = group[key]
        value = draw(PLAIN | ODD_TENSORS.map(lambda make: make()))
        if draw(st.integers(0, 3)) == 0:
            if isinstance(group, dict):
                del group[path[-1]]
        else:
            group[path[-1]] = value
    return content


@pytest.mark.parametrize("kind", ["classifier", "segmenter", "weights"])
def test_models_with_changed_content(tmp_path: Path, models: dict[str, bytes], kind: str) -> None:
    path = tmp_path / "model.pt"
    content = torch.load(io.BytesIO(models[kind]), weights_only=True)

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        if kind == "weights":
            network = trunk()
            load_into(network, path)
            return all(bool(value.isfinite().all()) for value in network.state_dict().values())
        model, read = (load_classifier if kind == "classifier" else load_segmenter)(path, CPU)
        for fact in ("scale", "psl", "output"):
            read["facts"][fact]  # asked for by stages
        with torch.inference_mode():
            model(torch.zeros(1, 3, 33, 33))
        return all(bool(value.isfinite().all()) for value in model.state_dict().values())

    fuzz(f"{kind}, content", changed(content).map(saved), judge, names=[str(path)], short=30, long=500, isolated=tmp_path)


def test_packages_with_changed_bytes(tmp_path: Path, models: dict[str, bytes]) -> None:
    path = tmp_path / "package.pt"
    known = []
    for name in ("package", "segmenter"):
        path.write_bytes(models[name])
        known.append(load_package(path, CPU))

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        loaded = load_package(path, CPU)
        return equal(loaded.model.state_dict(), known[0].model.state_dict()) and (loaded.classes, loaded.package, loaded.sha256) in [
            (other.classes, other.package, other.sha256) for other in known]

    samples = [models["package"], models["package"], models["segmenter"], models["classifier"]]
    fuzz("package, bytes", mutated(samples, SCRAPS), judge, names=[str(path)], short=40, long=1500, isolated=tmp_path)


@pytest.mark.parametrize("sealed", [False, True], ids=["", "with a checksum that holds"])
def test_packages_with_changed_content(tmp_path: Path, models: dict[str, bytes], sealed: bool) -> None:
    """Whoever changes a package and its checksum alike can make it another one; but never one that cannot be used."""
    path = tmp_path / "package.pt"
    content = torch.load(io.BytesIO(models["package"]), weights_only=True)

    def seal(given: dict[str, Any]) -> dict[str, Any]:
        with suppress(TypeError, ValueError, KeyError, AttributeError, RuntimeError):
            return given | {"sha256": digest(given)}
        return given

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        segmenter = Segmenter.load(path, "cpu")
        assert len(repr(segmenter)) < 10**5
        json.dumps(segmenter.info)
        return segmenter.predict(np.zeros((17, 20, 3), np.uint8)).mask.shape == (17, 20)

    inputs = (changed(content) | changed(content["package"]).map(lambda package: content | {"package": package})).map(
        lambda given: saved(seal(given) if sealed else given))
    fuzz(f"package, content{', sealed' * sealed}", inputs, judge, names=[str(path)], short=24, long=800, isolated=tmp_path)


def test_weights_with_changed_bytes(tmp_path: Path, models: dict[str, bytes]) -> None:
    path = tmp_path / "weights.pt"
    path.write_bytes(models["weights"])
    expected = load_weights(path).state

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        return equal(load_weights(path).state, expected)

    fuzz("weights, bytes", mutated([models["weights"], models["weights"], models["blank"], models["classifier"]], SCRAPS), judge, names=[str(path)],
         short=60, long=1500,
         isolated=tmp_path)


def test_published_weights_in_the_old_format(tmp_path: Path) -> None:
    """A plain stream of pickles without checksums: what loads fits the trunk and is finite."""
    path = tmp_path / "published.pth"
    convolutions = {f"{number}.{kind}": torch.zeros(1).expand(1) for number in (0, 2) for kind in ("weight", "bias")}

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        starting_weights("vgg16", str(path), width=1, cache=tmp_path)
        return False  # none of them has all layers

    samples = [saved(convolutions, legacy=True), saved({"features.0.weight": torch.zeros(64, 3, 3, 3)}, legacy=True), pickle.dumps({"a": [1]}),
               b"\x80\x02", b""]
    fuzz("weights, old format", mutated(samples, SCRAPS), judge, names=[str(path)], short=40, long=1000, isolated=tmp_path)


# ---- hostile pickles


class Calls:
    """Pickled as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def hostile(canary: Path) -> list[Any]:
    """Values whose unpickling would make the file, by every way that this module's author knew of."""
    touch = f"open({str(canary)!r}, 'w').close()"
    return [Calls(os.system, f"touch {canary}"), Calls(eval, touch), Calls(exec, touch), Calls(open, str(canary), "w"),
            Calls(partial(open, str(canary)), "w"),
            Calls(Path.touch, canary), Calls(np.save, str(canary), 0), Calls(os.mkdir, str(canary)), Calls(torch.save, 1, str(canary)),
            Calls(os.popen, f"touch {canary}"),
            Calls(getattr, Calls(__import__, "os"), "system"), Calls(map, eval, [touch]), Calls(os.symlink, "/", str(canary)),
            Calls(torch.jit.load, str(canary))]


@pytest.mark.parametrize("number", range(len(hostile(Path("x")))))
def test_hostile_files_are_refused_and_nothing_of_them_is_run(tmp_path: Path, number: int) -> None:
    canary, path = tmp_path / "canary", tmp_path / "model.pt"
    value = hostile(canary)[number]
    place = {"format": 1, "kind": "Classifier", "network": SMALL.model_dump(), "preprocessing": "imagenet", "classes": ["cat"],
             "facts": {"scale": value}, "state": {}}
    readers: list[Callable[[Path], Any]] = [partial(load_classifier, device=CPU), load_weights]
    if LONG:
        readers += [partial(load_segmenter, device=CPU), partial(load_package, device=CPU),
                    partial(continue_classifier, model=Classifier(trunk(), 2)),
                    lambda path: starting_weights("vgg16", str(path), width=1, cache=tmp_path)]
    for content in (value, [value], {"a": value}, place, {"format": 1, "state": {"a": value}}, {"0.weight": value})[0 if LONG else 3:]:
        for data in (saved(content), saved(content, legacy=True), pickle.dumps(content), pickle.dumps(content, 0)):
            path.write_bytes(data)
            for read in readers:
                with pytest.raises(AepslError, match=r"model\.pt: expected"):
                    read(path)
    with ArchiveWriter(tmp_path / "scores.zip") as archive:
        archive.add("a.npy", pickle.dumps(value))
    with pytest.raises(AepslError, match=r"a\.npy is damaged"):
        read_scores(ArchiveReader(tmp_path / "scores.zip"), "a")
    assert not canary.exists()
    assert sorted(os.listdir(tmp_path)) == ["model.pt", "scores.zip"]


def test_the_canary_would_have_been_seen(tmp_path: Path) -> None:
    for number, value in enumerate(hostile(tmp_path / "canary")[:2]):
        pickle.loads(pickle.dumps(value))
        assert (tmp_path / "canary").exists(), number
        (tmp_path / "canary").unlink()


# ---- scores


def npy(header: str, data: bytes = bytes(24), *, version: bytes = b"\x01\x00", length: int | None = None) -> bytes:
    text = header.encode("latin-1", "replace") + b"\n"
    return b"\x93NUMPY" + version + struct.pack("<H", len(text) if length is None else length) + text + data


HEADERS = [f"{{'descr': {kind!r}, 'fortran_order': {order}, 'shape': {shape}, }}" for kind in ("<f2", "|O", "<f8", ">f2", "|V9", "f2,f4", "<U9", "?")
           for order in ("False", "True", "1") for shape in ("(3, 2, 2)", "(12,)", "(-3, 2, 2)", f"({10**9}, {10**9}, 1)", "(0, 0, 0)", "()",
                                                             "(3, 2, 2.0)", "3")]


def test_scores(tmp_path: Path) -> None:
    path = tmp_path / "scores.zip"
    values = np.linspace(0, 1, 12, dtype=np.float16).reshape(3, 2, 2)
    samples = [encoded_scores("a", array)["a.npy"] for array in (values, np.asfortranarray(values))]
    buffer = io.BytesIO()
    np.savez(buffer, values)
    extra = [npy(header) for header in HEADERS] + [buffer.getvalue(), npy("(" * 5000), npy("[" * 90), npy("{'descr': " + "9" * 5000 + "}"),
                                                   npy("x", version=b"\x03\0"), npy("x", length=65535)]

    def judge(data: bytes) -> bool:
        with ArchiveWriter(path) as archive:
            archive.add("a.npy", data)
        found = read_scores(ArchiveReader(path), "a")
        assert (found.dtype.newbyteorder("="), found.ndim) == (np.float16, 3)
        return np.array_equal(found, np.load(io.BytesIO(data), allow_pickle=False))

    fuzz("scores", mutated([*samples, *samples, *extra]), judge, names=["a.npy"], short=80, long=1500, isolated=tmp_path)
    fuzz("scores, headers", st.sampled_from(extra), judge, names=["a.npy"], short=40, long=200, isolated=tmp_path)
