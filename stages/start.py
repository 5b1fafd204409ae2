"""start: round 0, nothing mined or learnt, so that round 1 is no special case; and what would otherwise fail only after hours."""

from typing import Any

from aepsl.data.archive import ArchiveWriter
from aepsl.data.index import read_index
from aepsl.errors import AepslError
from aepsl.mining.record import write_rounds
from aepsl.networks.blank import save_blank
from aepsl.params import Compute
from aepsl.resume.state import State
from aepsl.segmentation.densecrf import require_densecrf
from stages import run

PARAMS = ("merge.indoor_classes", "refine.crf", "refine.backend")


def main(p: Any, compute: Compute, state: State, *, index: str, classifier: str, out: str, heatmaps: str) -> int:
    classes = read_index(index).classes
    if len(classes) < 2:
        raise AepslError(f"data.classes: expected two classes or more, found {len(classes)}: without another class "
                         "every image has the same label and a classifier has nothing to tell apart")
    unknown = set(p.merge.indoor_classes) - set(classes)
    if unknown:
        raise AepslError(f"merge.indoor_classes: expected names out of {', '.join(classes)}, found {', '.join(sorted(unknown))}")
    if p.refine.crf != "none" and p.refine.backend == "pydensecrf":
        require_densecrf()
    save_blank(classifier)
    with ArchiveWriter(out) as archive:
        write_rounds(archive, [])
    with ArchiveWriter(heatmaps):
        pass
    return 0


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("index",), outputs=("classifier", "out", "heatmaps"))
