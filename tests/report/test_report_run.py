"""report/run.js: what belongs to a run and not to its results."""

import subprocess
from pathlib import Path

import pytest

from aepsl.report.run import digest_of, revision, runtime_rows, versions, write_run
from aepsl.report.shards import script, values_of


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments], check=True, capture_output=True)


def test_the_revision_is_the_commit_the_branch_and_whether_code_differs(tmp_path: Path) -> None:
    assert revision(tmp_path / "nowhere") is None
    git(tmp_path, "init", "--quiet", "--initial-branch", "trial")
    assert revision(tmp_path) is None  # nothing committed yet
    (tmp_path / "params.yaml").write_text("seed: 1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "x")
    found = revision(tmp_path) or {}
    assert (found["branch"], found["dirty"], len(found["commit"])) == ("trial", False, 40)
    (tmp_path / "dvc.lock").write_text("results change while a run goes on")
    assert (revision(tmp_path) or {})["dirty"] is False
    (tmp_path / "params.yaml").write_text("seed: 2")
    assert (revision(tmp_path) or {})["dirty"] is True
    git(tmp_path, "checkout", "--quiet", "--detach")
    assert (revision(tmp_path) or {})["branch"] is None


def test_without_git_there_is_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert revision(tmp_path) is None


def test_it_names_the_report_it_belongs_to(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/index.js").write_bytes(script("index", {"digest": "0123456789abcdef"}))
    (tmp_path / "runtime.csv").write_text("stage,seconds,unit\nmine@r1,2.5,images\nmerge,damaged,images\nprepare,1\n")
    against = {"name": "main", "metrics": [["miou", 0.4, 0.5]], "params": [], "artefacts": []}
    write_run(tmp_path / "run.js", root=tmp_path, runtime_csv=tmp_path / "runtime.csv", against=against, stale=("seed",))
    name, [run] = values_of((tmp_path / "run.js").read_bytes())
    assert (name, run["digest"], run["revision"], run["against"]) == ("run", "0123456789abcdef", None, against)
    assert run["stale"] == ["seed"]
    assert run["runtime"] == [{"stage": "mine@r1", "seconds": 2.5, "unit": "images"}]
    assert {"python", "torch", "pillow"} <= set(run["versions"])
    assert run["versions"] == versions()


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"aepsl.index(", b"aepsl.index([]);\n", b"aepsl.index({});\n"])
def test_a_report_that_is_missing_or_damaged_has_no_name(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "index.js").write_bytes(content)
    assert digest_of(tmp_path / "index.js") is None
    assert runtime_rows(tmp_path / "runtime.csv") == []
    (tmp_path / "runtime.csv").write_bytes(b"\xff\xfe")
    assert runtime_rows(tmp_path / "runtime.csv") == []
