"""The pages of the reference that follow from the code: parameters, stages, commands. docs/conf.py puts them into docs/reference/.

Parameters come from the pydantic models of :mod:`aepsl.params` (type, bounds), the comments in presets/shapes.yaml (meaning, value of the
paper), all presets (values) and dvc.yaml (who reads them); stages from dvc.yaml and the first line of each stage's file.
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aepsl.params import Params, parse_yaml

ROOT = Path(__file__).resolve().parents[1]
PRESETS = ("shapes", "photos-quick", "folder", "voc-animals", "voc2012-mobilenet", "voc2012-paper")
# Of every number and list of numbers, by its path or the end of it.
UNITS = {
    "seed": "none", "data.shapes.train": "images", "data.shapes.val": "images", "data.shapes.size": "pixels", "mask_values": "grey level of the mask",
    "saliency.size": "pixels", "superpixel": "pixels of area", "compactness": "none", "sigma_colour": "CIE-Lab units", "sigma_boundary": "none",
    "sigma_spatial": "share of the longer side", "output_stride": "pixels per cell", "width": "factor", "stages": "stages of the trunk",
    "frozen_stages": "stages of the trunk", "held_out": "share of the training images", "training.length": "training.unit", "batch": "images",
    "accumulate": "parts", "crop": "pixels", "training.scale": "factor", "training.lr": "step per gradient", "lr_steps": "training.unit",
    "momentum": "none", "weight_decay": "none", "last_layer_lr": "factor", "bias_lr": "factor", "further_rounds.length": "training.unit",
    "threshold": "share of the heatmap's range", "scales": "factor", "confident_share": "share of a class's images",
    "background_below": "saliency, 0 to 1", "background_below_outdoors": "saliency, 0 to 1", "classification_weight": "factor",
    "online_from": "share of the training", "least_confidence": "probability", "prohibit_below": "class confidence, 0 to 1",
    "custom.iterations": "iterations", "bilateral_weight": "none", "spatial_weight": "none", "bilateral_xy": "pixels", "spatial_xy": "pixels",
    "bilateral_rgb": "grey levels", "devices": "processes", "inference_batch": "images", "workers": "processes", "processes": "processes",
    "threads": "threads", "save_every": "s", "report.thumbnail": "pixels", "report.side": "pixels",
}
COMMAND = r"(dvc exp run (?:-S (?:'[^']*'|[^\s.]+(?:\.\w+)*[^\s.]*) ?)+)"
ESCAPED = r"\\(?=[\\*_<>\[\]|^])"
PAPER = re.compile(r"(?:^|(?<=[.;:] ))(?:paper:|\[[FDRU]\] |Zhu et al\.:)")


# ---- parameters


def leaves(schema: Mapping[str, Any], whole: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every parameter by its dotted path, with its JSON schema; groups are walked."""
    for name, field in schema["properties"].items():
        target = whole["$defs"][field["$ref"].rsplit("/", 1)[1]] if "$ref" in field else field
        if "properties" in target:
            yield from leaves(target, whole, f"{path}{name}.")
        else:
            yield f"{path}{name}", target


def all_parameters() -> dict[str, Mapping[str, Any]]:
    """Dotted path → JSON schema, in the order of the models."""
    schema = Params.model_json_schema()
    return dict(leaves(schema, schema))


def comments(preset: Path) -> dict[str, str]:
    """What stands beside (or, if nothing does, above) each key of a preset, by dotted path."""
    found: dict[str, str] = {}
    groups: list[tuple[int, str]] = []
    above: list[str] = []
    path = ""
    for line in preset.read_text(encoding="utf-8").splitlines():
        if key := re.match(r"( *)(\w+):(.*)$", line):
            groups = [group for group in groups if group[0] < len(key[1])]
            path = ".".join([*(name for _, name in groups), key[2]])
            groups.append((len(key[1]), key[2]))
            found[path] = " ".join(filter(None, [*above, key[3].partition(" # ")[2].strip()]))
            above = []
        elif comment := re.match(r"( *)# ?(.*)$", line):
            if len(comment[1]) > 20:  # goes on beside the key
                found[path] += f" {comment[2]}"
            else:
                above.append(comment[2])
        elif not line.strip():
            above = []
    return found


