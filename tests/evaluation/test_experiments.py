"""Runs as DVC and as folders give them; once with a real DVC project."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from aepsl.errors import AepslError
from aepsl.evaluation.experiments import dvc_experiments, folder_runs, parse_classes, parse_experiments


def data(rev: str, seed: int = 1, **scores: Any) -> dict[str, Any]:
    """The data of a revision as `dvc exp show --json` writes it."""
    return {"rev": rev, "timestamp": None if rev == "workspace" else "2026-01-01T00:00:00", "params": {"params.yaml": {"data": {"seed": seed}}},
            "metrics": {"metrics/val.json": {"data": scores}, "metrics/pseudo_labels.json": {"data": {"pseudo_label_miou": 0.3}}}}


def experiment(name: str, shown: dict[str, Any] | None, state: str | None = "success", error: Any = None) -> dict[str, Any]:
    return {"revs": [{"rev": "abc", "name": name, "data": shown, "error": error, "experiments": None}],
            "executor": state and {"state": state, "name": "dvc-task"}, "name": name}


def shown(*experiments: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"rev": "workspace", "name": None, "data": data("workspace", miou=0.9), "error": None, "experiments": None},
            {"rev": "def", "name": "main", "data": data("def", miou=0.8), "error": None, "experiments": list(experiments)}]


def test_only_finished_experiments_are_taken():
    found = parse_experiments(shown(
        experiment("done", data("abc", 2, miou=0.5)), experiment("outside", data("abc", 3, miou=0.6), None),  # without the queue
        experiment("failed", data("abc", 4, miou=0.9), "failed", {"msg": "Experiment run failed", "type": ""}),
        experiment("running", data("workspace", 5, miou=0.9), "running"), experiment("queued", data("abc", 6), "queued"),
        experiment("lost", None), experiment("shadow", data("workspace", 7, miou=0.9), None),
        experiment("unscored", data("abc", 8)), experiment("no truth", data("abc", 9, miou=None))),
        lambda revision: "class,iou\ncat,0.25\ndog,\n" if revision == "abc" else "")
    assert [(run.name, run.params, run.scores, run.created, run.classes) for run in found.runs] == [
        (name, {"seed": seed}, {"miou": miou, "pseudo_label_miou": 0.3}, "2026-01-01T00:00:00", {"cat": 0.25, "dog": None})
        for name, seed, miou in (("done", 2, 0.5), ("outside", 3, 0.6))]
    why = "no miou in metrics/val.json; was evaluate among the stages that ran, and has val masks?"
    assert found.left_out == ["failed: failed (Experiment run failed)", "running: running", "queued: queued", "lost: not finished",
                              "shadow: not finished", f"unscored: {why}", f"no truth: {why}"]
    assert [(commit.name, commit.scores["miou"]) for commit in found.commits] == [("main", 0.8)]


def test_an_experiment_without_metrics_or_with_a_broken_table_is_listed():
    bare = data("abc") | {"metrics": {"metrics/val.json": {"error": {"type": "FileNotFoundError", "msg": ""}}}}
    found = parse_experiments(shown(experiment("bare", bare), experiment("broken", data("abc", miou=0.5))), lambda revision: "class,iou\ncat,x\n")
    assert found.runs == []
    assert found.left_out[1].startswith("broken: metrics/per_class.csv: expected columns class and iou with numbers")


def test_a_table_of_classes():
    assert parse_classes("class,iou,precision\ncat,0.5,1\ndog,,\n", "x") == {"cat": 0.5, "dog": None}
    assert parse_classes("", "x") == {}
    with pytest.raises(AepslError, match="x: expected columns class and iou"):
        parse_classes("name,iou\ncat,0.5\n", "x")


def place(folder: Path, **files: str) -> None:
    content = {"params.yaml": "seed: 2\n", "metrics/val.json": '{"miou": 0.5}', "metrics/pseudo_labels.json": '{"pseudo_label_miou": 0.3}'} | files
    for name, text in content.items():
        if text:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")


def test_sub_folders_are_runs_and_faulty_ones_are_listed(tmp_path):
    place(tmp_path / "b", **{"metrics/per_class.csv": "class,iou\ncat,0.5\n"})
    place(tmp_path / "a")
    for name, files in {"c": {"metrics/val.json": ""}, "d": {"params.yaml": ""}, "e": {"metrics/val.json": "{"}, "f": {"params.yaml": "- 1"},
                        "g": {"metrics/val.json": '{"miou": null}'}, "h": {"params.yaml": "a: ["}}.items():
        place(tmp_path / name, **files)
    found = folder_runs(tmp_path)
    assert [(Path(run.name).name, run.params, run.scores["miou"], dict(run.classes)) for run in found.runs] == [
        ("a", {"seed": 2}, 0.5, {}), ("b", {"seed": 2}, 0.5, {"cat": 0.5})]
    assert [line.removeprefix(f"{tmp_path}/")[:40] for line in found.left_out] == [
        "c: expected metrics/val.json, found none", "d: expected params.yaml, found none", "e: expected readable parameters and metr",
        "f: expected groups of parameters in para", "g: no miou in metrics/val.json; was eval", "h: expected readable parameters and metr"]


def test_a_folder_may_be_a_run_itself(tmp_path):
    place(tmp_path)
    assert [run.scores["miou"] for run in folder_runs(tmp_path).runs] == [0.5]


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(AepslError, match=r"expected a run, which is params\.yaml and metrics/, in every sub-folder, found no sub-folder"):
        folder_runs(tmp_path)
    with pytest.raises(AepslError, match="nowhere: expected a folder of runs, found none"):
        folder_runs(tmp_path / "nowhere")


def test_a_folder_that_is_no_dvc_project_is_explained(tmp_path):
    with pytest.raises(AepslError, match=r"dvc exp show: expected the experiments of .* found: .*; run it in the project .* or give plain folders"):
        dvc_experiments(tmp_path)


# ---- a real project


EVALUATE = """
import json, pathlib, sys, yaml
params = yaml.safe_load(open("params.yaml"))
if params["seed"] == 9:
    sys.exit("out of memory")
