"""export: the masks of the test images as an archive for the test server, checked like one made elsewhere."""

from pathlib import Path
from typing import Any

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index
from aepsl.errors import FaultList
from aepsl.evaluation.submission import VOC_FOLDER, layout_of, write_submission
from aepsl.evaluation.submission_check import submission_faults
from aepsl.params import Compute
from aepsl.resume.state import State
from stages import run

PARAMS = ()


def main(p: Any, compute: Compute, state: State, *, index: str, predictions: str, out: str) -> int:
    test, masks, archive = read_index(index).split("test"), ArchiveReader(predictions), Path(out)
    layout = layout_of(test.classes)
    write_submission(archive, test.ids, lambda identifier: masks.mask(f"{identifier}.png"), layout=layout)
    sizes = {identifier: (width, height) for identifier, (width, height) in zip(test.ids, test.sizes.tolist(), strict=True)}
    if faults := submission_faults(archive, sizes, folder=layout.folder, highest=layout.highest):
        archive.unlink()
        raise FaultList(f"{out}: {len(faults)} fault(s) in what was predicted, so it is not kept; run `dvc repro -f refine`", faults)
    if not len(test):
        print(f"export: the data set has no test images, so {out} is empty")
    elif layout.folder == VOC_FOLDER:
        print(f"export: {len(test)} masks in {out}, sound for the VOC test server")
    else:
        print(f"export: {len(test)} masks in {out}; the classes are not VOC's 20, so it is not for the VOC test server")
    return len(test)


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("index", "predictions"), outputs=("out",))