def meaning(path: str, notes: Mapping[str, str]) -> tuple[str, str]:
    """What a parameter means, and the value of its source; what is told once of a network or a training holds for both of them."""
    note = notes.get(path, "")
    start = PAPER.search(note)
    told, paper = (note[:start.start()], note[start.start():]) if start else (note, "")
    paper, _, more = paper.partition(". One more: ")
    told += f"One more: {more}" if more else ""
    if not told and path.startswith("segment."):
        told, _ = meaning(path.replace("segment", "classify", 1), notes)
    elif not told and path.startswith(("predict.", "relabel.")):
        told, _ = meaning(f"mine.{path.partition('.')[2]}", notes)
    return told.strip().rstrip(".;"), paper.removeprefix("paper:").strip()


def type_of(schema: Mapping[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        return " or ".join(type_of(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    kind = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "null", "array": "list",
            "object": "mapping"}[schema["type"]]
    if kind == "list":
        inner = type_of(schema["items"])
        kind = f"list of {inner.replace('number', 'numbers', 1) if 'number' in inner else inner + 's' if inner == 'text' else inner}"
    if kind == "mapping" and isinstance(schema.get("additionalProperties"), Mapping):
        kind = f"mapping of names to {type_of(schema['additionalProperties'])}"
    bounds = [f"{words} {schema[key]:,}".replace(",", " ") for key, words in
              (("minimum", "from"), ("exclusiveMinimum", "above"), ("maximum", "to"), ("exclusiveMaximum", "below")) if key in schema]
    return ", ".join([kind, " ".join(bounds)]) if bounds else kind


def unit_of(path: str) -> str:
    """The unit of a number, empty for what is none."""
    return next((UNITS[end] for end in (path, *(path.split(".", cut)[cut] for cut in range(1, path.count(".") + 1))) if end in UNITS), "")


def values(path: str) -> dict[str, Any]:
    """The value of a parameter in each preset."""
    found = {}
    for preset in PRESETS:
        content = _preset(preset)
        for name in path.split("."):
            content = content[name]
        found[preset] = content
    return found


def _preset(name: str) -> Any:
    return parse_yaml((ROOT / f"presets/{name}.yaml").read_bytes())


def readers() -> dict[str, list[str]]:
    """Stages by the parameter, or group of them, that they declare or whose value is part of their command."""
    found: dict[str, list[str]] = {}
    for name, stage in pipeline().items():
        for path in {*stage.get("params", ()), *re.findall(r"\$\{([\w.]+)\}", json.dumps(stage))}:  # the second name its files
            found.setdefault(path, []).append(name)
    return found


def parameters() -> str:
    """Markdown: every parameter with meaning, type, unit, value of the paper, value in each preset, and the stages that read it."""
    notes, stages = comments(ROOT / "presets/shapes.yaml"), readers()
    presets = {name: _preset(name) for name in PRESETS}
    lines: list[str] = []
    group = ""
    for path, schema in all_parameters().items():
        if (head := path.partition(".")[0] if "." in path else "rounds and passes") != group:
            group = head
            lines += [f"## {group}", "", _prose(notes.get(group, "")) if group != "rounds and passes" else "", ""]
        told, paper = meaning(path, notes)
        here = {}
        for name, value in presets.items():
            for key in path.split("."):
                value = value[key]
            here[name] = json.dumps(value, ensure_ascii=False)
        same = {value: [name for name in here if here[name] == value] for value in here.values()}
        shown = " · ".join(f"`{value}` {', '.join(names) if len(same) > 1 else 'all'}" for value, names in same.items())
        read_by = sorted({stage for end in range(path.count(".") + 1) for stage in stages.get(path.rsplit(".", end)[0], ())})
        below = sorted({stage for declared, names in stages.items() if declared.startswith(f"{path}.") for stage in names} - {*read_by})
        facts = {"Type": type_of(schema), "Unit": unit_of(path), "Paper": _prose(paper), "Presets": shown,
                 "Read by": ", ".join(f"`{stage}`" for stage in [*read_by, *below])}
        lines += [f"(param-{path})=", f"### `{path}`", "", _prose(told[:1].upper() + told[1:]) + "." if told else "", ""]
        lines += [f"{name}\n: {text}\n" for name, text in facts.items() if text]
    return "\n".join(lines)


def _prose(text: str) -> str:
    """A comment as Markdown: nothing in it is markup but commands."""
    text = re.sub(r"([\\*_<>\[\]|^])", r"\\\1", text)
    text = re.sub(r"\(docs/(\w+)\.md\)", r"([\1](../\1.md))", text)
    return re.sub(COMMAND, lambda found: f"`{re.sub(ESCAPED, '', found[1]).strip()}`" + found[1][len(found[1].rstrip()):], text).strip()


# ---- stages


def pipeline() -> dict[str, dict[str, Any]]:
    """The stages of dvc.yaml by name; of one with `foreach`, what it does for each."""
    content = parse_yaml((ROOT / "dvc.yaml").read_bytes())["stages"]
    return {name + ("@…" if "do" in stage else ""): stage.get("do", stage) | {"foreach": stage.get("foreach")} for name, stage in content.items()}


def written(stage: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a stage writes, by path, with what DVC is told of it."""
    found: dict[str, Mapping[str, Any]] = {}
    for kind in ("outs", "metrics", "plots"):
        for out in stage.get(kind, ()):
            found |= {path: (facts or {}) | {"kind": kind} for path, facts in out.items()} if isinstance(out, Mapping) else {out: {"kind": kind}}
    return found


def summary(stage: str) -> str:
    """The docstring of a stage's file, without the name it begins with."""
    text = ast.get_docstring(ast.parse((ROOT / f"stages/{stage.partition('@')[0]}.py").read_text(encoding="utf-8"))) or ""
    return text.partition(": ")[2] or text


def stages() -> str:
    """Markdown: every stage with what it does, reads and writes, in the order of dvc.yaml."""
    lines: list[str] = []
    for name, stage in pipeline().items():
        told = " ".join(summary(name).split("\n\n")[0].split())
        each = f"For each of `{str(stage['foreach']).strip('${}')}`: `key` is its name, `item` what it stands for." if stage["foreach"] else ""
        inputs = [path for path in stage.get("deps", ()) if not path.endswith(".py")]
        code = sum(path.endswith(".py") for path in stage.get("deps", ()))
        rows = {"Reads": ", ".join(f"`{_plain(path)}`" for path in inputs), "Code": f"{code} modules, listed in `dvc.yaml`",
                "Parameters": ", ".join(_linked(path) for path in stage.get("params", ())) or "none",
                "Writes": ", ".join(f"`{_plain(path)}`" + (f" ({facts['title']})" if "title" in facts else "")
                                    for path, facts in written(stage).items())}
        lines += [f"## {name}", "", told[:1].upper() + told[1:], "", each, "", *(f"{key}\n: {text}\n" for key, text in rows.items() if text),
                  "```text", _plain(" ".join(stage["cmd"].split())), "```", ""]
    return "\n".join(lines)


def _plain(text: str) -> str:
    return re.sub(r"\$\{(\w+)\}", r"{\1}", text)


def _linked(path: str) -> str:
    known = all_parameters()
    first = path if path in known else next((other for other in known if other.startswith(f"{path}.")), "")
    return f"[`{path}`](#param-{first})" if first else f"`{path}`"


# ---- commands


def commands() -> str:
    """Markdown: `aepsl` and each of its commands as `--help` has them."""
    from typer.main import get_command

    from aepsl.cli.app import app

    whole: Any = get_command(app)
    pages = [_command(f"aepsl {name}", command) for name, command in whole.commands.items() if not command.hidden]
    return "\n".join([*_options(whole), *pages])


def _command(name: str, command: Any) -> str:
    arguments = [_argument(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
    usage = " ".join([name, "[OPTIONS]", *arguments])
    lines = [f"### {name}", "", "```text", usage, "```", "", command.help or "", "", *_options(command)]
    return "\n".join([*lines, *(["```text", command.epilog.replace("\b\n", ""), "```"] if command.epilog else []), ""])


def _argument(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    return name if parameter.required else f"[{name.strip('[]')}]"


def _options(command: Any) -> list[str]:
    lines: list[str] = []
    context = command.make_context(command.name, [], resilient_parsing=True)
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        title, told = _argument(parameter), (parameter.help or "").strip()
        if parameter.param_type_name == "option":
            title = " / ".join(filter(None, [", ".join(parameter.opts), ", ".join(parameter.secondary_opts)]))
            if not parameter.is_flag:
                title += f" {parameter.metavar or parameter.display_type(context)}"
                told += f" Default: `{parameter.default}`." if isinstance(parameter.default, str | int | float | Path) else ""
        lines += [f"`{title}`", f": {told}", ""]
    return lines


def make() -> str:
    """Markdown: the targets that the head of the Makefile explains."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    head = [line.removeprefix("# ") for line in text.splitlines()[:text.splitlines().index("")] if line.startswith("# make ")]
    rows = [re.split(r" {2,}", line, maxsplit=1) for line in head]
    return "\n".join(["| command | does |", "|---|---|", *(f"| `{' '.join(row[0].split())}` | {row[1].strip()} |" for row in rows)])


# ---- modules


def api(package: str = "") -> str:
    """Markdown: every module of a package of aepsl, or those at its top, by its docstrings."""
    names = sorted(path.stem for path in (ROOT / "src/aepsl" / package).glob("*.py") if not path.stem.startswith("__"))
    prefix = ".".join(filter(None, ["aepsl", package]))
    return "\n".join(f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {prefix}.{name}\n   :members:\n```\n" for name in names)


# ---- pages that lie at the root


def changelog() -> str:
    """CHANGELOG.md, with links from docs/."""
    return _root_page("CHANGELOG.md")


def contributing() -> str:
    """CONTRIBUTING.md, with links from docs/."""
    return _root_page("CONTRIBUTING.md")


def _root_page(name: str) -> str:
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\((CHANGELOG|CONTRIBUTING)\.md", lambda found: f"]({found[1].lower()}.md", text.replace("](docs/", "]("))


# ---- docstrings


FIELDS = {"Parameters": "param", "Attributes": "ivar", "Raises": "raises", "Returns": "returns"}


def with_fields(lines: Sequence[str]) -> list[str]:
    """The headings of this project's docstrings (`name : text` below `Parameters`) as reStructuredText field lists."""
    result: list[str] = []
    field = ""
    lines = [re.sub(r"(?<=/)\*", r"\\*", line) for line in lines]  # of a path, not the beginning of emphasis
    for line, following in zip(lines, [*lines[1:], ""], strict=False):
        if line in FIELDS and following and set(following) == {"-"}:
            field = FIELDS[line]
            result.append("")
        elif field and line and set(line) == {"-"}:
            if field == "returns":
                result.append(":returns:")
        elif not field or not line.strip():
            field = ""
            result.append(line)
        elif field == "returns" or line.startswith(" "):
            result.append(f"    {line.strip()}")
        else:
            name, _, text = line.partition(" : ")
            result.append(f":{field} {name.replace(', ', ',')}: {text}")  # what stands before a blank would be taken for a type
    return result
