import copy
import re
import traceback

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.data.samples import Samples
from aepsl.errors import AepslError
from aepsl.networks.devices import pick_device
from aepsl.params import Training
from aepsl.training import loop
from aepsl.training.loop import train
from tests.training.toy import toy_samples

CPU = torch.device("cpu")
COUNT = 10


def settings(**changes: object) -> Training:
    defaults = {"length": 2, "unit": "epochs", "batch": 5, "accumulate": 1, "crop": 32, "scale": [1.0, 1.0], "mirror": True, "lr": 0.1,
                "schedule": "step", "lr_steps": [], "momentum": 0.9, "weight_decay": 0.0005, "last_layer_lr": 10.0, "bias_lr": 2.0,
                "batch_norm": "train"}
    return Training(**defaults | changes)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Samples:
    """Noise, red for class 1 and green for class 2."""
    return toy_samples(tmp_path_factory.mktemp("toy"), COUNT)


class Net(nn.Module):
    def __init__(self, *, norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.drop = nn.Dropout(dropout)
        self.last = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.drop(self.norm(self.conv(images.float() / 255 - 0.4)).relu().mean((2, 3))))


def net(**options: object) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net(**options)


def squared(model: nn.Module):
    return lambda images, labels, mask, done: {"squared": (model(images) - labels.float()).square().sum(1).mean()}


def trained(samples: Samples, model: Net, terms=None, *, seed: int = 1, workers: int = 0, **changes: object) -> list[dict[str, float]]:
    return train(model, model.last.parameters(), samples, terms or squared(model), settings=settings(**changes), seed=seed, device=CPU,
                 workers=workers)


def weights(model: nn.Module) -> bytes:
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def test_the_loss_of_a_problem_that_can_be_learned_falls(samples):
    model = net()
    curve = trained(samples, model, length=15, lr=0.02)
    assert curve[-1]["loss"] < 0.2 * curve[0]["loss"]
    assert not model.training


def test_terms_see_uint8_images_boolean_labels_and_the_mask(samples):
    model = net()
    seen = []

    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        assert mask is not None
        seen.append((images.shape, images.dtype, labels.shape, labels.dtype, mask.shape, mask.dtype))
        assert torch.equal(mask.flatten(1).amin(1), labels.int().argmax(1) + 1)
        return squared(model)(images, labels, mask, done)

    trained(samples, model, terms, length=1)
    assert seen == [((5, 3, 12, 12), torch.uint8, (5, 2), torch.bool, (5, 12, 12), torch.uint8)] * 2


def test_without_pseudo_labels_there_is_no_mask(samples):
    model = net()
    plain = Samples(samples.photographs, samples._augmentation, seed=3)

    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        assert mask is None
        return squared(model)(images, labels, mask, done)

    assert len(trained(plain, model, terms, length=1)) == 1


def rates(samples: Samples, monkeypatch: pytest.MonkeyPatch, **changes: object) -> list[dict[str, float]]:
    """Learning rate of every group at every iteration."""
    made, seen, model = [], [], net()
    make = loop.make_optimiser
    monkeypatch.setattr(loop, "make_optimiser", lambda *arguments: made.append(make(*arguments)) or made[-1])

    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        seen.append({group["name"]: group["lr"] for group in made[0].param_groups})
        return squared(model)(images, labels, mask, done)

    trained(samples, model, terms, **changes)
    return seen


