"""The reference says everything: parameters, stages, artefacts, metrics and their columns."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import Checkout
from tools import reference

ROOT = Path(__file__).resolve().parents[2]
PARAMETERS = reference.all_parameters()
PAGE = reference.parameters()
SECTIONS: dict[str, str] = dict(re.findall(r"(?ms)^### `([\w.]+)`$(.*?)(?=^\(param-|^## |\Z)", PAGE))
METRICS = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")


def paths(content: dict[str, Any], known: set[str], before: str = "") -> set[str]:
    """Dotted paths of a preset; mappings that are values end one."""
    found = set()
    for key, value in content.items():
        path = f"{before}{key}"
        found |= paths(value, known, f"{path}.") if isinstance(value, dict) and path not in known else {path}
    return found


def test_the_page_has_every_parameter_of_the_presets() -> None:
    assert set(SECTIONS) == set(PARAMETERS)
    for name in reference.PRESETS:
        assert paths(yaml.safe_load((ROOT / f"presets/{name}.yaml").read_text(encoding="utf-8")), set(PARAMETERS)) == set(PARAMETERS)
    assert set(reference.PRESETS) == {path.stem for path in (ROOT / "presets").glob("*.yaml")}


@pytest.mark.parametrize("path", PARAMETERS)
def test_a_parameter_has_meaning_type_values_and_unit(path: str) -> None:
    section = SECTIONS[path]
    told, _, facts = section.partition("Type\n: ")
    assert len(told.split()) > 1, f"{path}: say beside it in presets/shapes.yaml what it means"
    assert facts
    for preset, value in reference.values(path).items():
        assert f"`{json.dumps(value, ensure_ascii=False)}`" in facts, f"{path}: {preset}"
    if "number" in facts.splitlines()[0]:
        assert "Unit\n: " in facts, f"{path}: give its unit in tools/reference.py"


def test_values_of_the_paper_are_told() -> None:
    told = {path for path, section in SECTIONS.items() if "Paper\n: " in section}
    assert len(told) > 50
    assert "Paper\n: \\[F\\] 0.5 with minmax" in SECTIONS["mine.threshold"]
    assert "Paper\n: 0.06" in SECTIONS["merge.background_below"]
    assert "Paper\n: \\[R\\] 0.001" in SECTIONS["segment.training.lr"]


def test_a_parameter_names_the_stages_that_read_it() -> None:
    assert {"evaluate", "refine", "relabel@…"} <= set(re.findall(r"`([\w@…]+)`", SECTIONS["refine.crf"].partition("Read by")[2]))
    assert "Read by" not in SECTIONS["compute.devices"]


def test_the_page_of_stages_has_every_stage_and_artefact() -> None:
    page, content = reference.stages(), yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for name, stage in content.items():
        assert re.search(rf"(?m)^## {name}(@…)?$", page)
        body = stage.get("do", stage)
        for out in [*body.get("outs", []), *body.get("metrics", []), *body.get("plots", [])]:
            path = next(iter(out)) if isinstance(out, dict) else out
            assert f"`{path.replace('${', '{')}`" in page, path


def test_docstrings_become_field_lists() -> None:
    lines = ["Merge.", "", "Parameters", "----------", "mask : (H, W) uint8,", "    0 = ground.", "below, above : floats.", "",
             "Returns", "-------", "A mask", "of its size.", "", "More."]
    assert reference.with_fields(lines) == [
        "Merge.", "", "", ":param mask: (H, W) uint8,", "    0 = ground.", ":param below,above: floats.", "",
        "", ":returns:", "    A mask", "    of its size.", "", "More."]


def test_metrics_and_columns_of_a_run_are_explained(finished: Checkout) -> None:
    for file in sorted((finished / "metrics").rglob("*")):
        if file.suffix not in (".csv", ".json"):
            continue
        name = re.sub(r"/[rs]\d+\.csv$", lambda found: f"/{found[0][1]}{'K' if found[0][1] == 'r' else 'N'}.csv",
                      str(file.relative_to(finished.folder)))
        assert f"`{name}`" in METRICS, name
        if file.suffix == ".json":
            keys = set(json.loads(file.read_text()))
        else:
            with file.open(encoding="utf-8", newline="") as table:
                keys = set(next(csv.reader(table)))
        missing = {key for key in keys if f"`{re.sub(r'_r[0-9]+$', '_r1', key)}`" not in METRICS and f"`{key}`" not in METRICS
                   and not key.endswith(("_low", "_high"))}
        assert not missing, f"{name}: explain {sorted(missing)} in docs/reference/metrics.md"
