"""classify@rK: train a classifier on the training images as erased so far (section 3.1)."""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index, read_mean_pixel
from aepsl.data.samples import Augmentation, ErasedPhotographs, Samples
from aepsl.errors import AepslError
from aepsl.evaluation.tables import write_csv
from aepsl.mining.held_out import held_out_accuracy
from aepsl.mining.record import read_rounds
from aepsl.networks.classifier import Classifier, squared_label_loss
from aepsl.networks.files import continue_classifier, save_model
from aepsl.networks.inference import engine_for
from aepsl.networks.trunks import build_trunk, normalise
from aepsl.networks.weights import load_into
from aepsl.params import Compute
from aepsl.resume.state import State
from aepsl.training.checkpoints import Checkpoints
from aepsl.training.loop import train
from stages import run

PARAMS = ("seed", "classify")


def main(p: Any, compute: Compute, state: State, *, step: str, images: str, index: str, mean_pixel: str, weights: str, previous: str, erased: str,
         out: str, curve: str) -> int:
    settings, network, further = p.classify.training, p.classify.network, p.classify.further_rounds
    before = ArchiveReader(erased)
    if read_rounds(before) and further.length:
        settings = settings.model_copy(update={"length": further.length})
    fill = read_mean_pixel(mean_pixel)
    rows, held_out = read_index(index).split("train").hold_out(p.classify.held_out)
    if not len(rows):
        raise AepslError(f"classify.held_out: expected a share that leaves images to learn from, found {p.classify.held_out}, "
                         f"which takes all {len(held_out)} training images; lower it")
    as_erased = partial(ErasedPhotographs, ArchiveReader(images), mined=before, fill=fill)
    samples = Samples(as_erased(rows), Augmentation(settings.crop, tuple(settings.scale), settings.mirror, fill), seed=p.seed)

    torch.manual_seed(p.seed)
    model = Classifier(build_trunk(network.trunk, output_stride=network.output_stride, width=network.width, stages=network.stages), len(rows.classes))
    load_into(model.trunk, Path(weights))
    if further.start == "previous":
        continue_classifier(previous, model)
    model.trunk.freeze(network.frozen_stages)

    def terms(pictures: Tensor, labels: Tensor, mask: Tensor | None, done: float) -> dict[str, Tensor]:
        inputs = normalise(pictures, model.trunk.preprocessing).contiguous(memory_format=torch.channels_last)
        return {"classification": squared_label_loss(model(inputs), labels, output=p.classify.output)}

    engine = engine_for(compute)
    rows_of_curve = train(model, model.last_layer_parameters(), samples, terms, settings=settings, seed=p.seed, device=engine.device,
                          workers=compute.loaders, checkpoints=Checkpoints(state, label=f"classify@{step}"), ranks=state.ranks,
                          label=f"classify@{step}")
    if not state.ranks.main:
        return 0
    write_csv(curve, rows_of_curve)
    scale = math.sqrt(math.prod(settings.scale))
    held = held_out_accuracy(model, as_erased(held_out), scale=scale, engine=engine)
    save_model(out, model, network=network, classes=rows.classes,
               facts={"round": step, "epochs": [row["epoch"] for row in rows_of_curve], "losses": [row["loss"] for row in rows_of_curve],
                      "final_loss": rows_of_curve[-1]["loss"], "scale": scale, "held_out_images": len(held_out),
                      "held_out_accuracy": held and held.accuracy, "chance": held and held.chance})
    return round(rows_of_curve[-1]["epoch"] * len(rows))


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step",), inputs=("images", "index", "mean-pixel", "weights", "previous", "erased"), outputs=("out", "curve"),
        ranked=True)
