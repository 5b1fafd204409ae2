"""report: a page of what was mined, learnt and predicted, and where it went wrong: report/index.html."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index
from aepsl.mining.record import read_rounds
from aepsl.parallel import ALONE, in_processes
from aepsl.params import Compute
from aepsl.report.gather import Sources, image_entries, loss_curves, overview_of, write_data, write_index_script
from aepsl.report.page import write_page
from aepsl.report.run import write_run
from aepsl.resume.parts import resumed
from aepsl.resume.state import State
from stages import run

# The page shows them all, but for where it ran.
PARAMS = ("seed", "rounds", "last_round", "passes", "relabels", "oracles", "last_pass", "data", "saliency", "classify", "mine", "merge", "segment",
          "relabel", "predict", "refine", "evaluate", "report")


def main(p: Any, compute: Compute, state: State, *, images: str, index: str, heatmaps: str, mined: str, saliency: str, merged: str, labels: str,
         scores: str, predictions: str, truth: str, val: str, pseudo_labels: str, data: str, useful: str, rounds: str, per_class: str,
         classifier: str, segmenter: str, out: str) -> int:
    rows, names, folder = read_index(index), [row["round"] for row in read_rounds(ArchiveReader(mined))], Path(out)
    archives = {name: ArchiveReader(path) for name, path in {
        "images": images, "heatmaps": heatmaps, "mined": mined, "saliency": saliency, "merged": merged, "scores": scores,
        "predictions": predictions, "truth": truth}.items()}
    sources = Sources.of(rows, **archives, labels=None if labels == merged else (p.last_pass, ArchiveReader(labels)), rounds=names,
                         void_as=p.evaluate.void_as, sides=(p.report.thumbnail, p.report.side))
    (folder / "index.html").unlink(missing_ok=True)  # it is written last: where it is, all of it is there
    for old in ("data", "assets"):
        shutil.rmtree(folder / old, ignore_errors=True)

    def entries(some: range) -> Any:
        return in_processes(partial(image_entries, sources=sources), some, processes=compute.processes, alone=ALONE)

    found = resumed(entries, total=len(rows), state=state, label="report")
    gallery, confusion, shards = write_data(folder / "data", found, sources)
    overview = overview_of(names=sources.names, metrics={"val": val, "pseudo_labels": pseudo_labels, "rounds": useful, "data": data}, rounds=rounds,
                           per_class=per_class, confusion=confusion, params={name: plain(getattr(p, name)) for name in PARAMS},
                           curves=loss_curves({"classify": (classifier, names), "segment": (segmenter, p.passes)}))
    write_index_script(folder / "data", gallery, overview, shards)
    write_run(folder / "run.js", root=".", runtime_csv="metrics/runtime.csv")
    write_page(folder, overview, gallery)
    return len(rows)


def plain(value: Any) -> Any:
    """A parameter, or a group of them, as JSON values."""
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else value


if __name__ == "__main__":
    run(main, params=PARAMS, outputs=("out",), inputs=(
        "images", "index", "heatmaps", "mined", "saliency", "merged", "labels", "scores", "predictions", "truth",
        "val", "pseudo-labels", "data", "useful", "rounds", "per-class", "classifier", "segmenter"))
