"""Networks over many images: what shares a batch, in what order results come, and that batching, folding and views are right up to rounding."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from aepsl.errors import AepslError
from aepsl.mining.heatmaps import batch_heatmaps, class_heatmaps, normalise_heatmaps, normalised
from aepsl.networks import inference
from aepsl.networks.classifier import Classifier
from aepsl.networks.grid import from_grid, to_grid
from aepsl.networks.inference import Engine, batches, engine_for, folded, mean_of_views, over, ready
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import Trunk, build_trunk
from aepsl.params import Compute
from aepsl.resume.interrupt import Interrupted
from aepsl.resume.parts import Entries, resumed
from aepsl.resume.state import State
from aepsl.segmentation.prediction import batch_probabilities, class_probabilities

CPU = torch.device("cpu")
A, B, C = (24, 17), (17, 24), (9, 9)  # width, height


class Given:
    """Photographs in memory; says which threads asked for them."""

    def __init__(self, sizes: Sequence[tuple[int, int]], *, damaged: int | None = None) -> None:
        self.index: Any = SimpleNamespace(sizes=np.array(sizes).reshape(-1, 2), ids=[f"i{row}" for row in range(len(sizes))])
        self.read: list[int] = []
        self.threads: set[str] = set()
        self._damaged = damaged

    def __getitem__(self, row: int) -> np.ndarray:
        if row == self._damaged:
            raise AepslError("damaged")
        self.read.append(row)
        self.threads.add(threading.current_thread().name)
        width, height = self.index.sizes[row]
        return np.random.default_rng(row).integers(0, 256, (height, width, 3), np.uint8)


def sizes_of(count: int) -> list[tuple[int, int]]:
    return [(A, B, C)[int(kind)] for kind in np.random.default_rng(count).integers(0, 3, count)]


def classifier(name: str = "mobilenet_v2", stages: int | None = 3) -> Classifier:
    generator = torch.Generator().manual_seed(1)
    model = Classifier(build_trunk(name, output_stride=8, width=0.1, stages=stages, generator=generator), 3, generator=generator).eval()
    return with_statistics(model)


def with_statistics(model: Any) -> Any:
    """Batch norm as training leaves it."""
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, middle, spread in ((module.running_mean, 0, 0.2), (module.running_var, 1, 0.5),
                                           (module.weight, 1, 0.3), (module.bias, 0, 0.2)):
                values.data.uniform_(middle - spread, middle + spread, generator=generator)
    return model


class OneLayer(Trunk):
    name, channels, output_stride = "one layer", 4, 1

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layer(images).relu()
        return features


# --- what shares a batch

def test_images_of_one_size_within_a_window_share_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "WINDOW", 3)  # of 2 images: rows 0 to 5, 6 to 8
    sizes = [A, B, A, B, A, B, A, B, A]
    assert list(batches(sizes, range(9), 2)) == [[0, 2], [1, 3], [4], [5], [6, 8], [7]]
    assert list(batches(sizes, range(9), 1)) == [[row] for row in range(9)]


def test_images_not_wanted_are_in_no_batch() -> None:
    assert list(batches([A] * 5, range(5), 2, [True, False, True, False, True])) == [[0, 2], [4]]
    assert list(batches([A] * 3, range(3), 2, [False] * 3)) == []


@given(st.lists(st.sampled_from([A, B, C]), max_size=60), st.integers(1, 4), st.data())
def test_what_shares_a_batch_does_not_depend_on_the_rows_asked_for(sizes: list[tuple[int, int]], batch: int, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    whole = list(batches(sizes, range(len(sizes)), batch, wanted))
    assert sorted(row for chunk in whole for row in chunk) == [row for row, is_wanted in enumerate(wanted) if is_wanted]
    assert all(len(chunk) <= batch and len({sizes[row] for row in chunk}) == 1 for chunk in whole)
    start = data.draw(st.integers(0, len(sizes)))
    rows = range(start, data.draw(st.integers(start, len(sizes))))
    assert list(batches(sizes, rows, batch, wanted)) == [chunk for chunk in whole if set(chunk) & set(rows)]


# --- order and content

def sums(batch: Tensor, rows: list[int]) -> Sequence[Tensor]:
    return [batch.long().sum((1, 2, 3)), torch.tensor(rows)]


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_results_come_in_the_order_of_the_rows(workers: int, batch: int) -> None:
    photographs = Given(sizes_of(70))
    wanted = [row % 5 != 2 for row in range(70)]
    found = list(over(photographs, range(3, 69), sums, lambda *values: values, engine=Engine(CPU, batch, workers=workers), wanted=wanted))  # type: ignore[arg-type]
    assert [values[0] for values in found] == list(range(3, 69))
    for row, *values in found:
        assert values == ([int(photographs[row].sum()), row] if wanted[row] else [])


def test_rows_that_nobody_wants_are_finished_without_the_network() -> None:
    assert list(over(Given([A] * 3), range(3), sums, lambda *row: row, engine=Engine(CPU), wanted=[False] * 3)) == [(0,), (1,), (2,)]  # type: ignore[arg-type]
    assert list(over(Given([]), range(0), sums, lambda *row: row, engine=Engine(CPU, 4, workers=2))) == []  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [0, 2])
def test_little_is_loaded_ahead_of_what_is_read(workers: int) -> None:
    photographs = Given([A] * 100)
    results = over(photographs, range(100), sums, lambda row, *_: row, engine=Engine(CPU, 2, workers=workers))  # type: ignore[arg-type]
    for read in range(20):
        assert next(results) == read
        assert len(photographs.read) <= read + 2 * (2 + inference.AHEAD + 2) + workers
    results.close()  # type: ignore[attr-defined]
    assert len(photographs.read) < 60
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aepsl")]
    assert all(name.startswith("aepsl") == bool(workers) for name in photographs.threads)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_photograph_is_met_behind_the_results_before_it(workers: int) -> None:
    results = over(Given([A] * 9, damaged=5), range(9), sums, lambda row, *_: row, engine=Engine(CPU, workers=workers))  # type: ignore[arg-type]
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(AepslError, match="damaged"):
        next(results)


def test_a_photograph_of_another_size_than_the_index_says_is_named() -> None:
    photographs = Given([A, B])
    photographs.index.sizes = np.array([A, A])
    photographs.__class__ = type("Wrong", (Given,), {"__getitem__": lambda self, row: np.zeros((17 + row, 24, 3), np.uint8)})
    with pytest.raises(AepslError, match="i1: expected a photograph of 24×17 pixels, as the index says, found 24×18"):
        list(over(photographs, range(2), sums, lambda row, *_: row, engine=Engine(CPU)))  # type: ignore[arg-type]


def test_an_interruption_ends_the_threads() -> None:
    def network(batch: Tensor, rows: list[int]) -> Sequence[Tensor]:
        if rows[0] == 4:
            raise Interrupted(2)
        return sums(batch, rows)

    with pytest.raises(Interrupted):
        list(over(Given([A] * 9), range(9), network, lambda row, *_: row, engine=Engine(CPU, workers=2)))  # type: ignore[arg-type]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("aepsl")]


def test_too_little_memory_names_the_parameter() -> None:
    def network(batch: Tensor, rows: list[int]) -> Sequence[Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    explained = r"compute.inference_batch: memory of cpu ran out with 4 image.* of 24×17 .*lower compute.inference_batch \(it is 4\)"
    with pytest.raises(AepslError, match=explained):
        list(over(Given([A] * 9), range(9), network, lambda row, *_: row, engine=Engine(CPU, 4)))  # type: ignore[arg-type]


def test_another_fault_of_the_network_stays_itself() -> None:
    def network(batch: Tensor, rows: list[int]) -> Sequence[Tensor]:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        list(over(Given([A]), range(1), network, lambda row, *_: row, engine=Engine(CPU)))  # type: ignore[arg-type]


# --- one by one and together

CLASSES = ([1], [2, 3], [3, 1, 2])


def heat(model: Classifier, photographs: Given, rows: range, *, batch: int, workers: int = 0) -> list[np.ndarray]:
    def network(images: Tensor, numbers: list[int]) -> Sequence[Tensor]:
        return [batch_heatmaps(model, images, [CLASSES[row % 3] for row in numbers], scales=[0.5, 1.0, 1.6], flip=True)]

    return list(over(photographs, rows, network, lambda row, maps: maps[:len(CLASSES[row % 3])].copy(),  # type: ignore[arg-type]
                     engine=Engine(CPU, batch, workers=workers)))


def test_heatmaps_in_batches_are_those_of_one_image_at_a_time() -> None:
    model, photographs = ready(classifier(), Engine(CPU)), Given(sizes_of(12))
    alone, together = heat(model, photographs, range(12), batch=1), heat(model, photographs, range(12), batch=4)
    for row in range(12):
        own = class_heatmaps(model, photographs[row], CLASSES[row % 3], scales=[0.5, 1.0, 1.6], flip=True, device=CPU)
        np.testing.assert_array_equal(alone[row], own)
        np.testing.assert_allclose(together[row], own, atol=1e-5 * abs(own).max())


@pytest.mark.parametrize("batch", [1, 4])
def test_a_start_in_the_middle_gives_the_same_bytes_with_any_number_of_workers(batch: int) -> None:
    model, photographs = ready(classifier(), Engine(CPU)), Given(sizes_of(22))
    whole = heat(model, photographs, range(22), batch=batch)
    for rows, workers in ((range(7, 22), 2), (range(11, 19), 0)):
        for row, maps in zip(rows, heat(model, photographs, rows, batch=batch, workers=workers), strict=True):
            np.testing.assert_array_equal(maps, whole[row])


@pytest.mark.parametrize("stopped_at", [1, 5, 9])
def test_what_an_interrupted_run_kept_and_the_next_one_adds_are_the_bytes_of_a_whole_run(tmp_path: Path, stopped_at: int) -> None:
    model, photographs, ran = ready(classifier(), Engine(CPU)), Given(sizes_of(16)), []

    def series(state: State, stop: int | None) -> Iterator[Entries]:
        def network(images: Tensor, numbers: list[int]) -> Sequence[Tensor]:
            ran.append(numbers)
            return [batch_heatmaps(model, images, [[1, 2]] * len(numbers), scales=[1.0], flip=True)]

        def finish(row: int, maps: np.ndarray) -> Entries:
            if row == stop:
                raise AepslError("stopped")
            return {"": maps.tobytes()}

        return resumed(lambda rows: over(photographs, rows, network, finish, engine=Engine(CPU, 3)),  # type: ignore[arg-type]
                       total=16, state=state, label="test")

    whole = list(series(State(None, 60), None))
    batched, ran[:] = list(ran), []
    with pytest.raises(AepslError, match="stopped"):
        list(series(State(tmp_path, 60), stopped_at))
    state = State(tmp_path, 60)
    assert list(series(state, None)) == whole
    assert state.resumed
    assert all(numbers in batched for numbers in ran)


@pytest.mark.parametrize("branch", [False, True])
def test_probabilities_in_batches_are_those_of_one_image_at_a_time(branch: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    trunk = build_trunk("mobilenet_v2", output_stride=8, width=0.1, stages=3, generator=generator)
    model = with_statistics(Segmenter(trunk, 3, with_classification=branch, generator=generator).eval())
    images = np.random.default_rng(1).integers(0, 256, (3, 21, 33, 3), np.uint8)
    with torch.inference_mode():
        together, confidences = batch_probabilities(ready(model, Engine(CPU)), torch.from_numpy(images), scales=[0.7, 1.0], flip=True)
    for place, image in enumerate(images):
        f, v = class_probabilities(model, image, scales=[0.7, 1.0], flip=True, device=CPU)
        np.testing.assert_allclose(together[place], f, atol=1e-5)
        assert (confidences is None) == (v is None) == (not branch)
        if confidences is not None and v is not None:
            np.testing.assert_allclose(confidences[place], v, atol=1e-5)


# --- the network

@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v2", "resnet50"])
def test_a_folded_trunk_is_equal_up_to_rounding_and_has_no_batch_norm(name: str) -> None:
    model = classifier(name, None)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    images = torch.randn(2, 3, 33, 41, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = model.trunk(images)
        torch.testing.assert_close(folded(model.trunk)(images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
        torch.testing.assert_close(ready(model, Engine(CPU))(images), model(images), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(model.trunk).modules())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())  # the model itself stays as it was
    assert (name == "vgg16") != any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_bfloat16_comes_out_as_float32_close_to_it() -> None:
    model = classifier("vgg16")
    images = torch.randn(1, 3, 33, 41, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        full, half = (ready(model, Engine(CPU, precision=precision)).heatmaps(images) for precision in (torch.float32, torch.bfloat16))
    assert half.dtype == torch.float32
    assert 0 < float((half - full).norm() / full.norm()) < 0.05


def test_a_network_that_cannot_be_compiled_runs_uncompiled_and_says_why(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def compiled(trunk: nn.Module, **_: Any) -> Any:
        def fail(images: Tensor) -> Tensor:
            raise TorchDynamoException("no C++ compiler\nfound")
        return fail

    monkeypatch.setattr(torch, "compile", compiled)
    model = classifier()
    images = torch.randn(1, 3, 17, 24, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        fast = ready(model, Engine(CPU, compiled=True))
        expected = ready(model, Engine(CPU))(images)
        torch.testing.assert_close(fast(images), expected)
        torch.testing.assert_close(fast(images), expected)
    said = capfd.readouterr().err
    assert said.count("compute.compile") == 2  # the parameter and the advice, in one line
    assert "no C++ compiler found" in said


def test_a_compiled_network_gives_what_the_plain_one_does(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    # Autograd counts devices when first used, and after torch.compile finds some to start threads for: tests that fork could then not train.
    torch.zeros((), requires_grad=True).backward()
    monkeypatch.setattr(torch, "compile", lambda trunk, *, dynamic, compiled=torch.compile: compiled(trunk, dynamic=dynamic, backend="aot_eager"))
    model = Classifier(OneLayer(), 2).eval()
    with torch.inference_mode():
        fast, plain = ready(model, Engine(CPU, compiled=True)), ready(model, Engine(CPU))
        for size in ((2, 3, 17, 24), (2, 3, 33, 25)):
            images = torch.randn(size, generator=torch.Generator().manual_seed(1))
            torch.testing.assert_close(fast(images), plain(images))
    assert "compute.compile" not in capfd.readouterr().err


def test_the_engine_is_what_compute_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compute = Compute(device="cpu", devices=1, launcher="", precision="auto", compile=False, inference_batch=0, scheduler="", workers=3, processes=1,
                      threads=1, save_every=60)
    assert engine_for(compute) == Engine(CPU, 1, torch.float32, False, 3)
    asked = compute.model_copy(update={"inference_batch": 5, "precision": "bfloat16", "compile": True})
    assert engine_for(asked) == Engine(CPU, 5, torch.bfloat16, True, 3)
    monkeypatch.setattr(inference, "pick_device", lambda name: torch.device("mps"))
    assert engine_for(compute).batch == inference.GPU_BATCH


# --- views

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.sampled_from([1, 2, 8]), st.lists(st.floats(0.2, 2.2), min_size=1, max_size=3), st.booleans(),
       st.integers(1, 3))
def test_the_mean_of_views_is_that_of_views_brought_back_one_by_one(height: int, width: int, stride: int, scales: list[float], flip: bool,
                                                                    batch: int) -> None:
    generator = torch.Generator().manual_seed(height * 41 + width)
    grids, views, full = [], [], []
    for scale in scales:
        size = max(1, round(height * scale)), max(1, round(width * scale))
        for mirrored in (False, True) if flip else (False,):
            grid = torch.randn(batch, 2, -(-size[0] // stride), -(-size[1] // stride), generator=generator)
            seen = from_grid(grid, size, stride)
            seen = seen.flip(3) if mirrored else seen
            full.append(F.interpolate(seen, (height, width), mode="bilinear", align_corners=False))
            grids.append(grid)
            views.append((size, mirrored))
    expected = torch.stack(full).mean(0)
    torch.testing.assert_close(mean_of_views(grids, views, (height, width), stride=stride), expected, rtol=1e-4, atol=1e-5)
    on_grid = to_grid(expected.flatten(0, 1), stride).unflatten(0, (batch, 2))
    torch.testing.assert_close(mean_of_views(grids, views, (height, width), stride=stride, step=stride), on_grid, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", ["minmax", "relu-max"])
def test_a_batch_is_normalised_map_by_map(rule: str) -> None:
    maps = np.random.default_rng(1).normal(size=(3, 2, 5, 4)).astype(np.float32)
    together = normalised(torch.from_numpy(maps), rule).numpy()
    for place, own in enumerate(maps):
        np.testing.assert_array_equal(together[place], normalise_heatmaps(own, rule))
