"""``aepsl compare``: two states of a project beside each other."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from aepsl.cli.shell import example, json_text, markdown_table, show, table
from aepsl.errors import shown

HELP = """Show what differs between two git revisions: parameters, metrics, artefacts.

A revision is a branch, a tag, a commit, HEAD~1 or the name of a DVC experiment. A folder that holds a dvc.lock, or a dvc.lock alone, does too;
of the latter no metrics are known. Without a second one the files in this folder count. Nothing is fetched or checked out."""
PARTS = ("metrics", "params", "artefacts")
LONGEST = 28  # letters of a value in a table


def compare(
    old: Annotated[str, typer.Argument(metavar="OLD", help="Revision, experiment, folder or dvc.lock.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The same; by default the files in this folder.", show_default=False)] = "workspace",
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON, in full length.")] = False,
    as_markdown: Annotated[bool, typer.Option("--md", help="Tables in Markdown, for a pull request.")] = False,
) -> None:
    from aepsl.revisions import differences, snapshot, warnings

    if as_json and as_markdown:
        raise typer.BadParameter("--json and --md: expected one of them, found both")
    before, after = snapshot(Path(), old), snapshot(Path(), new)
    found, notes = differences(before, after), warnings(before, after)
    if as_json:
        print(json_text({"old": before.name, "new": after.name, **{key: found[key] for key in PARTS}, "warnings": notes}))
        return
    draw = markdown_table if as_markdown else table
    heading = "### " if as_markdown else ""
    show(f"{heading}{before.name} → {after.name}")
    for title, rows, right in (("Metrics", metric_rows(found["metrics"], before, after), (1, 2, 3)),
                               ("Parameters", [[name, brief(one), brief(other)] for name, one, other in found["params"]], ()),
                               ("Artefacts", [[path, *_hashes(one, other)] for path, one, other in found["artefacts"]], ())):
        if rows:
            names = ["", "old", "new", "change"][:len(rows[0])]
            print(f"\n{draw([[title, *names[1:]], *rows], right)}")
    if not any(found[key] for key in PARTS):
        print("\nNo difference.")
    for note in notes:
        show(f"\nMind: {note}.")


def metric_rows(changes: list[list[Any]], before: Any, after: Any) -> list[list[str]]:
    """Lines of the table of metrics: sign, arrow and judgement where a larger or smaller number is known to be better."""
    from aepsl.revisions import YARDSTICK, comparable, direction

    rows = []
    leaves = Counter(name.rpartition(".")[2] for name, _, _ in changes)
    for name, old, new in changes:
        if name.endswith(f".{YARDSTICK}"):
            continue  # told in words
        change = ""
        if all(type(value) in (int, float) for value in (old, new)):
            arrow = "↑" if new > old else "↓"
            better = direction(name) * (1 if new > old else -1)
            judged = "" if not better else " not comparable" if not comparable(name, before, after) else " better" if better > 0 else " worse"
            change = f"{new - old:+.4g} {arrow}{judged}"
        leaf = name.rpartition(".")[2]
        rows.append([leaf if leaves[leaf] == 1 else name, brief(old), brief(new), change])
    return rows


def brief(value: Any) -> str:
    """A value for a table."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) and len(value) <= LONGEST else shown(value, LONGEST)


def _hashes(old: str | None, new: str | None) -> list[str]:
    return [old[:8] if old else "–", new[:8] if new else "–"]


EPILOG = example("aepsl compare main                       this folder against a branch",
                 "aepsl compare v1 v2 --md                 two tags, for a pull request",
                 "aepsl compare ../other/dvc.lock          against a lock that someone sent",
                 statuses="0 compared, whatever differs; 1 no such revision; 2 wrong usage.")
