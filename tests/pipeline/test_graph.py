"""dvc.yaml against the code: what a stage declares is what it imports, reads and writes, and training never sees the truth."""

import ast
import copy
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from aepsl.params import load_params

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:dvc")

ROOT = Path(__file__).resolve().parents[2]
PIPELINE: dict[str, Any] = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PARAMS: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
DEFINITIONS: dict[str, Any] = {name: stage.get("do", stage) for name, stage in PIPELINE["stages"].items()}

# Not among the deps: they check, report and schedule, but cannot change an artefact; the parameters' values are tracked by params:.
SHELL = {"stages/__init__.py", *(f"src/aepsl/{name}.py" for name in ("params", "errors", "progress", "parallel", "runtime")),
         *(f"src/aepsl/resume/{name}.py" for name in ("interrupt", "state", "parts", "inputs"))}
CHAINS = {"rounds", "last_round", "passes", "relabels", "oracles", "last_pass"}  # they shape the graph; listing one would redo every round
HIDDEN = {"data/truth.zip", "data/raw.zip"}  # raw.zip holds the masks too
SCORING = {"evaluate", "rounds", "oracle", "gallery", "report"}
# What a module reads beside itself: templates of the page, and its scripts and styles.
READ_WITH = {"src/aepsl/report/page.py": ("src/aepsl/report/assets", "src/aepsl/report/templates")}
TELLING = {"package"}  # reads scores to pass them on, never the truth itself
GATE = "prepare"  # it parts the truth from the rest
ORACLE = "oracle_labels"  # hands the truth to a pass named in oracles: none as shipped


@dataclass(frozen=True)
class Stage:
    """A stage as DVC resolves it; outs include metrics and plots."""

    name: str
    cmd: str
    deps: tuple[str, ...]
    params: tuple[str, ...]
    outs: tuple[str, ...]

    @property
    def base(self) -> str:
        return self.name.partition("@")[0]

    @property
    def options(self) -> dict[str, str]:
        words = shlex.split(self.cmd)
        assert words[:3] == ["python", "-m", f"stages.{self.base}"], self.cmd
        return {option.removeprefix("--"): value for option, value in zip(words[3::2], words[4::2], strict=True)}


def resolve(folder: Path, pipeline: dict[str, Any] = PIPELINE, **changes: Any) -> dict[str, Stage]:
    """The stages by name, templates filled in by DVC itself, which also refuses cycles and outputs made twice."""
    (folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline, sort_keys=False))
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS | changes, sort_keys=False))
    load_params(folder / "params.yaml")
    with Repo.init(str(folder), no_scm=True) as repo:
        repo.check_graph(repo.index.stages)
        return {stage.addressing.removeprefix("dvc.yaml:"): Stage(
            stage.addressing.removeprefix("dvc.yaml:"), stage.cmd,
            tuple(dep.def_path for dep in stage.deps if not hasattr(dep, "params")),
            tuple(name for dep in stage.deps if hasattr(dep, "params") for name in dep.params),
            tuple(out.def_path for out in stage.outs)) for stage in repo.index.stages}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


TWO_PASSES: dict[str, Any] = {"passes": ["s1", "s2"], "relabels": {"s2": "s1"}, "last_pass": "s2"}


@pytest.fixture(scope="module")
def shipped(tmp_path_factory) -> dict[str, Stage]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("shipped")
        patch.chdir(folder)
        # With a second pass, which the shipped parameters leave out: so every stage but the oracle's is looked at.
        return resolve(folder, **TWO_PASSES)


