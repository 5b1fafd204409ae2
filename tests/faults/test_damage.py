"""Files that are truncated, flipped in a bit, emptied, exchanged or gone: noticed by name or without influence, never a wrong result."""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import dvc_md5
from tests.faults.bench import STATE, Bench, Job, assert_explained
from tests.faults.reliability import record

LONG = os.environ.get("AEPSL_FAULTS") == "long"
STAGES = ("prepare", "saliency", "start", "classify@r1", "classify@r2", "mine@r1", "mine@r2", "merge", "segment@s1", "segment@s2", "relabel@s2",
          "predict", "refine", "export", "evaluate", *(("stop", "package", "rounds", "oracle", "gallery") if LONG else ()))
# Two artefacts of a kind, of which one is put in the other's place.
ALIKE = {"data/mined/r0.zip": "data/mined/r1.zip", "data/mined/r1.zip": "data/mined/r2.zip", "data/mined/r2.zip": "data/mined/r1.zip",
         **{f"data/heatmaps/r{number}.zip": f"data/heatmaps/r{number ^ 1}.zip" for number in (0, 1)}, "data/heatmaps/r2.zip": "data/heatmaps/r1.zip",
         "data/labels/s1.zip": "data/labels/s2.zip", "data/labels/s2.zip": "data/labels/s1.zip", "data/saliency.zip": "data/labels/s1.zip",
         "models/classifier/r0.pt": "models/classifier/r1.pt", "models/classifier/r1.pt": "models/classifier/r2.pt",
         "models/classifier/r2.pt": "models/segmenter/s1.pt", "models/segmenter/s1.pt": "models/segmenter/s2.pt",
         "models/segmenter/s2.pt": "models/classifier/r1.pt", "data/images.zip": "data/truth.zip", "data/truth.zip": "data/labels/s1.zip",
         "data/predictions.zip": "data/truth.zip", "data/scores.zip": "data/predictions.zip", "data/raw.zip": "data/images.zip",
         "data/weights/classify.pth": "models/classifier/r2.pt", "data/weights/segment.pth": "models/classifier/r1.pt",
         "data/index.csv": "data/mean_pixel.json", "data/mean_pixel.json": "data/index.csv", "metrics/stop.csv": "data/index.csv",
         "metrics/stop.json": "data/mean_pixel.json", "metrics/val.json": "metrics/pseudo_labels.json",
         "metrics/pseudo_labels.json": "metrics/val.json"}


def truncated(data: bytes, rng: random.Random) -> bytes:
    return data[:rng.randrange(1, len(data))]


def flipped(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1:]


def emptied(data: bytes, rng: random.Random) -> bytes:
    return b""


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {"truncated": truncated, "flipped": flipped, "emptied": emptied}


def replace_input(bench: Bench, path: str, content: bytes) -> None:
    """Put other content in the place of an artefact, which is a link to the one that is kept."""
    (bench.work / path).unlink()
    (bench.work / path).write_bytes(content)


def damaged(bench: Bench, path: str, kind: str, rng: random.Random) -> bytes:
    if kind == "exchanged":
        return (bench.store / ALIKE[path]).read_bytes()
    return DAMAGES[kind]((bench.store / path).read_bytes(), rng)


@pytest.fixture(scope="module")
def locked(bench: Bench) -> str:
    """What DVC would have written down of the artefacts, in the form of dvc.lock."""
    def out(path: str) -> dict[str, str]:
        return {"path": path, "hash": "md5", "md5": dvc_md5(bench.store / path)}

    stages = {job.name: {"cmd": job.command, "outs": [out(path) for path in job.outputs]} for job in bench.jobs.values()}
    return yaml.safe_dump({"schema": "2.0", "stages": stages})


@pytest.mark.parametrize("name", STAGES)
def test_under_dvc_a_damaged_input_is_refused_by_name(bench: Bench, locked: str, name: str) -> None:
    rng = random.Random(f"refused {name}")
    job = bench.jobs[name]
    kinds = [*DAMAGES, "exchanged"]
    cases = [(path, kind) for path in job.inputs for kind in kinds]
    for path, kind in cases if LONG else [rng.choice(cases)]:
        bench.reset(job)
        (bench.work / "dvc.lock").write_text(locked)
        replace_input(bench, path, damaged(bench, path, kind, rng))
        run = bench.start(job, DVC_STAGE=name)
        assert run.wait() == 1, f"{path} {kind}: {run.said}"
        assert_explained(run.said, f"{path}: expected what ", "damaged or exchanged since", f"rm {path} && dvc checkout {path}")
        assert all(line.endswith("missing") for line in bench.outputs_as_before(job))
        bench.put_back(path)
    if LONG:
        bench.succeeds_again(job, DVC_STAGE=name)
    record("damaged_input_under_dvc", {name: {"tried": len(cases) if LONG else 1, "refused by name": len(cases) if LONG else 1}})


