"""What was measured: benchmarks/results.json and growth.json, and their tables in docs/performance.md. One writer and one reader of each.

A row of results.json has ``name``, ``ours``, ``peer``, ``unit``, ``ratio`` (bigger is better), ``aim`` (the least ratio, null = none) and ``limit``
(what the hardware allows, and how far we are from it), and beside these ``topic``, ``date``, ``repeats``, ``equal`` (what was compared of the two
results) and, where it was measured on another machine than the file names, ``machine``.
"""

import datetime
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aepsl.data.archive import parse_json, write_atomically
from aepsl.errors import AepslError
from aepsl.parallel import usable_cores

ROOT = Path(__file__).resolve().parents[1]
RESULTS, GROWTH, PAGE = ROOT / "benchmarks/results.json", ROOT / "benchmarks/growth.json", ROOT / "docs/performance.md"
PACKAGES = ("numpy", "pillow", "scipy", "scikit-image", "joblib", "dvc", "pydensecrf2", "torchmetrics", "numba")
# Aims of growth.json. A stage whose work above its start-up takes less than least_seconds has no exponent: it would be one of noise.
SIZES_AIM = {"exponent": 1.05, "memory_ratio": 1.2, "no_op_seconds": 2.0, "least_seconds": 0.5}

Row = dict[str, Any]


def machine() -> dict[str, Any]:
    """Processor, cores, memory, versions and date."""
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {"cpu": model or platform.machine(), "cores": usable_cores(), "memory_gib": round(memory / 2**30, 1),
            "python": platform.python_version(), "torch": importlib.metadata.version("torch"), "versions": versions,
            "date": datetime.date.today().isoformat()}


def read(path: Path = RESULTS) -> dict[str, Any]:
    """What the file holds; where there is none, no rows."""
    if not path.is_file():
        return {"machine": machine(), "rows": []}
    try:
        content = parse_json(path.read_bytes())
    except ValueError as error:
        raise AepslError(f"{path}: expected results as JSON, found {error}; take it from git, or remove it and run `make bench`") from None
    if not isinstance(content, dict) or not {"machine", "rows"} <= set(content):
        raise AepslError(f"{path}: expected machine and rows, found others; take it from git, or remove it and run `make bench`")
    return content


def merged(old: Mapping[str, Any], topics: Sequence[str], rows: Sequence[Row], here: Mapping[str, Any], order: Sequence[str]) -> dict[str, Any]:
    """The content of results.json after the given topics were measured anew: their rows replace the old ones, all others stay.

    A row measured elsewhere keeps the machine it was measured on; a measured topic that gave no row keeps its old ones.
    """
    replaced = {row["topic"] for row in rows} & set(topics)
    kept = [row if "machine" in row or alike(old["machine"], here) else {**row, "machine": old["machine"]}
            for row in old["rows"] if row["topic"] not in replaced]
    kept = [{key: value for key, value in row.items() if key != "machine"} if alike(row.get("machine", here), here) else row for row in kept]
    everything = [*kept, *rows]
    everything.sort(key=lambda row: order.index(row["topic"]) if row["topic"] in order else len(order))
    return {"machine": dict(here), "rows": everything}


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two machines differ in no more than the date."""
    return {**one, "date": None} == {**other, "date": None}


def write_results(content: Mapping[str, Any], path: Path = RESULTS, page: Path | None = PAGE) -> None:
    """Write results.json and put its table into the page."""
    _write(path, content)
    if page is not None:
        put(page, "results", results_table(content))


def write_growth(content: Mapping[str, Any], folder: Path) -> None:
    """Write growth.json into the folder; where it is the project's own, put its table into the page."""
    path = folder / GROWTH.name
    _write(path, content)
    if path.resolve() == GROWTH:
        put(PAGE, "growth", growth_table(content))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    write_atomically(path, f"{json.dumps(content, indent=1, ensure_ascii=False)}\n".encode())


# ---- tables


def results_table(content: Mapping[str, Any]) -> str:
    """The rows as Markdown: a table, and below it the limit of each."""
    lines = [f"Measured on {described(content['machine'])}.", "", "| work | ours | peer | ratio | aim | |", "|---|---|---|---|---|---|"]
    for row in content["rows"]:
        aim = row["aim"]
        verdict = "" if aim is None else "met" if row["ratio"] >= aim else "**missed**"
        lines.append(f"| {row['name']} | {number(row['ours'])} {row['unit']} | {number(row['peer'])} {row['unit']} | {number(row['ratio'])} | "
                     f"{'' if aim is None else f'≥ {number(aim)}'} | {verdict} |")
    lines += ["", "Under each row: what the hardware allows, and how far away we are.", ""]
    for row in content["rows"]:
        elsewhere = f" (measured on {described(row['machine'])})" if "machine" in row else ""
        equal = f" Results compared: {row['equal']}." if row.get("equal") else ""
        lines.append(f"- **{row['name']}**{elsewhere}: {row['limit']}{equal}")
    return "\n".join(lines)


def growth_table(content: Mapping[str, Any]) -> str:
    """Exponents and memory as Markdown."""
    sizes = [str(size) for size in content["sizes"]]
    last, before = sizes[-1], sizes[-2] if len(sizes) > 1 else sizes[-1]
    lines = [f"Measured on {described(content['machine'])}.", "",
             f"| stage | start-up, s | {' | '.join(f'{size} images, s' for size in sizes)} | ms per image | exponent, raw | exponent | "
             f"MiB at {before} | at {last} | ratio |", f"|---|{'---|' * (len(sizes) + 7)}"]
    for row in content["rows"]:
        start = row["cpu"][str(content["start_up_images"])]
        lines.append(f"| {row['stage']} | {number(start)} | {' | '.join(number(row['cpu'][size]) for size in sizes)} | "
                     f"{number(row['ms_per_image'])} | {_or_dash(row['exponent_raw'])} | {_or_dash(row['exponent'])} | "
                     f"{row['mib'][before]:.0f} | {row['mib'][last]:.0f} | {_or_dash(row['memory_ratio'])} |")
    idle = content["no_op_seconds"]
    lines += ["", f"With nothing to do at {last} images, best of five: `dvc repro` {idle['repro']} s, `dvc status` {idle['status']} s."]
    return "\n".join(lines)


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def described(where: Mapping[str, Any]) -> str:
    """A machine in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return (f"{where['cpu']}, {where['cores']} cores, {where['memory_gib']} GiB, {where['date']}; Python {where['python']}, torch {where['torch']}, "
            f"{versions}")


def put(page: Path, name: str, table: str) -> None:
    """Replace what stands in the page between ``<!-- bench: NAME -->`` and ``<!-- /bench: NAME -->``."""
    text = page.read_text(encoding="utf-8")
    begin, end = f"<!-- bench: {name} -->", f"<!-- /bench: {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise AepslError(f"{page}: expected {begin} and then {end}, each once; mend the markers")
    write_atomically(page, f"{text[:text.index(begin)]}{begin}\n\n{table}\n\n{text[text.index(end):]}".encode())


def table_in(page: Path, name: str) -> str:
    """What stands between the markers."""
    return page.read_text(encoding="utf-8").split(f"<!-- bench: {name} -->")[1].split(f"<!-- /bench: {name} -->")[0].strip()
