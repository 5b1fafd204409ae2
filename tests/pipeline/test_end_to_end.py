"""The whole pipeline on a handful of tiny images: once by DVC, then what DVC and the stages make of changes to it."""

import csv
import json
import shutil
import tarfile
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices
from aepsl.data.index import read_index
from aepsl.evaluation.truth import truth_digest
from tests.conftest import TINY, commands, dvc_md5, lock, running, succeed

LABELLING = {"download", "prepare", "weights", "saliency", "start", "classify@r1", "mine@r1", "classify@r2", "mine@r2"}
LEARNING = {"merge", "segment@s1", "relabel@s2", "segment@s2", "predict", "refine", "export"}
SCORING = {"evaluate", "package", "rounds", "oracle", "gallery", "report"}


@pytest.fixture
def changed(finished, tmp_path):
    """A copy of the finished checkout, to be changed."""
    return finished.copy(tmp_path / "changed")


def read_json(work: Any, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((work / name).read_text())
    return content


def read_table(work: Any, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((work / name).open(newline="")))


def with_interval(*names: str) -> set[str]:
    return {f"{name}{end}" for name in names for end in ("", "_low", "_high")}


def would_run(work: Any) -> set[str]:
    """The stages that ``dvc repro`` could run: those DVC calls changed, and all that follow from them."""
    text = succeed(work.call("python", "-m", "dvc", "repro", "--dry", "--force-downstream"))
    return set(running(text))


# ---- what one run leaves behind


def test_every_stage_runs_once_and_input_is_checked_before_anything_is_trained(first_run) -> None:
    order = first_run[1]
    assert sorted(order) == sorted(LABELLING | LEARNING | SCORING | {"stop"})
    assert set(order[:order.index("classify@r1")]) == {"download", "prepare", "weights", "saliency", "start"}


def test_metrics_hold_their_documented_keys_in_range(finished) -> None:
    val, labels, oracle, data = (read_json(finished, f"metrics/{name}.json") for name in ("val", "pseudo_labels", "oracle", "data"))
    assert set(val) == {"pixel_accuracy", "yardstick", "how", *with_interval("miou", "miou_before_crf")}
    assert set(labels) == {"pseudo_label_miou_where_labelled", "pseudo_label_coverage", "yardstick", "how",
                           *with_interval("pseudo_label_miou", "relabelled_miou")}
    assert set(oracle) == {"rounds", "erased_area", "erased_precision", "erased_recall", "erased_miou", "single_threshold", "single_precision",
                           "single_recall", "best_single_miou", "best_single_threshold", "erasing_gain", "erasing_gain_r1", "erasing_gain_r2",
                           "yardstick", "how"}
    for content, key in ((val, "miou"), (val, "miou_before_crf"), (labels, "pseudo_label_miou"), (labels, "relabelled_miou")):
        assert content[f"{key}_low"] <= content[f"{key}_high"]
    assert (data["classes"], data["images"], data["masks"]) == (5, {"train": 12, "val": 6, "test": 0}, {"train": 12, "val": 6})
    assert oracle["best_single_miou"] == max(float(row["mean_iou"]) for row in read_table(finished, "metrics/threshold_curve.csv"))
    shares = [value for content in (val, labels, oracle) for value in content.values() if isinstance(value, float)]
    assert len(shares) > 8
    assert all(-1 <= value <= 1 for value in shares)


def test_metrics_state_how_they_came_about(finished) -> None:
    val, labels, oracle = (read_json(finished, f"metrics/{name}.json") for name in ("val", "pseudo_labels", "oracle"))
    [how], [how_labels], [how_oracle] = val["how"], labels["how"], oracle["how"]
    assert (how["split"], how["images"], how["images_without_truth"], how["void_as"]) == ("val", 6, 0, "miss")
    assert (how_labels["split"], how_labels["images"], how_labels["void_as"]) == ("train", 12, "miss")
    index, truth = read_index(finished / "data/index.csv"), ArchiveReader(finished / "data/truth.zip")
    assert how["truth_sha256"] == truth_digest(index.split("val").ids, truth, processes=1)
    assert how_labels["truth_sha256"] == how_oracle["truth_sha256"] == truth_digest(index.split("train").ids, truth, processes=1)
    assert val["yardstick"] == f"val 6 miss {how['truth_sha256'][:8]}"
    assert labels["yardstick"] == oracle["yardstick"] == f"train 12 miss {how_labels['truth_sha256'][:8]}"
    for content, names in ((how, {"miou", "miou_before_crf"}),
                           (how_labels, {"pseudo_label_miou", "pseudo_label_miou_where_labelled", "relabelled_miou"})):
        assert set(content["means"]) == names
        assert all(mean["classes_counted"] + len(mean["classes_not_counted"]) == 6 for mean in content["means"].values())
        assert content["interval"]["resamples"] == 1000
    assert how_labels["means"]["pseudo_label_miou_where_labelled"]["void_as"] == "left-out"
    params = finished.params
    assert how["prediction"] == {**params["predict"], "psl": "predicted", "told_true_labels": False}
    assert how["crf"] == {"preset": "custom", "backend": params["refine"]["backend"], **params["refine"]["custom"]}
    assert how_labels["mining"] == how_oracle["mining"] == {"rounds": 2, **params["mine"]}
    assert how_labels["merge"] == params["merge"]
    assert how_labels["relabel"] == {**params["relabel"], "crf": how["crf"]}


def test_tables_have_a_row_per_class_round_and_epoch(finished) -> None:
    names = ["background", "bandling", "checkling", "dotling", "ringling", "splitling"]
    assert [row["class"] for row in read_table(finished, "metrics/per_class.csv")] == names
    classes = read_table(finished, "metrics/per_class.csv")
    mean = np.mean([float(row["pseudo_label_iou"]) for row in classes if row["pseudo_label_iou"]])
    assert mean == pytest.approx(read_json(finished, "metrics/pseudo_labels.json")["pseudo_label_miou"], abs=1e-5)
    assert classes[0]["val_images"] == "6"
    assert all(int(row["train_images"]) <= 12 for row in classes)
    rounds, erasing = (read_table(finished, f"metrics/{name}.csv") for name in ("rounds", "erasing"))
    assert [row["round"] for row in rounds] == [row["round"] for row in erasing] == ["r1", "r2"]
    assert [(row["precision"], row["recall"], row["miou"]) for row in rounds] == [(row["precision"], row["recall"], row["miou"]) for row in erasing]
    assert float(erasing[0]["gain_precision_at_equal_area"]) == 0  # its threshold, 0.5, is one of the curve's
    parts = read_table(finished, "metrics/parts.csv")
    assert [row["round"] for row in parts] == ["1", "2"]
    assert all(0 <= float(row[name]) <= 1 for row in parts for name in ("head", "body"))
    assert [row["class"] for row in read_table(finished, "metrics/train_images.csv")] == names[1:]
    # The last round's labels are those that the segmenter learns from.
    merged = read_json(finished, "metrics/pseudo_labels.json")["pseudo_label_miou"]
    assert float(rounds[-1]["pseudo_label_miou"]) == pytest.approx(merged, abs=1e-5)
    assert read_json(finished, "metrics/rounds.json")["last_useful_round"] == read_json(finished, "metrics/stop.json")["last_useful_round"]
    areas = [float(row["mined_area"]) for row in rounds]
    assert 0 < areas[0] <= areas[1] <= 1
    assert float(rounds[1]["new_area"]) == pytest.approx(areas[1] - areas[0], abs=1e-5)
    for curve in ("classifier/r1", "classifier/r2", "segmenter/s1", "segmenter/s2"):
        rows = read_table(finished, f"metrics/{curve}.csv")
        assert [float(row["epoch"]) for row in rows] == [1]
        assert np.isfinite(float(rows[0]["loss"]))
    assert {row["actual"] for row in read_table(finished, "metrics/confusion.csv")} <= set(names)
    assert {row["stage"] for row in read_table(finished, "metrics/runtime.csv")} == LABELLING | LEARNING | SCORING | {"stop"}


def test_dvc_shows_the_metrics_and_plots(finished) -> None:
    shown = json.loads(succeed(finished.call("python", "-m", "dvc", "metrics", "show", "--json")))
    files = shown[""]["data"]
    assert set(files) == {f"metrics/{name}.json" for name in ("data", "val", "pseudo_labels", "oracle", "rounds", "stop")}
    for path, shown in files.items():  # lists and nulls are left out: this is what keeps `how` from the tables
        assert shown["data"] == {key: value for key, value in read_json(finished, path).items() if not isinstance(value, list | None)}, path
    report = json.loads(succeed(finished.call("python", "-m", "dvc", "plots", "show", "--json", "--out", "plots")))
    assert not report.get("errors"), report["errors"]


def test_artefacts_hold_one_entry_per_image_in_the_images_own_size(finished) -> None:
    index = read_index(finished / "data/index.csv")
    sizes = dict(zip(index.ids, index.sizes.tolist(), strict=True))
    for path, split in (("labels/s1", "train"), ("labels/s2", "train"), ("predictions", "val"), ("saliency", "train")):
        archive = ArchiveReader(finished / f"data/{path}.zip")
        assert archive.names() == [f"{identifier}.png" for identifier in index.split(split).ids]
        for name in archive:
            assert list(decode_indices(archive.read(name)).shape[::-1]) == sizes[name.removesuffix(".png")]


def test_labels_name_only_the_images_own_classes(finished) -> None:
    train = read_index(finished / "data/index.csv").split("train")
    for step in ("s1", "s2"):
        archive = ArchiveReader(finished / f"data/labels/{step}.zip")
        for identifier, labels in zip(train.ids, train.labels, strict=True):
            assert set(np.unique(decode_indices(archive.read(f"{identifier}.png")))) <= {0, 255, *(np.flatnonzero(labels) + 1)}


def test_later_rounds_keep_what_earlier_ones_mined(finished) -> None:
    first, second = (ArchiveReader(finished / f"data/mined/{step}.zip") for step in ("r1", "r2"))
    regions = [name for name in first if name.endswith(".png")]
    assert len(regions) >= 12
    for name in regions:
        before, after = decode_indices(first.read(name)), decode_indices(second.read(name))
        assert set(np.unique(before)) <= {0, 1}
        assert np.array_equal(np.where(after == 2, 0, after), before)


# ---- running again


def test_a_second_run_does_nothing(finished) -> None:
    output = succeed(finished.call("python", "-m", "dvc", "repro"))
    assert running(output) == []
    assert json.loads(succeed(finished.call("python", "-m", "dvc", "status", "--json"))) == {}


def test_another_run_with_other_workers_gives_the_same_bytes(changed) -> None:
    for folder in ("data", "models", "metrics", "report", ".dvc/cache"):
        shutil.rmtree(changed / folder)
    changed.set({"compute.workers": 2, "compute.processes": 2})
    succeed(changed.stages(commands(changed)))
    expected = {out["path"]: out["md5"] for stage in lock(changed).values() for out in stage["outs"]}
    assert len(expected) > 25
    found = {path: dvc_md5(changed / path) for path in expected}
    assert {path for path in expected if found[path] != expected[path]} == set()


def test_where_it_runs_changes_nothing(changed) -> None:
    changed.set({"compute": TINY["compute"] | {"device": "auto", "workers": 1, "processes": 0, "threads": 0, "save_every": 0.0}})
    assert would_run(changed) == set()


# ---- changes


def test_another_round_runs_that_round_and_what_follows(changed) -> None:
    changed.set({"rounds": {"r1": "r0", "r2": "r1", "r3": "r2"}, "last_round": "r3"})
    assert would_run(changed) == {"classify@r3", "mine@r3", "merge", "segment@s1", "relabel@s2", "segment@s2", "predict", "refine", "export",
                                    "stop", *SCORING}


@pytest.mark.parametrize("rounds", [{"r1": "r0", "r2": "r1"}, {"r1": "r0"}], ids=["rounds kept", "rounds removed"])
def test_fewer_rounds_train_no_classifier(changed, rounds: dict[str, str]) -> None:
    changed.set({"rounds": rounds, "last_round": "r1"})
    assert would_run(changed) == LEARNING | SCORING | {"stop"}


def test_a_parameter_runs_its_stage_and_what_follows(changed) -> None:
    changed.set({"evaluate.void_as": "background"})
    assert would_run(changed) == {"evaluate", "package", "rounds", "oracle", "report"}
    changed.set({"evaluate.void_as": "miss", "segment.classification_weight": 0.5})
    assert would_run(changed) == LEARNING - {"merge"} | {"evaluate", "package", "gallery", "report"}


def test_a_changed_module_runs_the_stages_that_import_it(changed) -> None:
    with (changed / "src/aepsl/segmentation/crf.py").open("a") as file:
        file.write("# another line\n")
    assert would_run(changed) == {"relabel@s2", "segment@s2", "predict", "refine", "export", "evaluate", "package", "gallery", "report"}


@pytest.mark.parametrize("psl", ["none", "true-labels"])
def test_the_other_ways_of_prohibiting_run_through(changed, psl: str) -> None:
    before = (changed / "data/scores.zip").read_bytes()
    changed.set({"segment.psl": psl})
    succeed(changed.stages(commands(changed, "segment@s2", "predict", "refine", "evaluate")))
    assert (changed / "data/scores.zip").read_bytes() != before
    assert 0 <= read_json(changed, "metrics/val.json")["miou"] <= 1
    [how] = read_json(changed, "metrics/val.json")["how"]
    assert (how["prediction"]["told_true_labels"], how["prediction"]["prohibit_below"]) == (psl == "true-labels", None)
    if psl == "true-labels":
        val = read_index(changed / "data/index.csv").split("val")
        archive = ArchiveReader(changed / "data/predictions.zip")
        for identifier, labels in zip(val.ids, val.labels, strict=True):
            assert set(np.unique(decode_indices(archive.read(f"{identifier}.png")))) <= {0, *(np.flatnonzero(labels) + 1)}


ORACLE_LABELS = "python -m stages.oracle_labels --step full --index data/index.csv --truth data/truth.zip --out data/labels/full.zip"


def test_the_fully_supervised_bound_learns_from_the_true_masks(changed) -> None:
    changed.set({"oracles": ["full"], "passes": ["full"], "relabels": {}, "last_pass": "full", "segment.psl": "none"})
    succeed(changed.stages([ORACLE_LABELS, *(command.replace("s2", "full") for command in
                                             commands(changed, "segment@s2", "predict", "refine", "evaluate"))]))
    train = read_index(changed / "data/index.csv").split("train")
    labels, truth = ArchiveReader(changed / "data/labels/full.zip"), ArchiveReader(changed / "data/truth.zip")
    assert labels.names() == [f"{identifier}.png" for identifier in train.ids]
    assert all(np.array_equal(decode_indices(labels.read(name)), decode_indices(truth.read(name))) for name in labels)
    assert read_json(changed, "metrics/pseudo_labels.json")["relabelled_miou"] == 1
    assert [row["relabelled_iou"] for row in read_table(changed, "metrics/per_class.csv")] == ["1"] * 6
    assert 0 <= read_json(changed, "metrics/val.json")["miou"] <= 1


def test_the_fully_supervised_bound_wants_every_mask(changed) -> None:
    train, truth = read_index(changed / "data/index.csv").split("train"), ArchiveReader(changed / "data/truth.zip")
    kept = [(f"{identifier}.png", truth.read(f"{identifier}.png")) for identifier in train.ids[1:]]
    with ArchiveWriter(changed / "data/truth.zip") as archive:
        for name, mask in kept:
            archive.add(name, mask)
    result = changed.call(*ORACLE_LABELS.split())
    assert result.returncode == 1
    assert "oracles: full: expected a true mask of every training image, found none of 1 out of 12; add the masks" in result.stderr
    assert f"{train.ids[0]}.png" in result.stderr
    assert not (changed / "data/labels/full.zip").exists()


def test_a_folder_without_masks_runs_through_and_its_metrics_say_so(finished, changed) -> None:
    folder = changed / "own"
    with zipfile.ZipFile(finished / "data/raw.zip") as raw:
        raw.extractall(folder, [name for name in raw.namelist() if not name.startswith(("SegmentationClass", "Parts"))])
    unlabelled = next(iter(sorted((folder / "JPEGImages").iterdir())))
    shutil.copy(unlabelled, folder / "JPEGImages/new one.JPG")
    (folder / "ImageSets/Segmentation/test.txt").write_text("new one\n")
    changed.set({"data.source": "folder", "data.path": "own", "data.folder.masks": None, "data.folder.test": "test"})
    for path in chain((changed / "data").rglob("*.zip"), (changed / "metrics").glob("*.*")):
        path.unlink()
    succeed(changed.stages(commands(changed)))
    val, labels, oracle = (read_json(changed, f"metrics/{name}.json") for name in ("val", "pseudo_labels", "oracle"))
    assert (val["miou"], labels["pseudo_label_miou"], oracle["erasing_gain"]) == (None, None, None)
    assert all("no masks" in content["note"] for content in (val, labels, oracle))
    assert all(content["how"][0]["images"] == 0 and content["how"][0]["truth_sha256"] is None for content in (val, labels, oracle))
    assert read_json(changed, "metrics/data.json")["masks"] == {"train": 0, "val": 0}
    assert "new one.png" in ArchiveReader(changed / "data/predictions.zip")
    with tarfile.open(changed / "data/submission.tar.gz") as submission:
        assert submission.getnames() == ["results/new one.png"]
    assert [row["precision"] for row in read_table(changed, "metrics/rounds.csv")] == ["", ""]
    assert all(float(row["mined_area"]) > 0 for row in read_table(changed, "metrics/rounds.csv"))
    # What needs no truth is told all the same.
    assert all(0 <= float(row["held_out_accuracy"]) <= 1 for row in read_table(changed, "metrics/stop.csv"))
    assert read_json(changed, "metrics/stop.json")["last_useful_round"] in (0, 1, 2)
    assert read_json(changed, "metrics/rounds.json")["best_round_oracle"] is None


def test_stages_import_the_package_of_their_own_tree(checkout) -> None:
    installed = Path(__file__).resolve().parents[2] / "src"
    work = checkout(TINY)
    with (work / "src/aepsl/errors.py").open("a") as file:
        file.write('\nprint("the package of this tree")\n')
    result = work.call("python", "-m", "stages.download", "--out", "data/raw.zip", PYTHONPATH=str(installed))
    assert "the package of this tree" in succeed(result)