@pytest.mark.parametrize(("changes", "factors"), [
    ({"length": 3, "unit": "epochs", "lr_steps": [1, 2]}, [1, 1, 0.1, 0.1, 0.01, 0.01]),
    ({"length": 5, "unit": "iterations", "lr_steps": [1, 4]}, [1, 0.1, 0.1, 0.1, 0.01]),
    ({"length": 1.5, "unit": "epochs", "schedule": "poly"}, [1, (2 / 3) ** 0.9, (1 / 3) ** 0.9]),
    ({"length": 0.1, "unit": "epochs"}, [1]),
    ({"length": 2, "unit": "epochs", "batch": 64}, [1, 1]),  # fewer images than a batch: one iteration an epoch
    ({"length": 2, "unit": "epochs", "batch": 4, "lr_steps": [1]}, [1, 1, 0.1, 0.1]),  # 2 of 10 images left out
])
def test_lengths_and_schedules_count_in_their_unit_and_move_all_groups(samples, monkeypatch, changes, factors):
    found = rates(samples, monkeypatch, lr=0.001, **changes)
    for name, rate in (("trunk weights", 0.001), ("trunk biases", 0.002), ("last weights", 0.01), ("last biases", 0.02)):
        assert [step[name] for step in found] == pytest.approx([rate * factor for factor in factors])


def test_the_curve_has_a_row_per_epoch_with_every_term_averaged_over_its_images(samples):
    model = net()
    steps = iter(range(1, 100))

    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        anchor = 0 * model(images).sum()
        return {"one": anchor + next(steps), "ten": anchor + 10}

    curve = trained(samples, model, terms, length=5, unit="iterations", lr_steps=[3])
    assert curve == [{"epoch": 1, "lr": 0.1, "loss": 11.5, "one": 1.5, "ten": 10},
                     {"epoch": 2, "lr": pytest.approx(0.01), "loss": 13.5, "one": 3.5, "ten": 10},
                     {"epoch": 2.5, "lr": pytest.approx(0.01), "loss": 15, "one": 5, "ten": 10}]


def test_the_parts_of_an_accumulated_batch_count_by_their_images(samples):
    model = net()

    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        return {"images": 0 * model(images).sum() + len(images)}

    [row] = trained(samples, model, terms, length=1, accumulate=2)
    assert row == {"epoch": 1, "lr": 0.1, "loss": pytest.approx((3 * 3 + 2 * 2) / 5)}


