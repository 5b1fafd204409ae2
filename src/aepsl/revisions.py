"""Two states of a project beside each other: parameters, metrics and artefacts of a git revision, the workspace, a folder or a dvc.lock.

What DVC recorded in dvc.lock counts as the artefacts; no artefact itself is opened, and DVC is not needed.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from aepsl.data.archive import MOST_TEXT, parse_json
from aepsl.errors import AepslError, printable, shown
from aepsl.git import ask_git, asked_line
from aepsl.params import leaves, parse_yaml

WORKSPACE = "workspace"
LOCK, PARAMS, METRICS = "dvc.lock", "params.yaml", "metrics"
YARDSTICK = "yardstick"
# Numbers that are better when larger, or smaller; of others, such as the bounds of an interval and the baseline of one round, it depends.
MORE = re.compile(r"(?!.*(_low|_high|single.*)$)(.*_)?(miou|iou|accuracy|precision|recall|gain)(_.*)?")
LESS = re.compile(r"(.*_)?loss|lost_by_stop_rule")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # a lock has thousands of lines


@dataclass(frozen=True)
class Snapshot:
    """One state.

    Attributes
    ----------
    params : values by dotted path, without ``compute``, which changes no result; where there is no params.yaml, those that dvc.lock recorded.
    metrics : numbers and words of metrics/*.json by ``file.key``; lists are left out, as DVC does. None = unknown: a dvc.lock alone has none.
    artefacts : MD5 of every out of a stage that is no metric, by path.
    stale : parameters whose value is not the one that the stages last ran with.
    """

    name: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any] | None
    artefacts: Mapping[str, str]
    stale: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def snapshot(root: Path, name: str | None) -> Snapshot:
    """The state that ``name`` means in the project at ``root``.

    Parameters
    ----------
    name : a git revision (branch, tag, commit, HEAD~1, the name of a DVC experiment); the path of a folder or of a dvc.lock; None or
        "workspace" = the files as they lie in ``root``.

    Raises
    ------
    AepslError : there is no such thing, or it holds no dvc.lock.
    """
    if name is None or name == WORKSPACE:
        return _of_folder(root, WORKSPACE)
    path = root / name
    if (commit := _commit(root, name)) is not None:
        return _built(name, _Commit(root, commit))
    if name and path.is_dir():  # an empty name is no folder, least of all this one
        return _of_folder(path, name)
    if path.is_file():
        return _of_lock(path, name)
    if ask_git(root, "rev-parse", "--git-dir") is None:
        raise AepslError(f"{shown(name)}: expected the path of a dvc.lock or of a folder that has one, because {root.absolute()} is in no git "
                         "checkout; found no such path")
    raise AepslError(f"{shown(name)}: expected a git revision (`git branch`, `git log --oneline`), the name of an experiment (`dvc exp show`), a "
                     "folder or a dvc.lock; found none of these")


def differences(old: Snapshot, new: Snapshot) -> dict[str, Any]:
    """What changed, as JSON values.

    Returns
    -------
    name : of ``old``. metrics, params: ``[[name, old value, new value], …]``; artefacts: ``[[path, old MD5, new MD5], …]``.
        A value is None where that state does not have it. Metrics are empty where one state knows none.
    """
    known = old.metrics is not None and new.metrics is not None
    return {"name": old.name,
            "metrics": _changed(old.metrics or {}, new.metrics or {}) if known else [],
            "params": _changed(old.params, new.params),
            "artefacts": _changed(old.artefacts, new.artefacts)}


def warnings(old: Snapshot, new: Snapshot) -> list[str]:
    """Why the differences must be read with care, one sentence each."""
    found = [f"{state.name}: {note}" for state in (old, new) for note in state.notes]
    for state in (old, new):
        if state.metrics is None:
            found.append(f"{state.name}: a {LOCK} alone says nothing of metrics, so none are compared; give the folder or the revision")
        if state.stale:
            some = ", ".join(state.stale[:5]) + (", …" if len(state.stale) > 5 else "")
            found.append(f"{state.name}: {len(state.stale)} parameter(s) changed since the stages ran ({some}): its metrics and artefacts are of "
                         "the values before; run `dvc repro`")
    for name, before, after in differences(old, new)["metrics"]:
        if name.rpartition(".")[2] == YARDSTICK and before is not None and after is not None:
            found.append(f"{name.rpartition('.')[0]}: the scores were not measured alike ({before} against {after}) and cannot be compared: other "
                         "images, another treatment of ignored pixels, or another truth")
    return found


def direction(name: str) -> int:
    """1 where a larger value of a metric is better, -1 where a smaller one is, 0 where it depends."""
    leaf = name.rpartition(".")[2]
    return 1 if MORE.fullmatch(leaf) else -1 if LESS.fullmatch(leaf) else 0


def comparable(name: str, old: Snapshot, new: Snapshot) -> bool:
    """Whether both states measured the file of a metric by the same yardstick."""
    key = f"{name.rpartition('.')[0]}.{YARDSTICK}"
    return (old.metrics or {}).get(key) == (new.metrics or {}).get(key)


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[list[Any]]:
    names = [*old, *(name for name in new if name not in old)]
    return [[name, old.get(name), new.get(name)] for name in names if not _same(old.get(name), new.get(name))]


def _same(one: Any, other: Any) -> bool:
    """Equal to the pipeline: 8 and 8.0 are, 1 and true are not."""
    def number(text: str) -> float:
        return int(float(text)) if float(text).is_integer() else float(text)

    written = [json.dumps(json.loads(json.dumps(value, default=str), parse_float=number), sort_keys=True) for value in (one, other)]
    return written[0] == written[1]


# ---- where the files come from


@dataclass(frozen=True)
class _Folder:
    root: Path

    def read(self, name: str) -> bytes | None:
        path = self.root / name
        if not path.is_file():
            return None
        if path.stat().st_size > MOST_TEXT:
            raise AepslError(f"{path}: expected at most {MOST_TEXT} bytes of text, found {path.stat().st_size}")
        return path.read_bytes()

    def metrics(self) -> list[str]:
        return sorted(f"{METRICS}/{path.name}" for path in (self.root / METRICS).glob("*.json"))

    def where(self, name: str) -> str:
        return str(self.root / name)


@dataclass(frozen=True)
class _Commit:
    root: Path
    commit: str

    def read(self, name: str) -> bytes | None:
        return ask_git(self.root, "cat-file", "blob", f"{self.commit}:./{name}")

    def metrics(self) -> list[str]:
        listed = ask_git(self.root, "ls-tree", "--name-only", "-z", self.commit, f"{METRICS}/") or b""
        return sorted(name for name in listed.decode("utf-8", "surrogateescape").split("\0") if name.endswith(".json"))

    def where(self, name: str) -> str:
        return f"{self.commit[:7]}:{name}"


def _commit(root: Path, name: str) -> str | None:
    """The commit a revision or an experiment means, in hexadecimal, or None."""
    if not name or "\0" in name or name.startswith("-"):
        return None
    if commit := asked_line(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"):
        return commit
    found = [line.split(" ", 1) for line in asked_line(root, "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps").splitlines()]
    return next((commit for commit, ref in found if ref.rpartition("/")[2] == name), None)


def _of_folder(folder: Path, name: str) -> Snapshot:
    return _built(name, _Folder(folder))


def _of_lock(path: Path, name: str) -> Snapshot:
    artefacts, recorded = _locked(path.read_bytes() if path.stat().st_size <= MOST_TEXT else b"", str(path))
    return Snapshot(name, recorded, None, artefacts)


def _built(name: str, source: _Folder | _Commit) -> Snapshot:
    lock = source.read(LOCK)
    if lock is None:
        raise AepslError(f"{shown(name)}: expected a {LOCK}, found none; run `dvc repro` there and commit {LOCK}, or name a revision of this project")
    artefacts, recorded = _locked(lock, source.where(LOCK))
    content = source.read(PARAMS)
    if content is None:
        return Snapshot(name, recorded, _metrics(source), artefacts, notes=(f"it has no {PARAMS}; the parameters are those that {LOCK} recorded",))
    try:
        groups = parse_yaml(content)
        params = dict(leaves(groups)) if isinstance(groups, dict) else {}
    except ValueError as error:
        raise AepslError(f"{source.where(PARAMS)}: expected YAML, found {error}") from None
    params = {path: value for path, value in params.items() if path.partition(".")[0] != "compute"}
    stale = tuple(path for path, value in recorded.items() if path in params and not _same(params[path], value))
    return Snapshot(name, params, _metrics(source), artefacts, stale)


def _metrics(source: _Folder | _Commit) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in source.metrics():
        content = source.read(name)
        try:
            values = parse_json(content or b"")
        except ValueError as error:
            raise AepslError(f"{source.where(name)}: {error}; run `dvc repro`") from None
        if isinstance(values, dict):
            stem = name.removeprefix(f"{METRICS}/").removesuffix(".json")
            found |= {f"{stem}.{path}": value for path, value in leaves(values) if isinstance(value, int | float | str)}
    return found


def _locked(data: bytes, where: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Artefacts and parameters that a dvc.lock recorded."""
    def fault(found: str) -> AepslError:
        return AepslError(f"{where}: expected a {LOCK} as DVC 3 writes it, found {found}; `git checkout {LOCK}` brings back the last one committed")

    try:
        text = data.decode("utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _Loader)):
            raise fault("a reference, which could grow it without end")
        content = yaml.load(text, _Loader)
    except UnicodeDecodeError:
        raise fault("bytes that are no text in UTF-8") from None
    except yaml.YAMLError as error:
        raise fault(printable(" ".join(str(error).split()), 200)) from None
    except RecursionError:
        raise fault("brackets nested a hundredfold") from None
    stages = content.get("stages") if isinstance(content, dict) else None
    if not isinstance(stages, dict):
        raise fault("no stages" if data.strip() else "an empty file")
    artefacts: dict[str, str] = {}
    params: dict[str, Any] = {}
    try:
        for stage in stages.values():
            artefacts |= {str(out["path"]): str(out["md5"]) for out in stage.get("outs", ()) if not str(out["path"]).startswith(f"{METRICS}/")}
            for path, value in stage.get("params", {}).get(PARAMS, {}).items():
                params |= dict(leaves({path: value}))
    except (AttributeError, KeyError, TypeError) as error:
        raise fault(f"a stage of another form ({type(error).__name__}: {printable(str(error), 80)})") from None
    return dict(sorted(artefacts.items())), dict(sorted(params.items()))


