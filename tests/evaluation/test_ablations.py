import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from aepsl.cli.app import app
from aepsl.errors import FaultList
from aepsl.evaluation.ablation_tables import Table
from aepsl.evaluation.ablations import as_row, collect, data_name, differences, merged, variants
from aepsl.evaluation.ablations import settings as settings_of
from aepsl.evaluation.experiments import Found, Run

ROOT = Path(__file__).resolve().parents[2]
SHIPPED: dict[str, Any] = yaml.safe_load((ROOT / "presets/shapes.yaml").read_text(encoding="utf-8"))
CHAIN = {"r1": "r0", "r2": "r1", "r3": "r2", "r4": "r3"}


def params(psl: str = "predicted", crop: int = 97, **changes: Any) -> dict[str, Any]:
    """The shipped parameters with other top-level keys, another way of prohibiting and another crop."""
    segment = SHIPPED["segment"] | {"psl": psl, "training": SHIPPED["segment"]["training"] | {"crop": crop}}
    return SHIPPED | {"segment": segment} | changes


def run(name: str, miou: float, created: str = "2026-01-01T00:00:00", given: dict[str, Any] | None = None, classes: Any = None) -> Run:
    return Run(name, given or params(), {"miou": miou, "pseudo_label_miou": 0.4}, created, classes or {})


TWO = {"relabels": {"s2": "s1"}, "passes": ["s1", "s2"]}
BOUND = {"oracles": ["full"], "passes": ["full"], "last_pass": "full"}


@pytest.mark.parametrize(("given", "expected"), [
    (params(), {"rounds": "r3", "psl": "on"}),
    (params(rounds=CHAIN, last_round="r4"), {"rounds": "r4"}),
    (params(rounds=CHAIN, last_round="r1"), {"rounds": "r1"}),
    (params(rounds={"first": "r0", "next": "first"}, last_round="next"), {"rounds": "r2"}),  # names do not matter
    (params("none"), {"psl": "off"}),
    (params("true-labels"), {"psl": "true-labels"}),
    (params(**TWO, last_pass="s2"), {"psl": "psl++"}),
    (params(**TWO), {"rounds": "r3", "psl": "on"}),  # a second pass that is not used
    (params("none", **BOUND), {"psl": "fully-supervised"}),
    (params("none", **BOUND, last_round="r1"), {"psl": "fully-supervised"}),
    (params("none", oracles=["full"], passes=["s1", "full"]), {"psl": "off"}),  # an oracle that is not used
    (params(**BOUND), {}), (params("none", last_round="r2"), {}), (params("none", **TWO, last_pass="s2"), {}),
    (params(last_round="r0"), {}), (params(rounds=CHAIN | {"r5": "r4"}, last_round="r5"), {}),
])
def test_the_line_of_a_run_follows_from_its_parameters(given, expected):
    assert variants(given) == expected


def test_runs_from_before_oracles_are_known():
    old = params()
    del old["oracles"]
    assert variants(old) == {"rounds": "r3", "psl": "on"}


@pytest.mark.parametrize(("source", "path", "name"), [
    ("shapes", "src/aepsl/data/shapes.py", "shapes"), ("voc2012", "archives", "voc2012"), ("folder", "my-images/", "my-images"),
    ("folder", "/data/voc-animals/VOC2012", "voc-animals"), ("folder", "VOC2012", "VOC2012")])
def test_a_data_set_is_named_by_its_source_or_its_folder(source, path, name):
    assert data_name({"data": {"source": source, "path": path}}) == name


def test_settings_are_everything_but_what_the_ablations_vary_and_where_it_ran():
    same = [params(), params("none"), params(seed=9, last_round="r1"), params(**TWO, last_pass="s2"), params(**BOUND),
            params(compute={"device": "cuda"}), params(data=SHIPPED["data"] | {"path": "elsewhere/shapes.py"})]
    assert all(settings_of(given) == settings_of(same[0]) for given in same)
    assert settings_of(same[0])["segment.training.crop"] == 97
    assert settings_of(params(crop=129)) != settings_of(same[0])


