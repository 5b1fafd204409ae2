"""The paper's two ablations as data: mIoU by rounds of erasing and by ways of prohibiting, over seeds, beside the paper's figures.

``aepsl ablations`` collects the finished experiments of DVC, or plain folders that hold params.yaml and metrics/. Their rows go to rounds.csv,
psl.csv and per_class.csv; those of other data sets, variants and seeds stay. settings.json says under which parameters the rows of a data set
were measured: rows of other settings are refused, never mixed in.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aepsl.data.voc import class_fault
from aepsl.errors import FaultList, shown
from aepsl.evaluation.ablation_tables import VARIANTS, Key, Row, Table, in_order, key
from aepsl.evaluation.experiments import Found, Run
from aepsl.params import chain_to, leaves

# What the ablations vary, and compute, which never changes a result.
VARIED = ("seed", "rounds", "last_round", "passes", "relabels", "oracles", "last_pass", "segment.psl", "compute")


# ---- a run -> its rows


def variants(params: Mapping[str, Any]) -> dict[str, str]:
    """The tables a run belongs to and its line in each; empty where it is no line of any.

    The rounds are compared with PSL, the ways of prohibiting after three rounds, and the fully supervised bound knows no rounds.
    """
    psl, oracles, last = params["segment"]["psl"], params.get("oracles", ()), params["last_pass"]
    if last in oracles:
        return {"psl": "fully-supervised"} if psl == "none" else {}
    rounds = len(chain_to(params["rounds"], "r0", params["last_round"]))
    passes = 1 + len(chain_to(params["relabels"], "s1", last))
    found = {"rounds": f"r{rounds}"} if (psl, passes) == ("predicted", 1) and f"r{rounds}" in VARIANTS["rounds"] else {}
    way = {("none", 1): "off", ("predicted", 1): "on", ("predicted", 2): "psl++", ("true-labels", 1): "true-labels"}.get((psl, passes))
    return found | ({"psl": way} if rounds == 3 and way else {})


def data_name(params: Mapping[str, Any]) -> str:
    """shapes, voc2012, or the name of the user's folder: the first of its path that is not VOC's own."""
    if params["data"]["source"] != "folder":
        return str(params["data"]["source"])
    path = Path(params["data"]["path"])
    return path.parent.name if path.name == "VOC2012" and path.parent.name else path.name


def settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Everything else that two runs must share to stand in one table, by dotted path; of data.path, which differs between machines, the name."""
    flat = {path: value for path, value in leaves(params) if not any(path == name or path.startswith(f"{name}.") for name in VARIED)}
    return flat | {"data.path": data_name(params)}


def as_row(run: Run, data: str, variant: str) -> Row:
    """A line of rounds.csv or psl.csv. The fully supervised bound learns from no pseudo-labels: an empty cell."""
    labels = None if variant == "fully-supervised" else run.scores.get("pseudo_label_miou")
    return {"data": data, "variant": variant, "seed": run.params["seed"], "pseudo_label_miou": _percent(labels),
            "miou": _percent(run.scores["miou"])}


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)  # what the files hold, so that tables do not depend on having been read


def differences(named: Sequence[tuple[str, Mapping[str, Any]]], ignore: Sequence[str] = ()) -> list[str]:
    """One line for each parameter that is not the same in all (name of a run, its settings), with its values and who has them."""
    faults = []
    for path in sorted({path for _, values in named for path in values} - set(ignore)):
        owners: dict[str, list[str]] = {}
        for name, values in named:
            owners.setdefault(_written(values[path]) if path in values else "no such parameter", []).append(name)
        if len(owners) > 1:
            faults.append(f"{path}: " + "; ".join(
                f"{value} in {len(names)} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" for value, names in owners.items()))
    return faults


def _written(value: Any) -> str:
    """A value as text, the same for 8 and 8.0, which are the same to the pipeline."""
    def number(text: str) -> float:
        return int(float(text)) if float(text).is_integer() else float(text)

    return json.dumps(json.loads(json.dumps(value, default=str), parse_float=number), ensure_ascii=False)


# ---- runs -> rows