miou = {"none": 0.4, "predicted": 0.5}[params["segment"]["psl"]] + params["seed"] / 100
metrics = pathlib.Path("metrics")
metrics.mkdir(exist_ok=True)
(metrics / "val.json").write_text(json.dumps({"miou": miou}))
(metrics / "pseudo_labels.json").write_text(json.dumps({"pseudo_label_miou": 0.3}))
(metrics / "per_class.csv").write_text(f"class,iou\\ncat,{miou}\\n")
"""
PIPELINE = {"stages": {"evaluate": {
    "cmd": "python evaluate.py", "deps": ["evaluate.py"], "params": ["seed", "segment.psl"],
    "metrics": [{"metrics/val.json": {"cache": False}}, {"metrics/pseudo_labels.json": {"cache": False}}],
    "plots": [{"metrics/per_class.csv": {"cache": False}}]}}}


def test_experiments_of_a_real_project_become_tables(checkout):
    work = checkout({})

    def succeed(*command: str) -> str:
        result = work.call(*command, PYTHONPATH=str(work / "src"))
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    (work / "evaluate.py").write_text(EVALUATE)
    (work / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    succeed("git", "init", "--quiet")
    for key, value in (("user.name", "a"), ("user.email", "a@b.c")):
        succeed("git", "config", key, value)
    succeed("python", "-m", "dvc", "repro", "--quiet")
    succeed("git", "add", ".")
    succeed("git", "commit", "--quiet", "--message", "base")
    succeed("python", "-m", "dvc", "exp", "run", "--quiet", "--queue", "-S", "segment.psl=none", "-S", "seed=1,9")
    work.call("python", "-m", "dvc", "exp", "run", "--quiet", "--run-all")  # fails, for seed 9 does
    succeed("python", "-m", "dvc", "exp", "run", "--quiet", "-S", "seed=2")  # without the queue

    result = work.call("python", "-m", "aepsl", "ablations", PYTHONPATH=str(work / "src"))
    assert result.returncode == 0, result.stderr
    assert (work / "metrics/ablations/psl.csv").read_text() == (
        "data,variant,seed,pseudo_label_miou,miou\nshapes,off,1,30,41\nshapes,on,2,30,52\n")
    assert (work / "metrics/ablations/per_class.csv").read_text() == (
        "data,variant,seed,class,iou\nshapes,off,1,cat,41\nshapes,on,2,cat,52\n")
    assert json.loads((work / "metrics/ablations/settings.json").read_text())["shapes"]["segment.training.crop"] == 97
    assert result.stderr.count(": failed (Experiment run failed)") == 1
    assert "| on | 54.1 | 30.0 (1) | 52.0 (1) |" in result.stdout


# ---- runs of strangers


@pytest.mark.parametrize(("files", "said"), [
    ({"metrics/val.json": '[["miou", 0.5]]'}, "found in metrics/val.json: expected metrics by name"),
    ({"metrics/val.json": '{"miou": 0.5, "miou": 0.6}'}, "expected every key once, found 'miou' again"),
    ({"metrics/val.json": "[" * 100_000}, "nested a thousandfold"), ({"metrics/val.json": '{"miou": true}'},
                                                                     "expected scores from 0 to 1, found miou True"),
    ({"metrics/val.json": '{"miou": 50.3}'}, "expected scores from 0 to 1, found miou 50.3"),
    ({"metrics/pseudo_labels.json": '{"pseudo_label_miou": "x"}'}, "expected scores from 0 to 1, found pseudo_label_miou 'x'"),
    ({"params.yaml": "a: !!python/name:os.abort\n"}, "found in params.yaml: line 1"),
    ({"params.yaml": "a: &a [*a]\n"}, "found in params.yaml: groups nested"),
    ({"metrics/per_class.csv": "class,iou\ncat,7\n"}, "an IoU of 7.0"), ({"metrics/per_class.csv": "class,iou\ncat,0.1\ncat,0.2\n"}, "'cat' twice"),
    ({"metrics/per_class.csv": 'class,iou\ncat,"0.1\n'}, "expected columns class and iou"),
    ({"metrics/per_class.csv": "class,iou\n" + "x" * 200_000}, "field larger")])
def test_what_a_run_cannot_have_scored_is_left_out_and_explained(tmp_path, files, said):
    place(tmp_path / "a", **files)
    found = folder_runs(tmp_path)
    assert found.runs == []
    assert said in found.left_out[0]


@pytest.mark.parametrize("content", [None, 3, [{}], [{"rev": "a", "data": [], "error": None, "experiments": [{"revs": []}]}]])
def test_another_form_of_what_dvc_says_is_explained(content):
    with pytest.raises(AepslError, match=r"dvc exp show --json: expected the form that DVC 3\.67 gives it, found another"):
        parse_experiments(content)
