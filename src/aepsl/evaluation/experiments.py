"""Finished runs of the pipeline: DVC's experiments, or plain folders that hold params.yaml and metrics/.

What is not finished is never taken, but listed with its reason: `dvc exp show` gives queued and failed experiments the metrics of
the tree they were started from.
"""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from aepsl.data.archive import parse_json
from aepsl.errors import AepslError, shown
from aepsl.git import ask_git
from aepsl.params import parse_yaml

PARAMS = "params.yaml"
SCORES = ("metrics/val.json", "metrics/pseudo_labels.json")
CLASSES = "metrics/per_class.csv"


@dataclass(frozen=True)
class Run:
    """One run: what it was given and what it scored.

    Attributes
    ----------
    params : groups of parameters, nested as in params.yaml.
    scores : the headline metrics by leaf name; shares, not percent.
    created : local time in ISO form, to the second; later ones sort behind earlier ones.
    classes : IoU on val by class, None for an absent class; empty where the run has no such table.
    """

    name: str
    params: Mapping[str, Any]
    scores: Mapping[str, Any]
    created: str
    classes: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Found:
    """Finished runs, one line for every other one, and the commits the runs started from."""

    runs: list[Run]
    left_out: list[str]
    commits: list[Run] = field(default_factory=list)


def dvc_experiments(folder: Path, revision: str | None = None) -> Found:
    """The experiments of a DVC project, those that started from HEAD or from ``revision``, with their tables of classes.

    Raises
    ------
    AepslError : DVC is missing, or ``folder`` is not a project of it.
    """
    output = _call([sys.executable, "-m", "dvc", "exp", "show", "--json", *(["--rev", revision] if revision else [])], folder)
    try:
        content = json.loads(output)
    except ValueError as error:
        raise AepslError(f"dvc exp show --json: expected JSON, found {output[:80]!r} ({error}); DVC 3.67 is known to work") from None
    # An experiment is a commit, and git holds its tables.
    return parse_experiments(content, lambda revision: (ask_git(folder, "cat-file", "blob", f"{revision}:./{CLASSES}") or b"")
                             .decode("utf-8", "replace"))


def parse_experiments(content: Sequence[Mapping[str, Any]], table: Callable[[str], str] = lambda revision: "") -> Found:
    """What ``dvc exp show --json`` says.

    Parameters
    ----------
    table : the text of metrics/per_class.csv at a revision, empty where there is none.

    Raises
    ------
    AepslError : it is not in the form that DVC 3.67 gives it.
    """
    try:
        return _experiments(content, table)
    except (LookupError, TypeError, AttributeError) as error:
        raise AepslError(f"dvc exp show --json: expected the form that DVC 3.67 gives it, found another ({type(error).__name__}: {error})") from error


def _experiments(content: Sequence[Mapping[str, Any]], table: Callable[[str], str]) -> Found:
    found = Found([], [], [])
    for commit in content:
        if commit["rev"] != "workspace" and commit["data"] and not commit["error"]:
            found.commits.append(_parsed(commit["name"] or commit["rev"][:7], commit["data"]))
        for experiment in commit["experiments"] or ():
            # The newest revision comes first; a queue entry of an experiment that runs shows the data of the workspace.
            newest = experiment["revs"][0]
            name, state = experiment["name"] or newest["rev"][:7], (experiment["executor"] or {}).get("state", "success")
            if state != "success" or newest["error"] or not newest["data"] or newest["data"]["rev"] != newest["rev"]:
                reason = (newest["error"] or {}).get("msg")
                found.left_out.append(f"{name}: {'not finished' if state == 'success' else state}{f' ({reason})' if reason else ''}")
                continue
            try:
                _take(found, _parsed(name, newest["data"], parse_classes(table(newest["rev"]), f"{name}: {CLASSES}")))
            except AepslError as error:
                found.left_out.append(str(error))
    return found