def collect(found: Found, *, data: str | None = None, where: Mapping[str, Any] | None = None, ignore: Sequence[str] = ()) -> tuple[Table, list[str]]:
    """The rows of finished runs, and one line for every run that gives none.

    Parameters
    ----------
    data : name of the data set of all of them, in place of what their parameters say.
    where : parameters, by dotted path, and the value that a run must have.
    ignore : parameters, by dotted path, that may differ.

    Raises
    ------
    FaultList : runs of one data set differ in more than the ablations vary.
    """
    notes = list(found.left_out)
    usable: list[tuple[Run, str, dict[str, str]]] = []
    for run in found.runs:
        try:
            lines, name = variants(run.params), data or data_name(run.params)
            seed, values = run.params["seed"], dict(leaves(run.params))
            if type(seed) is not int:
                raise TypeError(f"seed {shown(seed)}")
            if fault := class_fault(name):
                raise TypeError(f"name of the data: {fault}")
        except (KeyError, TypeError, AttributeError) as error:
            notes.append(f"{run.name}: its parameters are not those of this pipeline ({'no ' if isinstance(error, KeyError) else ''}{error})")
            continue
        if any(path not in values or _written(values[path]) != _written(value) for path, value in (where or {}).items()):
            notes.append(f"{run.name}: not among those asked for (--where)")
        elif not lines:
            notes.append(f"{run.name}: its rounds, passes and segment.psl are no line of a table")
        elif twin := _same_scores(run, lines, seed, found):
            notes.append(f"{run.name}: has every score of {twin} although it is another variant or seed: evaluate has not run in it; run it again")
        else:
            usable.append((run, name, lines))

    newest: dict[tuple[str, Key], Run] = {}
    for run, name, lines in sorted(usable, key=lambda entry: (entry[0].created, entry[0].name)):
        for table, variant in lines.items():
            place = table, (name, variant, int(run.params["seed"]))
            if place in newest:
                notes.append(f"{newest[place].name}: {name}, {variant}, seed {place[1][2]} was run again; the newer {run.name} counts")
            newest[place] = run
    collected = Table()
    for name in sorted({name for _, (name, _, _) in newest}):
        runs = {id(run): run for (_, (at, _, _)), run in newest.items() if at == name}.values()  # a run may be a line of two tables
        chosen = [(run.name, settings(run.params) | {"data.path": name}) for run in runs]
        if faults := differences(chosen, ignore):
            raise FaultList(f"runs of {name!r} differ in more than the ablations vary; choose with --where KEY=VALUE, or say with --ignore KEY that "
                            "it does not matter", faults)
        collected.settings[name] = chosen[-1][1]
    for (table, (name, variant, seed)), run in newest.items():
        collected.rows[table].append(as_row(run, name, variant))
        if table == "psl":
            collected.classes += [{"data": name, "variant": variant, "seed": seed, "class": label, "iou": _percent(iou)}
                                  for label, iou in run.classes.items()]
    return in_order(collected), list(dict.fromkeys(notes))


def _same_scores(run: Run, lines: Mapping[str, str], seed: Any, found: Found) -> str | None:
    """An earlier run or commit with the very same scores but of another variant or seed: metrics in git outlive the run they came from."""
    for other in (*found.commits, *found.runs):
        try:
            differs = (variants(other.params), other.params["seed"]) != (lines, seed)
        except (KeyError, TypeError, AttributeError):
            continue
        if differs and other.scores == run.scores and (other.created, other.name) < (run.created, run.name):
            return other.name
    return None


def merged(old: Table, new: Table, ignore: Sequence[str] = ()) -> Table:
    """Old rows with new ones in place of those of the same data set, variant and seed.

    Raises
    ------
    FaultList : old rows of a data set would stay that were measured under other settings.
    """
    for data, values in new.settings.items():
        stay = old.places(data) - new.places(data)
        if stay and data in old.settings and (faults := differences([("the rows there", old.settings[data]), ("these runs", values)], ignore)):
            raise FaultList(f"{len(stay)} rows of {data!r} are already there under other parameters and would stay; write to another --out, give the "
                            "data another --data name, remove those rows, or say with --ignore KEY that it does not matter", faults)
    replaced = {place for _, place in new.places()}
    return in_order(Table(
        {name: [row for row in old.rows[name] if (name, key(row)) not in new.places()] + new.rows[name] for name in VARIANTS},
        [row for row in old.classes if key(row) not in replaced] + new.classes, old.settings | new.settings))
