"""PASCAL VOC 2012 as raw.zip, read from the archives as they are published; nothing is unpacked to disk.

"trainaug" is built here: VOC's train and SBD's train and val lists together, without VOC's val: 10,582 ids. Images and annotations
are VOC's; masks are VOC's own where there is one, and SBD's, converted, elsewhere. Val keeps the official masks.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import numpy as np

from aepsl.data import voc
from aepsl.data.archive import VOID, ArchiveWriter, encode_mask
from aepsl.data.download import checksum_fault, fetch
from aepsl.data.mat import read_mask_field
from aepsl.data.tarball import TarFiles
from aepsl.errors import AepslError, FaultList
from aepsl.progress import progress

LARGEST_SUPPLEMENT = 4 << 30  # bytes of SBD's masks, which are held in memory


@dataclass(frozen=True)
class Published:
    """An archive, where it is to be had, its checksum and its size in bytes."""

    name: str
    urls: tuple[str, ...]
    md5: str
    size: int


@dataclass(frozen=True)
class Archives:
    """The archives of the data set; tests put small ones in their place. An address without TLS is the last resort: the MD5 is checked."""

    trainval: Published = Published(
        "VOCtrainval_11-May-2012.tar",
        ("https://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
         "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
         "https://pjreddie.com/media/files/VOCtrainval_11-May-2012.tar",
         "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"), "6cd6e144f989b92b3379bac3b3de84fd", 1_999_639_040)
    test: Published = Published(  # the official one needs a login
        "VOC2012test.tar", ("https://pjreddie.com/media/files/VOC2012test.tar", "http://pjreddie.com/media/files/VOC2012test.tar"),
        "9065beb292b6c291fad82b2725749fda", 1_850_626_560)
    sbd: Published = Published(
        "benchmark.tgz", ("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
        "82b4d87ceb2ed10f6038a1cba92111cb", 1_419_539_633)


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
    return fetch([*mirrors, *archive.urls], cache / archive.name, md5=archive.md5, size=archive.size)


class _Devkit:
    """A VOC tar, read by member: ``members`` are named from VOCdevkit/VOC2012/ on."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._tar = TarFiles(file, "VOC2012")
        self.members = dict(self._tar)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.__exit__()

    def read(self, name: str) -> bytes:
        if name not in self.members:
            raise AepslError(f"{self.file}: expected a member VOCdevkit/VOC2012/{name}, found none; is it the archive of VOC 2012?")
        return self._tar.read(self.members[name])

    def split(self, name: str) -> list[str]:
        return _ids(self.read(f"{voc.LISTS}/{name}.txt"), f"{self.file}: {voc.LISTS}/{name}.txt")


def _ids(content: bytes, source: str) -> list[str]:
    """The ids of a list, which become names of files in raw.zip."""
    try:
        ids = voc.parse_list(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise AepslError(f"{source}: expected UTF-8, found {error}; fetch the archive again") from None
    if faults := [fault for identifier in ids if (fault := voc.id_fault(identifier))]:
        raise FaultList(f"{source}: {len(faults)} line(s) are no ids; fetch the archive again", faults)
    return ids


def _read_sbd(file: Path) -> tuple[list[str], dict[str, bytes]]:
    """The ids of SBD's train and val lists, and the .mat file of every id. A .tgz can only be read from front to back."""
    lists: dict[str, list[str]] = {}
    masks: dict[str, bytes] = {}
    held = 0
    with TarFiles(file, "dataset") as tar:
        for name, entry in progress(tar, total=0, label="read SBD", unit="file"):
            if name in ("train.txt", "val.txt"):
                lists[name] = _ids(tar.read(entry), f"{file}: dataset/{name}")
            elif name.startswith("cls/") and name.endswith(".mat"):
                masks[voc.stem(name.removeprefix("cls/"))] = content = tar.read(entry)
                if (held := held + len(content)) > LARGEST_SUPPLEMENT:
                    raise AepslError(f"{file}: expected masks of at most {LARGEST_SUPPLEMENT >> 30} GiB, found more; is it SBD's benchmark.tgz?")
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
    mask = read_mask_field(data, "GTcls", "Segmentation")
    if strange := sorted(set(np.unique(mask).tolist()) - {0, VOID, *voc.MASK_VALUES.values()}):
        raise ValueError(f"expected classes 0 to {len(voc.CLASSES)} in GTcls.Segmentation, found {strange}")
    return mask
