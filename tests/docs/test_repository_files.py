"""What people and programs look for at the root of a repository is there, and true."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools import reference
from tools.demo import scores

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_citation_is_complete() -> None:
    citation: dict[str, Any] = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "type", "version", "license", "references"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["title"].startswith(PROJECT["name"])
    assert citation["authors"] == [{"name": "The aepsl developers"}]
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    [paper] = citation["references"]
    assert {"type", "title", "authors", "year"} <= set(paper)
    assert paper["title"] in README.replace("\n", " ")
    assert [author["family-names"] for author in paper["authors"]] == ["Wei", "Feng", "Liang", "Cheng", "Zhao", "Yan"]
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])


def test_the_workflow_runs_what_every_machine_runs() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    [job] = workflow["jobs"].values()
    checkout, run = job["steps"]
    assert checkout.keys() == {"uses"}
    assert checkout["uses"].startswith("actions/checkout@")
    assert run == {"run": ".ci/run"}
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the hooks and some files that they like."""
    folder = tmp_path_factory.mktemp("hooks")
    for name in (".pre-commit-config.yaml", "pyproject.toml", "params.yaml", "README.md", "presets/shapes.yaml", "presets/folder.yaml",
                 "src/aepsl/__init__.py", "src/aepsl/errors.py", "src/aepsl/params.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
    return folder


def hooks(folder: Path) -> subprocess.CompletedProcess[str]:
    """`pre-commit run --all-files` without a network, and without mypy, whose minute `make lint` spends."""
    subprocess.run(["git", "add", "--all"], cwd=folder, check=True)
    nowhere = "http://127.0.0.1:9"
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "SKIP": "mypy",
                                "PRE_COMMIT_HOME": str(folder / ".git/cache"), "HTTPS_PROXY": nowhere, "HTTP_PROXY": nowhere, "PIP_NO_INDEX": "1"}
    return subprocess.run([sys.executable, "-m", "pre_commit", "run", "--all-files"], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=300, check=False)


def test_the_hooks_pass_on_what_is_here_without_a_network(hooked: Path) -> None:
    result = hooks(hooked)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("Passed") >= 4


@pytest.mark.parametrize(("name", "content", "hook"), [
    ("bad.py", "import os\n", "ruff"), ("presets/bad.yaml", "seed: 1\n", "parameters"), ("notes.md", "text \n", "trailing-whitespace"),
    ("notes.md", "<<<<<<< ours\n", "conflict-markers"), ("model.pt", "x", "pickles")])
def test_the_hooks_find_faults(hooked: Path, name: str, content: str, hook: str) -> None:
    (hooked / name).write_text(content)
    try:
        result = hooks(hooked)
    finally:
        (hooked / name).unlink()
    assert result.returncode == 1
    assert f"- hook id: {hook}" in result.stdout


def test_the_readme_says_what_was_measured() -> None:
    val = json.loads((ROOT / "metrics/val.json").read_text(encoding="utf-8"))
    assert f"ends at {100 * val['miou']:.1f} (95 % interval over images: {100 * val['miou_low']:.1f} to {100 * val['miou_high']:.1f})" in README
    results = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    for cell in re.findall(r"\d+\.\d(?: ± \d+\.\d)? \(\d\)", README):
        assert cell in results, f"README.md: {cell} is not among docs/results.md"


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_the_demos_scores_are_those_of_the_shipped_run(name: str) -> None:
    assert "\n".join(scores(ROOT / "metrics")) in (ROOT / name).read_text(encoding="utf-8")


def test_the_readmes_speeds_are_those_of_the_benchmarks() -> None:
    page = (ROOT / "docs/performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (dense CRF|saliency|10,582 masks)[^|]*\|[^|]*\| (\d+\.\d)", README)
    assert len(rows) == 3
    assert all(ratio in page for _, ratio in rows)


@pytest.mark.parametrize("page", sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts), ids=lambda path: path.stem)
def test_commands_on_pages_can_be_read_and_name_parameters_that_exist(page: Path) -> None:
    known = set(reference.all_parameters())
    for block in re.findall(r"(?ms)^ *```bash\n(.*?)^ *```$", page.read_text(encoding="utf-8")):
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        for line in block.splitlines():
            if "<<" in line or not re.match(r" *dvc exp run", line):
                continue
            words = shlex.split(line, comments=True)
            for flag, value in pairwise(words):
                if flag in ("-S", "--set-param"):
                    path = value.partition("=")[0].lstrip("+~")
                    assert path in known or path.rpartition(".")[0] in known, f"{page.name}: {path}"
