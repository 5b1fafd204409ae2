"""``aepsl report``: the page of what a run made, with what no stage records."""

import webbrowser
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from aepsl.cli.shell import counted, example, say, show
from aepsl.errors import AepslError

HELP = """Complete the report page of this folder, and say where it is.

The page itself is made by `dvc repro`. This adds what is no part of a result: git revision, versions of packages, time per stage, and with --against
the differences from another state of the project, as `aepsl compare` finds them."""
PAGE, RUN, RUNTIME = Path("report/index.html"), Path("report/run.js"), Path("metrics/runtime.csv")


def report(
    against: Annotated[str | None, typer.Option("--against", metavar="REV", show_default=False,
                                                help="Revision, experiment, folder or dvc.lock to show the differences from.")] = None,
    browse: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    from aepsl.report.run import write_run
    from aepsl.revisions import comparable, differences, snapshot, warnings

    if not PAGE.is_file():
        raise AepslError(f"{PAGE}: no such file; `dvc repro` makes it, `dvc pull` fetches it")
    found = None
    if against is not None:
        old, new = snapshot(Path(), against), snapshot(Path(), None)
        stale, notes, found = new.stale, warnings(old, new), differences(old, new)
        found |= {"warnings": notes, "incomparable": [name for name, _, _ in found["metrics"] if not comparable(name, old, new)]}
    else:
        stale, notes = (), []
        with suppress(AepslError):  # without dvc.lock nobody knows what the stages ran with
            new = snapshot(Path(), None)
            stale, notes = new.stale, list(dict.fromkeys(warnings(new, new)))
    for note in notes:
        say(f"mind: {note}")
    write_run(RUN, root=Path(), runtime_csv=RUNTIME, against=found, stale=stale)
    number = 0 if found is None else sum(len(found[part]) for part in ("metrics", "params", "artefacts"))
    show(f"{PAGE.resolve()}" if found is None else f"{PAGE.resolve()}, with {counted(number, 'difference')} from {against}")
    if browse and not webbrowser.open(PAGE.resolve().as_uri()):
        say("no browser was found; open the file above in one")


EPILOG = example("aepsl report --open", "aepsl report --against main",
                 statuses="0 written; 1 there is no report, or no such revision; 2 wrong usage.")
