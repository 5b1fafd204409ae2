"""The comparisons with what is used today: they run, both sides find the same, the page shows what was measured. Never how long anything takes."""

import copy
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from aepsl.errors import AepslError
from aepsl.mining.saliency import saliency
from aepsl.segmentation.crf import refine
from aepsl.segmentation.masks import upsample
from aepsl.segmentation.presets import PRESETS
from benchmarks import __main__ as bench
from benchmarks import gpu, growth, limits, results
from benchmarks.crf import STRIDE, scores
from benchmarks.data import mask_files, outlined, photographs
from benchmarks.evaluation import topic as evaluation
from benchmarks.harness import in_turn, rows_in
from benchmarks.peers import crf as crf_peers
from benchmarks.peers import evaluation as evaluation_peers
from benchmarks.peers import saliency as saliency_peers

KEYS = {"name", "ours", "peer", "unit", "ratio", "aim", "limit", "equal", "repeats"}


def checked(row: dict[str, object]) -> None:
    assert set(row) >= KEYS
    assert row["ours"] > 0
    assert row["ratio"] == pytest.approx(row["peer"] / row["ours"], rel=0.01, abs=0.001)
    assert row["limit"]


@pytest.mark.parametrize("name", ["crf", "heatmaps", "saliency"])
def test_a_topic_runs_in_a_process_of_its_own_and_gives_rows(name, tmp_path):
    assert bench.run(name, tmp_path / "rows", quick=True) is None
    rows = rows_in(tmp_path / "rows")
    assert rows
    for row in rows:
        checked(row)


def test_evaluation_gives_the_iou_that_torchmetrics_and_a_loop_give(tmp_path):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed here")
    rows = list(evaluation(True))
    for row in rows:
        checked(row)
    differences = [float(re.search(r"largest difference (\S+)", row["equal"])[1]) for row in rows if row["equal"]]
    assert len(differences) == 2
    assert max(differences) < 1e-6
    ids = mask_files(tmp_path, 4, 3)
    left, right = (peer(ids, tmp_path / "truth", tmp_path / "predictions", 20)
                   for peer in (evaluation_peers.by_torchmetrics, evaluation_peers.by_a_loop))
    np.testing.assert_allclose(left, right, atol=1e-6)
    assert 0.05 < right.mean() < 0.95  # masks that err, else equality would say little


def test_the_crf_labels_as_the_peer_with_all_classes_does():
    pytest.importorskip("pydensecrf", reason="pydensecrf is not installed here")
    image, mask = photographs(3)[0]
    image, grid = np.ascontiguousarray(image[:120, :160]), scores(mask, 0)[:, :15, :20]
    theirs = crf_peers.refine(image, upsample(grid, (120, 160), stride=STRIDE), PRESETS["psa"])
    assert np.mean(refine(image, grid, PRESETS["psa"], stride=STRIDE) == theirs) >= 0.999


def test_the_saliency_of_the_straightforward_way_is_ours():
    image = photographs(3)[1][0][:150, :200]
    settings = {"size": 120, "superpixel": 200, "compactness": 10.0}
    ours, theirs = saliency(image, **settings), saliency_peers.saliency(image, **settings)
    assert np.ptp(theirs) > 0.5
    np.testing.assert_allclose(ours, theirs, atol=0.01)


def test_void_lines_lie_between_regions_alone():
    mask = np.zeros((6, 8), np.uint8)
    mask[:, 4:] = 3
    np.testing.assert_array_equal(outlined(mask)[0], [0, 0, 0, 0, 255, 255, 3, 3])


def test_both_sides_are_run_in_turn_and_equally_often():
    calls: list[str] = []
    in_turn(lambda: calls.append("ours"), lambda: calls.append("peer"), repeats=3, clock="wall")
    assert calls == ["ours", "peer", "peer", "ours", "ours", "peer"]


def test_a_failing_topic_is_reported_and_keeps_the_rows_it_had(tmp_path, monkeypatch):
    monkeypatch.setitem(bench.TOPICS, "absent", 60)
    assert "ended with status 1" in bench.run("absent", tmp_path / "rows", quick=True)
    monkeypatch.setitem(bench.TOPICS, "saliency", 0.01)
    assert "expected at most 0.01 s" in bench.run("saliency", tmp_path / "rows", quick=True)


