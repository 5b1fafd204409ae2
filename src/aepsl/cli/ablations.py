"""``aepsl ablations``: the paper's two tables from finished runs."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aepsl.cli.shell import example, say
from aepsl.errors import AepslError, printable

HELP = """Collect finished runs into the paper's two tables, and print them.

The runs are the finished experiments of DVC that started from this commit, or plain folders that hold params.yaml and metrics/. Their rows go to
rounds.csv, psl.csv and per_class.csv; those of other data sets, variants and seeds stay. Runs that differ in more than the ablations vary are
refused, and every run that gives no row is told with its reason."""


def ablations(
    runs: Annotated[list[Path] | None, typer.Option("--runs", metavar="DIR", help="The runs in this folder's sub-folders, not DVC's.",
                                                    show_default=False)] = None,
    rev: Annotated[str | None, typer.Option("--rev", metavar="REV", help="The experiments that started from this commit, not from HEAD.",
                                            show_default=False)] = None,
    show: Annotated[bool, typer.Option("--show", help="Collect nothing, show what is there.")] = False,
    data: Annotated[str | None, typer.Option("--data", metavar="NAME", help="Name of the data set of all runs collected.",
                                             show_default=False)] = None,
    where: Annotated[list[str] | None, typer.Option("--where", metavar="KEY=VALUE", help="Only runs with this parameter.",
                                                    show_default=False)] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", metavar="KEY", help="A parameter that may differ.", show_default=False)] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the tables.")] = Path("metrics/ablations"),
    readme: Annotated[list[Path] | None, typer.Option("--readme", metavar="FILE", help="Put the tables between its markers, too.",
                                                      show_default=False)] = None,
) -> None:
    from aepsl.data.archive import write_atomically
    from aepsl.evaluation.ablation_tables import markdown, read, with_tables, write
    from aepsl.evaluation.ablations import collect, merged
    from aepsl.evaluation.experiments import Found, dvc_experiments, folder_runs

    if show and (runs or rev):
        raise AepslError("--show: expected no --runs and no --rev beside it, because it collects nothing")
    table = read(out)
    new = None
    if not show:
        found = [folder_runs(folder) for folder in runs] if runs else [dvc_experiments(Path(), rev)]
        everything = Found(*([item for part in found for item in getattr(part, name)] for name in ("runs", "left_out", "commits")))
        new, notes = collect(everything, data=data, where=dict(map(_condition, where or ())), ignore=ignore or ())
        for note in notes:
            say(f"left out: {printable(note)}")
        table = merged(table, new, ignore or ())
        none = "" if everything.runs or notes else "; no run was found: docs/howto/ablations.md says how to make some"
        say(f"{len(new.places())} rows collected, {len(table.places())} in {out}{none}")
    tables = markdown(table)
    # Everything is checked before anything is written.
    texts = {path: with_tables(path.read_text(encoding="utf-8"), tables, str(path)) for path in readme or () if _there(path)}
    if new is not None and new.places():
        write(table, out)
    for path, text in texts.items():
        write_atomically(path, text.encode())
    print("\n\n".join(tables.values()))


def _condition(text: str) -> tuple[str, Any]:
    from aepsl.params import parse_yaml

    path, separator, value = text.partition("=")
    if not separator:
        raise AepslError(f"--where {text}: expected KEY=VALUE, such as classify.training.crop=97")
    try:
        return path, parse_yaml(value.encode())
    except ValueError as error:
        raise AepslError(f"--where {text}: expected a value as in params.yaml, found {error}") from None


def _there(path: Path) -> bool:
    if not path.is_file():
        raise AepslError(f"--readme {path}: no such file")
    return True


EPILOG = example("aepsl ablations", "aepsl ablations --runs runs --where classify.training.crop=97", "aepsl ablations --show",
                 statuses="0 collected or shown; 1 runs that cannot stand in one table; 2 wrong usage.")
