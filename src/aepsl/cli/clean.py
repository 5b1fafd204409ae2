"""``aepsl clean``: what interrupted work left behind."""

import fcntl
import time
from pathlib import Path
from typing import Annotated

import typer

from aepsl.cli.shell import counted, example, name_of, show, size_text, table

HELP = """List what interrupted work left behind; with --prune remove it.

That is: the state of stages that were interrupted, from which the next `dvc repro` would go on (scratch/state, or where AEPSL_STATE says), and
downloads that broke off (scratch/downloads). What a running stage uses is not touched, and neither is anything that `dvc repro` made or that
was downloaded whole; for old artefacts see `dvc gc --workspace`."""


def clean(
    prune: Annotated[bool, typer.Option("--prune", "--yes", "-y", help="Remove what is listed; the stages will start afresh.")] = False,
) -> None:
    from aepsl.data.part import Part
    from aepsl.resume.state import default_root, leftovers, remove

    root, downloads = default_root(Path.cwd()), Path("scratch/downloads")
    states, parts = leftovers(root), unfinished(downloads)
    rows = [[left.stage, size_text(left.size), left.started, left.folder.name, f"in {left.checkout}"] for left in states]
    rows += [["download", size_text(part.stat().st_size), _since(part), name_of(part), ""] for part in parts]
    if not rows:
        strange = not root.is_dir() and not Path("dvc.yaml").is_file()
        show(f"{root}: nothing left over{'; there is no project here (no dvc.yaml)' if strange else ''}")
        return
    total = sum(left.size for left in states) + sum(part.stat().st_size for part in parts)
    print(table([["what", "size", "started", "where", "of"], *rows], right=(1,)))
    if prune:
        for left in states:
            if left.folder.is_dir() and not left.folder.is_symlink():
                remove(left.folder)
            else:
                left.folder.unlink()
        for part in parts:
            Part(part.with_name(part.name.removeprefix(".").removesuffix(".part")), checksum="").discard()
    done = "removed" if prune else "left over"
    show(f"\n{done}: {counted(len(rows), 'item')}, {size_text(total)}"
         f"{'' if prune else '; `dvc repro` goes on from it, `aepsl clean --prune` removes it'}")


def unfinished(folder: Path) -> list[Path]:
    """Downloads that broke off and that no process is at."""
    return [part for part in sorted(folder.glob(".*.part")) if part.is_file() and _idle(part)] if folder.is_dir() else []


def _idle(part: Path) -> bool:
    with part.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            return True
    return True


def _since(path: Path) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(path.stat().st_mtime))


EPILOG = example("aepsl clean", "aepsl clean --prune", statuses="0 listed or removed; 1 something cannot be removed; 2 wrong usage.")
