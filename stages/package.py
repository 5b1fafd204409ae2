"""package: the segmenter as one file for use elsewhere: its tensors, how to predict with it, what it reached."""

from pathlib import Path
from typing import Any

from aepsl.data.archive import parse_json
from aepsl.data.index import read_index
from aepsl.errors import AepslError
from aepsl.networks.packages import Crf, Scores, write_package
from aepsl.params import Compute
from aepsl.resume.state import State
from aepsl.segmentation.presets import crf_settings
from stages import run

PARAMS = ("predict", "refine")


def main(p: Any, compute: Compute, state: State, *, segmenter: str, index: str, val: str, pseudo_labels: str, out: str) -> int:
    photographs = read_index(index)
    settings = crf_settings(p.refine.crf, p.refine.custom)
    digest = write_package(out, segmenter, scales=p.predict.scales, flip=p.predict.flip, prohibit_below=p.predict.prohibit_below,
                           crf=Crf(preset=p.refine.crf, backend=p.refine.backend, settings=settings), largest_side=int(photographs.sizes.max()),
                           metrics=scores_of(val, pseudo_labels))
    print(f"package: {out}, {Path(out).stat().st_size / 2**20:.1f} MiB, sha256 {digest}")
    return 1


def read_metrics(path: str, split: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The numbers of a file of metrics, and how they came about."""
    try:
        content = parse_json(Path(path).read_bytes())
        how = content["how"][0]
        if how["split"] != split:
            raise ValueError(f"metrics of {how['split']}")
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise AepslError(f"{path}: expected metrics of {split}, found others or damaged ones ({error}); run `dvc repro -f evaluate`") from error
    return content, how


def scores_of(val: str, pseudo_labels: str) -> Scores:
    """The numbers that say what the segmenter is worth; None where there was no truth."""
    (numbers, how), (labels, _) = read_metrics(val, "val"), read_metrics(pseudo_labels, "train")
    try:
        interval = "{level:.0%} {method}, {resamples} resamples".format_map(how["interval"]) if how["images"] else None
        return Scores(**{name: numbers.get(name) for name in ("miou", "miou_low", "miou_high", "miou_before_crf", "pixel_accuracy", "yardstick")},
                      images=how["images"], interval=interval, pseudo_label_miou=labels.get("pseudo_label_miou"),
                      pseudo_label_coverage=labels.get("pseudo_label_coverage"))
    except (ValueError, KeyError, TypeError) as error:  # pydantic's errors are ValueErrors
        raise AepslError(f"{val}, {pseudo_labels}: expected shares from 0 to 1 and how they were measured, found others "
                         f"({' '.join(str(error).split())[:300]}); run `dvc repro -f evaluate`") from error


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("segmenter", "index", "val", "pseudo-labels"), outputs=("out",), unit="models")
