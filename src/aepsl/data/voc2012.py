"""PASCAL VOC 2012 as raw.zip, read from the archives as they are published; nothing is unpacked to disk.

"trainaug" is built here: VOC's train and SBD's train and val lists together, without VOC's val: 10,582 ids. Images and annotations
are VOC's; masks are VOC's own where there is one, and SBD's, converted, elsewhere. Val keeps the official masks.
"""

import io
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self

import numpy as np
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from aepsl.data import voc
from aepsl.data.archive import VOID, ArchiveWriter, encode_mask
from aepsl.data.download import checksum_fault, fetch
from aepsl.errors import AepslError, FaultList
from aepsl.progress import progress

HDF5 = b"\x89HDF\r\n\x1a\n"
# What scipy raises on .mat files that are cut short or are none.
MAT_FAULTS = (MatReadError, ValueError, TypeError, LookupError, OSError, EOFError, ArithmeticError, NotImplementedError, zlib.error)


@dataclass(frozen=True)
class Published:
    """An archive, where it is to be had, and its checksum."""

    name: str
    urls: tuple[str, ...]
    md5: str


@dataclass(frozen=True)
class Archives:
    """The archives of the data set; tests put small ones in their place."""

    trainval: Published = Published(
        "VOCtrainval_11-May-2012.tar",
        ("http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
         "http://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar"), "6cd6e144f989b92b3379bac3b3de84fd")
    test: Published = Published(  # the official one needs a login
        "VOC2012test.tar", ("http://pjreddie.com/media/files/VOC2012test.tar",), "9065beb292b6c291fad82b2725749fda")
    sbd: Published = Published(
        "benchmark.tgz", ("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
        "82b4d87ceb2ed10f6038a1cba92111cb")


def pack(out: Path, path: Path | None, *, cache: Path, train: Literal["trainaug", "train"], labels: Literal["xml", "masks"], test: bool,
         mirrors: Mapping[str, Sequence[str]], archives: Archives | None = None) -> dict[str, int]:
    """Write raw.zip and return the number of images per split.

    Parameters
    ----------
    path : folder with archives that the user already has; what it lacks is downloaded to ``cache``.
    train : training split: trainaug, or VOC's own train of 1,464 images.
    labels : image-level labels from the annotations, or from the masks (which name fewer classes in 896 images).
    test : whether to add the 1,456 images of the test server.
    mirrors : further addresses per archive name, tried first.
    """
    published = archives or Archives()
    needed = [published.trainval, *([published.sbd] if train == "trainaug" else []), *([published.test] if test else [])]
    known = [archive.name for archive in (published.trainval, published.test, published.sbd)]
    if strange := sorted(set(mirrors) - set(known)):
        raise AepslError(f"data.voc2012.mirrors: expected names out of {known}, found {strange}")
    files = {archive.name: _locate(archive, path, cache, mirrors.get(archive.name, ())) for archive in needed}

    with ExitStack() as opened:
        kits = {name: opened.enter_context(_Devkit(file)) for name, file in files.items() if name != published.sbd.name}
        return _pack(out, kits[published.trainval.name], kits.get(published.test.name), files.get(published.sbd.name), labels)


def _pack(out: Path, devkit: "_Devkit", test: "_Devkit | None", sbd: Path | None, labels: Literal["xml", "masks"]) -> dict[str, int]:
    splits = {"train": devkit.split("train"), "val": devkit.split("val")}
    supplement: dict[str, bytes] = {}
    if sbd:
        more, supplement = _read_sbd(sbd)
        splits["train"] = sorted((set(splits["train"]) | set(more)) - set(splits["val"]))
    tasks, converted = [], {}
    for identifier in splits["train"] + splits["val"]:
        image, annotation, mask = (f"{folder}/{identifier}.{kind}" for folder, kind in
                                   ((voc.IMAGES, "jpg"), (voc.ANNOTATIONS, "xml"), (voc.MASKS, "png")))
        tasks += [(image, devkit), (annotation, devkit)]
        if mask not in devkit.members and identifier in supplement:
            converted[identifier] = supplement[identifier]
        else:
            tasks.append((mask, devkit))
    if test:
        splits["test"] = test.split("test")
        tasks += [(f"{voc.IMAGES}/{identifier}.jpg", test) for identifier in splits["test"]]
    if missing := [f"{kit.file}: expected a member {name}, found none" for name, kit in tasks if name not in kit.members]:
        raise FaultList("PASCAL VOC 2012: the lists name files that the archives lack", missing)

    # Labels read from masks are VOC's numbers 1..20, those of voc.MASK_VALUES, as are those of SBD.
    description = voc.Description("voc2012", list(voc.CLASSES), dict(voc.MASK_VALUES), labels)
    with ArchiveWriter(out) as archive:
        archive.add(voc.DESCRIPTION, description.to_json())
        for name, content in voc.format_lists(splits).items():
            archive.add(name, content)
        # In the order of the tar files, so that a disk reads them from front to back.
        tasks.sort(key=lambda task: (task[1].file.name, task[1].members[task[0]].offset))
        for name, kit in progress(tasks, total=len(tasks), label="pack", unit="file"):
            archive.add(name, kit.read(name))
        faults = []
        for identifier, content in progress(sorted(converted.items()), total=len(converted), label="convert SBD", unit="mask"):
            try:
                found = read_sbd_mask(content)
            except ValueError as error:
                faults.append(f"dataset/cls/{identifier}.mat: {error}")
            else:
                archive.add(f"{voc.MASKS}/{identifier}.png", encode_mask(found))
        if faults:
            raise FaultList(f"{sbd}: {len(faults)} mask(s) cannot be read; fetch the archive again", faults)
    return {split: len(ids) for split, ids in splits.items()}


def _locate(archive: Published, path: Path | None, cache: Path, mirrors: Sequence[str]) -> Path:
    """The archive's file: the user's own, or one downloaded before or now."""
    if path is not None and (own := path.expanduser() / archive.name).is_file():
        if wrong := checksum_fault(own, md5=archive.md5):
            raise AepslError(f"{own}: {wrong}; copy the archive again, or move this file away to have it downloaded")
        return own
    return fetch([*mirrors, *archive.urls], cache / archive.name, md5=archive.md5)


class _Devkit:
    """A VOC tar, read by member: ``members`` are named from VOCdevkit/VOC2012/ on."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            self._tar = tarfile.open(file, "r:")  # noqa: SIM115 (closed on exit)
            self.members = {name: member for member in self._tar if member.isfile() and (name := _inside(member.name, "VOC2012"))}
        except (tarfile.TarError, EOFError) as error:
            raise AepslError(f"{file}: expected a complete tar archive, found {error}; delete it and run again") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def read(self, name: str) -> bytes:
        if name not in self.members or (content := self._tar.extractfile(self.members[name])) is None:
            raise AepslError(f"{self.file}: expected a member VOCdevkit/VOC2012/{name}, found none; is it the archive of VOC 2012?")
        return content.read()

    def split(self, name: str) -> list[str]:
        return voc.parse_list(self.read(f"{voc.LISTS}/{name}.txt").decode("utf-8"))


def _inside(name: str, folder: str) -> str | None:
    """The part of a member's name below a folder, or None."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[parts.index(folder) + 1:]) if folder in parts else None


def _read_sbd(file: Path) -> tuple[list[str], dict[str, bytes]]:
    """The ids of SBD's train and val lists, and the .mat file of every id. A .tgz can only be read from front to back."""
    lists: dict[str, list[str]] = {}
    masks: dict[str, bytes] = {}
    try:
        with tarfile.open(file, "r|gz") as tar:
            for member in progress(tar, total=0, label="read SBD", unit="file"):
                name = _inside(member.name, "dataset") or ""
                if not member.isfile() or not (name in ("train.txt", "val.txt") or (name.startswith("cls/") and name.endswith(".mat"))):
                    continue
                content = tar.extractfile(member)
                assert content is not None
                if name.endswith(".txt"):
                    lists[name] = voc.parse_list(content.read().decode("utf-8"))
                else:
                    masks[voc.stem(name.removeprefix("cls/"))] = content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise AepslError(f"{file}: expected a complete .tgz archive, found {error}; delete it and run again") from None
    if missing := {"train.txt", "val.txt"} - set(lists):
        raise AepslError(f"{file}: expected dataset/train.txt and dataset/val.txt, found no {' and no '.join(sorted(missing))}; "
                         "is it SBD's benchmark.tgz?")
    ids = lists["train.txt"] + lists["val.txt"]
    if lacking := [f"dataset/cls/{identifier}.mat" for identifier in ids if identifier not in masks]:
        raise FaultList(f"{file}: the lists name masks that the archive lacks", lacking)
    return ids, masks


def read_sbd_mask(data: bytes) -> np.ndarray:
    """The class mask (H, W) uint8 of one of SBD's .mat files: GTcls.Segmentation, 0 = background, 1..20 = VOC's classes.

    Raises
    ------
    ValueError : with expected and found: a file that is cut short, of MATLAB 7.3 (HDF5), or without such a mask.
    """
    if HDF5 in data[:1024]:
        raise ValueError("expected a MAT-file of version 5, found one of version 7.3 (HDF5); save it with -v7")
    stream: Any = io.BytesIO(data)  # the stubs know paths only
    try:
        found = loadmat(stream, struct_as_record=False, variable_names=["GTcls"]).get("GTcls")
    except MAT_FAULTS as error:
        raise ValueError(f"expected a complete MAT-file of version 5, found a damaged or foreign one ({error})") from None
    mask = getattr(found.flat[0], "Segmentation", None) if isinstance(found, np.ndarray) and found.size else None
    if not isinstance(mask, np.ndarray):
        raise ValueError("expected a struct GTcls with a field Segmentation, found none")
    if mask.ndim != 2 or mask.dtype != np.uint8:
        raise ValueError(f"expected GTcls.Segmentation (H, W) uint8, found {mask.shape} {mask.dtype}")
    if strange := sorted(set(np.unique(mask).tolist()) - {0, VOID, *voc.MASK_VALUES.values()}):
        raise ValueError(f"expected classes 0 to {len(voc.CLASSES)} in GTcls.Segmentation, found {strange}")
    return np.ascontiguousarray(mask)
