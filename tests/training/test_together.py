"""Training by several processes: up to the order of summation what one process does alone."""

import multiprocessing
import os
import socket
import traceback
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aepsl.data.samples import Samples
from aepsl.errors import AepslError
from aepsl.params import Training
from aepsl.ranks import ALONE, Place, Ranks, device_of, place
from aepsl.resume import interrupt
from aepsl.resume.interrupt import Interrupted
from aepsl.resume.parts import write_resumed
from aepsl.resume.state import State
from aepsl.training import loop
from aepsl.training.checkpoints import Checkpoints
from aepsl.training.loop import train
from tests.training.toy import toy_samples

CPU = torch.device("cpu")
COUNT = 23


def settings(**changes: object) -> Training:
    defaults = {"length": 6, "unit": "iterations", "batch": 11, "accumulate": 1, "crop": 32, "scale": [1.0, 1.0], "mirror": True, "lr": 0.03,
                "schedule": "poly", "lr_steps": [], "momentum": 0.9, "weight_decay": 0.0005, "last_layer_lr": 10.0, "bias_lr": 2.0,
                "batch_norm": "train"}
    return Training(**defaults | changes)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    return toy_samples(tmp_path_factory.mktemp("toy"), COUNT)


class Net(nn.Module):
    def __init__(self, *, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        inputs = (images.float() / 255 - 0.4).contiguous(memory_format=torch.channels_last)
        return self.last(self.drop(self.norm(self.conv(inputs)).relu()).mean((2, 3)))


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "dropout": ({"dropout": 0.5}, {}),
    "batch norm": ({"norm": True}, {}),
    "frozen batch norm": ({"norm": True}, {"batch_norm": "frozen"}),
    "all, in parts": ({"norm": True, "dropout": 0.5}, {"accumulate": 2}),
}


def trained(samples: Samples, ranks: Ranks, network: dict[str, Any], changes: dict[str, Any],
            checkpoints: Checkpoints | None = None) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    torch.manual_seed(ranks.rank)  # the processes need not even start alike
    model = Net(**network)
    if ranks.main:
        torch.manual_seed(0)
        model.load_state_dict(Net(**network).state_dict())

    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        return {"squared": (model(images) - labels.float()).square().sum(1).mean(), "first": model(images)[:, 0].square().mean()}

    curve = train(model, model.last.parameters(), samples, terms, settings=settings(**changes), seed=1, device=CPU, ranks=ranks,
                  checkpoints=checkpoints)
    return model.state_dict(), curve


def together(size: int, work: Callable[[Ranks, Path], Any], folder: Path) -> list[Any]:
    """What ``work`` returns, or the exception it raises, in each of ``size`` forked processes."""
    import lightning_fabric  # noqa: F401 - once, rather than in every process

    def one(rank: int) -> None:
        os.environ |= {"TORCHELASTIC_RUN_ID": "test", "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "GROUP_RANK": "0",
                       "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        torch.set_num_threads(1)
        ranks = Ranks(place(), device="cpu")
        try:
            ranks.barrier()
            result = work(ranks, folder)
        except AepslError as error:
            result = str(error)
        except Exception:
            result = traceback.format_exc()
        torch.save(result, folder / f"{rank}.pt")
        os._exit(0)

    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=one, args=(rank,)) for rank in range(size)]
    with socket.socket() as free:  # kept, so that meanwhile the port is given to nobody else; who names it can have it too
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        for process in processes:
            process.start()
        for process in processes:
            process.join(600)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


@pytest.fixture(scope="module")
def alone(samples: Samples) -> dict[str, Any]:
    return {name: trained(samples, ALONE, *case) for name, case in CASES.items()}


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_train_the_network_that_one_trains(samples: Samples, alone: dict[str, Any], tmp_path: Path, size: int) -> None:
    def work(ranks: Ranks, folder: Path) -> Any:
        return {name: trained(samples, ranks, *case) for name, case in CASES.items()}

    first, *others = together(size, work, tmp_path)
    assert isinstance(first, dict), first
    for name, (state, curve) in alone.items():
        for key, value in state.items():
            # A bias before batch norm has no gradient but rounding errors.
            torch.testing.assert_close(first[name][0][key], value, rtol=1e-4, atol=1e-5)
            assert all(torch.equal(other[name][0][key], first[name][0][key]) for other in others), (name, key)
        assert first[name][1] == [pytest.approx(row, rel=1e-5) for row in curve]
    assert not torch.allclose(alone["plain"][0]["conv.weight"], alone["dropout"][0]["conv.weight"], atol=1e-3)


