"""oracle_labels@NAME: the true masks as the labels of a pass, for the fully supervised bound that weak supervision is measured against.

Training on the truth is what the method does without, hence the name; no preset runs this stage.
"""

from typing import Any

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.data.index import read_index
from aepsl.errors import FaultList
from aepsl.params import Compute
from aepsl.resume.state import State
from stages import run

PARAMS = ()


def main(p: Any, compute: Compute, state: State, *, step: str, index: str, truth: str, out: str) -> int:
    names = [f"{identifier}.png" for identifier in read_index(index).split("train").ids]
    masks = ArchiveReader(truth)
    if missing := [name for name in names if name not in masks]:
        raise FaultList(f"oracles: {step}: expected a true mask of every training image, found none of {len(missing)} out of {len(names)}; "
                        "add the masks to the data, or set oracles to []", missing, shown=5)
    with ArchiveWriter(out) as archive:
        for name in names:
            archive.add(name, masks.read(name))
    return len(names)


if __name__ == "__main__":
    run(main, params=PARAMS, options=("step",), inputs=("index", "truth"), outputs=("out",))