@pytest.mark.parametrize("parts", [2, 5, 64])
def test_accumulated_gradients_are_those_of_the_whole_batch(samples, parts):
    whole, in_parts = net(), net()
    expected = trained(samples, whole, lr=0.01)
    found = trained(samples, in_parts, lr=0.01, accumulate=parts)
    for one, two in zip(whole.parameters(), in_parts.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training_and_names_the_batch(samples, value):
    model = net()
    count, before = 0, b""

    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        nonlocal count, before
        count += 1
        if count == 3:
            before = weights(model)
        return {"good": model(images).square().mean(), "bad": model(images).mean() * (value if count == 3 else 1)}

    with pytest.raises(AepslError, match=r"at iteration 3; images of the batch: i\d(, i\d){3}\. Lower training\.lr") as caught:
        trained(samples, model, terms, batch=4, length=9)
    assert len(set(re.findall(r"\bi\d\b", str(caught.value)))) == 4
    assert weights(model) == before


def test_equal_seeds_give_equal_bytes_whatever_the_workers_and_the_global_generator(samples):
    def run(seed: int, workers: int, noise: int) -> tuple[bytes, list[dict[str, float]]]:
        model = net(dropout=0.5, norm=True)
        torch.manual_seed(noise)
        curve = trained(samples, model, seed=seed, workers=workers)
        return weights(model), curve

    first = run(1, 0, 5)
    assert run(1, 2, 6) == first
    assert run(2, 0, 5)[0] != first[0]


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale(samples):
    model = net(norm=True)
    model.norm.running_mean.fill_(0.5)
    before = copy.deepcopy(model.norm.state_dict())
    trained(samples, model, batch_norm="frozen")
    after = model.norm.state_dict()
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        assert torch.equal(before[name], after[name])
    assert not torch.equal(before["weight"], after["weight"])


def test_batch_norm_in_training_moves_its_statistics(samples):
    model = net(norm=True)
    trained(samples, model)
    assert model.norm.num_batches_tracked == 4
    assert model.norm.running_mean.abs().sum() > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_cannot_be_read_is_named(samples, tmp_path, workers):
    with ArchiveWriter(tmp_path / "labels.zip") as out:
        out.add("other.png", b"")
    broken = Samples(samples.photographs, samples._augmentation, seed=3, masks=ArchiveReader(tmp_path / "labels.zip"))
    with pytest.raises(AepslError, match=r"labels\.zip: expected an entry 'i\d\.png'") as caught:
        trained(broken, net(), workers=workers)
    traceback.clear_frames(caught.value.__traceback__)  # or the workers wait for the garbage collector


@pytest.mark.parametrize(("cuda", "mps", "asked", "expected"), [
    (True, True, "auto", "cuda"), (False, True, "auto", "mps"), (False, False, "auto", "cpu"),
    (True, False, "cpu", "cpu"), (True, False, "cuda:1", "cuda:1")])
def test_the_device_is_the_one_asked_for_or_the_fastest(monkeypatch, cuda, mps, asked, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device(asked) == torch.device(expected)


def test_a_device_that_is_not_there_is_an_explained_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AepslError, match=r"compute\.device: cuda:0 asked for, but torch finds no CUDA device; use auto or cpu"):
        pick_device("cuda:0")


class Late:
    """What CUDA's events are to the loop: something to wait for."""

    def __init__(self, waited: list[int], step: int) -> None:
        self._waited, self._step = waited, step

    def synchronize(self) -> None:
        self._waited.append(self._step)


@pytest.mark.parametrize(("bad", "parts"), [(None, 1), (3, 1), (3, 2), (4, 1)])
def test_a_loss_that_comes_late_is_looked_at_a_step_later_and_never_saved_or_returned_unseen(samples, monkeypatch, bad, parts):
    """As on a GPU, without one: every loss is handed over only when it is waited for."""
    waited, steps, saved = [], [], []
    monkeypatch.setattr(loop, "_lag", lambda device, ranks: 1)
    monkeypatch.setattr(loop._Report, "add",
                        lambda self, names, told, weight: self._awaited.append((names, told, weight, Late(waited, self.step))))
    model = net()

    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        steps.append((len(steps) // parts, len(waited) // parts))
        return {"loss": model(images).mean() * (float("nan") if len(steps) // parts == bad else 1.0)}

    class Saving:
        def latest(self) -> None:
            return None

        def offer(self, step: int, content) -> None:
            if step == 2:
                saved.append(content()["sums"])

        save = offer

    def run() -> list[dict[str, float]]:
        return train(model, model.last.parameters(), samples, terms, settings=settings(batch=2, length=2, accumulate=parts), seed=1, device=CPU,
                     checkpoints=Saving())

    if bad is None:
        curve = run()
        assert len(curve) == 2
        assert all(np.isfinite(row["loss"]) for row in curve)
        assert waited == list(range(10))
        # One behind, but for what is asked for when it is saved, after step 2, and at the end of an epoch.
        assert steps == [(0, 0), (1, 0), (2, 2), (3, 2), (4, 3), (5, 5), (6, 5), (7, 6), (8, 7), (9, 8)]
        assert list(saved[0]) == ["loss"]
    else:
        with pytest.raises(AepslError, match=rf"the loss became nan at iteration {bad}; images of the batch: i\d, i\d\."):
            run()
        assert len(steps) // parts <= bad + 1


def test_a_worker_learns_that_it_is_done_without_a_lock_that_a_killed_one_could_keep() -> None:
    flag = loop._Forking().Event()
    assert not flag.is_set()
    worker = loop._Forking().Process(target=flag.set)
    worker.start()
    worker.join()
    assert flag.is_set()
    assert not any(hasattr(value, "acquire") for value in vars(flag).values())


def test_a_worker_is_silent_on_a_main_process_that_let_go_but_not_on_a_fault(capsys) -> None:
    for error, said in ((EOFError(), False), (ConnectionResetError(), False), (KeyError("lost"), True)):
        loop._tell_unless_left(type(error), error, None)
        assert (type(error).__name__ in capsys.readouterr().err) == said