def test_a_group_stops_together_and_goes_on_in_another_number(samples: Samples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process of three is asked to stop in the middle of batch 3: all stop after it, and it is saved."""
    expected, curve = trained(samples, ALONE, *CASES["all, in parts"])
    state = State(tmp_path / "state", every=3600)

    def work(ranks: Ranks, folder: Path) -> Any:
        step = loop._step

        def interrupted(*arguments: Any, **named: Any) -> Any:
            if named["report"].step == 2 and ranks.rank == 1:
                monkeypatch.setattr(interrupt, "_waiting", 15)
            return step(*arguments, **named)

        monkeypatch.setattr(loop, "_step", interrupted)
        try:
            trained(samples, ranks, *CASES["all, in parts"], Checkpoints(state, label="t"))
        except Interrupted as error:
            return int(error.signum)
        return None

    assert together(3, work, tmp_path) == [15, 15, 15]
    saved = Checkpoints(state, label="t").latest()
    assert saved is not None
    assert saved["step"] == 3
    found, again = trained(samples, ALONE, *CASES["all, in parts"], Checkpoints(state, label="t"))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)
    assert again == [pytest.approx(row, rel=1e-5) for row in curve]


def test_faults_are_told_by_all_processes_and_name_the_whole_batch(samples: Samples, tmp_path: Path) -> None:
    def work(ranks: Ranks, folder: Path) -> Any:
        def faulty(**changes: Any) -> str:
            try:
                model, factor = Net(), np.nan if ranks.rank else 1
                train(model, model.last.parameters(), samples, lambda images, *_: {"one": model(images).mean() * factor},
                      settings=settings(**changes), seed=1, device=CPU, ranks=ranks)
            except AepslError as error:
                return str(error)
            return ""
        return [faulty(), faulty(batch=3, accumulate=2)]

    found = together(2, work, tmp_path)
    assert found[0] == found[1]
    assert "the loss became nan at iteration 1; images of the batch: i" in found[0][0]
    assert found[0][0].count(", i") == 10
    assert "training.batch: expected at least an image for each of 2 processes in every part of a batch, found 3 images in 2 part(s)" in found[0][1]


# ---- work on one image after the other


def entries(number: int) -> dict[str, bytes]:
    return {f"{number}/{place}.png": f"{number} {place}".encode() * 9 for place in range(number % 3)}


@pytest.mark.parametrize("size", [2, 4])
def test_shares_of_several_processes_make_the_artefact_of_one_and_a_rerun_goes_on(tmp_path: Path, size: int) -> None:
    total = 11

    def work(ranks: Ranks, folder: Path) -> Any:
        computed: list[int] = []

        def until(last: int) -> Callable[[range], Iterator[dict[str, bytes]]]:
            def compute(some: range) -> Iterator[dict[str, bytes]]:
                for number in some:
                    if number == last:
                        raise AepslError("stopped")
                    computed.append(number)
                    yield entries(number)
            return compute

        state = State(folder / "state", 3600, "key", ranks=ranks)
        if ranks.rank == size - 1:  # an earlier run of this process got as far as its last item
            try:
                write_resumed(folder / "out.zip", until(total - 1), total=total, state=state, label="work")
            except AepslError:
                ranks.barrier()
        else:
            ranks.barrier()
        write_resumed(folder / "out.zip", until(-1), total=total, state=state, label="work")
        return computed

    found = together(size, work, tmp_path)
    assert sorted(chain.from_iterable(found)) == list(range(total))  # nothing twice
    assert max(map(len, found)) - min(map(len, found)) <= 1
    write_resumed(tmp_path / "alone.zip", lambda some: map(entries, some), total=total, state=State(None, 0), label="work")
    assert (tmp_path / "out.zip").read_bytes() == (tmp_path / "alone.zip").read_bytes()


def test_processes_without_a_folder_they_share_say_so(tmp_path: Path) -> None:
    def work(ranks: Ranks, folder: Path) -> None:
        state = State(folder / f"machine {ranks.rank}", 3600, "key", ranks=ranks)
        write_resumed(folder / "out.zip", lambda some: map(entries, some), total=5, state=state, label="work")

    [first, _] = together(2, work, tmp_path)
    assert "expected the 2 results of process 1, found 0; every process must see this folder: let AEPSL_STATE name one" in first
    assert not (tmp_path / "out.zip").exists()


# ---- who and where


def test_a_process_finds_its_place_in_what_launched_it() -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "8"}
    slurm = {"SLURM_PROCID": "9", "SLURM_NTASKS": "16", "SLURM_LOCALID": "1", "SLURM_NTASKS_PER_NODE": "8"}
    assert place(torchrun) == Place(9, 16, 1, 8)
    assert place(slurm) == Place()  # a batch script's own variables
    assert place(slurm | {"AEPSL_GROUP": "/x"}) == Place(9, 16, 1, 8, slurm=True)
    assert place({}) == Place()


@pytest.mark.parametrize(("total", "size"), [(11, 4), (3, 4), (0, 2), (8, 2)])
def test_shares_are_contiguous_and_even(total: int, size: int) -> None:
    shares = [list(Ranks(Place(rank, size)).share(total)) for rank in range(size)]
    assert list(chain.from_iterable(shares)) == list(range(total))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_devices_that_cannot_be_shared_or_are_too_few_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert device_of("auto", Place(6, 8, 2, 4)) == "cuda:2"
    assert device_of("cpu", Place(6, 8, 2, 4)) == "cpu"
    with pytest.raises(AepslError, match=r"compute\.device: expected auto, cpu or cuda for 8 processes, found cuda:1"):
        device_of("cuda:1", Place(6, 8, 2, 4))
    with pytest.raises(AepslError, match=r"compute\.devices: 8 processes on this machine want a CUDA device each, torch finds 4"):
        device_of("cuda", Place(6, 8, 2, 8))


def test_a_process_alone_needs_fabric_only_for_another_precision_than_float32() -> None:
    assert ALONE.fabric is None
    assert Ranks(device="cpu", precision="auto").fabric is None
    assert Ranks(device="cpu", precision="bfloat16").fabric.strategy.precision.precision == "bf16-mixed"
    with pytest.raises(AepslError, match=r"compute\.precision: float16 is for CUDA devices, found cpu"):
        _ = Ranks(device="cpu", precision="float16").fabric


def test_bfloat16_trains_on_a_processor_too(samples: Samples) -> None:
    state, curve = trained(samples, ALONE, {"norm": True}, {"length": 12})
    half, rough = trained(samples, Ranks(device="cpu", precision="bfloat16"), {"norm": True}, {"length": 12})
    assert half["conv.weight"].dtype == torch.float32
    assert not torch.equal(half["conv.weight"], state["conv.weight"])
    assert rough[-1]["loss"] == pytest.approx(curve[-1]["loss"], rel=0.05)
