"""Results of per-image work, kept in small archives while the work goes on."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.errors import AepslError
from aepsl.progress import progress
from aepsl.resume.interrupt import held
from aepsl.resume.state import State

Entries = dict[str, bytes]  # what one image adds to an artefact: content by entry name
MOST_BYTES = 1 << 26  # held in memory before they are saved, however recent
_PART = re.compile(r"(\d+)-(\d+)-([0-9a-f]{32})\.zip")  # items from, up to, and a seal


def resumed(compute: Callable[[range], Iterator[Entries]], *, total: int, state: State, label: str, name: str = "results") -> Iterator[Entries]:
    """The entries of items 0 to ``total`` - 1 in order: first those that an interrupted run kept, then those computed now.

    Of several processes each computes a contiguous share of the items before this returns, and all get the entries of all.

    Parameters
    ----------
    compute : gives the entries of some items, in order.
    name : of the series; one stage may have several.
    label : for the progress.

    Raises
    ------
    AepslError : several processes, and no folder that all can write to and see.
    """
    ranks = state.ranks
    if ranks.size == 1:
        return _series(compute, range(total), state, name, label)
    names = [f"{name}-{rank}-of-{ranks.size}" for rank in range(ranks.size)]
    for _ in _series(compute, ranks.share(total), state, names[ranks.rank], label, to_the_end=True):
        pass
    if state.folder is None:
        raise AepslError(f"{label}: {ranks.size} processes put what they did together in a folder, but there is none they can write to (see above); "
                         "AEPSL_STATE names another one, which all of their machines share")
    ranks.barrier()
    return _together(state.folder, state, names, total)


def _together(folder: Path, state: State, names: Sequence[str], total: int) -> Iterator[Entries]:
    """What all processes of a group kept."""
    for rank, name in enumerate(names):
        items, found = state.ranks.share(total, rank), 0
        for entries in _kept(folder / name, name, state, items.start):
            found += 1
            yield entries
        if found != len(items):
            raise AepslError(f"{folder / name}: expected the {len(items)} results of process {rank}, found {found}; every process must see this "
                             "folder: let AEPSL_STATE name one that all machines share, then run `dvc repro` again")


def _series(compute: Callable[[range], Iterator[Entries]], items: range, state: State, name: str, label: str, *,
            to_the_end: bool = False) -> Iterator[Entries]:
    """The entries of ``items``, kept as the work goes on; ``to_the_end`` keeps the last ones too."""
    folder = state.folder and state.folder / name
    done = items.start
    for entries in _kept(folder, name, state, items.start) if folder else ():
        done += 1
        yield entries
    if done > items.start:
        state.resumed = True
        print(f"{label}: goes on at {done - items.start} of {len(items)}; an interrupted run did the others", file=sys.stderr, flush=True)
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
        some = range(done, items.stop)
        for entries in progress(compute(some), total=len(items), done=done - items.start, label=label, shown=state.ranks.main):
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
    if to_the_end:
        with held():
            save()


def write_resumed(path: str | os.PathLike[str], compute: Callable[[range], Iterator[Entries]], *, total: int, state: State, label: str,
                  head: Entries | None = None) -> None:
    """Write an artefact of ``head`` and the entries of all items, as :func:`resumed` gives them; of several processes the first writes."""
    entries_of_all = resumed(compute, total=total, state=state, label=label)
    if not state.ranks.main:
        return
    with ArchiveWriter(path) as archive:
        archive.update(head or {})
        for entries in entries_of_all:
            archive.update(entries)


def _kept(folder: Path, name: str, state: State, reached: int = 0) -> Iterator[Entries]:
    """What the parts in the folder hold, without gaps from item ``reached`` on; a damaged part and those behind it are dropped."""
    found = sorted((int(match[1]), int(match[2]), path) for path in folder.glob("*.zip") if (match := _PART.fullmatch(path.name)))
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
