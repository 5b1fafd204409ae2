"""What all commands share: how errors are told, what is printed, and how a command ends.

Results go to stdout, everything else to stderr. Exit status: 0 done; 1 it found faults or could not do all; 2 it was called wrongly; 128 + n
signal n.
"""

import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from aepsl.errors import AepslError, explained, printable
from aepsl.resume import interrupt

BROKEN_PIPE = 141  # 128 + SIGPIPE, as a shell reports it of other programs
STATUSES = "Exit status: "
# Panels of the help, in the order of the work.
DATA, RUNS, MODELS, SERVER, UPKEEP = "Data", "Runs", "Trained models", "Test server", "Upkeep"


def debugging(ctx: typer.Context) -> bool:
    """Whether ``--debug`` stands before the command."""
    return ctx.find_root().params.get("debug") is True


class Commands(TyperGroup):
    """The commands, in the order in which they are registered. An error becomes a sentence and an exit status, whoever called."""

    def invoke(self, ctx: Any) -> Any:
        with told(debug=ctx.params.get("debug") is True):
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result


@contextmanager
def told(*, debug: bool) -> Iterator[None]:
    """Turn what is raised in the block into words on stderr, below its traceback if that is wanted, and :class:`typer.Exit`."""
    try:
        yield
    except interrupt.Interrupted as error:
        say(f"ended by {error}")
        raise typer.Exit(128 + error.signum) from None
    except BrokenPipeError:
        hush()
        raise typer.Exit(BROKEN_PIPE) from None
    except AepslError as error:
        if debug:
            traceback.print_exc()
        say(str(error))
        raise typer.Exit(1) from None
    except Exception as error:
        if type(error).__module__.startswith(("typer.", "click.")):  # a fault of the command line, or its end
            if getattr(error, "option_name", None) == "--debug":
                vars(error).update(message="No such option of a command: --debug stands before it, as in `aepsl --debug predict`", possibilities=None)
            raise
        if debug:
            traceback.print_exc()
        say(reason(error))
        raise typer.Exit(1) from None


def reason(error: BaseException) -> str:
    """Any exception as a sentence."""
    if isinstance(error, AepslError):
        return str(error)
    if (words := explained(error, again="")) is not None:
        return printable(words)
    if isinstance(error, OSError) and error.strerror:
        return printable(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    what = printable(f"{type(error).__name__}: {' '.join(str(error).split())}", 300)
    return f"this is a fault of the program, not of your input ({what}); `aepsl --debug` and the same command shows where, for a report"


def hush() -> None:
    """Nobody reads stdout any more: let what is still in its buffer go nowhere."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    except (OSError, ValueError):  # no real file, as under a test
        return


def say(text: str) -> None:
    """A message on stderr. A progress bar that is shown there moves on below it."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        print(text, file=sys.stderr, flush=True)


def show(text: str = "") -> None:
    """A line of the result on stdout, whatever was in the names it holds."""
    print("\n".join(map(printable, text.split("\n"))))


def name_of(path: str | os.PathLike[str]) -> str:
    """A path as it may be shown."""
    return printable(os.fspath(path))


def table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """Cells as text in columns that are as wide as they must be; the first row is the heading.

    Parameters
    ----------
    right : columns whose cells end below each other, as numbers do.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    return "\n".join("  ".join(cell.rjust(widths[place]) if place in right else cell.ljust(widths[place]) for place, cell in enumerate(row)).rstrip()
                     for row in cells)


def markdown_table(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """The same in Markdown, where no cell can end itself or begin a tag, link or picture."""
    def cell(text: str) -> str:
        return "".join(f"\\{letter}" if letter in "\\|<>[]`*_!&" else letter for letter in printable(text))

    rule = ["---:" if place in right else "---" for place in range(len(rows[0]))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [list(map(cell, rows[0])), rule, *(list(map(cell, row)) for row in rows[1:])])


def size_text(size: int) -> str:
    """Bytes for people: 0 B, 12 kB, 3.4 MB."""
    value, unit = float(size), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit in ("B", "kB") or value >= 100 else f"{value:.1f} {unit}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 image``, ``2 images``."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def example(*lines: str, statuses: str) -> str:
    """The end of a command's help: how it is called, and what its exit status says."""
    return "\n".join(["Examples:" if len(lines) > 1 else "Example:", *(f"  {line}" for line in lines), "", f"{STATUSES}{statuses}"])


def flowing(text: str) -> str:
    """Paragraphs without their line ends, for the help to break at the width of the terminal."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def json_text(content: Mapping[str, Any]) -> str:
    """JSON for a program that reads stdout; letters that a terminal obeys are escaped."""
    import json

    return json.dumps(content, indent=2, ensure_ascii=True)


def writable_target(out: Path, option: str = "--out") -> Path:
    """The path of a file that is to be written, which must not be a folder."""
    if out.is_dir():
        raise typer.BadParameter(f"{option} {name_of(out)}: expected the name of a file, found a folder")
    return out
