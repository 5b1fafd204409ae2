"""Experiments: several at a time, on the code they were queued with, and from one clone to another."""

import hashlib
import json

import pytest
import yaml

from tests.conftest import Checkout, commands, lock, succeed
from tests.faults.reliability import record
from tests.sharing.conftest import LONG, do

ITERATIONS = "-S refine.custom.iterations=1,3,5"
METRICS = ("val.json", "pseudo_labels.json", "per_class.csv", "confusion.csv")
STAGES = ("segment@s1", "predict", "refine", "evaluate") if LONG else ("refine", "evaluate")


def varied(params) -> tuple[int, float]:
    """The parameters in which the variants differ."""
    return params["refine"]["custom"]["iterations"], params["segment"]["classification_weight"]


@pytest.fixture(scope="module")
def swept(author, place, page):
    """A checkout in which the page's sweep ran, two at a time: the variants' git references, by what they vary.

    Once they were queued, the workspace's package was broken, and then put first on the path, as an editable installation would.
    """
    work = author.copy(place / "swept")
    queue, run_all, show = page.lines("Sweep, and share experiments", 0, 3)
    assert ITERATIONS in queue
    do(work, [queue.replace(ITERATIONS, f"{ITERATIONS} -S segment.classification_weight=0.5,1.0") if LONG else queue])
    with (work / "src/aepsl/segmentation/crf.py").open("a") as file:
        file.write('raise ImportError("the package of the workspace")\n')
    succeed(work.call(*run_all.split(), PYTHONPATH=str(work / "src")))
    table = do(work, [show])
    references = do(work, ["git for-each-ref '--format=%(refname)' refs/exps"]).split()
    variants = {varied(yaml.safe_load(do(work, [f"git show {name}:params.yaml"]))): name for name in references if name.count("/") == 4}
    assert all(name.rpartition("/")[2] in table for name in variants.values())
    return work, variants


@pytest.fixture(scope="module")
def one_by_one(author, place, swept) -> dict[tuple[int, float], dict[str, bytes]]:
    """The same variants one after the other, without DVC: every file that they give."""
    found = {}
    work: Checkout = author.copy(place / "one-by-one")
    for iterations, weight in swept[1]:
        work.set({"refine.custom.iterations": iterations, "segment.classification_weight": weight})
        succeed(work.stages(commands(work, *STAGES)))
        names = [*(f"metrics/{name}" for name in METRICS), *(out["path"] for name in STAGES for out in lock(work)[name].get("outs", ()))]
        found[iterations, weight] = {name: (work / name).read_bytes() for name in names}
    return found


def test_a_sweep_two_at_a_time_gives_what_one_after_the_other_gives(swept, one_by_one) -> None:
    work, variants = swept
    assert len(variants) == len(one_by_one) == (6 if LONG else 3)
    for variant, name in variants.items():
        stages = yaml.safe_load(do(work, [f"git show {name}:dvc.lock"]))["stages"]
        hashes = {out["path"]: out["md5"] for stage in STAGES for out in stages[stage]["outs"] if "hash" in out}
        hashes |= {path: hashlib.md5(do(work, [f"git show {name}:{path}"]).encode(), usedforsecurity=False).hexdigest()
                   for path in one_by_one[variant] if path.startswith("metrics/")}
        expected = {path: hashlib.md5(content, usedforsecurity=False).hexdigest() for path, content in one_by_one[variant].items()}
        assert hashes == hashes | expected
    assert len({files["data/predictions.zip"] for files in one_by_one.values()}) == len(variants)
    if LONG:
        record("sharing", {"variants_two_at_a_time_equal_to_one_by_one": len(variants)})


def test_a_queued_experiment_runs_the_code_it_was_queued_with(author, swept) -> None:
    work, variants = swept
    module = "src/aepsl/segmentation/crf.py"
    queued = hashlib.md5((author / module).read_bytes(), usedforsecurity=False).hexdigest()
    assert "the package of the workspace" in (work / module).read_text()
    for name in variants.values():
        deps = yaml.safe_load(do(work, [f"git show {name}:dvc.lock"]))["stages"]["refine"]["deps"]
        assert {dep["path"]: dep["md5"] for dep in deps}[module] == queued


def test_an_experiment_goes_from_one_clone_to_another(swept, one_by_one, clone, page) -> None:
    work, variants = swept
    variant, name = next((variant, name.rpartition("/")[2]) for variant, name in variants.items() if variant[0] == 5)
    push, see, pull, apply = page.lines("Sweep, and share experiments", 3, name=name)
    do(work, [push])
    other = clone("b")
    assert name in do(other, [see])
    do(other, [pull, apply])
    assert varied(other.params) == variant
    for path, content in one_by_one[variant].items():
        assert (other / path).read_bytes() == content, path
    assert json.loads(do(other, ["dvc status --json evaluate"])) == {}
