"""Stage report on a finished run: what it writes, when it is run again, and what a kill leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aepsl.report.gather import read_rows
from aepsl.report.shards import values_of
from tests.conftest import Checkout, commands, dvc_md5, lock, running, succeed

OUTS = ("report/assets", "report/data", "report/index.html")


@pytest.fixture
def changed(finished: Checkout, tmp_path: Path) -> Checkout:
    return finished.copy(tmp_path / "changed")


def index_of(work: Checkout) -> dict[str, Any]:
    [_, [index]] = values_of((work / "report/data/index.js").read_bytes())
    return dict(index)


def test_the_report_shows_every_image_and_what_tables_say(finished: Checkout) -> None:
    index = index_of(finished)
    images = index["images"]
    assert len(images["id"]) == 18
    assert images["split"].count("train") == 12
    assert [layer["key"] for layer in index["layers"]["train"]] == ["heat-r1", "erased-r2", "heat-r2", "mined", "saliency", "merged", "labels",
                                                                    "truth", "errors"]
    assert [layer["key"] for layer in index["layers"]["val"]] == ["before", "after", "truth", "errors"]
    assert index["classes"] == [row["class"] for row in read_rows(str(finished / "metrics/per_class.csv"))]
    assert all(0 <= value <= 1 for name in ("iou", "missed", "spilled", "confused") for value in images[name])
    html = (finished / "report/index.html").read_text()
    assert all(name in html for name in ("bandling", "further_rounds", "online_from"))
    assert {out["path"] for out in lock(finished)["report"]["outs"]} == set(OUTS)
    assert succeed(finished.call("git", "check-ignore", *OUTS, "report/run.js")).split() == [*OUTS, "report/run.js"]


def test_run_js_is_of_this_report_and_this_run(finished: Checkout) -> None:
    [_, [run]] = values_of((finished / "report/run.js").read_bytes())
    assert run["digest"] == index_of(finished)["digest"]
    assert {"mine@r1", "evaluate"} <= {row["stage"] for row in run["runtime"]}
    assert run["revision"] is None  # nothing is committed in this checkout


@pytest.mark.parametrize("change", [{"report.side": 64}, {"seed": 2}, {"rounds": {"r1": "r0", "r2": "r1", "r3": "r2"}}],
                         ids=["its own", "another stage's", "a round that is not used"])
def test_a_parameter_that_the_page_shows_runs_it_again(changed: Checkout, change: dict[str, Any]) -> None:
    changed.set(change)
    status = json.loads(succeed(changed.call("python", "-m", "dvc", "status", "--json", "report")))
    assert "params.yaml" in json.dumps(status["report"])


def test_only_the_report_is_run_for_its_own_parameters(changed: Checkout) -> None:
    changed.set({"report.thumbnail": 40})
    assert running(succeed(changed.call("python", "-m", "dvc", "repro"))) == ["report"]
    changed.set({"compute.processes": 2})
    assert running(succeed(changed.call("python", "-m", "dvc", "repro"))) == []


def test_a_killed_run_leaves_no_page_and_the_next_gives_the_same_bytes(changed: Checkout) -> None:
    expected = {path: dvc_md5(changed / path) for path in OUTS}
    changed.set({"compute.save_every": 0.0})
    [command] = commands(changed, "report")
    process = subprocess.Popen([sys.executable, *command.split()[1:]], cwd=changed.folder, env=changed.environment(), stderr=subprocess.PIPE)
    until = time.monotonic() + 120
    while (changed / "report/index.html").exists() and time.monotonic() < until:
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (changed / "report/index.html").exists()
    succeed(changed.stages([command]))
    assert {path: dvc_md5(changed / path) for path in OUTS} == expected
    assert not list((changed / "report").rglob("*.tmp"))
