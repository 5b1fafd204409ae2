"""Any folder in VOC layout as raw.zip: the files that its split lists name, in the order of their ids, byte for byte.

``JPEGImages/<id>`` with .jpg, .jpeg or .png in any case; labels from ``Annotations/<id>.xml``, from a table (see
:func:`aepsl.data.voc.parse_labels`), or from the masks; masks from a folder of palette or grey PNGs.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aepsl.data import voc
from aepsl.data.archive import MOST_BYTES, ArchiveWriter
from aepsl.errors import AepslError, FaultList
from aepsl.progress import progress

SUPPLEMENT = "SegmentationClassAug"  # the usual name of the masks of trainaug


@dataclass(frozen=True)
class Listing:
    """What of a folder goes into raw.zip, found by looking at names alone.

    Attributes
    ----------
    root : the folder.
    lists : ids per split, as they are listed.
    written : the entries that no file holds as it is, in their order: description, lists, label table.
    files : the file of every other entry.
    faults : one line for every file that is missing, ambiguous or none.
    """

    root: Path
    lists: dict[str, list[str]]
    written: dict[str, bytes]
    files: dict[str, Path]
    faults: list[str]


def pack(out: Path, path: Path, *, splits: Mapping[str, str | None], labels: str, masks: str | None,
         mask_values: Literal["voc2012"] | dict[str, int] | None) -> dict[str, int]:
    """Write raw.zip and return the number of images per split. Parameters as of :func:`listing`.

    Raises
    ------
    FaultList : every file that is missing or ambiguous, before anything is written. Train images may lack a mask.
    """
    found = listing(path, splits=splits, labels=labels, masks=masks, mask_values=mask_values)
    if found.faults:
        raise FaultList(f"{found.root}: {len(found.faults)} fault(s) in the folder; mend the files, or take their ids off the lists", found.faults)
    with ArchiveWriter(out) as archive:
        archive.update(found.written)
        for name in progress(sorted(found.files), total=len(found.files), label="pack", unit="file"):
            archive.add(name, found.files[name].read_bytes())
    return {split: len(ids) for split, ids in found.lists.items()}


def listing(path: Path, *, splits: Mapping[str, str | None], labels: str, masks: str | None,
            mask_values: Literal["voc2012"] | dict[str, int] | None) -> Listing:
    """What there is in a folder.

    Parameters
    ----------
    path : the folder that holds JPEGImages/.
    splits : per split the name of a list in ImageSets/Segmentation/, or the path of one, in full or from the folder; None = no such split.
    labels : "xml", "masks", or the path of a table in full or from the folder.
    masks : folder of masks; one that it lacks is looked for in SegmentationClass/ too. For val, SegmentationClass/ comes
        first where ``masks`` is SegmentationClassAug/, which scores on the official masks. None = no masks.
    mask_values : see :class:`aepsl.data.voc.Description`; "voc2012" = VOC's own table.

    Raises
    ------
    AepslError : the folder itself, a list, the table or the folder of masks is missing.
    """
    root = _expand(path, "data.path")
    if not (root / voc.IMAGES).is_dir():
        found = f"{voc.IMAGES}/ missing in it" if root.is_dir() else "no such folder"
        raise AepslError(f"data.path: expected a folder that holds {voc.IMAGES}/, found {found}: {root.absolute()}")
    lists = {split: _read_list(root, name, f"data.folder.{split}") for split, name in splits.items() if name is not None}
    table = None if labels in ("xml", "masks") else _resolve(root, labels, "data.folder.labels")
    folders = _mask_folders(root, masks)
    if labels == "masks" and masks is None:
        raise AepslError("data.folder.labels: expected data.folder.masks to name a folder when labels come from masks, found null")

    entries: dict[str, Path] = {}
    listings: dict[str, dict[str, list[str]]] = {}
    faults: list[str] = []
    for split, ids in lists.items():
        search = folders[::-1] if split == "val" and masks == SUPPLEMENT else folders
        for identifier in sorted(set(ids)):
            if fault := voc.id_fault(identifier):
                faults.append(f"list of {split}: {fault}")
                continue
            entries |= _image(root, identifier, split, listings, faults)
            if split == "test":
                continue
            annotation = root / voc.ANNOTATIONS / f"{identifier}.xml"
            if labels == "xml":
                if annotation.is_file():
                    entries[f"{voc.ANNOTATIONS}/{identifier}.xml"] = annotation
                else:
                    faults.append(f"{voc.ANNOTATIONS}/{identifier}.xml: expected the labels of an image of {split}, found no such file")
            mask_file = next((mask for folder in search if (mask := folder / f"{identifier}.png").is_file()), None)
            if mask_file is not None:
                entries[f"{voc.MASKS}/{identifier}.png"] = mask_file
            elif masks is not None and (split == "val" or labels == "masks"):
                faults.append(f"{masks}/{identifier}.png: expected the mask of an image of {split}, found none there or in {voc.MASKS}/")
    for name, file in list(entries.items()):
        if not file.is_file():  # opening a pipe would wait for ever
            faults.append(f"{name}: expected a file, found {'a folder' if file.is_dir() else 'something else, such as a link that leads nowhere'}")
        elif file.stat().st_size > MOST_BYTES:
            faults.append(f"{name}: expected at most {MOST_BYTES} bytes, found {file.stat().st_size}")
        else:
            continue
        del entries[name]

    description = voc.Description("folder", None, dict(voc.MASK_VALUES) if mask_values == "voc2012" else mask_values,
                                  "csv" if table else "masks" if labels == "masks" else "xml")
    written = {voc.DESCRIPTION: description.to_json(), **voc.format_lists(lists)}
    if table:
        written[voc.LABELS_CSV] = table.read_bytes()
    return Listing(root, lists, written, entries, faults)


def _expand(path: Path, key: str) -> Path:
    """With "~" as the home folder."""
    try:
        return path.expanduser()
    except RuntimeError:
        raise AepslError(f"{key}: expected a path, found {path}, and there is no such user; write the path in full") from None


def _resolve(root: Path, name: str, key: str) -> Path:
    file = root / _expand(Path(name), key)
    if not file.is_file():
        raise AepslError(f"{key}: expected a file, found none at {file}; give its path, in full or from {root}")
    return file


def _read_list(root: Path, name: str, key: str) -> list[str]:
    named = root / voc.LISTS / f"{name}.txt"
    file = named if named.is_file() else root / _expand(Path(name), key)
    if not file.is_file():
        known = sorted(entry.stem for entry in (root / voc.LISTS).glob("*.txt"))
        raise AepslError(f"{key}: expected the name of a list in {voc.LISTS}/ or the path of one, found {name!r}; there are {known}")
    try:
        return voc.parse_list(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise AepslError(f"{file}: expected a text file in UTF-8 with one id a line, found {error}") from None


def _mask_folders(root: Path, masks: str | None) -> list[Path]:
    if masks is None:
        return []
    named = root / _expand(Path(masks), "data.folder.masks")
    if not named.is_dir():
        raise AepslError(f"data.folder.masks: expected a folder of PNG masks, found none at {named}; give its path, or null for no masks")
    official = root / voc.MASKS
    return [named, official] if official.is_dir() and official != named else [named]


def _listing(folder: Path) -> dict[str, list[str]]:
    """Image files of a folder by their names without the extension."""
    files: dict[str, list[str]] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        if name.lower().endswith((".jpg", ".jpeg", ".png")):
            files.setdefault(voc.stem(name), []).append(name)
    return files


def _image(root: Path, identifier: str, split: str, listings: dict[str, dict[str, list[str]]], faults: list[str]) -> dict[str, Path]:
    """The entry of an image, or none and a fault."""
    folder, _, name = f"{voc.IMAGES}/{identifier}".rpartition("/")
    if folder not in listings:
        listings[folder] = _listing(root / folder)
    files = listings[folder]
    found = sorted(files.get(name, []))
    if len(found) == 1:
        return {f"{folder}/{found[0]}": root / folder / found[0]}
    if found:
        faults.append(f"{folder}/{name}: expected one image of this id, found {', '.join(found)}; keep one of them")
    else:
        hint = f"; the list should say {voc.stem(identifier)}" if name in files.get(voc.stem(name), []) else ""
        faults.append(f"{folder}/{name}.jpg: expected an image of {split} (.jpg, .jpeg or .png), found no such file{hint}")
    return {}

