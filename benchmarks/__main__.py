"""make bench: our ways beside those in use today, in turn in one run, medians over repeats; docs/performance.md shows the table.

    python -m benchmarks                # all topics, some 25 minutes on two cores
    python -m benchmarks crf saliency   # these alone: their rows are replaced, all others stay
    python -m benchmarks --quick        # that everything runs, on a few small images; measures nothing and keeps nothing
    python -m benchmarks gpu            # rows for a CUDA device, where there is one
    python -m benchmarks.growth         # time and memory by the number of images: apart, it takes an hour

Each topic runs in a process of its own. One that fails is named at the end, with status 1; the rows of the others are kept.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import rows_in
from benchmarks.results import PAGE, RESULTS, ROOT, machine, merged, read, write_results

# Topic: most seconds it may take. The modules of this package have these names.
TOPICS = {"crf": 600, "heatmaps": 600, "training": 600, "evaluation": 600, "saliency": 300, "storage": 900, "report": 300, "pipeline": 1800,
          "gpu": 1800}


def main() -> int:
    """Run the chosen topics; the number of those that failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("topics", nargs="*", help=f"out of {', '.join(TOPICS)}; none = all")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if unknown := [name for name in given.topics if name not in TOPICS]:
        parser.error(f"expected topics out of {', '.join(TOPICS)}, found {', '.join(unknown)}")
    failed = []
    for name in given.topics or TOPICS:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "rows"
            fault = run(name, out, quick=given.quick)
            rows = [{"topic": name, **row, "date": machine()["date"]} for row in rows_in(out)]
        if rows and not given.quick:
            write_results(merged(read(), [name], rows, machine(), list(TOPICS)))
        for row in rows:
            verdict = "" if row["aim"] is None else "  met" if row["ratio"] >= row["aim"] else "  MISSED"
            print(f"{row['name'][:96]:96} {row['ours']:>10} {row['peer']:>10} {row['unit']:14} ratio {row['ratio']:>8}{verdict}", flush=True)
        print(f"[{name}: {time.perf_counter() - start:.0f} s]", flush=True)
        if fault:
            failed.append(f"{name}: {fault}")
    if not given.quick:
        print(f"\n{RESULTS.relative_to(ROOT)} and {PAGE.relative_to(ROOT)} are up to date.")
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    return len(failed)


def run(name: str, out: Path, *, quick: bool) -> str | None:
    """Run a topic in a process of its own; what went wrong, if anything."""
    command = [sys.executable, "-m", f"benchmarks.{name}", "--out", str(out), *(["--quick"] if quick else [])]
    try:
        status = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, timeout=TOPICS[name],
                                check=False).returncode
    except subprocess.TimeoutExpired:
        return f"expected at most {TOPICS[name]} s; rows measured until then are kept"
    return None if status == 0 else f"ended with status {status}; its message is above, rows measured until then are kept"


if __name__ == "__main__":
    sys.exit(min(1, main()))
