"""``aepsl predict``: masks of photographs, by a trained model."""

import csv
import errno
import io
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aepsl.cli.photographs import BARE, CARD, MADE, RECORD, SUMMARY, Photograph, find, recorded, require_apart
from aepsl.cli.shell import counted, debugging, example, name_of, reason, say, show
from aepsl.errors import AepslError, FaultList, printable, shown
from aepsl.parallel import read_ahead
from aepsl.resume.interrupt import Interrupted, held

if TYPE_CHECKING:
    import numpy as np

    from aepsl.segmenter import Prediction, Segmenter

DECIDING = ("sha256", "crf", "max_side", "labels")  # what of the card the masks depend on
MOST_KINDS = 8  # of files passed over that are named
FILES = {BARE: "files without extension", MADE: "masks and overlays of earlier calls"}
MOST_FAULTS = 10  # of the program itself, in a row: then it is not the photographs
# An output that cannot be written for its name alone; anything else, a full disk say, would meet the next one too.
OF_ITS_NAME = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}

HELP = """Segment photographs with a trained model.

IMAGES are files, folders (with all folders in them), globs in quotes, or - for a list on stdin. Any size and mode will do: JPEG, PNG, WebP, BMP,
GIF, TIFF; grey, palette, transparent, CMYK, 16 bits; turned by EXIF.

DIR gets a palette PNG per photograph in its full size, where 0 is background and 1, 2, … are the model's classes; aepsl.json, which says what the
numbers mean and what made them; summary.csv, the share of every class in every photograph; and aepsl.masks.jsonl, which photograph each mask is
of. Names follow the photographs': from the folder that all of them share on, photos/a/x.jpg and photos/b/x.jpg give a/x.png and b/x.png. Where two
would be the same, as for x.jpg beside x.png, they are x.jpg.png and x.png.png.

A photograph that cannot be read is named, and the others go on. After Ctrl-C the same command does the rest (without --overwrite, if that was
said): masks that are there, of the same photographs as they are now, by this model and with these options, are kept."""


def folder_name(text: str) -> Path:
    """The value of ``--out``; an empty one, as of a shell's variable that is not set, would be the current folder."""
    if not text:
        raise typer.BadParameter("expected the name of a folder, found an empty one; . is the current folder")
    return Path(text)


def predict(
    ctx: typer.Context,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="What a run has trained: models/aepsl.pt.", show_default=False)],
    images: Annotated[list[str], typer.Argument(metavar="IMAGES", help="Photographs: files, folders, globs, or -.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", parser=folder_name, show_default=False,
                                      help="Folder for the masks; made where it is not there.")],
    crf: Annotated[bool, typer.Option("--crf", help="Refine borders with the fully connected CRF, as the scores were; slower.")] = False,
    overlay: Annotated[bool, typer.Option("--overlay", help="Also write x.overlay.jpg: the photograph, painted over.")] = False,
    labels: Annotated[Path | None, typer.Option("--labels", metavar="CSV", help="What photographs are known to show (id,labels): nothing else is "
                                                "found in them. The id is the name, best without extension.", show_default=False)] = None,
    max_side: Annotated[int | None, typer.Option("--max-side", metavar="PIXELS", min=0, show_default=False,
                                                 help="Larger photographs are made smaller for the network; masks keep the full size. By default as "
                                                 "large as those it has learnt from; 0 = never.")] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Do all photographs anew, whatever is in DIR.")] = False,
) -> None:
    found, missing = _photographs(images, out)
    from aepsl.segmenter import Segmenter  # from here on it takes seconds

    segmenter = Segmenter.load(model, device=device)
    known = read_labels(labels, segmenter.classes) if labels else {}
    card = card_of(segmenter, model, crf=crf, max_side=max_side, labels=labels)
    _tell_unmatched(labels, found, known)
    todo, entries = _prepare(out, found, card, known, overlay=overlay, overwrite=overwrite)
    options: dict[str, Any] = {"crf": crf, "max_side": "auto" if max_side is None else max_side or None}
    began, failed, predicted = time.monotonic(), missing, 0
    faults_in_a_row = 0
    try:
        for photograph, result in _shown(_predicted(segmenter, list(todo), known, options), len(todo), len(found) - len(todo)):
            if isinstance(result, Exception):
                failed += 1
                faults_in_a_row = 0 if isinstance(result, AepslError) else faults_in_a_row + 1
                if faults_in_a_row == MOST_FAULTS:
                    raise result
                _tell(photograph, result, debug=debugging(ctx))
                continue
            faults_in_a_row = 0
            entry = {**todo[photograph], "overlay": overlay, "row": row_of(photograph, result.mask, segmenter.classes)}
            try:
                _write(out, photograph, result, entry, overlay=overlay)
            except OSError as error:
                if error.errno not in OF_ITS_NAME:
                    raise
                failed += 1
                _tell(photograph, error, debug=debugging(ctx))
                continue
            entries[photograph.mask] = entry
            predicted += 1
    except Interrupted:
        say(f"\n{len(found) - len(todo) + predicted:,} of {counted(len(found), 'photograph')} done; the same command "
            f"{'without --overwrite ' if overwrite else ''}does the rest")
        raise
    seconds = time.monotonic() - began
    classes = _summarise(out, found, entries, segmenter.classes, made=_made_with(card))
    _report(out, predicted=predicted, kept=len(found) - len(todo), failed=failed, seconds=seconds, classes=classes)
    if failed:
        raise typer.Exit(1)


