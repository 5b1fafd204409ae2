"""``aepsl compare`` and the snapshots it is made of."""

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import Result

from aepsl.errors import AepslError
from aepsl.revisions import differences, direction, snapshot, warnings

Command = Callable[..., Result]
PARAMS = {"seed": 1, "mine": {"threshold": 0.3, "scales": [1.0]}, "compute": {"workers": 2}}
SCORES = {"miou": 0.5, "miou_low": 0.45, "pixel_accuracy": 0.8, "final_loss": 1.0, "coverage": 0.25, "yardstick": "val 100 miss aaaa",
          "how": [{"split": "val"}]}


def write(folder: Path, *, params: Mapping[str, Any] = PARAMS, scores: Mapping[str, Any] = SCORES, recorded: Mapping[str, Any] | None = None,
          outs: Mapping[str, str] | None = None) -> None:
    """A finished run of a small project."""
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(dict(params)))
    (folder / "metrics/val.json").write_text(json.dumps(dict(scores)))
    made = outs or {"data/a.zip": "0" * 31 + "a", "metrics/val.json": "1" * 31 + "b"}
    stages = {"mine": {"cmd": "x", "params": {"params.yaml": dict(recorded or {"mine": params["mine"]})},
                       "outs": [{"path": path, "hash": "md5", "md5": md5, "size": 1} for path, md5 in made.items()]}}
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def git(*words: str) -> str:
    return subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words], capture_output=True, text=True, check=True).stdout


def commit(message: str) -> None:
    git("add", "-A")
    git("commit", "--quiet", "--message", message)


@pytest.fixture
def project(aepsl: Command) -> Command:
    """The command in a git checkout: ``main`` has one run, the files another."""
    git("init", "--quiet", "--initial-branch", "main")
    write(Path())
    commit("first")
    changed = {"seed": 2, "mine": {"threshold": 0.4, "scales": [1]}, "compute": {"workers": 0}, "new": True}
    write(Path(), params=changed, scores=SCORES | {"miou": 0.52, "pixel_accuracy": 0.7, "final_loss": 0.5, "coverage": 0.5},
          outs={"data/b.zip": "c" * 32})
    return aepsl


