"""The pipeline itself, in checkouts of its own: for what is measured by running stages, whatever they are made of."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.conftest import Checkout

# Runs what it is told, a list of command lines of `python -m`, each as that would, and says what it took. So start-up is paid once.
SERVER = """
import json, os, runpy, sys, time
told = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    for sys.argv in json.loads(line):
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    print(json.dumps([time.process_time() - cpu, time.perf_counter() - wall]), file=told, flush=True)
"""


def environment(settings: Path) -> dict[str, str]:
    """That of a DVC of its own: nothing of this machine's settings."""
    bare = Checkout.__new__(Checkout)
    bare.folder, bare.owner = settings, {}
    return bare.environment()


class Stages:
    """A process in a checkout that runs stages one after the other; torch and all else is imported once."""

    def __init__(self, work: Checkout) -> None:
        self.work = work
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> "Stages":
        self._process = subprocess.Popen([sys.executable, "-c", SERVER], cwd=self.work.folder, env=self.work.environment(), text=True,
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(self.work.folder / "stages.log").open("a"))
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.communicate()

    def __call__(self, *commands: str | Sequence[str]) -> tuple[float, float]:
        """Run ``stages.x --option …``, each a line or its words; seconds of processor time of that process, and on the wall."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        words = [command.split() if isinstance(command, str) else list(command) for command in commands]
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            log = (self.work.folder / "stages.log").read_text()[-2000:]
            raise RuntimeError(f"{' '.join(words[-1])}: expected the stage to finish, found: {log}")
        cpu, wall = json.loads(answer)
        return cpu, wall


def prepared(folder: Path, parameters: Mapping[str, Any]) -> Checkout:
    """A fresh checkout of the shapes preset with these parameters changed."""
    folder.mkdir(parents=True, exist_ok=True)
    return Checkout(folder, parameters)


# As in dvc.yaml.
DATA = ("stages.download --out data/raw.zip",
        "stages.prepare --raw data/raw.zip --images data/images.zip --truth data/truth.zip --index data/index.csv "
        "--mean-pixel data/mean_pixel.json --metrics metrics",
        "stages.weights --classify data/weights/classify.pth --segment data/weights/segment.pth",
        "stages.start --index data/index.csv --classifier models/classifier/r0.pt --out data/mined/r0.zip "
        "--heatmaps data/heatmaps/r0.zip")
CLASSIFY = ("stages.classify --step r1 --images data/images.zip --index data/index.csv --mean-pixel data/mean_pixel.json "
            "--weights data/weights/classify.pth --previous models/classifier/r0.pt --erased data/mined/r0.zip "
            "--out models/classifier/r1.pt --curve metrics/classifier/r1.csv")
MINE = ("stages.mine --step r1 --images data/images.zip --index data/index.csv --mean-pixel data/mean_pixel.json "
        "--classifier models/classifier/r1.pt --erased data/mined/r0.zip --seen data/heatmaps/r0.zip --out data/mined/r1.zip "
        "--heatmaps data/heatmaps/r1.zip")