def _photographs(words: Sequence[str], out: Path) -> tuple[list[Photograph], int]:
    """What is to be predicted, and how many words or folders gave nothing."""
    faults: list[str] = []
    passed: dict[str, str] = {}
    found = find(words, out=out, listed=_listed, fault=faults.append, passed=passed)
    for photograph in found:  # another word may name what is passed over in a folder
        passed.pop(os.path.abspath(photograph.path), None)
    if passed:
        kinds = Counter(passed.values()).most_common()
        parts = [f"{number:,} {printable(kind, 20)}" if kind.startswith(".") else counted(number, kind, FILES.get(kind))
                 for kind, number in kinds[:MOST_KINDS]]
        say(f"left out in folders: {', '.join(parts)}{', …' if len(kinds) > MOST_KINDS else ''}")
    if not found:
        raise FaultList("expected photographs, found none", faults or ["stdin: an empty list"])
    if out.exists() and not out.is_dir():
        raise typer.BadParameter(f"--out {name_of(out)}: expected a folder, found a file")
    require_apart(found, out)
    for fault in faults:
        say(f"left out: {printable(fault)}")
    return found, len(faults)


def _listed() -> list[str]:
    """Paths on stdin: one a line, or separated by null characters, as `find -print0` writes them."""
    data = sys.stdin.buffer.read()
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(name) for name in names if name.strip()]