@pytest.mark.parametrize("name", STAGES)
def test_by_hand_a_damaged_input_is_explained_or_has_no_influence(bench: Bench, name: str) -> None:
    """Without DVC there is nothing to compare with: an exchanged file of the right kind is taken for what was meant, and so is an altered number in
    a text. Everything else is noticed, or lies where it cannot matter, such as the date of an entry."""
    rng = random.Random(f"by hand {name}")
    job = bench.jobs[name]
    cases = [(path, kind) for path in job.inputs for kind in (*DAMAGES, "exchanged")
             if not (kind == "exchanged" or (kind != "emptied" and path.endswith((".csv", ".json")))) or LONG]
    counts: Counter[str] = Counter()
    for path, kind in cases if LONG else [rng.choice(cases)]:
        bench.reset(job)
        replace_input(bench, path, damaged(bench, path, kind, rng))
        run = bench.start(job)
        status = run.wait()
        assert status in (0, 1), f"{path} {kind}: {status} {run.said}"
        assert_explained(run.said)
        if status == 1:
            counts["explained"] += 1
            assert path in run.said or kind == "exchanged" or path.endswith((".csv", ".json")), f"{path} {kind}: {run.said}"
        elif kind in ("truncated", "flipped") and not path.endswith((".csv", ".json")):
            counts["without influence"] += 1
            assert bench.outputs_as_before(job) == [], f"{path} {kind}"
        else:
            counts["taken for what was meant"] += 1
        assert [line for line in bench.left_behind() if ".tmp" in line] == [], f"{path} {kind}"
    record("damaged_input_by_hand", {name: dict(counts)})


# ---- what an interrupted run has kept


TRAINING = ("classify@r1", "classify@r2", "segment@s1")
BY_IMAGE = ("saliency", "mine@r2", "merge", "relabel@s2", "predict", "refine")


def interrupted(bench: Bench, job: Job) -> list[Path]:
    """Run a stage until it has saved most of its work and kill it there: what it saved, oldest first."""
    # A part gets its name by a second rename, a checkpoint by its first.
    marks = ("part.zip",) if any(step.path.endswith("part.zip") for step in bench.steps[job.name]) else (".pt.",)
    times = sum(step.event == "os.rename" and STATE in step.path and all(mark in step.path for mark in marks) for step in bench.steps[job.name])
    bench.reset(job)
    run = bench.start(job, inject=[("die_after_renames", {"times": times, "folder": STATE, "marks": marks, "number": signal.SIGKILL})])
    assert run.wait() == -signal.SIGKILL, run.said
    saved = sorted(bench.saved())
    assert len(saved) >= 2
    return saved


@pytest.mark.parametrize("name", TRAINING + BY_IMAGE if LONG else ("classify@r2", "segment@s1", "mine@r2", "refine"))
def test_damaged_state_is_noticed_and_done_again(bench: Bench, name: str) -> None:
    rng = random.Random(f"state {name}")
    job = bench.jobs[name]
    cases = [(kind, which) for kind in (*DAMAGES, "gone") for which in ("newest", "oldest", "all")]
    for kind, which in cases if LONG else rng.sample(cases, 1):
        saved = interrupted(bench, job)
        for path in {"newest": saved[-1:], "oldest": saved[:1], "all": saved}[which]:
            if kind == "gone":
                path.unlink()
            else:
                path.write_bytes(DAMAGES[kind](path.read_bytes(), rng))
        run = bench.succeeds_again(job)
        if kind != "gone" and (which != "oldest" or name in BY_IMAGE):  # the older of two checkpoints is not looked at
            assert "damaged" in run.said, f"{kind} {which}: {run.said}"
        if which == "newest" or (which == "oldest" and name in TRAINING):
            assert "goes on" in run.said, f"{kind} {which}: {run.said}"
    record("damaged_state", {name: {"tried": len(cases) if LONG else 1, "same bytes": len(cases) if LONG else 1}})


