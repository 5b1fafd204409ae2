"""Tables of the two ablations: rows of (data set, variant, seed), their files, and their Markdown beside the paper's figures."""

import csv
import io
import json
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aepsl.data.archive import parse_json, write_atomically
from aepsl.data.voc import class_fault
from aepsl.errors import AepslError, printable, shown
from aepsl.evaluation import paper
from aepsl.evaluation.tables import write_csv

VARIANTS = {"rounds": ("r1", "r2", "r3", "r4"), "psl": ("off", "on", "psl++", "true-labels", "fully-supervised")}
COLUMNS = ("data", "variant", "seed", "pseudo_label_miou", "miou")  # mIoU in percent
CLASS_COLUMNS = ("data", "variant", "seed", "class", "iou")
DATA = ("shapes", "voc-animals")  # always shown, measured or not
ANIMALS = ("background", "cat", "cow", "dog", "horse", "person", "sheep")
MISSING = "not measured yet"

Row = dict[str, Any]
Key = tuple[str, str, int]


@dataclass
class Table:
    """Everything in metrics/ablations: rows by table name, and the settings of each data set's rows."""

    rows: dict[str, list[Row]] = field(default_factory=lambda: {name: [] for name in VARIANTS})
    classes: list[Row] = field(default_factory=list)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def places(self, data: str | None = None) -> set[tuple[str, Key]]:
        """(table, (data, variant, seed)) of every row, or of a data set's."""
        return {(name, key(row)) for name, rows in self.rows.items() for row in rows if data in (None, row["data"])}


def key(row: Row) -> Key:
    return row["data"], row["variant"], row["seed"]


def in_order(table: Table) -> Table:
    """The same rows by data set, variant and seed."""
    order = [variant for names in VARIANTS.values() for variant in names]

    def place(row: Row) -> tuple[Any, ...]:
        return _data_place(row["data"]), order.index(row["variant"]), row["seed"]

    return Table({name: sorted(rows, key=place) for name, rows in table.rows.items()}, sorted(table.classes, key=place),
                 dict(sorted(table.settings.items())))


def _data_place(data: str) -> tuple[int, str]:
    return (DATA.index(data) if data in DATA else len(DATA)), data


# ---- files


def read(folder: Path) -> Table:
    """What a folder holds; a missing file holds nothing."""
    table = Table({name: _read_rows(folder / f"{name}.csv", COLUMNS, VARIANTS[name]) for name in VARIANTS},
                  _read_rows(folder / "per_class.csv", CLASS_COLUMNS, VARIANTS["psl"]))
    path = folder / "settings.json"
    try:
        table.settings = parse_json(path.read_bytes()) if path.is_file() else {}
        if not (isinstance(table.settings, dict) and all(isinstance(values, dict) for values in table.settings.values())):
            raise ValueError(f"expected parameters by data set, found {shown(table.settings)}")
    except ValueError as error:
        raise AepslError(f"{path}: expected JSON as this project writes it, found a damaged file ({error}); take it from git") from None
    return table


def _read_rows(path: Path, columns: Sequence[str], names: Sequence[str]) -> list[Row]:
    if not path.is_file():
        return []
    try:
        return _parse_rows(path.read_bytes().decode("utf-8"), path, columns, names)
    except (UnicodeDecodeError, csv.Error) as error:
        raise AepslError(f"{path}: expected a table as CSV in UTF-8, found {error}; take it from git") from None


def _parse_rows(text: str, path: Path, columns: Sequence[str], names: Sequence[str]) -> list[Row]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    if tuple(reader.fieldnames or ()) != tuple(columns):
        found = printable(",".join(reader.fieldnames or ["none"]), 200)
        raise AepslError(f"{path}: expected the columns {','.join(columns)}, found {found}; take it from git")
    rows: list[Row] = []
    seen: set[tuple[Any, ...]] = set()
    for cells in reader:
        try:
            row: Row = {name: int(cell) if name == "seed" else cell if name in ("data", "variant", "class") else float(cell) if cell else None
                        for name, cell in cells.items()}
            if row["variant"] not in names or row.get("miou", 0) is None:
                raise ValueError(f"variant {row['variant']!r}, mIoU {row.get('miou')}")
            if fault := class_fault(row["data"]):
                raise ValueError(f"as name of the data {fault}")
            if wrong := [value for value in row.values() if isinstance(value, float) and not 0 <= value <= 100]:
                raise ValueError(f"{wrong[0]} percent")
            if (place := (*key(row), row.get("class"))) in seen:
                raise ValueError("the same data, variant and seed as a line before")
        except (ValueError, TypeError) as error:  # a line of too few or too many cells gives None or a list
            raise AepslError(f"{path}: line {reader.line_num}: expected a variant out of {', '.join(names)}, once per data and seed, with numbers, "
                             f"found {error}; mend the line") from None
        seen.add(place)
        rows.append(row)
    return rows


