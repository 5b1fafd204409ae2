"""download: bring the data of data.source into one file in VOC layout."""

from pathlib import Path
from typing import Any

from aepsl.data.sources import pack_raw
from aepsl.params import Compute
from aepsl.resume.state import State
from stages import run

PARAMS = ("data.source", "data.path", "data.shapes", "data.folder", "data.voc2012")


def main(p: Any, compute: Compute, state: State, *, out: str) -> int:
    summary = pack_raw(p.data, Path(out), cache=Path("scratch/downloads"))
    print("download:", summary["source"], ", ".join(f"{split} {number}" for split, number in summary["images"].items()))
    return sum(summary["images"].values())


if __name__ == "__main__":
    run(main, params=PARAMS, outputs=("out",))
