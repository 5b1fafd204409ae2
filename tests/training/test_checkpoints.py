"""A training that is interrupted anywhere ends with the very same network."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_mask
from aepsl.data.index import Index
from aepsl.data.samples import Augmentation, Photographs, Samples, batches
from aepsl.params import Training
from aepsl.resume import interrupt
from aepsl.resume.interrupt import Interrupted
from aepsl.resume.state import State
from aepsl.training import checkpoints
from aepsl.training.checkpoints import Checkpoints
from aepsl.training.loop import train

COUNT, LENGTH = 10, 3.0  # images, epochs of 5 batches
STEPS = 15
SETTINGS = Training(length=LENGTH, unit="epochs", batch=2, accumulate=2, crop=32, scale=[1.0, 1.0], mirror=True, lr=0.1, schedule="poly", lr_steps=[],
                    momentum=0.9, weight_decay=0.0005, last_layer_lr=10.0, bias_lr=2.0, batch_norm="train")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(1)
    ids = tuple(f"i{number}" for number in range(COUNT))
    with ArchiveWriter(folder / "images.zip") as images:
        for identifier in ids:
            images.add(f"{identifier}.png", encode_mask(rng.integers(0, 256, (14, 17), np.uint8)))
    index = Index(("a", "b"), ids, ("train",) * COUNT, np.tile([17, 14], (COUNT, 1)), np.eye(2, dtype=bool)[np.arange(COUNT) % 2])
    return Samples(Photographs(ArchiveReader(folder / "images.zip"), index), Augmentation(12, (0.8, 1.25), True, (90, 90, 30)), seed=3)


class Net(nn.Module):
    """Everything that has a state: batch norm, dropout, momentum."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.last = nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.last(self.drop(self.norm(self.conv(images.float() / 255 - 0.4)).relu().mean((2, 3))))
        return scores


def trained(samples: Samples, state: State | None, *, at_step: Callable[[int], None] = lambda step: None,
            workers: int = 0) -> tuple[bytes, object, list[int]]:
    """The network's bytes, its loss curve, and the steps that were computed; ``at_step`` is called in the middle of each."""
    torch.manual_seed(0)
    model = Net()
    steps: list[int] = []

    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        step = round(done * STEPS)
        if not steps or steps[-1] != step:
            steps.append(step)
        loss = (model(images) - labels.float()).square().sum(1).mean()
        at_step(step)
        return {"a": loss, "b": loss * 0.5}

    curve = train(model, model.last.parameters(), samples, terms, settings=SETTINGS, seed=1, device=torch.device("cpu"), workers=workers,
                  checkpoints=Checkpoints(state, label="toy") if state else None)
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values()), curve, steps


@pytest.fixture(scope="module")
def whole(samples: Samples) -> tuple[bytes, object]:
    return trained(samples, None)[:2]


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)}
    interrupt.install()
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def failing_at(step: int, action: Callable[[], None]) -> Callable[[int], None]:
    waiting = [step]

    def at_step(reached: int) -> None:
        if waiting and reached == step:  # once, though a batch comes in two parts
            waiting.pop()
            action()
    return at_step


class PowerLoss(BaseException):
    pass


def die() -> None:
    raise PowerLoss


@pytest.mark.parametrize("step", range(STEPS))
def test_a_training_that_dies_in_the_middle_of_any_step_ends_the_same(samples: Samples, whole: tuple[bytes, object], tmp_path: Path,
                                                                               step: int) -> None:
    state = State(tmp_path, every=0)
    with pytest.raises(PowerLoss):
        trained(samples, state, at_step=failing_at(step, die))
    network, curve, steps = trained(samples, state)
    assert (network, curve) == whole
    assert steps == list(range(step, STEPS))
    assert state.resumed == (step > 0)