def test_an_unknown_topic_is_refused():
    done = subprocess.run([sys.executable, "-m", "benchmarks", "crff"], cwd=results.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "expected topics out of crf" in done.stderr


# ---- files and page


def a_row(topic: str, name: str, ratio: float = 2.0) -> results.Row:
    return {"topic": topic, "name": name, "ours": 1.0, "peer": ratio, "unit": "s", "ratio": ratio, "aim": 3.0, "limit": "Light is not faster.",
            "equal": "", "repeats": 3, "date": "2026-01-01"}


HERE = {"cpu": "a", "cores": 2, "memory_gib": 8.0, "python": "3.11", "torch": "2", "versions": {"numpy": "2"}, "date": "2026-01-02"}


def test_rows_measured_again_replace_the_old_ones_and_all_others_stay():
    old = {"machine": {**HERE, "date": "2026-01-01"}, "rows": [a_row("crf", "one"), a_row("saliency", "two")]}
    new = results.merged(old, ["crf"], [a_row("crf", "other", 4.0)], HERE, ["crf", "saliency"])
    assert [row["name"] for row in new["rows"]] == ["other", "two"]
    assert all("machine" not in row for row in new["rows"])
    elsewhere = {**HERE, "cpu": "b"}
    moved = results.merged(new, ["saliency"], [a_row("saliency", "two")], elsewhere, ["crf", "saliency"])
    assert [row.get("machine") for row in moved["rows"]] == [HERE, None]
    back = results.merged(moved, ["saliency"], [a_row("saliency", "two")], HERE, ["crf", "saliency"])
    assert [row.get("machine") for row in back["rows"]] == [None, None]
    assert results.merged(new, ["crf"], [], HERE, ["crf"])["rows"] == new["rows"]  # a topic that failed loses nothing


def test_a_table_says_what_was_missed_and_goes_between_its_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: results -->old<!-- /bench: results -->\nafter\n")
    content = {"machine": HERE, "rows": [a_row("crf", "one"), a_row("crf", "two", 5.0)]}
    results.write_results(content, tmp_path / "results.json", page)
    assert json.loads((tmp_path / "results.json").read_text()) == content == results.read(tmp_path / "results.json")
    table = results.table_in(page, "results")
    assert "| one | 1 s | 2 s | 2 | ≥ 3 | **missed** |" in table
    assert "| two | 1 s | 5 s | 5 | ≥ 3 | met |" in table
    assert page.read_text().startswith("before\n")
    assert page.read_text().endswith("after\n")
    page.write_text("nothing")
    with pytest.raises(AepslError, match="expected <!-- bench: results -->"):
        results.put(page, "results", table)


def test_damaged_results_are_named(tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(AepslError, match=r"results\.json: expected results as JSON"):
        results.read(tmp_path / "results.json")


def test_the_page_shows_what_was_measured():
    assert results.table_in(results.PAGE, "results") == results.results_table(results.read())
    for row in results.read()["rows"]:
        checked(row)
        assert row["topic"] in bench.TOPICS
    grown = json.loads(results.GROWTH.read_text()) if results.GROWTH.exists() else None
    assert results.table_in(results.PAGE, "growth") == (results.growth_table(grown) if grown else "Not measured yet.")


# ---- growth


def run_of(size: int, power: float) -> dict[str, dict[str, float]]:
    return {"mine@r1": {"cpu": 4 + 0.01 * size**power, "wall": 5.0, "mib": 100 + size / 1000}}


def test_growth_keeps_no_sizes_that_other_stages_were_measured_at() -> None:
    cost = {"cpu": 1.0, "wall": 1.0, "mib": 1.0}
    before = {10: [{"mine": cost}], 100: [{"mine": cost, "package": cost}]}
    assert growth.beside([{"package": cost, "mine": cost}], before) == {100: before[100]}


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_growth_finds_the_exponent_above_the_start_up(power):
    runs = {growth.START_UP: [{"mine@r1": {"cpu": 4.0, "wall": 5.0, "mib": 100.0}}], **{size: [run_of(size, power)] for size in (100, 1000, 10_000)}}
    before = copy.deepcopy(runs)
    (row,) = growth.summary(runs)
    assert row["exponent"] == pytest.approx(power, abs=0.001)
    assert row["exponent_raw"] < row["exponent"]
    assert row["memory_ratio"] == pytest.approx(110 / 101, abs=0.001)
    assert runs == before


def test_a_stage_without_work_of_its_own_has_no_exponent():
    runs = {size: [{"start": {"cpu": 4.0, "wall": 4.0, "mib": 50.0}}] for size in (growth.START_UP, 1000, 10_000)}
    assert growth.summary(runs)[0]["exponent"] is None


def test_a_stage_has_its_name_in_the_pipeline():
    assert growth.stage_name(["stages.mine", "--step", "r1", "--out", "x"]) == "mine@r1"
    assert growth.stage_name(["stages.merge", "--out", "x"]) == "merge"


# ---- limits and GPU, on a processor


def test_limits_count_operations_and_measure_rates(tmp_path):
    assert limits.operations(torch.nn.Conv2d(3, 4, 3, padding=1, bias=False), (2, 3, 5, 6)) == 2 * 2 * 4 * 3 * 9 * 5 * 6
    assert min(limits.matrix_rate(side=64), limits.copy_rate(1), limits.md5_rate(1), limits.write_rate(tmp_path, 1)) > 0
    assert not list(tmp_path.iterdir())


def test_the_rows_of_a_gpu_can_be_made_on_a_processor():
    pytest.importorskip("pydensecrf", reason="pydensecrf is not installed here")
    device = torch.device("cpu")
    rows = [*gpu.networks("small", "mobilenet_v2", 16, 33, 2, device=device, dtype=torch.bfloat16, steps=1),
            *gpu.crf_rows(device, sizes=(1, 2), base=3, crop=64)]
    assert len(rows) == 4
    for row in rows:
        checked(row)
    assert "% of the" in rows[0]["limit"]


def test_without_a_gpu_its_topic_gives_no_row(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    assert list(gpu.topic(True)) == []
    assert "expected a CUDA device, found none" in capsys.readouterr().err