def test_a_row_is_in_percent_and_the_bound_has_no_pseudo_labels():
    assert as_row(run("a", 0.5035312, given=params(seed=2)), "shapes", "on") == {
        "data": "shapes", "variant": "on", "seed": 2, "pseudo_label_miou": 40, "miou": 50.3531}
    assert as_row(run("a", 0.7), "shapes", "fully-supervised")["pseudo_label_miou"] is None
    assert as_row(Run("a", params(), {"miou": 0.7, "pseudo_label_miou": None}, ""), "shapes", "on")["pseudo_label_miou"] is None


def test_differences_name_the_parameter_its_values_and_their_runs():
    named = [("a", {"crop": 97, "lr": 0.1}), ("b", {"crop": 129.0, "lr": 0.1}), ("c", {"crop": 97.0, "lr": 0.1}), ("d", {"crop": 97})]
    assert differences(named) == ["crop: 97 in 3 (a, c, d); 129 in 1 (b)", "lr: 0.1 in 3 (a, b, c); no such parameter in 1 (d)"]
    assert differences(named, ignore=["crop", "lr"]) == []


def test_runs_become_rows_by_data_set_variant_and_seed():
    runs = [run("x", 0.48, given=params(seed=2)), run("y", 0.5, given=params("none")), run("z", 0.3, given=params(last_round="r1"))]
    table, notes = collect(Found(runs, ["w: failed"]))
    assert [(row["variant"], row["seed"], row["miou"]) for row in table.rows["rounds"]] == [("r1", 1, 30), ("r3", 2, 48)]
    assert [(row["variant"], row["seed"], row["miou"]) for row in table.rows["psl"]] == [("off", 1, 50), ("on", 2, 48)]
    assert table.settings == {"shapes": settings_of(params()) | {"data.path": "shapes"}}
    assert notes == ["w: failed"]


def test_the_newest_of_two_runs_counts_whatever_their_order():
    old, new = run("old", 0.1, "2026-01-01T09:00:00"), run("new", 0.2, "2026-01-01T10:00:00")
    for order in ([old, new], [new, old]):
        table, notes = collect(Found(order, []))
        assert [row["miou"] for row in table.rows["psl"]] == [20]
        assert notes == ["old: shapes, on, seed 1 was run again; the newer new counts",
                         "old: shapes, r3, seed 1 was run again; the newer new counts"][::-1]


def test_runs_of_other_settings_are_refused_by_name_and_can_be_chosen():
    found = Found([run("a", 0.5), run("b", 0.4, given=params("none", crop=129))], [])
    with pytest.raises(FaultList, match="runs of 'shapes' differ in more than the ablations vary; choose with --where") as caught:
        collect(found)
    assert caught.value.faults == ["segment.training.crop: 97 in 1 (a); 129 in 1 (b)"]
    table, notes = collect(found, where={"segment.training.crop": 129})
    assert [row["variant"] for row in table.rows["psl"]] == ["off"]
    assert notes == ["a: not among those asked for (--where)"]
    assert len(collect(found, ignore=["segment.training.crop"])[0].rows["psl"]) == 2


def test_other_data_sets_may_have_other_settings():
    own = params(crop=129, data=SHIPPED["data"] | {"source": "folder", "path": "/x/voc-animals/VOC2012"})
    table, _ = collect(Found([run("a", 0.5), run("b", 0.4, given=own)], []))
    assert [row["data"] for row in table.rows["psl"]] == ["shapes", "voc-animals"]
    assert {row["data"] for row in collect(Found([run("b", 0.4, given=own)], []), data="mine")[0].rows["psl"]} == {"mine"}


def test_a_run_that_is_no_line_or_not_ours_is_listed():
    found = Found([run("a", 0.5, given=params("none", last_round="r2")), run("b", 0.4, given={"lr": 1})], [])
    table, notes = collect(found)
    assert not table.places()
    assert notes == ["a: its rounds, passes and segment.psl are no line of a table",
                     "b: its parameters are not those of this pipeline (no 'segment')"]


