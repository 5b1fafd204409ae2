"""export: the masks of the test images as an archive for the test server, checked like one made elsewhere."""

from pathlib import Path
from typing import Any

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import read_index
from aepsl.evaluation.submission import VOC_FOLDER, export_checked, layout_of
from aepsl.params import Compute
from aepsl.resume.state import State
from stages import run

PARAMS = ()


def main(p: Any, compute: Compute, state: State, *, index: str, predictions: str, out: str) -> int:
    test, masks = read_index(index).split("test"), ArchiveReader(predictions)
    layout = layout_of(test.classes)
    sizes = {identifier: (width, height) for identifier, (width, height) in zip(test.ids, test.sizes.tolist(), strict=True)}
    export_checked(Path(out), sizes, lambda identifier: masks.mask(f"{identifier}.png"), layout=layout, advice="run `dvc repro -f refine`")
    if not len(test):
        print(f"export: the data set has no test images, so {out} is empty")
    elif layout.folder == VOC_FOLDER:
        print(f"export: {len(test)} masks in {out}, sound for the VOC test server")
    else:
        print(f"export: {len(test)} masks in {out}; the classes are not VOC's 20, so it is not for the VOC test server")
    return len(test)


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("index", "predictions"), outputs=("out",))
