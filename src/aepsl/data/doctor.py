"""A folder of one's own looked at before anything is run: what ``prepare`` would refuse, and what it allows although it may not be meant.

Nothing is written, and every file is read as the pipeline reads it.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aepsl.data import voc
from aepsl.data.archive import MOST_BYTES, MOST_TEXT
from aepsl.data.folder import Listing, listing
from aepsl.data.prepare import Examined, examine
from aepsl.errors import shown

FEW = 20  # training images of a class; with fewer a classifier learns the images, not the class
MOST_SHARE = 0.9  # of the training images that hold a class; without images that lack it, nothing tells the class from what surrounds it
SMALL = 64  # pixels of the longer side
LARGE = 4_000_000  # pixels; the pipeline computes at full size
SOME = 3  # examples that are named
EXTENSIONS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Diagnosis:
    """What was found.

    Attributes
    ----------
    splits : per split the number of images that are used, and of masks among them.
    classes : per class, in order, the number of images of each split that are labelled with it.
    left_out : images on the lists that would not be used, for none of their labels is a class.
    faults : what `dvc repro` would refuse, one line each.
    notes : what it would not, but is suspicious, one line each.
    """

    splits: dict[str, tuple[int, int]]
    classes: dict[str, dict[str, int]]
    left_out: int
    faults: list[str]
    notes: list[str]


class _Folder:
    """A folder that reads like the raw.zip which would be made of it."""

    def __init__(self, found: Listing) -> None:
        self.path = found.root
        self._written, self._files = found.written, found.files

    def read(self, name: str) -> bytes:
        """Of a file at most :data:`MOST_BYTES`: it may grow after it was looked at."""
        if name in self._written:
            return self._written[name]
        with self._files[name].open("rb") as file:
            return file.read(MOST_BYTES)

    def text(self, name: str) -> bytes:
        try:
            data = self.read(name)
        except OSError as error:
            raise ValueError(f"expected a file that can be read, found another ({error.strerror or error})") from None
        if len(data) > MOST_TEXT:
            raise ValueError(f"expected at most {MOST_TEXT} bytes of text, found {len(data)}")
        return data

    def __contains__(self, name: str) -> bool:
        return name in self._written or name in self._files

    def __iter__(self) -> Iterator[str]:
        yield from self._written
        yield from sorted(self._files)


def diagnose(path: Path, *, splits: Mapping[str, str | None], labels: str, masks: str | None, mask_values: Literal["voc2012"] | dict[str, int] | None,
             classes: list[str] | None, unlisted: Literal["error", "leave-out"]) -> Diagnosis:
    """Look at a folder. Parameters as of :func:`aepsl.data.folder.listing` and :func:`aepsl.data.prepare.prepare`.

    Raises
    ------
    AepslError : the folder, a list, the table or the folder of masks is missing.
    """
    found = listing(path, splits=splits, labels=labels, masks=masks, mask_values=mask_values)
    seen = examine(_Folder(found), classes=classes, unlisted=unlisted)
    told = [fault for fault in found.faults if not fault.startswith("list of ")]  # of the lists the contents are told below
    known = _files_of(told, masks)
    faults = told + [fault for fault in _of_table(found, seen.faults) if fault.partition(": ")[0] not in known]
    counts = {split: (sum(task.split == split for task in seen.tasks), sum(task.split == split and task.mask is not None for task in seen.tasks))
              for split in found.lists}
    per_class = {name: {split: sum(task.split == split and name in seen.kept[task.identifier] for task in seen.tasks)
                        for split in found.lists if split != "test"} for name in seen.names}
    notes = [*_class_notes(counts, per_class), *_image_notes(seen), *_mask_notes(found, seen), *_twins(found, seen), *_unused(found, seen)]
    return Diagnosis(counts, per_class, seen.left_out, faults, notes)


def _files_of(faults: Sequence[str], masks: str | None) -> set[str]:
    """The names under which the same files would be told once more."""
    names = {fault.partition(": ")[0] for fault in faults}
    names |= {f"{voc.MASKS}/{name.removeprefix(f'{masks}/')}" for name in names if masks and name.startswith(f"{masks}/")}
    images = {name for name in names if name.startswith(f"{voc.IMAGES}/")}
    return names | {f"{voc.stem(name) if name.lower().endswith(EXTENSIONS) else name}.jpg" for name in images}


def _of_table(found: Listing, faults: Sequence[str]) -> Iterator[str]:
    """The faults, with what to do about a table whose columns are not found; then it does not matter that it names no class."""
    unread = f"{voc.LABELS_CSV}: line 1: expected the columns"
    broken = any(fault.startswith(unread) for fault in faults)
    for fault in faults:
        if fault.startswith(unread) and re.match(rb"[^,\n]*[;\t|]", found.written[voc.LABELS_CSV]):
            yield f"{fault}; separate columns by commas, and the labels of an image by ;"
        elif not broken or not fault.startswith("data.classes: expected at least one class"):
            yield fault


def _named(names: Sequence[str]) -> str:
    return ", ".join(map(shown, names[:SOME])) + (", …" if len(names) > SOME else "")


def _class_notes(counts: Mapping[str, tuple[int, int]], classes: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    train, val = (counts.get(split, (0, 0))[0] for split in ("train", "val"))
    if few := [name for name, number in classes.items() if 0 < number.get("train", 0) < FEW]:
        yield (f"{len(few)} class(es) have fewer than {FEW} training images ({_named(few)}): a classifier may learn the images by heart; add some, "
               "or leave the class out with data.classes")
    if train and (common := [name for name, number in classes.items() if number.get("train", 0) > MOST_SHARE * train]):
        yield (f"{len(common)} class(es) are in more than {MOST_SHARE:.0%} of the training images ({_named(common)}): what surrounds them cannot be "
               "told from them; add images without them, of another class")
    if val and (absent := [name for name, number in classes.items() if not number.get("val")]):
        yield f"{len(absent)} class(es) are in no image of val ({_named(absent)}): their predictions cannot be scored"
    if "val" not in counts:
        yield "there is no list of val: nothing will be predicted or scored until models/aepsl.pt is used"


def _image_notes(seen: Examined) -> Iterator[str]:
    sizes = {identifier: (fact.width, fact.height) for identifier, fact in seen.facts.items() if fact.width}
    if small := [identifier for identifier, size in sizes.items() if max(size) < SMALL]:
        yield f"{len(small)} image(s) have no side of {SMALL} pixels ({_named(small)}): there is little in them to be found"
    if large := [identifier for identifier, size in sizes.items() if size[0] * size[1] > LARGE]:
        yield (f"{len(large)} image(s) have more than {LARGE // 1_000_000} megapixels ({_named(large)}): all is computed at full size; 500 pixels on "
               "the longer side, as VOC has, take a fraction of time and memory")
    if turned := [identifier for identifier, fact in seen.facts.items() if fact.orientation > 1]:
        yield (f"{len(turned)} image(s) lie on their side but for a mark in their EXIF data ({_named(turned)}): they are learnt from as they are "
               "stored; turn them, for example with `mogrify -auto-orient`")


def _mask_notes(found: Listing, seen: Examined) -> Iterator[str]:
    scored = [task for task in seen.tasks if task.split == "val"]
    if scored and not any(task.mask for task in scored):
        yield "no image of val has a mask: everything but the scoring will run"
    names = dict(enumerate(seen.names, 1))
    other = []
    for task in seen.tasks:
        if task.mask and (fact := seen.facts[task.identifier]).values and not fact.faults:
            painted = {names[number] for value in fact.values if (number := seen.table.get(value)) in names}
            if painted != seen.kept[task.identifier]:
                other.append(task.identifier)
    if other:
        yield f"{len(other)} image(s) have a mask that shows other classes than their labels name ({_named(other)}): one of the two is wrong"


def _twins(found: Listing, seen: Examined) -> Iterator[str]:
    """Images with the same content; only files of the same size are compared."""
    by_size: dict[int, list[tuple[str, str, Path]]] = {}
    for task in seen.tasks:
        if task.image is not None and task.image in found.files:
            file = found.files[task.image]
            by_size.setdefault(file.stat().st_size, []).append((task.identifier, task.split, file))
    same: dict[bytes, list[tuple[str, str]]] = {}
    for files in by_size.values():
        for identifier, split, file in files if len(files) > 1 else ():
            with file.open("rb") as content:
                same.setdefault(hashlib.file_digest(content, "sha256").digest(), []).append((identifier, split))
    groups = [group for group in same.values() if len(group) > 1]
    if across := [group for group in groups if len({split for _, split in group}) > 1]:
        pairs = "; ".join(" = ".join(f"{shown(identifier)} of {split}" for identifier, split in group[:SOME]) for group in across[:SOME])
        yield (f"{len(across)} image(s) are in two splits under different ids ({pairs}): what is scored has been learnt from, and scores are too "
               "good; take one of each off its list")
    if within := [group for group in groups if len({split for _, split in group}) == 1]:
        pairs = "; ".join(" = ".join(shown(identifier) for identifier, _ in group[:SOME]) for group in within[:SOME])
        yield f"{len(within)} image(s) are there more than once within a split ({pairs})"


def _unused(found: Listing, seen: Examined) -> Iterator[str]:
    bare = [identifier for identifier, names in seen.source.labels.items() if names == []]
    if seen.left_out and bare:
        yield f"{len(bare)} image(s) are left out, for they have no label ({_named(bare)})"
    if (other := seen.left_out - len(bare)) > 0:
        yield f"{other} image(s) are left out, for none of their labels is among data.classes"
    listed = {identifier for ids in found.lists.values() for identifier in ids}
    there = [voc.stem(path.relative_to(found.root / voc.IMAGES).as_posix()) for path in (found.root / voc.IMAGES).rglob("*")
             if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")]
    if spare := sorted(set(there) - listed):
        yield f"{len(spare)} image(s) of {voc.IMAGES}/ are on no list ({_named(spare)}), so they are not used"
    if voc.LABELS_CSV in found.written:
        labelled, _ = voc.parse_labels(found.written[voc.LABELS_CSV].decode("utf-8", "replace"))
        if spare := sorted(set(labelled) - listed):
            yield f"{len(spare)} line(s) of the label table are of ids on no list ({_named(spare)})"
    if joined := [name for name in seen.names if len(parts := re.split(r"[\s,|/]+", name)) > 1 and set(parts) <= set(seen.names)]:
        yield f"{len(joined)} class(es) are others joined ({_named(joined)}): separate the labels of an image by ;"
    for name, count in Counter(label.lower() for label in seen.names).items():
        if count > 1:
            alike = [label for label in seen.names if label.lower() == name]
            yield f"{count} classes differ in capital letters alone ({_named(alike)}): is it one class?"
