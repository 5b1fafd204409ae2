"""prepare: check every image, label and mask; write the index, the images, the truth and the mean training pixel."""

from pathlib import Path
from typing import Any

from aepsl.data.prepare import prepare
from aepsl.evaluation.tables import write_csv, write_json
from aepsl.params import Compute
from aepsl.resume.state import State
from stages import run

PARAMS = ("data.classes", "data.unlisted")


def main(p: Any, compute: Compute, state: State, *, raw: str, images: str, truth: str, index: str, mean_pixel: str, metrics: str) -> int:
    facts = prepare(Path(raw), classes=p.data.classes, unlisted=p.data.unlisted, images=Path(images), truth=Path(truth),
                    index=Path(index), mean_pixel=Path(mean_pixel))
    per_class = facts.pop("train_images_per_class")
    write_json(Path(metrics) / "data.json", facts)
    write_csv(Path(metrics) / "train_images.csv", [{"class": name, "images": number} for name, number in per_class.items()])
    return sum(facts["images"].values())


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("raw",), outputs=("images", "truth", "index", "mean-pixel", "metrics"))
