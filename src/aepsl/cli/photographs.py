"""Which photographs the words of a command line mean, and what is written for each."""

import functools
import glob
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aepsl.cli.shell import counted
from aepsl.errors import AepslError, printable

EXTENSIONS = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
OVERLAY = ".overlay.jpg"
CARD, RECORD, SUMMARY = "aepsl.json", "aepsl.masks.jsonl", "summary.csv"  # beside the masks
MADE, LINKED, BARE = "mask or overlay of an earlier call", "linked folder", "file without extension"  # what a folder holds besides photographs


@dataclass(frozen=True)
class Photograph:
    """One file.

    Attributes
    ----------
    path : as it was given or found.
    inside : its path below the folder that all photographs of a call share, with "/".
    mask : name of its mask below the output folder; its overlay ends in :data:`OVERLAY` instead of .png.
    """

    path: Path
    inside: str
    mask: str

    @property
    def overlay(self) -> str:
        return overlay_of(self.mask)


def overlay_of(mask: str) -> str:
    return mask.removesuffix(".png") + OVERLAY


def find(words: Sequence[str], *, out: Path, listed: Callable[[], Iterable[str]], fault: Callable[[str], None],
         passed: dict[str, str] | None = None) -> list[Photograph]:
    """The photographs, each once, in the order of the words and within a folder or glob by name.

    Parameters
    ----------
    words : files of any name; folders, of which all files with one of :data:`EXTENSIONS` are taken, those in their folders too, but none
        whose name begins with a dot and none that :data:`RECORD` calls a mask; globs such as ``holiday/**/*.jpg``, for shells that leave them
        to the program; "-" = ``listed()``.
    out : the output folder, in which nothing is looked for.
    fault : called with what is not there or cannot be read, one line each; the others count.
    passed : gets what was passed over in folders: what kind of file it is, by its path.
    """
    passed = {} if passed is None else passed
    made = functools.cache(_made)
    found: dict[str, Path] = {}
    anchors: list[str] = []

    def take(files: Iterable[str], anchor: str) -> bool:
        before = len(found)
        for file in files:
            found.setdefault(os.path.abspath(file), Path(file))
        if taken := len(found) > before:
            anchors.append(os.path.abspath(anchor))
        return taken

    hidden = os.path.abspath(out)
    meant = functools.partial(_meant, hidden=hidden, fault=fault, passed=passed, made=made)
    for word in words:
        if word == "-":
            for line in listed():
                if not take(meant(line), line if os.path.isdir(line) else os.path.dirname(line) or ".") and not os.path.exists(line):
                    fault(f"{line}: no such file")
        elif os.path.lexists(word):
            take(meant(word), word if os.path.isdir(word) else os.path.dirname(word) or ".")
        elif glob.has_magic(word):
            matches = [match for match in sorted(glob.glob(word, recursive=True))
                       if not _within(match, hidden) and not _is_made(match, _fixed(word), made)]
            files = [file for match in matches for file in meant(match) if os.path.isdir(match) or _suits(match)]
            if not take(files, _fixed(word)) and not files:
                fault(f"{word}: no photograph matches")
        else:
            fault(f"{word}: no such file")
    if not found:
        return []
    base = os.path.commonpath(anchors)
    inside = {path: os.path.relpath(path, base) for path in found}
    masks = mask_names(list(inside.values()))
    return [Photograph(found[path], inside[path], masks[inside[path]]) for path in found]


def mask_names(paths: Sequence[str]) -> dict[str, str]:
    """Names of masks: the photograph's with .png for its extension, or behind it where two would have the same.

    >>> mask_names(["a/x.jpg", "b/x.jpg", "y.jpg", "y.png"])
    {'a/x.jpg': 'a/x.png', 'b/x.jpg': 'b/x.png', 'y.jpg': 'y.jpg.png', 'y.png': 'y.png.png'}
    """
    names = {path: f"{os.path.splitext(path)[0]}.png" for path in paths}
    while shared := {name for name, count in Counter(names.values()).items() if count > 1}:
        names |= {path: f"{path}.png" for path, name in names.items() if name in shared}
    return names


def require_apart(photographs: Sequence[Photograph], out: Path) -> None:
    """Nothing that is written may take the place of a photograph.

    Raises
    ------
    AepslError : something would.
    """
    given = {os.path.abspath(photograph.path) for photograph in photographs}
    targets = [os.path.abspath(out / name) for photograph in photographs for name in (photograph.mask, photograph.overlay)]
    if taken := sorted(given.intersection(targets)):
        raise AepslError(f"--out {out}: expected a folder in which no photograph lies, found {counted(len(taken), 'photograph')} that would be "
                         f"overwritten, such as {printable(taken[0])}; name another folder")


def recorded(folder: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """What :data:`RECORD` in a folder says of the masks there, by their names: the last line of each. One that a kill has torn does not count."""
    entries = {}
    try:
        lines = Path(folder, RECORD).read_bytes().split(b"\n")
    except OSError:
        return {}
    for line in lines:
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            continue
        kinds = {"mask": str, "of": str, "made": list, "row": list}
        if isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
            entries[entry["mask"]] = entry
    return entries


def _made(folder: str) -> frozenset[str]:
    """Paths of the masks and overlays that lie in a folder, and in the folders of it, by its record."""
    return frozenset(os.path.join(folder, name) for mask in recorded(folder) for name in (mask, overlay_of(mask)))


def _is_made(path: str, top: str, made: Callable[[str], frozenset[str]]) -> bool:
    """Whether a folder from that of the file up to ``top`` knows it as a mask or an overlay."""
    path, top = os.path.abspath(path), os.path.abspath(top)
    folder = path
    while folder != top and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        if path in made(folder):
            return True
    return False


def _meant(word: str, hidden: str, fault: Callable[[str], None], passed: dict[str, str], made: Callable[[str], frozenset[str]]) -> list[str]:
    """A file itself, or the photographs below a folder."""
    if not os.path.isdir(word):
        return [word]
    files: list[str] = []
    # A folder that is the output folder itself, or lies in it, was asked for by name.
    left_out = None if _within(word, hidden) else hidden
    for folder, folders, names in os.walk(word, onerror=lambda error: fault(f"{error.filename}: {error.strerror}")):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and os.path.abspath(os.path.join(folder, name)) != left_out)
        passed.update((os.path.abspath(os.path.join(folder, name)), LINKED) for name in folders if os.path.islink(os.path.join(folder, name)))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if _is_made(path, word, made):
                passed[os.path.abspath(path)] = MADE
            elif _suits(name):
                files.append(path)
            elif not name.startswith(".") and not (name in (CARD, RECORD, SUMMARY) and CARD in names):
                passed[os.path.abspath(path)] = os.path.splitext(name)[1].lower() or BARE
    if not files:
        fault(f"{word}: expected photographs in the folder ({' '.join(EXTENSIONS)}), found none")
    return files


def _suits(path: str) -> bool:
    name = os.path.basename(path)
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath([os.path.abspath(path), folder]) == folder


def _fixed(pattern: str) -> str:
    """The folder of a glob that no star can change."""
    folder = os.path.dirname(pattern)
    while glob.has_magic(folder):
        folder = os.path.dirname(folder)
    return folder or "."
