"""`dvc repro` of the demo, everything computed, against the same stages called one after the other in one process without DVC."""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.checkouts import Stages, prepared
from benchmarks.harness import row, tell
from benchmarks.results import Row
from tests.conftest import TINY, commands

PRODUCTS = ("data", "models", "metrics", "report")


def topic(quick: bool) -> Iterator[Row]:
    """Rows: the demo, and what DVC alone takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        work = prepared(folder / "dvc", TINY if quick else {})

        def call(*command: str) -> float:
            start = time.perf_counter()
            subprocess.run(command, cwd=work.folder, env=work.environment(), check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - start

        call("git", "init", "--quiet")
        ours = call(sys.executable, "-m", "dvc", "repro", "--quiet")
        idle = min(call(sys.executable, "-m", "dvc", "repro", "--quiet") for _ in range(1 if quick else 3))
        words = [command.split()[2:] for command in commands(work)]
        plain = prepared(folder / "plain", TINY if quick else {})
        start = time.perf_counter()
        with Stages(plain) as stages:
            stages(*words)
        peer = time.perf_counter() - start
        equal = [out for out in ("data/predictions.zip", "metrics/val.json") if (work / out).read_bytes() != (plain / out).read_bytes()]
        starts = [call(sys.executable, "-c", "import torch") for _ in range(2)]
        shutil.rmtree(work.folder)
    yield row("the whole demo, `dvc repro` against one process without DVC", ours, peer, unit="s", aim=1 / 1.1,
              equal="predictions and scores are the same bytes" if not equal else f"{' and '.join(equal)} DIFFER",
              limit=f"DVC itself takes {idle:.1f} s (a `dvc repro` that finds nothing to do). Each of {len(words)} stages is a process of its own, "
                    f"so that it "
                    f"can be killed and run alone, and starts Python anew: importing torch takes {min(starts):.1f} s here, once in one process, "
                    f"and once in every "
                    "stage that needs it under DVC.")


if __name__ == "__main__":
    tell(topic)
