"""start: round 0, nothing mined, so that round 1 is no special case."""

from typing import Any

from aepsl.data.archive import ArchiveWriter
from aepsl.data.index import read_index
from aepsl.mining.record import write_rounds
from aepsl.params import Compute
from stages import run

PARAMS = ()


def main(p: Any, compute: Compute, *, index: str, out: str) -> int:
    read_index(index)
    with ArchiveWriter(out) as archive:
        write_rounds(archive, [])
    return 0


if __name__ == "__main__":
    run(main, params=PARAMS, options=("index", "out"))