def folder_runs(folder: Path) -> Found:
    """The runs in the sub-folders of ``folder``, or the one it holds itself; a run's name is its path, its time that of its scores.

    Raises
    ------
    AepslError : there is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise AepslError(f"--runs {folder}: expected a folder of runs, found none")
    found = Found([], [])
    places = [folder] if (folder / PARAMS).is_file() else sorted(path for path in folder.iterdir() if path.is_dir())
    if not places:
        raise AepslError(f"--runs {folder}: expected a run, which is {PARAMS} and metrics/, in every sub-folder, found no sub-folder")
    for place in places:
        try:
            _take(found, _read(place))
        except AepslError as error:
            found.left_out.append(str(error))
    return found


def parse_classes(text: str, where: str) -> dict[str, float | None]:
    """IoU on val by class from the text of metrics/per_class.csv."""
    classes: dict[str, float | None] = {}
    try:
        for row in csv.DictReader(io.StringIO(text, newline=""), strict=True):
            name, iou = row["class"], float(row["iou"]) if row["iou"] else None
            if name in classes or not (iou is None or 0 <= iou <= 1):
                raise ValueError(f"{shown(name)} twice" if name in classes else f"an IoU of {iou}")
            classes[name] = iou
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise AepslError(f"{where}: expected columns class and iou with numbers from 0 to 1, every class once, "
                         f"found another table ({error})") from None
    return classes


def _parsed(name: str, data: Mapping[str, Any], classes: Mapping[str, float | None] | None = None) -> Run:
    scores = {key: value for path in SCORES for key, value in (data["metrics"].get(path, {}).get("data") or {}).items()}
    return Run(name, data["params"].get(PARAMS, {}).get("data") or {}, scores, data["timestamp"] or "", classes or {})


def _read(place: Path) -> Run:
    scores: dict[str, Any] = {}
    try:
        file = PARAMS
        params = parse_yaml((place / PARAMS).read_bytes())
        for file in SCORES:
            found = parse_json((place / file).read_bytes())
            if not isinstance(found, dict):
                raise ValueError(f"expected metrics by name, found {shown(found)}")
            scores |= found
        file = CLASSES
        table = (place / CLASSES).read_text(encoding="utf-8") if (place / CLASSES).is_file() else ""
    except FileNotFoundError:
        raise AepslError(f"{place}: expected {file}, found none") from None
    except (OSError, ValueError) as error:
        raise AepslError(f"{place}: expected readable parameters and metrics, found in {file}: {error}") from None
    if not isinstance(params, dict):
        raise AepslError(f"{place}: expected groups of parameters in {PARAMS}, found {type(params).__name__}")
    written = datetime.fromtimestamp((place / SCORES[0]).stat().st_mtime)
    return Run(str(place), params, scores, written.isoformat(timespec="seconds"), parse_classes(table, f"{place}: {CLASSES}"))


def _take(found: Found, run: Run) -> None:
    """A run without a score is no finished one."""
    if wrong := [f"{name} {shown(run.scores[name])}" for name in ("miou", "pseudo_label_miou")
                 if run.scores.get(name) is not None and not _share(run.scores[name])]:
        found.left_out.append(f"{run.name}: expected scores from 0 to 1, found {', '.join(wrong)}")
    elif run.scores.get("miou") is None:
        found.left_out.append(f"{run.name}: no miou in {SCORES[0]}; was evaluate among the stages that ran, and has val masks?")
    else:
        found.runs.append(run)


def _share(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= 1


def _call(command: Sequence[str], folder: Path) -> str:
    """Output of a command of DVC."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode == 0:
        return result.stdout
    reason = result.stderr.strip().splitlines()[-1:] or [f"status {result.returncode}"]
    raise AepslError(f"dvc exp show: expected the experiments of {folder.resolve()}, found: {reason[0]}; run it in the project with its environment "
                     "active, or give plain folders with --runs")
