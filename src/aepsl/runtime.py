"""What a stage cost: seconds, rate, peak memory, device and versions; for reading, never a dependency."""

import csv
import fcntl
import importlib.metadata
import io
import os
import platform
import resource
import sys
from pathlib import Path

from aepsl.data.archive import write_atomically

COLUMNS = ("stage", "seconds", "count", "unit", "per_second", "peak_memory_mib", "resumed", "device", "cores", "python", "torch")


def record(path: str | os.PathLike[str], *, stage: str, seconds: float, count: int, unit: str, resumed: bool = False) -> None:
    """Put the row of one stage into the CSV, in place of its last one; rows stay sorted by stage.

    Of a ``resumed`` stage the seconds are those of its last run alone, and so is the rate.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in target.parent.glob(f".{target.name}.*.tmp"):  # by a process that was killed: nobody else writes now
            left.unlink()
        rows = _read(target) if target.exists() else {}
        rows[stage] = {"stage": stage, "seconds": f"{seconds:.1f}", "count": str(count), "unit": unit,
                       "per_second": f"{count / max(seconds, 1e-9):.1f}", "peak_memory_mib": str(peak_memory_mib()),
                       "resumed": "yes" if resumed else "no",
                       "device": device_name(), "cores": str(os.cpu_count()),
                       "python": platform.python_version(), "torch": importlib.metadata.version("torch")}
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))
        write_atomically(target, text.getvalue().encode())


def _read(path: Path) -> dict[str, dict[str, str]]:
    """The rows by stage; a damaged table is begun anew, for nothing depends on it."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error):
        return {}
    # A line of too few cells holds None, one of too many is under None.
    return {row["stage"]: row for row in rows if row.get("stage") and None not in row and None not in row.values()}


def peak_memory_mib() -> int:
    """Largest resident size of this process or of any child that ended, in MiB."""
    usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return usage // (1 << 20 if sys.platform == "darwin" else 1 << 10)


def device_name() -> str:
    """The CUDA device if this process used one, otherwise the processor."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return str(torch.cuda.get_device_name())
    return platform.machine()