def read_labels(path: Path, classes: Sequence[str]) -> dict[str, list[str]]:
    """Known labels by id; names that are no class of the model are told and dropped."""
    from aepsl.data.archive import MOST_TEXT
    from aepsl.data.voc import parse_labels

    try:
        if path.stat().st_size > MOST_TEXT:
            raise AepslError(f"--labels {path}: expected at most {MOST_TEXT} bytes, found {path.stat().st_size}")
        table, faults = parse_labels(path.read_bytes().decode("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise AepslError(f"--labels {path}: expected a table as CSV in UTF-8, found {getattr(error, 'strerror', None) or error}") from None
    if faults:
        raise FaultList(f"--labels {path}: {len(faults)} fault(s); mend them and run again", faults)
    strange = Counter(name for names in table.values() for name in names if name not in classes)
    if strange:
        say(f"{path}: {', '.join(map(shown, sorted(strange)))}: not among the model's classes ({printable(', '.join(classes))}), so not looked for")
    return {identifier: [name for name in names if name in classes] for identifier, names in table.items()}


def id_of(photograph: Photograph, known: Mapping[str, list[str]]) -> str | None:
    """The id of a photograph in the table: its path as its mask's or as given, or its name alone, each without extension or with it."""
    paths = photograph.inside, os.fspath(photograph.path), os.path.basename(photograph.inside)
    return next((name for path in paths for name in (os.path.splitext(path)[0], path) if name in known), None)


def labels_of(photograph: Photograph, known: Mapping[str, list[str]]) -> list[str] | None:
    """What a photograph is known to show; None = unknown."""
    identifier = id_of(photograph, known)
    return None if identifier is None else known[identifier]


def _tell_unmatched(table: Path | None, found: Sequence[Photograph], known: Mapping[str, list[str]]) -> None:
    matched = {id_of(photograph, known) for photograph in found}
    if unmatched := [identifier for identifier in known if identifier not in matched]:
        say(f"{name_of(table or '')}: {len(unmatched):,} of {counted(len(known), 'line')} match no photograph, such as {shown(unmatched[0])}; "
            f"an id is a photograph's name without extension, such as {shown(os.path.splitext(found[0].inside)[0])}")


def card_of(segmenter: "Segmenter", model: Path, *, crf: bool, max_side: int | None, labels: Path | None) -> dict[str, Any]:
    """What the masks in a folder are: which numbers mean what, and what they depend on."""
    from aepsl.resume.state import md5

    info = segmenter.info
    return {"aepsl": info["version"], "model": model.name, "sha256": info["sha256"], "crf": crf,
            "max_side": info["largest_side"] if max_side is None else max_side or None, "labels": labels and md5(labels),
            "values": {"0": "background", **{str(number): name for number, name in enumerate(segmenter.classes, 1)}},
            "colours": {name: "#{:02x}{:02x}{:02x}".format(*colour) for name, colour in segmenter.colours.items()}}


def _made_with(card: Mapping[str, Any]) -> list[Any]:
    """What all masks of a call depend on; labels are known of one photograph at a time."""
    return [card[key] for key in DECIDING if key != "labels"]


def _identity(photograph: Photograph, card: Mapping[str, Any], known: Mapping[str, list[str]]) -> dict[str, Any]:
    """A line of :data:`RECORD`: what the mask is of, and what it depends on. A photograph that cannot be looked at has no size."""
    size, changed = None, None
    with suppress(OSError, ValueError):
        state = photograph.path.stat()
        size, changed = state.st_size, state.st_mtime_ns
    return {"mask": photograph.mask, "of": os.path.abspath(photograph.path), "size": size, "mtime_ns": changed,
            "made": [*_made_with(card), labels_of(photograph, known)]}


def _prepare(out: Path, found: Sequence[Photograph], card: Mapping[str, Any], known: Mapping[str, list[str]], *, overlay: bool,
             overwrite: bool) -> tuple[dict[Photograph, dict[str, Any]], dict[str, dict[str, Any]]]:
    """What is still to do, and the record of the masks that stay; the folder says from here on what its masks are."""
    from aepsl.data.archive import parse_json, write_atomically

    path = out / CARD
    try:
        there = parse_json(path.read_bytes()) if path.is_file() else None
    except ValueError:
        there = {}
    wanted = {photograph: _identity(photograph, card, known) for photograph in found}
    entries = {name: entry for name, entry in recorded(out).items() if (out / name).is_file()}
    if not overwrite:
        if isinstance(there, dict) and (other := [key for key in DECIDING if there.get(key) != card[key]]):
            raise AepslError(f"--out {out}: holds masks of another {' and '.join('model' if key == 'sha256' else key for key in other)} (see {CARD} "
                             "there); name another folder, or do all anew with --overwrite")
        if there is None and (foreign := [photograph.mask for photograph in found if (out / photograph.mask).exists()]):
            raise AepslError(f"--out {out}: {counted(len(foreign), 'file')} there, such as {printable(foreign[0])}, would be overwritten; name "
                             "another folder, or say --overwrite")
        if others := [entry for photograph in found if (entry := entries.get(photograph.mask)) and _of_another(entry, photograph)]:
            raise AepslError(f"--out {out}: {counted(len(others), 'mask')} there would be overwritten by those of other photographs, such as "
                             f"{others[0]['mask']}, which is of {others[0]['of']}; name another folder, or say --overwrite")
    todo = {photograph: identity for photograph, identity in wanted.items()
            if overwrite or not _done(out, photograph, identity, entries.get(photograph.mask, {}), overlay=overlay)}
    for photograph in todo:
        entries.pop(photograph.mask, None)
    out.mkdir(parents=True, exist_ok=True)
    if (out / RECORD).exists():  # before any of these masks changes, so that no kill leaves a line that is wrong
        write_atomically(out / RECORD, b"".join(map(_line, entries.values())))
    write_atomically(path, (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())
    return todo, entries


def _of_another(entry: Mapping[str, Any], photograph: Photograph) -> bool:
    """Whether a mask is of a photograph that is still there and not this one."""
    try:
        return not os.path.samefile(entry["of"], photograph.path)
    except (OSError, ValueError):
        return False


def _done(out: Path, photograph: Photograph, identity: Mapping[str, Any], entry: Mapping[str, Any], *, overlay: bool) -> bool:
    return (identity["size"] is not None and all(entry.get(key) == value for key, value in identity.items())
            and (not overlay or (entry.get("overlay") is True and (out / photograph.overlay).is_file())))


def _line(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry).encode() + b"\n"


def _predicted(segmenter: "Segmenter", photographs: Sequence[Photograph], known: Mapping[str, list[str]],
               options: Mapping[str, Any]) -> Iterator[tuple[Photograph, "Prediction | Exception"]]:
    """Predictions in order, or what went wrong with one; the next photographs are read meanwhile."""
    from aepsl.data.photograph import read_photograph

    for photograph, reading in read_ahead(lambda photograph: read_photograph(photograph.path), photographs):
        try:
            yield photograph, segmenter.predict(reading.result(), labels=labels_of(photograph, known), **options)
        except Exception as error:
            yield photograph, error


def _shown(results: Iterable[Any], total: int, done: int) -> Iterator[Any]:
    from aepsl.progress import progress

    return progress(results, total=total + done, label="predict", unit="photograph", done=done)


def _tell(photograph: Photograph, error: Exception, *, debug: bool) -> None:
    if debug:
        import traceback

        say("".join(traceback.format_exception(error)))
    words, name = reason(error), str(photograph.path)
    say(f"failed: {words if words.startswith(printable(name)) else f'{printable(name)}: {words}'}")


def _write(out: Path, photograph: Photograph, found: "Prediction", entry: Mapping[str, Any], *, overlay: bool) -> None:
    """The line of the record last: where it is, all is."""
    from PIL import Image

    from aepsl.data.archive import write_atomically

    with held():
        if overlay:
            buffer = io.BytesIO()
            Image.fromarray(found.overlay()).save(buffer, "JPEG", quality=92)
            write_atomically(out / photograph.overlay, buffer.getvalue())
        found.save(out / photograph.mask)
        with (out / RECORD).open("ab") as record:
            record.write(_line(entry))


def row_of(photograph: Photograph, mask: "np.ndarray", classes: Sequence[str]) -> list[str]:
    """A line of the summary: path, mask, size, names of the classes, and the share of each, background first."""
    import numpy as np

    shares = np.bincount(mask.ravel(), minlength=1 + len(classes)) / mask.size
    present = [name for name, share in zip(classes, shares[1:], strict=False) if share]
    return [_cell(photograph.inside), _cell(photograph.mask), str(mask.shape[1]), str(mask.shape[0]), ";".join(present),
            *(f"{share:.6g}" for share in shares[:1 + len(classes)])]


def _cell(path: str) -> str:
    """A path that no spreadsheet takes for a formula."""
    return f"./{path}" if path[0] in "=+-@" else path


def _summarise(out: Path, found: Sequence[Photograph], entries: Mapping[str, Mapping[str, Any]], classes: Sequence[str], *,
               made: list[Any]) -> dict[str, int]:
    """Write the table of all masks in the folder, those of ``found`` first; return in how many of these each class is."""
    from aepsl.data.archive import write_atomically

    rows = [entries[photograph.mask]["row"] for photograph in found if photograph.mask in entries]
    ours, paths = {photograph.mask for photograph in found}, {os.path.abspath(photograph.path) for photograph in found}
    others = {name: entry for name, entry in entries.items() if name not in ours}
    lines = rows + [entry["row"] for entry in others.values() if entry["made"][:-1] == made and entry["of"] not in paths]
    if left_out := [name for name, entry in others.items() if entry["made"][:-1] != made or entry["of"] in paths]:
        say(f"{SUMMARY}: left out: {counted(len(left_out), 'mask')} of earlier calls, by another model, with other options or under a name that its "
            f"photograph no longer gives, such as {printable(left_out[0])}")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["photograph", "mask", "width", "height", "classes", "background", *classes])
    writer.writerows(lines)
    write_atomically(out / SUMMARY, buffer.getvalue().encode("utf-8", "backslashreplace"))  # names need not be UTF-8
    present = Counter(name for row in rows for name in row[4].split(";") if name)
    return {name: present[name] for name in classes if present[name]} | {"nothing": sum(not row[4] for row in rows)}


def _report(out: Path, *, predicted: int, kept: int, failed: int, seconds: float, classes: Mapping[str, int]) -> None:
    rate = f" in {seconds:.1f} s ({predicted / seconds:.1f}/s)" if predicted and seconds > 0 else ""
    parts = [f"{predicted:,} predicted{rate}", *([f"{kept:,} were there"] if kept else []), *([f"{failed:,} failed (told above)"] if failed else [])]
    show(f"{out}: {', '.join(parts)}")
    if any(classes.values()):
        show(f"found: {', '.join(f'{name} in {number:,}' for name, number in classes.items() if number)}; shares are in {out / SUMMARY}")


EPILOG = example("aepsl predict models/aepsl.pt photos --out masks --overlay",
                 "aepsl predict models/aepsl.pt a.jpg 'more/*.png' --out masks --crf",
                 "find . -name '*.jpg' -print0 | aepsl predict models/aepsl.pt - --out masks",
                 statuses="0 all done; 1 some failed; 2 wrong usage; 130 Ctrl-C.")