@pytest.fixture(scope="module")
def supervised(tmp_path_factory) -> dict[str, Stage]:
    """Beside the passes of the method one that learns from the truth: every stage of dvc.yaml."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("supervised")
        patch.chdir(folder)
        return resolve(folder, **TWO_PASSES | {"passes": ["s1", "s2", "full"], "oracles": ["full"], "last_pass": "full"})


# ---- weak supervision


def leaks(stages: dict[str, Stage]) -> list[str]:
    """Paths by which the truth could reach what is trained and predicted.

    Everything a stage makes out of hidden files is hidden too, except what the gate makes beside the truth.
    """
    makers = {out: stage for stage in stages.values() for out in stage.outs}
    hidden = set(HIDDEN)
    for _ in stages:
        hidden |= {out for stage in stages.values() if stage.name != GATE and hidden & set(stage.deps) for out in stage.outs}
    return [f"{stage.name} reads {path}, made by {makers[path].name}"
            for stage in stages.values() if stage.base not in SCORING | TELLING | {GATE} for path in stage.deps if path in hidden]


def upstream(stages: dict[str, Stage], path: str) -> set[str]:
    """Names of all stages that an artefact is made by, directly or not."""
    maker = next((stage for stage in stages.values() if path in stage.outs), None)
    return set() if maker is None else {maker.name}.union(*(upstream(stages, dep) for dep in maker.deps))


def test_nothing_before_scoring_reads_the_truth(shipped) -> None:
    assert leaks(shipped) == []
    ancestors = upstream(shipped, "data/predictions.zip")
    assert {"saliency", "classify@r3", "mine@r1", "merge", "segment@s1", "relabel@s2", "segment@s2", "predict", "refine"} <= ancestors
    assert ancestors.isdisjoint(SCORING | TELLING)
    told = {out for stage in shipped.values() if stage.base in TELLING for out in stage.outs}
    assert told.isdisjoint(path for stage in shipped.values() for path in stage.deps)
    readers = {stage.base for stage in shipped.values() if HIDDEN & set(stage.deps)}
    assert readers == {GATE, *SCORING}


def test_an_oracle_is_the_only_way_from_the_truth_to_a_network(supervised) -> None:
    assert set(leaks(supervised)) == {
        "oracle_labels@full reads data/truth.zip, made by prepare", "segment@full reads data/labels/full.zip, made by oracle_labels@full",
        "predict reads models/segmenter/full.pt, made by segment@full", "refine reads data/scores.zip, made by predict",
        "export reads data/predictions.zip, made by refine"}
    assert leaks({name: stage for name, stage in supervised.items() if stage.base != ORACLE}) == []
    assert {stage.base for stage in supervised.values() if HIDDEN & set(stage.deps)} == {GATE, *SCORING, ORACLE}
    assert all("oracle" in stage.name for stage in supervised.values() if "data/truth.zip" in stage.deps and stage.base not in SCORING)


def test_the_report_shows_what_was_scored_and_nothing_depends_on_it(shipped) -> None:
    report = shipped["report"]
    made_of = {stage.name for stage in shipped.values() for out in stage.outs
               if any(out == dep or out.startswith(f"{dep}/") for dep in report.deps)}
    assert {"evaluate", "rounds", "refine", "predict", "merge", "mine@r3", "saliency", "prepare", *(f"classify@r{n}" for n in (1, 2, 3)),
            "segment@s1", "segment@s2", "relabel@s2"} == made_of
    assert not [stage.name for stage in shipped.values() for dep in stage.deps if dep.startswith("report")]


def test_naming_an_oracle_leaves_the_method_as_it_is(shipped, supervised) -> None:
    assert set(supervised) - set(shipped) == {"oracle_labels@full", "segment@full"}
    assert {name for name in shipped if supervised[name] != shipped[name]} == {"predict", "evaluate", "package", "gallery", "report"}


def test_the_bound_alone_trains_no_other_segmenter(folder) -> None:
    stages = resolve(folder, oracles=["full"], passes=["full"], relabels={}, last_pass="full")
    made_of = upstream(stages, "data/predictions.zip")
    assert {name for name in made_of if name.startswith(("segment", "relabel", "merge", "oracle"))} == {"oracle_labels@full", "segment@full"}
    assert not made_of & {"classify@r2", "classify@r3", "saliency"}


@pytest.mark.parametrize("preset", sorted(path.stem for path in (ROOT / "presets").glob("*.yaml")))
def test_no_preset_opens_a_way_to_the_truth(folder, preset: str) -> None:
    stages = resolve(folder, **yaml.safe_load((ROOT / f"presets/{preset}.yaml").read_text()))
    assert leaks(stages) == []
    assert upstream(stages, "data/predictions.zip").isdisjoint(SCORING)


@pytest.mark.parametrize(("stage", "dep", "expected"), [
    ("segment", "data/truth.zip", "segment@s1 reads data/truth.zip"),
    ("saliency", "data/raw.zip", "saliency reads data/raw.zip"),
    ("predict", "metrics/oracle.json", "predict reads metrics/oracle.json")])
def test_a_leak_of_the_truth_would_be_found(folder, stage: str, dep: str, expected: str) -> None:
    pipeline = copy.deepcopy(PIPELINE)
    definition = pipeline["stages"][stage]
    definition.get("do", definition)["deps"].append(dep)
    assert any(leak.startswith(expected) for leak in leaks(resolve(folder, pipeline)))


# ---- code


def module_file(name: str) -> str | None:
    """Path of a module of this project, from the root; None for any other module."""
    path = Path("src" if name.split(".")[0] == "aepsl" else "", *name.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if name.split(".")[0] in ("aepsl", "stages") and (ROOT / file).is_file():
            return file.as_posix()
    return None


def imports(file: str) -> Iterator[str]:
    """Files of this project that a file imports anywhere, in functions too."""
    package = file.removeprefix("src/").removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*package[:len(package) + 1 - node.level], *filter(None, [node.module])]) if node.level else str(node.module)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from filter(None, map(module_file, names))


def closure(file: str) -> set[str]:
    """A file and all it imports, directly or not, without the shell and the packages' empty ``__init__.py``."""
    found, todo = set(), [file]
    while todo:
        path = todo.pop()
        if path not in found and path not in SHELL and not path.endswith("/__init__.py"):
            found.update((path, *READ_WITH.get(path, ())))
            todo.extend(imports(path))
    return found


