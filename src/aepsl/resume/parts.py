"""Results of per-image work, kept in small archives while the work goes on."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.progress import progress
from aepsl.resume.interrupt import held
from aepsl.resume.state import State

Entries = dict[str, bytes]  # what one image adds to an artefact: content by entry name
MOST_BYTES = 1 << 26  # held in memory before they are saved, however recent
_PART = re.compile(r"(\d+)-(\d+)-([0-9a-f]{32})\.zip")  # items from, up to, and a seal


def resumed(compute: Callable[[int], Iterator[Entries]], *, total: int, state: State, label: str, name: str = "results") -> Iterator[Entries]:
    """Yield the entries of items 0 to ``total`` - 1 in order: first those that an interrupted run kept, then those computed now.

    Parameters
    ----------
    compute : gives the entries of the items from a number on.
    name : of the series; one stage may have several.
    label : for the progress.
    """
    folder = state.folder and state.folder / name
    done = 0
    for entries in _kept(folder, name, state) if folder else ():
        done += 1
        yield entries
    if done:
        state.resumed = True
        print(f"{label}: goes on at {done} of {total}; an interrupted run did the others", file=sys.stderr, flush=True)
    pending: list[Entries] = []
    size, last = 0, time.monotonic()

    def save() -> None:
        nonlocal pending, done, size, last
        if pending and folder and state.folder:
            with state.saving():
                _save(folder, name, state, done, pending)
        done += len(pending)
        pending, size, last = [], 0, time.monotonic()

    try:
        for entries in progress(compute(done), total=total, done=done, label=label):
            with held():  # so that a signal is met here, where what is pending can still be saved, and not in the reader of the results
                pending.append(entries)
                size += sum(map(len, entries.values()))
                yield entries
            if size >= MOST_BYTES or time.monotonic() - last >= state.every:
                save()
    except BaseException:
        with held():
            save()
        raise


def write_resumed(path: str | os.PathLike[str], compute: Callable[[int], Iterator[Entries]], *, total: int, state: State, label: str,
                  head: Entries | None = None) -> None:
    """Write an artefact of ``head`` and the entries of all items, as :func:`resumed` gives them."""
    with ArchiveWriter(path) as archive:
        archive.update(head or {})
        for entries in resumed(compute, total=total, state=state, label=label):
            archive.update(entries)


def _kept(folder: Path, name: str, state: State) -> Iterator[Entries]:
    """What the parts in the folder hold, without gaps from item 0 on; a damaged part and those behind it are dropped."""
    found = sorted((int(match[1]), int(match[2]), path) for path in folder.glob("*.zip") if (match := _PART.fullmatch(path.name)))
    reached = 0
    for place, (first, last, path) in enumerate(found):
        if first != reached or path.name != _name(path, name, state, first, last):
            print(f"{path}: what an interrupted run kept is damaged from item {reached} on, which is done again", file=sys.stderr, flush=True)
            for *_, rest in found[place:]:
                rest.unlink()
            return
        items: list[Entries] = [{} for _ in range(first, last)]
        part = ArchiveReader(path)
        for entry in part:
            number, _, inner = entry.partition("/")
            items[int(number) - first][inner] = part.read(entry)
        yield from items
        reached = last


def _save(folder: Path, name: str, state: State, first: int, items: Sequence[Entries]) -> None:
    path = folder / "part.zip"
    with ArchiveWriter(path) as part:
        for number, entries in enumerate(items, first):
            for entry, data in entries.items():
                part.add(f"{number}/{entry}", data)
    path.rename(folder / _name(path, name, state, first, first + len(items)))


def _name(path: Path, name: str, state: State, first: int, last: int) -> str:
    # A zip's own checksums leave out its table of contents, and know nothing of the run it is of.
    return f"{first:08d}-{last:08d}-{state.seal(path.read_bytes(), f'{name} {first} {last}')}.zip"
