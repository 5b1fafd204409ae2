"""What ``train`` does to a network, step by step: its optimiser as torch sees it, and its updates by hand."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.data.index import Index
from aepsl.data.samples import Augmentation, Photographs, Samples
from aepsl.networks.classifier import Classifier, squared_label_loss
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import build_trunk, normalise
from aepsl.params import Training
from aepsl.training.loop import train

PAPER = Training(length=4, unit="iterations", batch=2, accumulate=1, crop=33, scale=[1.0, 1.0], mirror=True, lr=0.001, schedule="step",
                 lr_steps=[2, 3], momentum=0.9, weight_decay=0.0005, last_layer_lr=10.0, bias_lr=2.0, batch_norm="train")


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng([2])
    with ArchiveWriter(folder / "images.zip") as out:
        for number in range(4):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (33, 33, 3), np.uint8)).save(buffer, "PNG")
            out.add(f"i{number}.png", buffer.getvalue())
    index = Index(("a", "b"), ("i0", "i1", "i2", "i3"), ("train",) * 4, np.full((4, 2), 33), np.eye(2, dtype=bool)[[0, 1, 0, 1]])
    return Samples(Photographs(ArchiveReader(folder / "images.zip"), index), Augmentation(33, (1, 1), True, (0, 0, 0)), seed=1)


class Watch:
    """Every step of any optimiser while it is open: its groups, and each parameter and gradient just before the step."""

    def __init__(self, names: dict[int, str]) -> None:
        self.names = names
        self.steps: list[dict[str, dict[str, Any]]] = []

    def __enter__(self) -> "Watch":
        self._handle = register_optimizer_step_pre_hook(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _record(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        assert type(optimiser) is torch.optim.SGD
        self.steps.append({self.names[id(parameter)]: {key: value for key, value in group.items() if key != "params"}
                           | {"value": parameter.detach().double().clone(), "gradient": parameter.grad.double().clone()}
                           for group in optimiser.param_groups for parameter in group["params"]})


def terms_of(model: nn.Module, segmenter: bool) -> Callable[[Tensor, Tensor, Tensor | None, float], dict[str, Tensor]]:
    def terms(images: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        inputs = normalise(images, "imagenet")
        if not segmenter:
            return {"classification": squared_label_loss(model(inputs), labels, output="softmax")}
        scores, class_scores = model(inputs)
        return {"scores": scores.square().mean(), "classes": class_scores.square().mean()}
    return terms


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_train_steps_as_the_release_does_and_as_computed_by_hand(samples: Samples, kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    trunk = build_trunk("vgg16", output_stride=8, width=0.02, generator=generator)
    model = Classifier(trunk, 2, generator=generator) if kind == "classifier" else Segmenter(trunk, 2, with_classification=True, generator=generator)
    heads = ("fc.",) if kind == "classifier" else ("segment.", "classify.")
    with Watch({id(parameter): name for name, parameter in model.named_parameters()}) as watch:
        train(model, model.last_layer_parameters(), samples, terms_of(model, kind == "segmenter"), settings=PAPER, seed=1, device=torch.device("cpu"))
    assert len(watch.steps) == 4
    after = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    velocity = {name: torch.zeros_like(value) for name, value in after.items()}
    for number, step in enumerate(watch.steps):
        assert step.keys() == after.keys()
        following = after if number == 3 else {name: facts["value"] for name, facts in watch.steps[number + 1].items()}
        for name, facts in step.items():
            head, bias = name.startswith(heads), name.endswith(".bias")
            rate = 0.001 * (1, 1, 0.1, 0.01)[number] * (10 if head else 1) * (2 if bias else 1)  # ÷10 at iterations 2 and 3
            decay = 0.0 if bias else 0.0005
            assert facts["lr"] == pytest.approx(rate)
            assert (facts["momentum"], facts["weight_decay"], facts["dampening"], facts["nesterov"]) == (0.9, decay, 0, False)
            velocity[name] = 0.9 * velocity[name] + facts["gradient"] + decay * facts["value"]
            torch.testing.assert_close(following[name], facts["value"] - rate * velocity[name], rtol=0, atol=2e-7)
        assert max(rate_of["lr"] for rate_of in step.values()) == pytest.approx(0.02 * (1, 1, 0.1, 0.01)[number])  # the last layer's bias
    moved = max((after[name] - facts["value"]).abs().max().item() for name, facts in watch.steps[0].items())
    assert moved > 1e-5  # far above the tolerance


def test_the_poly_schedule_reaches_the_optimiser(samples: Samples) -> None:
    model = Classifier(build_trunk("vgg16", output_stride=8, width=0.02), 2)
    with Watch({id(parameter): name for name, parameter in model.named_parameters()}) as watch:
        train(model, model.last_layer_parameters(), samples, terms_of(model, False), settings=PAPER.model_copy(update={"schedule": "poly"}), seed=1,
              device=torch.device("cpu"))
    expected = [0.02 * (1 - step / 4) ** 0.9 for step in range(4)]
    assert [step["fc.bias"]["lr"] for step in watch.steps] == pytest.approx(expected)