def test_scores_left_over_from_another_run_are_not_taken():
    commit, later = run("main", 0.5), "2026-01-02T00:00:00"
    stale, same, fresh = run("stale", 0.5, later, params(seed=2)), run("same", 0.5, later), run("fresh", 0.6, later, params(seed=3))
    table, [note] = collect(Found([stale, same, fresh], [], [commit]))
    assert [(row["seed"], row["miou"]) for row in table.rows["psl"]] == [(1, 50), (3, 60)]
    assert note.startswith("stale: has every score of main although it is another variant or seed")


def test_classes_follow_the_ways_of_prohibiting():
    found = Found([run("a", 0.5, classes={"background": 0.9, "cat": None}), run("b", 0.5, given=params(last_round="r1"), classes={"cat": 0.1})], [])
    found.runs[1].scores["miou"] = 0.4
    assert collect(found)[0].classes == [{"data": "shapes", "variant": "on", "seed": 1, "class": "background", "iou": 90},
                                         {"data": "shapes", "variant": "on", "seed": 1, "class": "cat", "iou": None}]


def table_of(*runs: Run) -> Table:
    return collect(Found(list(runs), []))[0]


def test_new_rows_replace_their_own_kind_and_leave_the_rest():
    old = table_of(run("a", 0.5, classes={"cat": 0.5, "dog": 0.5}), run("b", 0.4, given=params(seed=2), classes={"cat": 0.4}))
    new = table_of(run("c", 0.6, classes={"cat": 0.6}), run("d", 0.7, given=params("none")))
    both = merged(old, new)
    assert [(row["variant"], row["seed"], row["miou"]) for row in both.rows["psl"]] == [("off", 1, 70), ("on", 1, 60), ("on", 2, 40)]
    assert [(row["seed"], row["class"], row["iou"]) for row in both.classes] == [(1, "cat", 60), (2, "cat", 40)]


def test_rows_of_other_settings_are_not_joined_to_those_that_stay():
    old = table_of(run("a", 0.5), run("b", 0.4, given=params(seed=2)))
    new = table_of(run("c", 0.6, given=params(crop=129)))
    with pytest.raises(FaultList, match="2 rows of 'shapes' are already there under other parameters") as caught:
        merged(old, new)
    assert caught.value.faults == ["segment.training.crop: 97 in 1 (the rows there); 129 in 1 (these runs)"]
    assert len(merged(old, new, ["segment.training.crop"]).rows["psl"]) == 2
    whole = table_of(run("c", 0.6, given=params(crop=129)), run("d", 0.65, given=params(seed=2, crop=129)))
    assert merged(old, whole).settings == whole.settings  # nothing old stays


RUNS = st.lists(st.builds(lambda seed, psl, miou: run(f"{psl}{seed}", miou, given=params(psl, seed=seed)), st.integers(0, 3),
                          st.sampled_from(["none", "predicted", "true-labels"]), st.integers(0, 9999).map(lambda share: share / 1e4)),
                max_size=6, unique_by=lambda run: run.name)


@settings(max_examples=50, deadline=None)
@given(RUNS, RUNS)
def test_merging_keeps_every_place_once_and_again_changes_nothing(first, second):
    old, new = (Table() if not runs else collect(Found(runs, []))[0] for runs in (first, second))
    both = merged(old, new)
    assert both.places() == old.places() | new.places()
    assert all(len(rows) == len({(row["variant"], row["seed"]) for row in rows}) for rows in both.rows.values())
    assert merged(both, new) == both
    assert merged(Table(), both) == both


# ---- command line


