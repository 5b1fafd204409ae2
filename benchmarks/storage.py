"""10,582 masks, as many as VOC's "trainaug": written, hashed by DVC, pushed, pulled, read in any order. One zip against a folder of PNGs."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.parallel import in_processes
from benchmarks import limits
from benchmarks.checkouts import environment
from benchmarks.data import photographs, truth_and_prediction
from benchmarks.harness import in_turn, row, seconds_of, tell
from benchmarks.peers import storage as peers
from benchmarks.results import Row

STEPS = {"write": "written", "add": "hashed (`dvc add`)", "push": "pushed to a folder as remote", "pull": "pulled into a fresh clone",
         "read": "read in random order", "decode": "read in random order and decoded"}


class Side:
    """One way of keeping masks, in a DVC repository of its own."""

    def __init__(self, folder: Path, artefact: str) -> None:
        self.folder, self.artefact = folder, artefact
        self.work, self.clone = folder / "work", folder / "clone"
        self.work.mkdir(parents=True)
        self.environment = environment(folder / "settings") | {
            f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in (("NAME", "bench"), ("EMAIL", "bench@localhost"))}
        self.call("git", "init", "--quiet")
        self.dvc("init", "--quiet")
        self.dvc("remote", "add", "--quiet", "--default", "store", str(folder / "remote"))

    def call(self, *command: str, where: Path | None = None) -> None:
        subprocess.run(command, cwd=where or self.work, env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def dvc(self, *words: str, where: Path | None = None) -> None:
        self.call(sys.executable, "-m", "dvc", *words, where=where)

    def steps(self, masks: Sequence[tuple[str, bytes]], names: Sequence[str]) -> Iterator[tuple[str, float]]:
        """Seconds of every step but reading and decoding."""
        yield "write", seconds_of(partial(self.write, masks), "wall")
        yield "add", seconds_of(lambda: self.dvc("add", "--quiet", self.artefact), "wall")
        self.call("git", "add", "--all")
        self.call("git", "commit", "--quiet", "-m", "masks")
        yield "push", seconds_of(lambda: self.dvc("push", "--quiet"), "wall")
        self.call("git", "clone", "--quiet", str(self.work), str(self.clone))
        yield "pull", seconds_of(lambda: self.dvc("pull", "--quiet", where=self.clone), "wall")

    def write(self, masks: Sequence[tuple[str, bytes]]) -> None:
        if self.artefact == "masks":
            peers.write(self.work / self.artefact, masks)
        else:
            with ArchiveWriter(self.work / self.artefact) as out:
                for name, data in masks:
                    out.add(name, data)

    def read(self, names: Sequence[str]) -> int:
        """Bytes read."""
        if self.artefact == "masks":
            return peers.read(self.clone / self.artefact, names)
        archive = ArchiveReader(self.clone / self.artefact)
        return sum(len(archive.read(name)) for name in names)

    def decode(self, names: Sequence[str]) -> int:
        """Sum of all pixels."""
        if self.artefact == "masks":
            return peers.decode(self.clone / self.artefact, names)
        archive = ArchiveReader(self.clone / self.artefact)
        return sum(int(archive.mask(name).sum()) for name in names)


def topic(quick: bool) -> Iterator[Row]:
    """A row per step, and one for their sum."""
    count, repeats = (40, 1) if quick else (10_582, 2)
    base = [mask for _, mask in photographs(3 if quick else 24)]
    pairs = in_processes(partial(truth_and_prediction, base), range(count))
    masks = [(f"2012_{number:06d}.png", truth) for number, (truth, _) in enumerate(pairs)]
    names = [masks[place][0] for place in np.random.default_rng(0).permutation(count)]
    size = sum(len(data) for _, data in masks)
    seconds: dict[str, dict[str, list[float]]] = {step: {"masks.zip": [], "masks": []} for step in STEPS}
    sums = set()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        disk, md5 = limits.write_rate(folder), limits.md5_rate()
        for number in range(repeats):
            sides = [Side(folder / f"{number}{artefact}", artefact) for artefact in ("masks.zip", "masks")]
            for pair in zip(*(side.steps(masks, names) for side in sides), strict=True):
                for side, (step, taken) in zip(sides, pair, strict=True):
                    seconds[step][side.artefact].append(taken)
            ours, theirs = sides
            sums |= {ours.decode(names), theirs.decode(names)}
            for step, works in (("read", [side.read for side in sides]), ("decode", [side.decode for side in sides])):
                taken = in_turn(*(partial(work, names) for work in works), repeats=1, clock="wall")
                for side, took in zip(sides, taken, strict=True):
                    seconds[step][side.artefact].append(took)
            for side in sides:
                shutil.rmtree(side.folder)
    costs = {step: [float(np.median(values)) for values in sides.values()] for step, sides in seconds.items()}
    equal = f"the sum of all pixels read back is {'the same' if len(sums) == 1 else 'NOT the same'}"
    bound = {"write": f"{size / 1e6:.1f} MB at the {disk / 1e6:.0f} MB/s of a file written and fsynced here are {size / disk:.2f} s. The rest is "
                      "Python's zip writer, some 30 µs per entry, and checksums. The folder is not brought to the disk at all.",
             "add": f"MD5 of {size / 1e6:.1f} MB at {md5 / 1e6:.0f} MB/s is {size / md5:.2f} s; nearly all else is DVC starting.",
             "push": f"A copy of {size / 1e6:.1f} MB, {size / disk:.2f} s of disk; the rest is DVC starting. A bucket would cost the folder "
                     f"{count:,} requests and us one.",
             "pull": "As pushing, backwards; the folder's files are made one by one in cache and working tree.",
             "read": f"{size / 1e6:.1f} MB from memory, where both lie by then. Ours reads the archive's table of contents first, and compares every "
                     "checksum; a file costs the system a call to open it.",
             "decode": "Both must inflate the same PNGs, which is most of the time: no way of storing can be 5 times as fast at that."}
    for step, (ours_took, peer_took) in costs.items():
        yield row(f"{count:,} masks, {STEPS[step]}", ours_took, peer_took, unit="s", aim=5, limit=bound[step],
                  equal=equal if step == "decode" else "", repeats=repeats)
    total = [sum(both) for both in zip(*(both for step, both in costs.items() if step != "decode"), strict=True)]
    yield row(f"{count:,} masks, written, hashed, pushed, pulled and read", *total, unit="s", aim=5, repeats=repeats,
              limit=f"{size / 1e6:.1f} MB written three times and hashed once: {3 * size / disk + size / md5:.2f} s. Three starts of DVC are most of "
                    "the rest.")


if __name__ == "__main__":
    tell(topic)
