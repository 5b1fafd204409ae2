"""classify@rK: train a fresh classifier on the training images as erased so far (section 3.1)."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index
from aepsl.data.samples import Augmentation, ErasedPhotographs, Samples
from aepsl.evaluation.tables import write_csv
from aepsl.networks.classifier import Classifier, squared_label_loss
from aepsl.networks.files import save_model
from aepsl.networks.trunks import build_trunk, normalise
from aepsl.networks.weights import load_into
from aepsl.params import Compute
from aepsl.training.loop import pick_device, train
from stages import run

PARAMS = ("seed", "classify")


def main(p: Any, compute: Compute, *, step: str, images: str, index: str, mean_pixel: str, weights: str, erased: str, out: str, curve: str) -> int:
    settings, network = p.classify.training, p.classify.network
    rows = read_index(index).split("train")
    fill = json.loads(Path(mean_pixel).read_text())["mean_pixel"]
    photographs = ErasedPhotographs(ArchiveReader(images), rows, ArchiveReader(erased), fill)
    samples = Samples(photographs, Augmentation(settings.crop, tuple(settings.scale), settings.mirror, fill), seed=p.seed)

    torch.manual_seed(p.seed)
    model = Classifier(build_trunk(network.trunk, output_stride=network.output_stride, width=network.width, stages=network.stages), len(rows.classes))
    load_into(model.trunk, Path(weights))

    def terms(pictures: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        inputs = normalise(pictures, model.trunk.preprocessing).contiguous(memory_format=torch.channels_last)
        return {"classification": squared_label_loss(model(inputs), labels, output=p.classify.output)}

    rows_of_curve = train(model, model.last_layer_parameters(), samples, terms, settings=settings, seed=p.seed, device=pick_device(compute.device),
                          workers=compute.workers, label=f"classify@{step}")
    write_csv(curve, rows_of_curve)
    save_model(out, model, network=network, classes=rows.classes,
               facts={"round": step, "final_loss": rows_of_curve[-1]["loss"]})
    return round(rows_of_curve[-1]["epoch"] * len(rows))


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step", "images", "index", "mean-pixel", "weights", "erased", "out", "curve"))
