"""``aepsl report``."""

import json
import webbrowser
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import Result

Command = Callable[..., Result]


def project(folder: Path, threshold: float) -> None:
    """What a run leaves, as far as this command reads it."""
    for name, text in (("report/index.html", "<!doctype html>"), ("params.yaml", yaml.safe_dump({"mine": {"threshold": threshold}})),
                       ("metrics/val.json", json.dumps({"miou": threshold, "yardstick": "val 1 miss a"})),
                       ("metrics/runtime.csv", "stage,seconds\nmine@r1,2.5\n"),
                       ("dvc.lock", yaml.safe_dump({"stages": {"mine": {"outs": [{"path": "data/a.zip", "md5": f"{threshold}"}]}}}))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def told() -> dict:
    text = Path("report/run.js").read_text()
    found: dict = json.loads(text[text.index("(") + 1:text.rindex(")")])
    return found


def test_the_page_gets_the_revision_the_times_and_the_differences(aepsl: Command) -> None:
    project(Path(), 0.4)
    project(Path("before"), 0.3)
    result = aepsl("report")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{Path('report/index.html').resolve()}\n"
    assert told()["against"] is None
    assert told()["runtime"] == [{"stage": "mine@r1", "seconds": 2.5}]
    result = aepsl("report", "--against", "before")
    assert result.stdout.endswith("report/index.html, with 3 differences from before\n")
    assert told()["against"] == {"name": "before", "metrics": [["val.miou", 0.3, 0.4]], "params": [["mine.threshold", 0.3, 0.4]],
                                 "artefacts": [["data/a.zip", "0.3", "0.4"]], "warnings": [], "incomparable": []}
    assert told()["stale"] == []


def test_what_makes_differences_doubtful_is_on_the_page_too(aepsl: Command) -> None:
    project(Path(), 0.4)
    project(Path("before"), 0.3)
    Path("before/metrics/val.json").write_text(json.dumps({"miou": 0.3, "yardstick": "val 2 miss b"}))
    result = aepsl("report", "--against", "before")
    [note] = told()["against"]["warnings"]
    assert "val: the scores were not measured alike (val 2 miss b against val 1 miss a) and cannot be compared" in note
    assert "not measured alike" in result.stderr
    assert set(told()["against"]["incomparable"]) == {"val.miou", "val.yardstick"}


def test_parameters_changed_since_the_run_are_told_and_on_the_page(aepsl: Command) -> None:
    project(Path(), 0.4)
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": {"mine": {"params": {"params.yaml": {"mine.threshold": 0.3}}, "outs": []}}}))
    for words in ((), ("--against", "dvc.lock")):
        result = aepsl("report", *words)
        assert result.exit_code == 0, result.stderr
        assert result.stderr.count("workspace: 1 parameter(s) changed since the stages ran (mine.threshold)") == 1
        assert told()["stale"] == ["mine.threshold"]
    Path("dvc.lock").unlink()
    assert (aepsl("report").stderr, told()["stale"]) == ("", [])


def test_a_browser_is_opened_on_demand_alone(aepsl: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    project(Path(), 0.4)
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: bool(opened.append(address)))
    assert aepsl("report").exit_code == 0
    assert opened == []
    result = aepsl("report", "--open")
    assert opened == [Path("report/index.html").resolve().as_uri()]
    assert "no browser was found" in result.stderr


def test_without_a_report_or_a_revision_it_is_explained(aepsl: Command) -> None:
    result = aepsl("report")
    assert (result.exit_code, result.stderr) == (1, "report/index.html: no such file; `dvc repro` makes it, `dvc pull` fetches it\n")
    project(Path(), 0.4)
    result = aepsl("report", "--against", "lost")
    assert result.exit_code == 1
    assert "'lost': expected" in result.stderr
    assert not Path("report/run.js").exists()