def write(table: Table, folder: Path) -> None:
    for name, rows in table.rows.items():
        write_csv(folder / f"{name}.csv", rows, COLUMNS)
    write_csv(folder / "per_class.csv", table.classes, CLASS_COLUMNS)
    write_atomically(folder / "settings.json", (json.dumps(table.settings, indent=2, ensure_ascii=False) + "\n").encode())


# ---- rows -> Markdown


def mean_and_spread(values: Sequence[float | None]) -> str:
    """``50.9 ± 0.3 (3)``: mean, sample standard deviation and number of seeds; without the middle one for a single seed."""
    known = [value for value in values if value is not None]
    if not known:
        return MISSING if not values else "–"
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{spread} ({len(known)})"


def markdown(table: Table) -> dict[str, str]:
    """The three tables by name: rounds, psl, per-class. Mean ± standard deviation (number of seeds), in percent."""
    return {"rounds": _scores(table.rows["rounds"], VARIANTS["rounds"], "mined up to", paper.ROUNDS),
            "psl": _scores(table.rows["psl"], VARIANTS["psl"], "PSL", paper.PSL),
            "per-class": _classes(table.classes)}


def _scores(rows: Sequence[Row], names: Sequence[str], heading: str, reported: Mapping[str, str]) -> str:
    sets = sorted({*DATA, *(row["data"] for row in rows)}, key=_data_place)
    lines = [[heading, "paper: val", *(f"{as_text(data)}: {what}" for data in sets for what in ("pseudo-labels", "val"))]]
    for variant in names:
        cells = [mean_and_spread([row[column] for row in rows if (row["data"], row["variant"]) == (data, variant)])
                 for data in sets for column in ("pseudo_label_miou", "miou")]
        lines.append([variant, reported[variant], *cells])
    return _table(lines)


def _classes(rows: Sequence[Row]) -> str:
    """IoU of the classes that are also VOC's, with PSL and PSL++, and their mean."""
    measured = {row["data"] for row in rows if row["class"] in paper.CLASSES[1:]}
    blocks = []
    for data in sorted(measured | {DATA[1]}, key=_data_place):
        names = [name for name in paper.CLASSES if any((row["data"], row["class"]) == (data, name) for row in rows)] or list(ANIMALS)
        columns: list[list[str]] = [["class", *names, "mean"]]
        for way, heading in (("on", "PSL"), ("psl++", "PSL++")):
            reported = [paper.IOU[way][name] for name in names]
            columns.append([f"paper, {heading}", *(f"{value:.1f}" for value in [*reported, statistics.mean(reported)])])
            ours = [row for row in rows if (row["data"], row["variant"]) == (data, way) and row["class"] in names]
            seeds = [[row["iou"] for row in ours if row["seed"] == seed and row["iou"] is not None] for seed in sorted({row["seed"] for row in ours})]
            columns.append([f"{as_text(data)}, {heading}", *(mean_and_spread([row["iou"] for row in ours if row["class"] == name]) for name in names),
                            mean_and_spread([statistics.mean(values) for values in seeds if values])])
        blocks.append(_table(list(zip(*columns, strict=True))))
    return "\n\n".join(blocks)


def _table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


def as_text(name: str) -> str:
    """A name that comes from elsewhere as Markdown and HTML show it: no cell ends at it, no link, picture or tag begins."""
    return re.sub(r"[\\|<>`\[\]*&]", r"\\\g<0>", printable(name))


def with_tables(text: str, tables: Mapping[str, str], where: str) -> str:
    """A Markdown text with each table between its markers ``<!-- ablations: NAME -->`` and ``<!-- /ablations: NAME -->``.

    Raises
    ------
    AepslError : there is no pair of markers, or one of them stands alone or twice.
    """
    placed = 0
    for name, table in tables.items():
        begin, end = f"<!-- ablations: {name} -->", f"<!-- /ablations: {name} -->"
        if begin not in text and end not in text:
            continue
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise AepslError(f"{where}: expected {begin} and then {end}, each once, found {text.count(begin)} and {text.count(end)}, "
                             "or the other way round; mend the markers")
        text = f"{text[:text.index(begin)]}{begin}\n\n{table}\n\n{text[text.index(end):]}"
        placed += 1
    if not placed:
        raise AepslError(f"{where}: expected a pair of markers such as <!-- ablations: rounds --> and <!-- /ablations: rounds -->, found none; "
                         f"tables: {', '.join(tables)}")
    return text
