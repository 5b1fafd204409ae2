"""From raw.zip to what the pipeline reads: images, truth, index and mean pixel. Every file is checked first, all faults are told at once.

Nothing is written unless everything is sound. Labels of the test split are taken as unknown.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL.ImageFile import ImageFile
from PIL.PngImagePlugin import PngImageFile

from aepsl.data import voc
from aepsl.data.archive import IMAGE_FAULTS, VOID, ArchiveReader, ArchiveWriter, encode_mask, image_fault, open_image, verify_png
from aepsl.data.contents import Contents, Raw, choose_classes, read_contents, select_images
from aepsl.data.index import SPLITS, Index, write_index, write_mean_pixel
from aepsl.errors import FaultList
from aepsl.parallel import in_processes
from aepsl.progress import progress

CHUNK = 64  # images per task: a worker opens the archive once per task
ALONE = 256  # up to so many images, starting processes costs more than it saves
ORIENTATION = 0x0112  # EXIF tag


def prepare(raw: Path, *, classes: list[str] | None, unlisted: Literal["error", "leave-out"],
            images: Path, truth: Path, index: Path, mean_pixel: Path) -> dict[str, Any]:
    """Check raw.zip, write the four artefacts, return the metrics of the data.

    Parameters
    ----------
    raw : archive written by :func:`aepsl.data.sources.pack_raw`.
    classes : the classes in order; None = those of dataset.json, or else the names found in the labels, sorted.
    unlisted : what becomes of other classes: a fault, or their labels are dropped (with them images that have no other) and
        their pixels become 255 in the truth.
    images : ``<id>.jpg|.png``, original bytes.
    truth : ``<id>.png``, masks in class numbering, 255 = void; empty where there are none.
    index : id, split, size and labels, by id.
    mean_pixel : ``{"mean_pixel": [r, g, b]}`` over all pixels of the train images, 0..255.

    Raises
    ------
    FaultList : every fault of lists, labels, images and masks, by file.
    """
    reader = ArchiveReader(raw)
    found = examine(reader, classes=classes, unlisted=unlisted)
    if found.faults:
        raise FaultList(f"{raw}: {len(found.faults)} fault(s) in the data; mend them and run again", found.faults)
    rows, names, source, checked = found.rows, found.names, found.source, found.facts

    labels = np.array([[name in found.kept[identifier] for name in names] for identifier in rows], bool)
    splits = tuple(source.splits[identifier] for identifier in rows)
    train = [checked[task.identifier] for task in found.tasks if task.split == "train"]
    total = sum((fact.total for fact in train), np.zeros(3, np.int64))
    mean = (total / sum(fact.width * fact.height for fact in train)).tolist()
    sizes = np.array([(checked[identifier].width, checked[identifier].height) for identifier in rows])

    with ArchiveWriter(images) as archive:
        for task in found.tasks:
            assert task.image is not None
            extension = task.image.rpartition(".")[2].lower()
            archive.add(f"{task.identifier}.{'png' if extension == 'png' else 'jpg'}", reader.read(task.image))
    lookup = np.full(256, VOID, np.uint8)
    lookup[list(found.table)] = list(found.table.values())
    with_mask = [task for task in found.tasks if task.mask]
    with ArchiveWriter(truth) as archive:
        for task, mask in zip(with_mask, _over(partial(_renumber, lookup=lookup), reader, with_mask, "truth"), strict=True):
            archive.add(f"{task.identifier}.png", mask)
    write_index(Index(tuple(names), tuple(rows), splits, sizes, labels), index)
    write_mean_pixel(mean, mean_pixel)

    in_train = labels[[split == "train" for split in splits]].sum(0).tolist()
    masks = Counter(task.split for task in with_mask)
    return {"classes": len(names), "images": {split: splits.count(split) for split in SPLITS}, "left_out": found.left_out,
            "masks": {split: masks[split] for split in ("train", "val")},
            "train_images_per_class": dict(zip(names, in_train, strict=True)), "mean_pixel": mean}


@dataclass(frozen=True)
class Task:
    """An image to check: entry names of image and mask in raw.zip."""

    identifier: str
    split: str
    image: str | None
    mask: str | None


@dataclass(frozen=True)
class Fact:
    """Of one image: size, sum of its pixels (3,) int64, how EXIF says that it was held (1 = upright); values of its mask; faults."""

    width: int
    height: int
    total: np.ndarray
    orientation: int
    values: tuple[int, ...]
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Examined:
    """What was found in raw.zip.

    Attributes
    ----------
    names : of the classes, in order.
    kept, left_out : labels of the images that are used, by id; how many are not.
    tasks, facts : what was looked at, in the order of the ids, and what it is, by id.
    table : what the values of the masks become.
    faults : of lists, labels, images and masks, one line each.
    """

    names: list[str]
    source: Contents
    kept: dict[str, set[str]]
    left_out: int
    tasks: list[Task]
    facts: dict[str, Fact]
    table: dict[int, int]
    faults: list[str]

    @property
    def rows(self) -> list[str]:
        """The ids in their order."""
        return [task.identifier for task in self.tasks]


def examine(raw: Raw, *, classes: list[str] | None, unlisted: Literal["error", "leave-out"]) -> Examined:
    """Look at everything, and write nothing. Parameters as of :func:`prepare`."""
    source = read_contents(raw, partial(_mask_values, raw))
    faults = list(source.faults)
    names = choose_classes(source, classes, faults)
    numbers = {name: number for number, name in enumerate(names, 1)}
    kept, left_out = select_images(source, names, unlisted, faults)
    values = source.description.mask_values
    # Keys are all values that may occur; the rest of the table maps unlisted classes to void.
    table = {0: 0, VOID: VOID} | ({value: numbers[name] for name, value in values.items() if name in numbers} if values
                                  else {number: number for number in numbers.values()})
    others = {value: name for name, value in (values or {}).items() if name not in numbers}
    if values and source.masks and (missing := [name for name in names if name not in values]):
        faults.append(f"data.folder.mask_values: expected the mask value of every class, found none for {', '.join(missing)}")

    for value, count in Counter((values or {}).values()).items():
        if count > 1:
            faults.append(f"data.folder.mask_values: expected another value for every class, found {value} {count} times")

    tasks = [Task(row, source.splits[row], source.images.get(row), None if source.splits[row] == "test" else source.masks.get(row))
             for row in sorted(kept)]
    checked = {task.identifier: fact for task, fact in zip(tasks, _over(_check, raw, tasks, "check"), strict=True)}
    for task in tasks:
        faults += checked[task.identifier].faults
        if unknown := [value for value in checked[task.identifier].values if value not in table and value not in others]:
            faults.append(f"{task.mask}: expected values out of {sorted(table)}, found {unknown} too; see data.folder.mask_values")
    for value, name in others.items() if unlisted == "error" else ():
        if affected := [task for task in tasks if value in checked[task.identifier].values]:
            faults.append(f"masks: class {name!r} ({value}) is not in data.classes but in {len(affected)} mask(s), such as "
                          f"{affected[0].mask}; list it, or set data.unlisted to leave-out")
    if source.masks:
        faults += [f"{voc.MASKS}/{task.identifier}.png: expected the mask of an image of val, found none; add it, or use no masks at all"
                   for task in tasks if task.split == "val" and not task.mask]
    return Examined(names, source, kept, left_out, tasks, checked, table, faults)


def _over(function: Any, raw: Raw, tasks: Sequence[Task], label: str) -> Iterator[Any]:
    """``function(archive, task)`` of every task, in order, in several processes where that pays."""
    chunks = [tasks[start:start + CHUNK] for start in range(0, len(tasks), CHUNK)]
    results = in_processes(partial(_chunk, function, raw), chunks, processes=0 if len(tasks) > ALONE else 1)
    yield from progress((result for chunk in results for result in chunk), total=len(tasks), label=label)


def _mask_values(raw: Raw, entries: Sequence[str]) -> Iterator[tuple[int, ...]]:
    tasks = [Task(voc.stem(entry), "", None, entry) for entry in entries]
    yield from (fact.values for fact in _over(_check, raw, tasks, "labels"))


def _chunk(function: Any, archive: Raw, tasks: Sequence[Task]) -> list[Any]:
    return [function(archive, task) for task in tasks]


def _check(archive: Raw, task: Task) -> Fact:
    faults = []
    width = height = 0
    orientation = 1
    total = np.zeros(3, np.int64)
    if task.image is not None:
        try:
            data = archive.read(task.image)
            verify_png(data)
            with open_image(data) as image:
                if image.mode.startswith(("I", "F")):
                    raise ValueError(f"mode {image.mode}; expected 8 bits per channel")
                pixels = np.asarray(image.convert("RGB"))
                orientation = _orientation(image)
            height, width = pixels.shape[:2]
            total = pixels.sum((0, 1), np.int64)
        except IMAGE_FAULTS as error:
            faults.append(f"{task.image}: expected a complete JPEG or PNG, found {image_fault(error)}")
    elif task.split:
        faults.append(f"{voc.IMAGES}/{task.identifier}.jpg: expected an image of {task.split}, found no such file")
    values: tuple[int, ...] = ()
    if task.mask:
        try:
            mask = _decode_mask(archive.read(task.mask))
            values = tuple(np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist())
            if width and mask.shape != (height, width):
                turned = f" (the image's EXIF orientation is {orientation}: store it upright)" if orientation > 1 else ""
                faults.append(f"{task.mask}: expected the size of its image, {width}×{height}, "
                              f"found {mask.shape[1]}×{mask.shape[0]}{turned}")
        except IMAGE_FAULTS as error:
            faults.append(f"{task.mask}: expected a complete palette or grey PNG of 8 bits, found {image_fault(error)}")
    return Fact(width, height, total, orientation, values, tuple(faults))


def _orientation(image: ImageFile) -> int:
    """How the EXIF data say the camera was held, 1 = upright or unknown."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except IMAGE_FAULTS:  # damaged EXIF data say nothing, and no pixel depends on them
        return 1
    return value if isinstance(value, int) else 1


def _decode_mask(data: bytes) -> np.ndarray:
    verify_png(data)
    with open_image(data) as image:
        if not isinstance(image, PngImageFile):
            raise ValueError("a JPEG, which changes class numbers")
        if image.mode not in ("P", "L", "1"):
            raise ValueError(f"mode {image.mode}")
        if image.mode == "L" and data[24] < 8:  # bits of a pixel: fewer are stretched to the range of grey, and numbers would change
            raise ValueError(f"grey of {data[24]} bits")
        return np.asarray(image).astype(np.uint8)


def _renumber(archive: Raw, task: Task, lookup: np.ndarray) -> bytes:
    assert task.mask is not None
    return encode_mask(lookup[_decode_mask(archive.read(task.mask))])