def test_a_revision_is_compared_with_the_files_here(project: Command) -> None:
    result = project("compare", "main", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {
        "old": "main", "new": "workspace",
        "metrics": [["val.miou", 0.5, 0.52], ["val.pixel_accuracy", 0.8, 0.7], ["val.final_loss", 1.0, 0.5], ["val.coverage", 0.25, 0.5]],
        "params": [["mine.threshold", 0.3, 0.4], ["seed", 1, 2], ["new", None, True]],
        "artefacts": [["data/a.zip", "0" * 31 + "a", None], ["data/b.zip", None, "c" * 32]],
        "warnings": []}


def test_the_table_says_what_is_better_where_that_is_known(project: Command) -> None:
    lines = [line.split() for line in project("compare", "main").stdout.splitlines()]
    assert ["miou", "0.5", "0.52", "+0.02", "↑", "better"] in lines
    assert ["pixel_accuracy", "0.8", "0.7", "-0.1", "↓", "worse"] in lines
    assert ["final_loss", "1", "0.5", "-0.5", "↓", "better"] in lines
    assert ["coverage", "0.25", "0.5", "+0.25", "↑"] in lines
    assert ["mine.threshold", "0.3", "0.4"] in lines
    assert ["data/b.zip", "–", "cccccccc"] in lines


def test_markdown_is_made_of_tables(project: Command) -> None:
    text = project("compare", "main", "--md").stdout
    assert text.startswith("### main → workspace\n")
    assert "| Metrics | old | new | change |\n| --- | ---: | ---: | ---: |\n| miou | 0.5 | 0.52 | +0.02 ↑ better |\n" in text


def test_two_revisions_are_compared_whatever_the_files_here_say(project: Command) -> None:
    commit("second")
    git("tag", "v2")
    write(Path(), params=PARAMS | {"seed": 3})
    assert [row[1:] for row in json.loads(project("compare", "v2~1", "v2", "--json").stdout)["params"]] == [[0.3, 0.4], [1, 2], [None, True]]
    assert "No difference." in project("compare", "v2", "v2").stdout


def test_an_experiment_of_dvc_is_found_by_its_name(project: Command) -> None:
    commit("second")
    git("update-ref", "refs/exps/ab/cdef/calm-ibex", "HEAD")
    assert "No difference." in project("compare", "calm-ibex", "HEAD").stdout


def test_a_folder_and_a_lock_are_states_too(project: Command) -> None:
    write(Path("other"), params=PARAMS | {"seed": 9})
    assert json.loads(project("compare", "main", "other", "--json").stdout)["params"] == [["seed", 1, 9]]
    result = json.loads(project("compare", "other/dvc.lock", "main", "--json").stdout)
    assert result["metrics"] == []
    assert result["artefacts"] == []
    assert result["warnings"] == ["other/dvc.lock: a dvc.lock alone says nothing of metrics, so none are compared; give the folder or the revision"]


def test_scores_of_another_yardstick_are_not_called_better(project: Command) -> None:
    write(Path(), scores=SCORES | {"miou": 0.6, "yardstick": "val 99 miss aaaa"})
    result = project("compare", "main")
    assert ["miou", "0.5", "0.6", "+0.1", "↑", "not", "comparable"] in [line.split() for line in result.stdout.splitlines()]
    assert "Mind: val: the scores were not measured alike (val 100 miss aaaa against val 99 miss aaaa) and cannot be compared" in result.stdout


def test_parameters_changed_since_the_run_are_told(project: Command) -> None:
    write(Path(), recorded={"mine.threshold": 0.2})
    assert "workspace: 1 parameter(s) changed since the stages ran (mine.threshold)" in project("compare", "main").stdout


@pytest.mark.parametrize(("name", "said"), [
    ("no-such-branch", "'no-such-branch': expected a git revision"),
    ("", "'': expected a git revision"),
    ("--output=x", "No such option"),
    ("main^{/nothing like it}", "expected a git revision"),
    ("a\nb", "'a\\nb': expected a git revision"),
    ("empty", "'empty': expected a dvc.lock, found none"),
])
def test_a_name_that_means_nothing_is_explained(project: Command, name: str, said: str) -> None:
    Path("empty").mkdir()
    result = project("compare", name)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert not Path("x").exists()


def test_a_revision_without_a_lock_is_explained(project: Command) -> None:
    git("rm", "--quiet", "--cached", "dvc.lock")
    git("commit", "--quiet", "--message", "none")
    result = project("compare", "HEAD")
    assert (result.exit_code, "'HEAD': expected a dvc.lock, found none; run `dvc repro` there" in result.stderr) == (1, True)


def test_outside_of_git_folders_can_be_compared_and_revisions_are_explained(aepsl: Command) -> None:
    write(Path("a"))
    write(Path("b"), params=PARAMS | {"seed": 5})
    assert "seed" in aepsl("compare", "a", "b").stdout
    result = aepsl("compare", "main", "b")
    assert (result.exit_code, "is in no git checkout" in result.stderr) == (1, True)


@pytest.mark.parametrize(("text", "found"), [
    ("", "an empty file"), ("a: [", "did not find expected node content"), ("stages: {a: {outs: [{md5: x}]}}", "a stage of another form"),
    ("a: &a [1]\nstages: *a", "a reference, which could grow it without end"),
    ("stages: !!python/object:os.system {}", "could not determine a constr"),
])
def test_a_damaged_lock_is_explained(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(AepslError, match=r"expected a dvc\.lock as DVC 3 writes it, found") as error:
        snapshot(tmp_path, None)
    assert found in str(error.value)


def test_what_is_printed_of_a_hostile_file_obeys_nobody(aepsl: Command) -> None:
    write(Path("a"))
    write(Path("b"), params=PARAMS | {"x\x1b[31m": "\x1b]0;title\x07"}, scores=SCORES | {"a\x1b[2J": 1})
    for words in ((), ("--md",), ("--json",)):
        result = aepsl("compare", "a", "b", *words)
        assert result.exit_code == 0
        assert "\x1b" not in result.output
        assert "\x07" not in result.output


def test_directions_of_the_projects_metrics() -> None:
    assert [direction(f"val.{name}") for name in ("miou", "miou_before_crf", "pseudo_label_miou_where_labelled", "erasing_gain_r3")] == [1, 1, 1, 1]
    assert [direction(f"val.{name}") for name in ("final_loss", "lost_by_stop_rule")] == [-1, -1]
    assert [direction(f"val.{name}") for name in ("miou_low", "best_single_miou", "single_recall", "erased_area", "rounds")] == [0, 0, 0, 0, 0]


def test_a_finished_run_has_no_differences_with_itself(finished) -> None:
    state = snapshot(finished.folder, None)
    assert state.metrics is not None
    assert {"val.miou", "val.yardstick", "pseudo_labels.pseudo_label_miou"} <= set(state.metrics)
    assert {"data/predictions.zip", "models/segmenter/s2.pt"} <= set(state.artefacts)
    assert not any(path.startswith("compute") for path in state.params)
    assert warnings(state, state) == []
    assert differences(state, state) == {"name": "workspace", "metrics": [], "params": [], "artefacts": []}