@pytest.mark.parametrize("stage", DEFINITIONS)
def test_declared_code_is_what_a_stage_imports(stage: str) -> None:
    declared = DEFINITIONS[stage]["deps"]
    data = [path for path in declared if not path.startswith(("src/", "stages/"))]
    expected = sorted({*data, *closure(f"stages/{stage}.py")})
    listing = "\n".join(f"      - {path}" for path in expected)
    assert declared == expected, f"{stage}: what it imports has changed; in dvc.yaml its deps should read\n{listing}"


def test_no_stage_imports_another() -> None:
    assert all(path == f"stages/{stage}.py" for stage in DEFINITIONS for path in closure(f"stages/{stage}.py") if path.startswith("stages/"))


def test_no_import_hides_from_the_closure() -> None:
    for path in [path for folder in ("src", "stages") for path in (ROOT / folder).rglob("*.py")]:
        tree = ast.parse(path.read_text())
        called = {ast.unparse(node.func).rpartition("importlib.")[2] for node in ast.walk(tree) if isinstance(node, ast.Call)}
        assert called.isdisjoint({"import_module", "__import__", "exec", "eval"}), f"{path}: a module may be loaded unseen"
        if path == ROOT / "src/aepsl/__init__.py":
            loaded = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            assert loaded == ["from typing import TYPE_CHECKING, Any"]
        elif path.name == "__init__.py" and path.parent.name != "stages":
            assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body), f"{path}: more than a docstring"
        else:  # the names for users, which aepsl loads when asked, would hide the modules they come from
            taken = {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module == "aepsl" for alias in node.names}
            assert not [name for name in taken if not (ROOT / "src/aepsl" / name).is_dir() and not (ROOT / f"src/aepsl/{name}.py").is_file()], path


def test_the_closure_follows_imports_inside_functions_and_of_packages() -> None:
    assert "src/aepsl/data/shapes.py" in closure("stages/download.py")  # from aepsl.data import shapes
    assert "src/aepsl/segmentation/crf.py" in closure("stages/refine.py")
    assert not SHELL & closure("stages/refine.py")


# ---- parameters, options, artefacts


def literals(stage: str) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """PARAMS of a stage file, all the options it gives to ``run``, and the keyword-only arguments of its ``main``."""
    tree = ast.parse((ROOT / f"stages/{stage}.py").read_text())
    params = next(ast.literal_eval(node.value) for node in tree.body
                  if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "PARAMS")
    call = next(node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "run")
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg in ("options", "inputs", "outputs")}
    options = tuple(name for names in named.values() for name in names)
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    return params, options, [argument.arg for argument in main.args.kwonlyargs]


