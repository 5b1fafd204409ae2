"""What raw.zip holds: split lists, labels, classes, and which images are used. Pixels are looked at in :mod:`aepsl.data.prepare`.

Faults are collected, one line each, not raised: the user mends all of them at once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aepsl.data import voc
from aepsl.data.archive import VOID
from aepsl.data.index import FIXED, SPLITS
from aepsl.errors import AepslError, shown

MaskValues = Callable[[Sequence[str]], Iterable[Sequence[int]]]


class Raw(Protocol):
    """raw.zip, or what would be packed into it: a :class:`aepsl.data.archive.ArchiveReader` or what reads like one."""

    path: Path

    def read(self, name: str) -> bytes: ...

    def text(self, name: str) -> bytes: ...

    def __contains__(self, name: str) -> bool: ...

    def __iter__(self) -> Iterator[str]: ...


@dataclass(frozen=True)
class Contents:
    """What raw.zip says: per id its split, the entries of image and mask, and label names (None = unknown); and what is wrong with it."""

    description: voc.Description
    splits: dict[str, str]
    images: dict[str, str]
    masks: dict[str, str]
    labels: dict[str, list[str] | None]
    faults: list[str]


def read_contents(archive: Raw, mask_values: MaskValues) -> Contents:
    """Read the lists and labels of raw.zip.

    Parameters
    ----------
    mask_values : gives the values that occur in each of the masks of the named entries; asked only where labels come from masks.
    """
    faults: list[str] = []
    try:
        description = voc.Description.from_json(archive.text(voc.DESCRIPTION))
    except ValueError as error:
        raise AepslError(f"{archive.path}: expected a readable {voc.DESCRIPTION}, found {error}; run `dvc repro -f download`") from None
    splits = _read_lists(archive, faults)
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    for entry in archive:
        folder, _, rest = entry.partition("/")
        if folder == voc.MASKS:
            masks[voc.stem(rest)] = entry
        elif folder == voc.IMAGES:
            if voc.stem(rest) in images:
                faults.append(f"{entry}: expected one image of this id, found {images[voc.stem(rest)]} too; keep one of them")
            images[voc.stem(rest)] = entry
    labels: dict[str, list[str] | None] = dict.fromkeys(splits)
    wanted = [identifier for identifier, split in splits.items() if split != "test"]
    if description.labels == "xml":
        for identifier in wanted:
            entry = f"{voc.ANNOTATIONS}/{identifier}.xml"
            if entry not in archive:
                faults.append(f"{entry}: expected the labels of an image of {splits[identifier]}, found no such file")
                continue
            try:
                labels[identifier] = voc.parse_annotation(archive.text(entry))
            except ValueError as error:
                faults.append(f"{entry}: {error}")
    elif description.labels == "csv":
        labels |= _read_table(archive, wanted, faults)
    else:
        labels |= _labels_of_masks(description, wanted, masks, mask_values, faults)
    return Contents(description, splits, images, masks, labels, faults)


def _read_lists(archive: Raw, faults: list[str]) -> dict[str, str]:
    """Split per id."""
    splits: dict[str, str] = {}
    for split in SPLITS:
        entry = f"{voc.LISTS}/{split}.txt"
        if entry not in archive:
            if split == "train":
                faults.append(f"{entry}: expected the list of training images, found no such file")
            continue
        try:
            ids = voc.parse_list(archive.text(entry).decode("utf-8"))
        except UnicodeDecodeError as error:
            faults.append(f"{entry}: expected text in UTF-8 with one id a line, found {error}")
            continue
        if not ids:
            faults.append(f"{entry}: expected at least one id, found an empty list")
        faults += [f"{entry}: id {shown(identifier)} is listed {count} times" for identifier, count in Counter(ids).items() if count > 1]
        for identifier in dict.fromkeys(ids):
            if fault := voc.id_fault(identifier):
                faults.append(f"{entry}: {fault}")
            elif identifier in splits:
                faults.append(f"{entry}: id {shown(identifier)} is in the list of {splits[identifier]} too; an image belongs to one split")
            else:
                splits[identifier] = split
    return splits


def _read_table(archive: Raw, wanted: Sequence[str], faults: list[str]) -> dict[str, list[str] | None]:
    try:
        table, wrong = voc.parse_labels(archive.text(voc.LABELS_CSV).decode("utf-8"))
    except UnicodeDecodeError as error:
        table, wrong = {}, [f"expected text in UTF-8, found {error}"]
    faults += [f"{voc.LABELS_CSV}: {fault}" for fault in wrong]
    if not wrong:
        faults += [f"{voc.LABELS_CSV}: expected a line for every image of train and val, found none for {identifier!r}"
                   for identifier in wanted if identifier not in table]
    return {identifier: table.get(identifier) for identifier in wanted}


def _labels_of_masks(description: voc.Description, wanted: Sequence[str], masks: Mapping[str, str], mask_values: MaskValues,
                     faults: list[str]) -> dict[str, list[str] | None]:
    if not description.mask_values:
        raise AepslError("data.folder.mask_values: expected the mask value of every class when labels come from masks, found null")
    faults += [f"{voc.MASKS}/{identifier}.png: expected the mask that gives the labels, found no such file"
               for identifier in wanted if identifier not in masks]
    having = [identifier for identifier in wanted if identifier in masks]
    found = mask_values([masks[identifier] for identifier in having])
    return {identifier: [name for name, value in description.mask_values.items() if value in values]
            for identifier, values in zip(having, found, strict=True)}


def choose_classes(source: Contents, chosen: list[str] | None, faults: list[str]) -> list[str]:
    """Names of the classes in order: those chosen, or else those of the data set, or else those that the labels name, sorted."""
    found = {name for names in source.labels.values() for name in names or ()}
    names = list(chosen or source.description.classes or sorted(found))
    if not names:
        faults.append("data.classes: expected at least one class, found none there and none in the labels")
    if len(names) > VOID - 1:
        faults.append(f"data.classes: expected at most {VOID - 1} classes, found {len(names)}")
    for name, count in Counter(names).items():
        if count > 1:
            faults.append(f"data.classes: class {shown(name)} is named {count} times")
        if name in ("background", "void", *FIXED):
            faults.append(f"data.classes: {name!r} is a reserved name; call the class something else")
        elif fault := voc.class_fault(name):
            faults.append(f"data.classes: {fault}")
    return names


def select_images(source: Contents, names: Sequence[str], unlisted: str, faults: list[str]) -> tuple[dict[str, set[str]], int]:
    """Listed labels of every image that is kept, and how many images are left out; ``unlisted`` is "error" or "leave-out"."""
    listed, kept, left_out, strange = set(names), dict[str, set[str]](), 0, dict[str, list[str]]()
    for identifier, split in source.splits.items():
        labels = source.labels[identifier]
        if labels is None:  # test, or a fault told before
            kept[identifier] = set()
            continue
        if unlisted == "error":
            for name in sorted(set(labels) - listed):
                strange.setdefault(name, []).append(identifier)
            if not labels:
                faults.append(f"labels of {identifier!r} ({split}): expected at least one class, found none; take the id off the list, "
                              "or set data.unlisted to leave-out")
        if set(labels) & listed or unlisted == "error":
            kept[identifier] = set(labels) & listed
        else:
            left_out += 1
    for name, ids in sorted(strange.items()):
        faults.append(f"labels: class {shown(name)} is not in data.classes but in {len(ids)} image(s), such as {ids[0]!r}; list it, "
                      "or set data.unlisted to leave-out")
    for split in dict.fromkeys(source.splits.values()):
        if not any(source.splits[identifier] == split for identifier in kept):
            faults.append(f"split {split}: expected at least one image with a class of data.classes, all were left out")
    seen = {name for identifier, labels in kept.items() if source.splits[identifier] == "train" for name in labels}
    faults += [f"data.classes: class {shown(name)} has no training image; correct its spelling or remove it"
               for name in names if name not in seen]
    return kept, left_out