@pytest.mark.parametrize(("name", "other"), [("classify@r2", "classify@r1"), ("mine@r2", "mine@r1"),
                                             *([("segment@s2", "segment@s1"), ("refine", "relabel@s2")] if LONG else [])])
def test_state_of_another_run_is_not_believed(bench: Bench, tmp_path: Path, name: str, other: str) -> None:
    """Copied there under the right name, whole and well-formed: nothing but whose it is tells it from the run's own."""
    foreign = [(path.name, path.read_bytes()) for path in interrupted(bench, bench.jobs[other])]
    job = bench.jobs[name]
    [folder] = {path.parent for path in interrupted(bench, job) if path.parent.name != "confidences"}
    for path in folder.iterdir():
        path.unlink()
    for filename, content in foreign:
        (folder / filename).write_bytes(content)
    run = bench.succeeds_again(job)
    assert "damaged" in run.said
    assert folder.name not in ("training", "results") or "goes on" not in run.said


def test_two_series_of_one_stage_are_not_taken_for_each_other(bench: Bench) -> None:
    job = bench.jobs["mine@r2"]
    saved = interrupted(bench, job)
    by_series: dict[str, list[Path]] = {}
    for path in saved:
        by_series.setdefault(path.parent.name, []).append(path)
    first, second = by_series.values()
    for one, another in zip(first, second, strict=False):
        content = one.read_bytes()
        one.write_bytes(another.read_bytes())
        another.write_bytes(content)
    assert "damaged" in bench.succeeds_again(job).said


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"stage": 3}', b"\xff\xfe"] if LONG else [b"{"])
def test_a_damaged_description_of_the_state_does_no_harm(bench: Bench, content: bytes) -> None:
    job = bench.jobs["merge"]
    interrupted(bench, job)
    [about] = (bench.work / STATE).glob("*/about.json")
    about.write_bytes(content)
    bench.succeeds_again(job)


def test_a_changed_parameter_starts_afresh_and_says_so(bench: Bench) -> None:
    job = bench.jobs["saliency"]
    interrupted(bench, job)
    bench.work.set({"saliency.optimise": False})
    run = bench.start(job)
    assert run.wait() == 0, run.said
    assert "starts afresh: what an interrupted run left in" in run.said
    assert "was for other parameters" in run.said
    assert "goes on" not in run.said
    assert bench.outputs_as_before(job) == ["data/saliency.zip: other bytes"]
    (bench.work / "params.yaml").write_text(bench.params)
    run = bench.start(job)
    assert run.wait() == 0
    assert "goes on" in run.said
    assert bench.outputs_as_before(job) == []


# ---- what a user brings


@pytest.mark.parametrize("kind", ["truncated", "emptied", "foreign"])
def test_a_damaged_weights_file_is_named(bench: Bench, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "mine.pth"
    torch.save({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}, file)
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[:len(whole) // 2], "emptied": b"", "foreign": whole}[kind])
    job = bench.reset(bench.jobs["weights"], **{"segment.network.width": 1.0, "segment.network.stages": None, "segment.network.weights": str(file)})
    run = bench.start(job)
    run.wait()
    bench.after_failure(job, run, str(file))


@pytest.mark.parametrize("kind", ["truncated", "emptied", "foreign"])
def test_a_damaged_photograph_is_named_before_anything_is_trained(bench: Bench, kind: str) -> None:
    raw = bench.reset(bench.jobs["download"])
    image = sorted((bench.work / "own/JPEGImages").iterdir())[0]
    whole = image.read_bytes()
    image.write_bytes({"truncated": whole[:len(whole) // 2], "emptied": b"", "foreign": b"GIF89a"}[kind])
    try:
        bench.finish(raw)
        prepare = bench.jobs["prepare"]
        run = bench.start(prepare)
        run.wait()
        assert run.status == 1
        assert_explained(run.said, image.name, "expected a complete JPEG or PNG")
        assert not any((bench.work / path).exists() for path in prepare.outputs)
    finally:
        image.write_bytes(whole)
    bench.finish(raw)
    bench.finish(prepare)
    assert bench.outputs_as_before(prepare) == []