def test_every_stage_has_one_file_and_every_file_is_a_stage() -> None:
    assert set(DEFINITIONS) == {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("stage", DEFINITIONS)
def test_declared_parameters_and_options_are_those_of_the_stage(stage: str, supervised) -> None:
    params, options, arguments = literals(stage)
    assert sorted(DEFINITIONS[stage].get("params", ())) == sorted(params)
    assert sorted(argument.replace("_", "-") for argument in arguments) == sorted(options)
    for resolved in supervised.values():
        if resolved.base == stage:
            assert sorted(resolved.options) == sorted(options), resolved.cmd


def test_every_parameter_is_tracked_except_where_and_how_long_to_run(shipped) -> None:
    assert set(shipped["report"].params) == set(PARAMS) - {"compute"}  # the page shows them all
    tracked = {name for stage in shipped.values() if stage.name != "report" for name in stage.params} | {"report"}
    groups = {name.partition(".")[0] for name in tracked}
    assert groups == set(PARAMS) - CHAINS - {"compute"}
    for group in groups - tracked:  # tracked in parts
        parts = {name for name in tracked if name.startswith(f"{group}.")}
        assert {name.split(".")[1] for name in parts} == set(PARAMS[group])
    for name in tracked:
        value: Any = PARAMS
        for key in name.split("."):
            assert key in value, f"{name}: dvc.yaml tracks a parameter that params.yaml lacks"
            value = value[key]


def test_every_output_is_made_once_and_every_input_is_made_or_given(supervised) -> None:
    outs = [out for stage in supervised.values() for out in stage.outs]
    assert len(outs) == len(set(outs))
    for stage in supervised.values():
        for path in stage.deps:
            assert path in outs or (ROOT / path).exists(), f"{stage.name}: {path} is made by no stage"


def test_commands_name_exactly_the_artefacts_declared(supervised) -> None:
    for stage in supervised.values():
        given = {PARAMS["data"]["path"]} if stage.name == "download" else set()
        inputs = {path for path in stage.deps if not path.startswith(("src/", "stages/"))} - given
        paths = {value for option, value in stage.options.items() if option != "step"}
        written = {path for path in paths if path in stage.outs or any(out.startswith(f"{path}/") for out in stage.outs)}
        assert paths - written == inputs, stage.name
        loose = [out for out in stage.outs if out not in written and not out.startswith(tuple(f"{path}/" for path in written))]
        assert not loose, stage.name
        if "@" in stage.name and "step" in stage.options:
            assert stage.options["step"] == stage.name.partition("@")[2]


def test_small_files_for_git_never_stand_under_outs() -> None:
    """An uncached file under outs: would switch off DVC's run-cache for the stage."""
    for name, definition in DEFINITIONS.items():
        assert all(isinstance(out, str) for out in definition.get("outs", ())), name
        small = ("metrics/",) if name == "report" else ("metrics/", "report/")
        assert not any(isinstance(out, str) and out.startswith(small) for out in definition.get("outs", ())), name


def test_dvcs_model_registry_finds_the_package() -> None:
    [(name, artefact)] = PIPELINE["artifacts"].items()
    assert (name, artefact["type"]) == ("aepsl", "model")
    assert [artefact["path"]] == DEFINITIONS["package"]["outs"]


# ---- longer and shorter chains


def test_a_fourth_round_joins_the_chain(folder, shipped) -> None:
    grown = resolve(folder, **TWO_PASSES, rounds=PARAMS["rounds"] | {"r4": "r3"}, last_round="r4")
    assert set(grown) - set(shipped) == {"classify@r4", "mine@r4"}
    assert {"data/mined/r3.zip", "data/weights/classify.pth"} <= set(grown["classify@r4"].deps)
    assert {"data/mined/r3.zip", "models/classifier/r4.pt"} <= set(grown["mine@r4"].deps)
    changed = {name for name in shipped if grown[name] != shipped[name]}
    assert changed == {"merge", "stop", "evaluate", "rounds", "oracle", "gallery", "report"}
    assert all("data/mined/r4.zip" in grown[name].deps and "data/mined/r3.zip" not in grown[name].deps for name in changed)


@pytest.mark.parametrize("rounds", [PARAMS["rounds"], {"r1": "r0"}], ids=["rounds kept", "rounds removed"])
def test_fewer_rounds_change_only_what_reads_the_last(folder, shipped, rounds: dict[str, str]) -> None:
    shrunk = resolve(folder, **TWO_PASSES, rounds=rounds, last_round="r1")
    assert {name for name in shrunk if shrunk[name] != shipped[name]} == {"merge", "stop", "evaluate", "rounds", "oracle", "gallery", "report"}
    assert [path for path in shrunk["merge"].deps if path.startswith("data/mined/")] == ["data/mined/r1.zip"]
    assert upstream(shrunk, "data/predictions.zip").isdisjoint({"classify@r2", "mine@r2", "classify@r3", "mine@r3"})


def test_a_single_pass_learns_from_the_merged_labels_alone(folder) -> None:
    single = resolve(folder, passes=["s1"], relabels={}, last_pass="s1")
    assert not [name for name in single if name.startswith("relabel")]
    assert "models/segmenter/s1.pt" in single["predict"].deps
    assert {path for path in single["evaluate"].deps if path.startswith("data/labels/")} == {"data/labels/s1.zip"}


def test_a_third_pass_learns_from_the_second(folder) -> None:
    longer = resolve(folder, passes=["s1", "s2", "s3"], relabels={"s2": "s1", "s3": "s2"}, last_pass="s3")
    assert "models/segmenter/s2.pt" in longer["relabel@s3"].deps
    assert "data/labels/s3.zip" in longer["segment@s3"].deps
    assert "models/segmenter/s3.pt" in longer["predict"].deps