def test_a_training_that_dies_again_and_again_ends_the_same(samples: Samples, whole: tuple[bytes, object], tmp_path: Path) -> None:
    for step in (2, 3, 9, 14):
        with pytest.raises(PowerLoss):
            trained(samples, State(tmp_path, every=0), at_step=failing_at(step, die))
    assert trained(samples, State(tmp_path, every=0))[:2] == whole


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_end_and_loses_nothing(samples: Samples, whole: tuple[bytes, object], tmp_path: Path, handlers: None,
                                                     signum: signal.Signals, workers: int) -> None:
    state = State(tmp_path, every=3600)
    with pytest.raises(Interrupted):
        trained(samples, state, at_step=failing_at(6, lambda: os.kill(os.getpid(), signum)), workers=workers)
    network, curve, steps = trained(samples, state)
    assert (network, curve) == whole
    assert steps == list(range(7, STEPS))


def test_a_step_that_fails_under_a_signal_is_not_saved(samples: Samples, whole: tuple[bytes, object], tmp_path: Path, handlers: None) -> None:
    def both() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("half a step")

    with pytest.raises(Interrupted):
        trained(samples, State(tmp_path, every=3600), at_step=failing_at(6, both))
    assert not list(tmp_path.rglob("*.pt"))
    assert trained(samples, State(tmp_path, every=3600))[:2] == whole


def interrupted(samples: Samples, folder: Path) -> list[Path]:
    """The checkpoints, oldest first, of a training that died in its ninth step."""
    with pytest.raises(PowerLoss):
        trained(samples, State(folder, every=0), at_step=failing_at(8, die))
    return sorted((folder / "training").iterdir())


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "exchanged", "of another training"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_it_serves(samples: Samples, whole: tuple[bytes, object], tmp_path: Path, damage: str,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    before, last = interrupted(samples, tmp_path)
    content = last.read_bytes()
    middle = len(content) // 2
    last.write_bytes({"flip": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1:], "cut": content[:-100], "empty": b"",
                      "exchanged": before.read_bytes(), "of another training": b"PK" * 500}[damage])
    network, curve, steps = trained(samples, State(tmp_path, every=3600))
    assert (network, curve) == whole
    assert steps == list(range(7, STEPS))
    said = capsys.readouterr().err
    assert f"a checkpoint is damaged, the one before it is taken ({last}" in said
    assert "toy: goes on after batch 7" in said


def test_without_a_sound_checkpoint_the_training_starts_afresh(samples: Samples, whole: tuple[bytes, object], tmp_path: Path) -> None:
    for path in interrupted(samples, tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    network, curve, steps = trained(samples, State(tmp_path, every=3600))
    assert (network, curve) == whole
    assert steps == list(range(STEPS))


def test_two_checkpoints_are_kept_and_none_is_written_before_its_time(samples: Samples, tmp_path: Path) -> None:
    assert len(interrupted(samples, tmp_path / "often")) == 2
    trained(samples, State(tmp_path / "seldom", every=3600))
    assert not (tmp_path / "seldom").exists()


def test_saving_that_takes_long_takes_place_less_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(checkpoints, "time", type("Clock", (), {"monotonic": staticmethod(lambda: now[0])}))
    saved: list[float] = []
    saving = Checkpoints(State(tmp_path, every=10), label="toy")

    def slow() -> dict[str, object]:
        saved.append(now[0])
        now[0] += 3
        return {}

    for step in range(1000):
        now[0] += 1
        saving.offer(step, slow)
    assert saved[0] == 10
    assert all(later - earlier >= 3 / checkpoints.COST for earlier, later in itertools.pairwise(saved))
    assert 3 * len(saved) / now[0] < 0.02


def test_a_full_disk_does_not_stop_the_training(samples: Samples, whole: tuple[bytes, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "write_atomically", full)
    assert trained(samples, State(tmp_path, every=0))[:2] == whole
    assert capsys.readouterr().err.count("cannot keep what is done so far (No space left on device)") == 1


def test_going_on_draws_no_batch_of_the_past() -> None:
    everything = list(batches(7, 2, 20, seed=5))
    for first in range(20):
        assert list(batches(7, 2, 20, seed=5, first=first)) == everything[first:]
    drawn = list(batches(1000, 10, 10**12 + 2, seed=5, first=10**12))  # a replay would never end
    assert [len(batch) for batch in drawn] == [10, 10]
