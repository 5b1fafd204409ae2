"""segment@sN: train the segmenter on pseudo-labels with prohibitive segmentation learning (section 3.3)."""

from pathlib import Path
from typing import Any

import torch

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index, read_mean_pixel
from aepsl.data.samples import Augmentation, Photographs, Samples
from aepsl.evaluation.tables import write_csv
from aepsl.networks.devices import pick_device
from aepsl.networks.files import save_model, start_from_classifier
from aepsl.networks.segmenter import Segmenter
from aepsl.networks.trunks import build_trunk
from aepsl.networks.weights import load_into
from aepsl.params import Compute
from aepsl.resume.state import State
from aepsl.segmentation.prohibitive import SegmentationTerms
from aepsl.training.checkpoints import Checkpoints
from aepsl.training.loop import train
from stages import run

PARAMS = ("seed", "segment")


def main(p: Any, compute: Compute, state: State, *, step: str, images: str, index: str, mean_pixel: str, weights: str, classifier: str, labels: str,
         out: str, curve: str) -> int:
    settings, network = p.segment.training, p.segment.network
    rows = read_index(index).split("train")
    fill = read_mean_pixel(mean_pixel)
    samples = Samples(Photographs(ArchiveReader(images), rows), Augmentation(settings.crop, tuple(settings.scale), settings.mirror, fill),
                      seed=p.seed, masks=ArchiveReader(labels))

    torch.manual_seed(p.seed)
    model = Segmenter(build_trunk(network.trunk, output_stride=network.output_stride, width=network.width, stages=network.stages), len(rows.classes),
                      with_classification=p.segment.psl == "predicted")
    load_into(model.trunk, Path(weights))
    if p.segment.start == "classifier":
        start_from_classifier(classifier, model)
    model.trunk.freeze(network.frozen_stages)
    terms = SegmentationTerms(model, psl=p.segment.psl, classification_weight=p.segment.classification_weight,
                              online_from=p.segment.online_from, output=p.segment.output)
    rows_of_curve = train(model, model.last_layer_parameters(), samples, terms, settings=settings, seed=p.seed, device=pick_device(compute.device),
                          workers=compute.loaders, checkpoints=Checkpoints(state, label=f"segment@{step}"), ranks=state.ranks,
                          label=f"segment@{step}")
    if not state.ranks.main:
        return 0
    write_csv(curve, rows_of_curve)
    save_model(out, model, network=network, classes=rows.classes,
               facts={"pass": step, "psl": p.segment.psl, "output": p.segment.output, "final_loss": rows_of_curve[-1]["loss"]})
    return round(rows_of_curve[-1]["epoch"] * len(rows))


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step",), inputs=("images", "index", "mean-pixel", "weights", "classifier", "labels"), outputs=("out", "curve"),
        ranked=True)
