"""stop: what every round left, and the last useful one, told from images and their labels alone; and how every classifier learned."""

from functools import partial
from pathlib import Path
from typing import Any

from aepsl.data.archive import ArchiveReader
from aepsl.data.index import Index, read_index
from aepsl.data.samples import read_mined
from aepsl.evaluation.tables import write_csv, write_json
from aepsl.mining.record import read_rounds
from aepsl.mining.stop import SaliencySums, last_useful_round
from aepsl.parallel import ALONE, in_processes
from aepsl.params import Compute
from aepsl.progress import progress
from aepsl.resume.state import State
from stages import run

PARAMS = ()
COLUMNS = ("round", "final_loss", "held_out_images", "held_out_accuracy", "chance", "mined_area", "new_area", "new_saliency", "rest_saliency")


def main(p: Any, compute: Compute, state: State, *, index: str, mined: str, saliency: str, out: str) -> int:
    train = read_index(index).split("train")
    regions = ArchiveReader(mined)
    record = read_rounds(regions)
    sums = SaliencySums.empty(len(record))
    work = partial(image_sums, train, regions, ArchiveReader(saliency), len(record))
    parts = in_processes(work, range(len(train)), processes=compute.processes, alone=ALONE)
    for part in progress(parts, total=len(train), label="stop"):
        sums.merge(part)
    rows = [entry | row for entry, row in zip(record, sums.rows(), strict=True)]
    number = last_useful_round(rows)
    curves = [{"training": f"classify@{entry['round']}", "epoch": epoch, "loss": loss}
              for entry in record for epoch, loss in zip(entry.get("epochs", []), entry.get("losses", []), strict=True)]
    write_csv(Path(out) / "losses.csv", curves, ("training", "epoch", "loss"))
    write_csv(Path(out) / "stop.csv", [{name: row[name] for name in COLUMNS} for row in rows], COLUMNS)
    write_json(Path(out) / "stop.json", {"last_useful_round": number, "rounds": len(rows)})
    if number < len(rows):
        print(f"the last useful round is {rows[number - 1]['round'] if number else 'none'} (metrics/stop.csv); see last_round in params.yaml")
    return len(train)


def image_sums(train: Index, mined: ArchiveReader, saliency: ArchiveReader, rounds: int, row: int) -> SaliencySums:
    salient = saliency.mask(f"{train.ids[row]}.png") / 255
    return SaliencySums.empty(rounds).add(read_mined(mined, train, row), salient)


if __name__ == "__main__":
    run(main, params=PARAMS, inputs=("index", "mined", "saliency"), outputs=("out",))
