"""Where DVC's users look: `dvc plots` holds all that dvc.yaml names and is drawn without a network, `dvc exp show` fits 80 columns."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, Checkout, succeed

TEMPLATES = ROOT / ".dvc/plots"
SERIES = {  # what has to be told apart in a plot: the column of its rows, or the columns drawn together
    "metrics/losses.csv": ["classify@r1", "classify@r2"], "loss of the segmenters of all passes": ["s1", "s2"],
    "metrics/rounds.csv": ["pseudo label miou", "miou", "precision", "recall"],
    "metrics/per_class.csv": ["iou", "iou before crf", "pseudo label iou"]}


def named() -> Iterator[dict[str, Any]]:
    """The properties of every plot in dvc.yaml that is no picture."""
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    entries = [*pipeline["plots"], *(entry for stage in pipeline["stages"].values() for entry in stage.get("do", stage).get("plots", ()))]
    for entry in entries:
        if isinstance(entry, dict):
            yield from entry.values()


def plots(work: Checkout, *command: str) -> dict[str, list[dict[str, Any]]]:
    """What the command would draw, by plot; nothing may have failed to load."""
    told = work.call("python", "-m", "dvc", "plots", *command, "--json")
    content = json.loads(succeed(told))
    assert "errors" not in content, content["errors"]
    assert "failed to load" not in told.stderr
    return dict(content["data"])


def rows(plot: dict[str, Any]) -> list[dict[str, Any]]:
    return list(plot["content"]["data"]["values"])


def test_every_plot_has_a_template_of_the_project_and_its_two_readers_agree() -> None:
    used = {properties["template"] for properties in named()}
    assert used == {path.stem for path in TEMPLATES.glob("*.json")}
    for path in TEMPLATES.glob("*.json"):
        template = json.loads(path.read_text())
        # Vega reads the expression, the page without a network what stands under usermeta.
        told = [re.findall(r"(\w+): \[([^]]*)\]", step["calculate"]) for step in template["transform"] if step.get("as") == "columns"]
        assert {name: re.findall(r"'(\w+)'", columns) for found in told for name, columns in found} == template["usermeta"].get("together", {}), path
        assert "DVC_METRIC_COLOR" not in path.read_text(), "colours tell apart what belongs together, dashes and panels the revisions"


def test_after_a_run_every_plot_is_there_and_holds_the_rounds_the_passes_and_the_scores(finished: Checkout) -> None:
    found = plots(finished, "show")
    pictures = {name for name, (plot, *_) in found.items() if plot["type"] == "image"}
    assert pictures == {"report/train.png", "report/val.png"}
    assert all(rows(plot) for name, (plot, *_) in found.items() if name not in pictures)
    assert set(SERIES) | {"metrics/confusion.csv", "metrics/runtime.csv", "metrics/erasing.csv", "metrics/stop.csv"} <= set(found)
    assert list(dict.fromkeys(row["training"] for row in rows(found["metrics/losses.csv"][0]))) == SERIES["metrics/losses.csv"]
    for step in ("r1", "r2"):  # the record that travels with the mined regions tells of each training what its own curve does
        alone = [(float(row["epoch"]), float(row["loss"])) for row in rows(found[f"metrics/classifier/{step}.csv"][0])]
        assert alone == [(float(row["epoch"]), float(row["loss"])) for row in rows(found["metrics/losses.csv"][0])
                         if row["training"] == f"classify@{step}"]
    assert {row["filename"] for row in rows(found["loss of the segmenters of all passes"][0])} == {"s1.csv", "s2.csv"}
    for (plot, *_) in (found[name] for name in found if name not in pictures):
        shown = plot["content"]["usermeta"]
        assert {shown["x"], shown["y"]} <= set(rows(plot)[0])
        together = shown.get("together", {}).get(shown["x"]) or shown.get("together", {}).get(shown["y"]) or []
        assert set(together) <= set(rows(plot)[0])


@pytest.fixture
def committed(finished: Checkout, tmp_path: Path) -> Checkout:
    """A copy of the finished run, committed, in which the scores have changed since."""
    work = finished.copy(tmp_path / "work")
    work.owner = {"GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e@x", "GIT_COMMITTER_NAME": "n", "GIT_COMMITTER_EMAIL": "e@x"}
    succeed(work.call("git", "add", "--all"))
    succeed(work.call("git", "commit", "--quiet", "--message", "run"))
    table = work / "metrics/losses.csv"
    table.write_text(re.sub(r"(?m)^(classify@r1,1,).*", r"\g<1>0.125", table.read_text()))
    return work


def test_two_revisions_stand_beside_each_other_and_pages_are_drawn_without_a_network(committed: Checkout) -> None:
    found = plots(committed, "diff", "HEAD")
    assert {row["rev"] for row in rows(found["metrics/losses.csv"][0])} == {"workspace", "HEAD"}
    assert {plot["revisions"][0] for plot in found["report/val.png"]} == {"workspace", "HEAD"}

    succeed(committed.call("python", "-m", "dvc", "plots", "diff", "HEAD", "--out", "page"))
    page = (committed / "page/index.html").read_text()
    assert "{scripts}" not in page
    assert "{plot_divs}" not in page
    # DVC's scripts stay in a template, which a browser does not run.
    assert re.search(r'<template id="vega">\s*<script src=[^<]*</script>\s*(<script src=[^<]*</script>\s*)*</template>', page)
    assert not re.search(r"<script\s+src", page.partition("</template>")[2])

    playwright, chromium = pytest.importorskip("playwright.sync_api"), shutil.which("chromium")
    if not chromium:
        pytest.skip("needs chromium, to look at the page")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1300, "height": 900})
        heard, asked = [], []
        tab.on("console", lambda message: heard.append(message.text))
        tab.on("pageerror", lambda error: heard.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((committed / "page/index.html").as_uri())
        assert (heard, [address for address in asked if not address.startswith("file:")]) == ([], [])
        cards = tab.locator("main div:has(> figure)")
        assert cards.count() == sum(plot["type"] == "vega" for (plot, *_) in found.values())
        for number in range(cards.count()):
            assert cards.nth(number).locator("svg path, svg rect").count(), cards.nth(number).inner_text()
        losses = tab.locator("figure", has_text="loss of the classifiers of all rounds")
        assert losses.locator("path").count() == 4
        assert losses.locator("path[stroke-dasharray='']").count() == 2
        assert tab.locator("details div:has(> figure)").count() == 4
        assert tab.evaluate("[...document.images].every((image) => image.naturalWidth > 0 && image.alt)")
        tab.set_viewport_size({"width": 390, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        # Without a network the button leaves everything as it is, and says so.
        tab.route("http*://**", lambda route: route.abort())
        tab.get_by_role("button").click()
        tab.get_by_text("no network").wait_for()
        assert losses.locator("path").count() == 4
        browser.close()


def test_the_documented_table_of_experiments_fits_80_columns_with_all_that_changed(committed: Checkout) -> None:
    commands = {line for page in ("docs/howto/comparing.md", "docs/sharing.md")
                for line in (ROOT / page).read_text().splitlines() if line.startswith("dvc exp show ")}
    assert len(commands) == 1, commands

    def save(name: str, changes: dict[str, Any], miou: float) -> None:
        succeed(committed.call("git", "checkout", "--quiet", "."))
        committed.set(changes)
        scores = json.loads((committed / "metrics/val.json").read_text()) | {"miou": miou, "miou_low": miou / 2, "yardstick": name}
        (committed / "metrics/val.json").write_text(json.dumps(scores))
        succeed(committed.call("python", "-m", "dvc", "exp", "save", "--force", "--name", name))

    save("finer-threshold", {"mine.threshold": 0.4}, 0.48465)
    save("one-round", {"last_round": "r1", "seed": 2}, 0.30125)
    table = committed.call("python", "-m", *shlex.split(next(iter(commands))), "--no-pager", COLUMNS="80")
    lines = [line for line in succeed(table).splitlines() if "─" * 9 not in line]
    assert max(map(len, lines)) <= 80
    assert "…" not in table.stdout
    columns, *_ = (line.split()[1:] for line in lines)
    shown = {line.split("[")[1].split("]")[0]: line.split()[-4:] for line in lines if "[" in line}
    assert {name: dict(zip(columns, cells, strict=True)) for name, cells in shown.items()} == {
        "finer-threshold": {"miou": "0.48465", "last_round": "r2", "mine.threshold": "0.4", "seed": "1"},
        "one-round": {"miou": "0.30125", "last_round": "r1", "mine.threshold": "0.5", "seed": "2"}}