def place_run(folder: Path, given: dict[str, Any], miou: float | None = 0.5) -> None:
    (folder / "metrics").mkdir(parents=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(given), encoding="utf-8")
    (folder / "metrics/val.json").write_text(json.dumps({"miou": miou}), encoding="utf-8")
    (folder / "metrics/pseudo_labels.json").write_text(json.dumps({"pseudo_label_miou": 0.3}), encoding="utf-8")
    (folder / "metrics/per_class.csv").write_text("class,iou\nbackground,0.8\ncat,0.5\n", encoding="utf-8")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    animals = SHIPPED["data"] | {"source": "folder", "path": "/elsewhere/voc-animals/VOC2012"}
    for seed, miou in ((1, 0.5), (2, 0.54)):
        place_run(tmp_path / f"runs/{seed}", params(seed=seed, data=animals), miou)
    return tmp_path / "runs"


def command(*words):
    """``aepsl ablations`` with these words."""
    return CliRunner().invoke(app, ["ablations", *map(str, words)])


def test_folders_become_files_tables_and_readme(tmp_path, runs):
    place_run(runs / "failed", params(seed=3), None)
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- ablations: psl -->\nold\n<!-- /ablations: psl -->\nafter\n", encoding="utf-8")
    said = command("--runs", runs, "--out", tmp_path / "out", "--readme", readme)
    assert said.exit_code == 0
    assert "| on | 54.1 | not measured yet | not measured yet | 30.0 ± 0.0 (2) | 52.0 ± 2.8 (2) |" in said.stdout
    assert f"left out: {runs / 'failed'}: no miou in metrics/val.json" in said.stderr
    assert (tmp_path / "out/psl.csv").read_text() == "data,variant,seed,pseudo_label_miou,miou\nvoc-animals,on,1,30,50\nvoc-animals,on,2,30,54\n"
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- ablations: psl -->\n\n| PSL |")
    assert text.endswith("|\n\n<!-- /ablations: psl -->\nafter\n")
    assert "old" not in text

    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert command("--show", "--out", tmp_path / "out", "--readme", readme).stdout == said.stdout
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("arguments", "expected"), [
    (["--readme", "none.md"], "--readme none.md: no such file"), (["--where", "crop"], "--where crop: expected KEY=VALUE"),
    (["--show"], "--show: expected no --runs"), (["--runs", "nowhere"], "--runs nowhere: expected a folder of runs, found none")])
def test_a_fault_is_explained_and_nothing_is_written(tmp_path, runs, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    said = command("--runs", runs, *arguments)
    assert said.exit_code == 1
    assert said.stderr.splitlines()[-1].startswith(expected)
    assert not (tmp_path / "metrics").exists()


@pytest.mark.parametrize(("given", "said"), [
    (params(rounds={"r1": "r2", "r2": "r1"}, last_round="r1"), "(no 'r1')"), (params(seed="1"), "(seed '1')"), (params(seed=True), "(seed True)"),
    (params(oracles=3), "not iterable"),
    (params(rounds=[1]), "not those of this pipeline"), (params(data=SHIPPED["data"] | {"source": "folder", "path": "=cmd()"}),
                                                         "no spreadsheet takes for a formula"),
    (params(data=SHIPPED["data"] | {"source": "folder", "path": "a/\x1b[2J"}), "expected a printable name")])
def test_a_run_of_strange_parameters_is_left_out_and_never_followed_for_ever(given, said):
    table, [note] = collect(Found([run("a", 0.5, given=given)], []))
    assert not table.places()
    assert said in note
    assert note.isprintable()


def test_without_runs_it_is_said_how_to_make_some(tmp_path, monkeypatch):
    monkeypatch.setattr("aepsl.evaluation.experiments.dvc_experiments", lambda folder, revision: Found([], []))
    said = command("--out", tmp_path / "out")
    assert said.exit_code == 0, said.stderr
    assert "0 rows collected, 0 in" in said.stderr
    assert "no run was found: docs/howto/ablations.md says how to make some" in " ".join(said.stderr.split())


def test_a_condition_is_read_like_a_parameter(runs):
    said = command("--runs", runs, "--where", "seed=[1")
    assert said.exit_code == 1
    assert "--where seed=[1: expected a value as in params.yaml, found" in said.stderr
