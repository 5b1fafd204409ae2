"""report/run.js: what a run was, which no stage depends on and which differs from run to run though its results are the same."""

import csv
import importlib.metadata
import io
import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aepsl.data.archive import write_atomically
from aepsl.errors import AepslError
from aepsl.git import asked_line
from aepsl.report.shards import script, values_of

PACKAGES = ("aepsl", "torch", "torchvision", "numpy", "scipy", "scikit-image", "pillow", "pydantic", "jinja2", "dvc", "pydensecrf2")
TRACKED = ("params.yaml", "dvc.yaml", "src", "stages")  # what a revision is asked about: results and their records change while a run goes on


def write_run(path: str | os.PathLike[str], *, root: str | os.PathLike[str], runtime_csv: str | os.PathLike[str],
              against: Mapping[str, Any] | None = None, stale: Sequence[str] = ()) -> None:
    """Write ``aepsl.run(…)``: git revision, versions, time per stage, and the differences from another revision.

    Parameters
    ----------
    path : of run.js, beside the folder ``data`` of the report it belongs to.
    root : the checkout; git is asked for its revision.
    runtime_csv : the table metrics/runtime.csv; it may be missing.
    against : ``{"name", "metrics": [[name, old, new]], "params": [[name, old, new]], "artefacts": [[path, old md5, new md5]], "warnings": [sentence],
        "incomparable": [name of a metric]}``, or None.
    stale : parameters that changed since the report was made, so that it is not of this revision.
    """
    target = Path(path)
    write_atomically(target, script("run", {
        "digest": digest_of(target.parent / "data/index.js"), "revision": revision(root), "stale": list(stale), "versions": versions(),
        "runtime": runtime_rows(runtime_csv), "against": dict(against) if against else None}))


def digest_of(index_js: Path) -> str | None:
    """The digest of a report in its index.js; None where there is no report."""
    try:
        name, values = values_of(index_js.read_bytes())
        return str(values[0]["digest"]) if name == "index" else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def revision(root: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Commit, branch (None = detached) and whether code or parameters differ from the commit; None where git or a commit is lacking."""
    with suppress(AepslError):
        if commit := asked_line(root, "rev-parse", "HEAD"):
            changed = asked_line(root, "status", "--porcelain", "--", *TRACKED)
            return {"commit": commit, "branch": asked_line(root, "symbolic-ref", "--quiet", "--short", "HEAD") or None, "dirty": bool(changed)}
    return None


def versions() -> dict[str, str]:
    """Of Python and the packages that take part, where they are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def runtime_rows(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Rows of metrics/runtime.csv with seconds as numbers; none where it is missing or damaged, for nothing depends on it."""
    rows: list[dict[str, Any]] = []
    with suppress(OSError, UnicodeDecodeError, csv.Error):
        for row in csv.DictReader(io.StringIO(Path(path).read_bytes().decode("utf-8"), newline=""), strict=True):
            with suppress(ValueError, TypeError, KeyError):
                if None not in row and None not in row.values():
                    rows.append({**row, "seconds": float(row["seconds"])})
    return rows
