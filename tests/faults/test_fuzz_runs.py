"""Folders of runs made elsewhere, and the tables that the project reads back: parameters, metrics and CSV files of strangers."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st

from aepsl.errors import FaultList
from aepsl.evaluation.ablation_tables import Table, markdown, read, write
from aepsl.evaluation.ablations import collect
from aepsl.evaluation.experiments import folder_runs, parse_experiments
from aepsl.runtime import COLUMNS, record
from tests.faults.fuzzing import altered, fuzz, mutated

ROOT = Path(__file__).resolve().parents[2]
PARAMS = yaml.safe_load((ROOT / "presets/shapes.yaml").read_text())
SCORES = {"miou": 0.5, "miou_low": 0.4, "miou_high": 0.6, "yardstick": "val 100 miss f42906bf", "how": [{"split": "val"}]}
LABELS = {"pseudo_label_miou": 0.4, "pseudo_label_coverage": 0.5}
CLASSES = b"class,iou,precision\nbackground,0.9,0.8\ncat,0.5,\ndog,,\n"
FILES = {"params.yaml": yaml.safe_dump(PARAMS, sort_keys=False).encode(), "metrics/val.json": json.dumps(SCORES).encode(),
         "metrics/pseudo_labels.json": json.dumps(LABELS).encode(),
         "metrics/per_class.csv": CLASSES}


def bytes_of(name: str, content: Any) -> bytes:
    return yaml.safe_dump(content, sort_keys=False).encode("utf-8", "surrogatepass") if name.endswith(".yaml") else json.dumps(content).encode()


CIRCLE = bytes_of("a.yaml", PARAMS | {"rounds": {"r1": "r2", "r2": "r1"}, "last_round": "r1"})
INPUTS: dict[str, st.SearchStrategy[bytes]] = {
    "params.yaml": mutated([FILES["params.yaml"], CIRCLE]) | altered(PARAMS).map(lambda content: bytes_of("params.yaml", content)),
    "metrics/val.json": mutated([FILES["metrics/val.json"]]) | altered(SCORES).map(lambda content: bytes_of("val.json", content)),
    "metrics/pseudo_labels.json": mutated([FILES["metrics/pseudo_labels.json"]]) | altered(LABELS).map(lambda content: bytes_of("labels.json",
                                                                                                                                content)),
    "metrics/per_class.csv": mutated([CLASSES])}


def tables_of(found: Any) -> Table:
    """What becomes of runs on the way into the README; one line for every run that is left out is an explained error."""
    table, notes = collect(found)
    text = "\n".join(markdown(table).values())
    assert all(line.isprintable() and line.count(" | ") == text.split("\n\n")[0].split("\n")[0].count(" | ")
               for line in markdown(table)["rounds"].split("\n"))
    assert not any(mark in text for mark in ("<b", "<!--", "<script", "](", "\x1b"))
    if notes:
        raise FaultList("runs: expected finished ones, found others", notes)
    return table


@pytest.mark.parametrize("name", INPUTS)
def test_runs_from_elsewhere(tmp_path: Path, name: str) -> None:
    for file, content in FILES.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_bytes(content)

    def judge(data: bytes) -> bool:
        (tmp_path / name).write_bytes(data)
        table = tables_of(folder_runs(tmp_path))
        rows = [row for rows in table.rows.values() for row in rows]
        write(table, tmp_path / "out")
        assert read(tmp_path / "out") == read(tmp_path / "out")
        if name == "metrics/val.json":
            return bool(rows) and all(row["miou"] == round(100 * json.loads(data)["miou"], 4) for row in rows)
        return all(row["miou"] == 50 and 0 <= (row["pseudo_label_miou"] or 0) <= 100 for row in rows)

    fuzz(f"run of a stranger, {name}", INPUTS[name], judge, names=[str(tmp_path), "runs of"], short=25, long=500)


def test_what_dvc_says_of_experiments() -> None:
    data = {"rev": "abc", "timestamp": "2024-01-01T00:00:00", "params": {"params.yaml": {"data": PARAMS}}, "error": None,
            "metrics": {"metrics/val.json": {"data": SCORES}, "metrics/pseudo_labels.json": {"data": LABELS}}}
    shown = [{"rev": "workspace", "name": None, "data": data, "error": None, "experiments": [
        {"revs": [{"rev": "abc", "name": "a", "data": data, "error": None}], "executor": None, "name": "a"}]}]

    def judge(content: Any) -> bool:
        found = parse_experiments(content)
        if found.left_out:
            raise FaultList("experiments: expected finished ones, found others", found.left_out)
        tables_of(found)
        return True

    fuzz("dvc exp show", altered(shown), judge, names=["experiments", "dvc exp show", "runs"], short=60, long=1000)


def test_tables_read_back(tmp_path: Path) -> None:
    rows = [{"data": "shapes", "variant": "r1", "seed": seed, "pseudo_label_miou": 40.5, "miou": 30.25} for seed in (1, 2)]
    classes = [{"data": "shapes", "variant": "on", "seed": 1, "class": "dog", "iou": None}]
    write(Table({"rounds": rows, "psl": [{**rows[0], "variant": "on"}]}, classes, {"shapes": {"lr": 0.1}}), tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    whole = {name: (tmp_path / name).read_bytes() for name in names}

    def judge(given: tuple[str, bytes]) -> bool:
        for name, content in whole.items():
            (tmp_path / name).write_bytes(content)
        (tmp_path / given[0]).write_bytes(given[1])
        table = read(tmp_path)
        values = [value for rows in table.rows.values() for row in rows for value in (row["pseudo_label_miou"], row["miou"]) if value is not None]
        assert all(0 <= value <= 100 for value in values)
        assert statistics.fmean(values or [0]) >= 0
        lines = markdown(table)["rounds"].split("\n")
        return all(line.count(" | ") == lines[0].count(" | ") and line.isprintable() for line in lines)

    inputs = st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), mutated([whole[name]])))
    fuzz("tables of ablations", inputs, judge, names=[str(tmp_path)], short=60, long=1000)


def test_a_damaged_record_of_what_stages_cost_is_no_reason_to_fail(tmp_path: Path) -> None:
    path = tmp_path / "runtime.csv"
    for stage in ("a", "b"):
        record(path, stage=stage, seconds=1, count=1, unit="images")
    whole = path.read_bytes()

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        record(path, stage="c", seconds=1, count=1, unit="images")
        lines = path.read_text().splitlines()
        return lines[0] == ",".join(COLUMNS) and any(line.startswith("c,1.0,1,images") for line in lines)

    fuzz("runtime.csv", mutated([whole, b""]), judge, names=[str(path)], short=40, long=300)
