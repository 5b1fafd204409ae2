"""Any VOC-style folder becomes raw.zip as it is; what is missing is told at once, by file, before anything is written."""

import os
from pathlib import Path
from typing import Any

import pytest

from aepsl.data import folder, voc
from aepsl.data.archive import ArchiveReader
from aepsl.errors import AepslError, FaultList

LISTS = "ImageSets/Segmentation"


def write(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def pack(root: Path, out: Path, *, train: str = "train", val: str | None = None, test: str | None = None, labels: str = "xml",
         masks: str | None = None, mask_values: Any = None) -> ArchiveReader:
    folder.pack(out, root, splits={"train": train, "val": val, "test": test}, labels=labels, masks=masks, mask_values=mask_values)
    return ArchiveReader(out)


def test_only_listed_files_are_packed_byte_for_byte_in_order_of_their_ids(tmp_path) -> None:
    root = write(tmp_path / "own", {
        "JPEGImages/b.JPG": b"1", "JPEGImages/a b.c.png": b"2", "JPEGImages/site/ü.jpeg": b"3", "JPEGImages/spare.jpg": b"4",
        "Annotations/b.xml": b"5", "Annotations/a b.c.xml": b"6", "Annotations/site/ü.xml": b"7", "Annotations/spare.xml": b"8",
        f"{LISTS}/train.txt": "b\r\n/JPEGImages/a b.c.png /SegmentationClass/a b.c.png\nsite/ü\n"})
    archive = pack(root, tmp_path / "raw.zip")
    assert archive.names() == ["dataset.json", f"{LISTS}/train.txt", "Annotations/a b.c.xml", "Annotations/b.xml", "Annotations/site/ü.xml",
                               "JPEGImages/a b.c.png", "JPEGImages/b.JPG", "JPEGImages/site/ü.jpeg"]
    assert archive.read("JPEGImages/site/ü.jpeg") == b"3"
    assert archive.read("Annotations/b.xml") == b"5"
    assert archive.read(f"{LISTS}/train.txt").decode() == "b\na b.c\nsite/ü\n"
    assert voc.Description.from_json(archive.read("dataset.json")) == voc.Description("folder", None, None, "xml")


def test_lists_and_label_tables_may_lie_anywhere(tmp_path) -> None:
    write(tmp_path, {"own/JPEGImages/a.jpg": b"", "own/JPEGImages/b.jpg": b"", "own/lists/mine.txt": "a\n", "else/test.txt": "b\n",
                     "else/labels.csv": "id,labels\na,cat\n"})
    archive = pack(tmp_path / "own", tmp_path / "raw.zip", train="lists/mine.txt", test=str(tmp_path / "else/test.txt"),
                   labels=str(tmp_path / "else/labels.csv"))
    assert archive.read("labels.csv") == b"id,labels\na,cat\n"
    assert archive.read(f"{LISTS}/test.txt") == b"b\n"
    assert voc.Description.from_json(archive.read("dataset.json")).labels == "csv"


def masks_of_two_folders(tmp_path: Path) -> Path:
    files: dict[str, bytes | str] = {f"{LISTS}/train.txt": "t\nu\nw\n", f"{LISTS}/val.txt": "v\n", "SegmentationClass/v.png": b"official v",
                                     "SegmentationClass/t.png": b"official t"}
    for name in "tuvw":
        files |= {f"JPEGImages/{name}.jpg": b"", f"Annotations/{name}.xml": b""}
    for name in "tuv":
        files[f"SegmentationClassAug/{name}.png"] = f"more {name}".encode()
    return write(tmp_path / "own", files)


def test_val_is_scored_on_the_official_masks_and_train_may_lack_masks(tmp_path) -> None:
    archive = pack(masks_of_two_folders(tmp_path), tmp_path / "raw.zip", val="val", masks="SegmentationClassAug", mask_values="voc2012")
    assert {name: archive.read(name) for name in archive if name.startswith("Seg")} == {
        "SegmentationClass/t.png": b"more t", "SegmentationClass/u.png": b"more u", "SegmentationClass/v.png": b"official v"}
    assert voc.Description.from_json(archive.read("dataset.json")).mask_values == voc.MASK_VALUES


def test_masks_missing_in_the_named_folder_come_from_the_official_one(tmp_path) -> None:
    root = masks_of_two_folders(tmp_path)
    (root / "SegmentationClassAug").rename(root / "mine")
    (root / "mine/t.png").unlink()
    archive = pack(root, tmp_path / "raw.zip", val="val", masks="mine")
    assert archive.read("SegmentationClass/t.png") == b"official t"
    assert archive.read("SegmentationClass/v.png") == b"more v"


def test_without_masks_none_are_packed(tmp_path) -> None:
    assert not [name for name in pack(masks_of_two_folders(tmp_path), tmp_path / "raw.zip", val="val") if name.startswith("Seg")]


def test_all_missing_files_are_told_at_once_and_nothing_is_written(tmp_path) -> None:
    root = write(tmp_path / "own", {
        "JPEGImages/a.jpg": b"", "JPEGImages/both.jpg": b"", "JPEGImages/both.png": b"", "JPEGImages/e.jpg": b"", "Annotations/e.xml": b"",
        "Annotations/both.xml": b"", "masks/a.png": b"", f"{LISTS}/train.txt": "a\nboth\ngone\n../up\ne.jpg\n", f"{LISTS}/val.txt": "e\n"})
    with pytest.raises(FaultList) as caught:
        pack(root, tmp_path / "raw.zip", val="val", masks="masks")
    told = "\n".join(caught.value.faults)
    for said in ("Annotations/a.xml", "both.jpg, both.png", "JPEGImages/gone.jpg", "'../up'", "the list should say e", "masks/e.png"):
        assert said in told
    assert not (tmp_path / "raw.zip").exists()


@pytest.mark.parametrize(("change", "said"), [
    ({"train": "nowhere"}, "data.folder.train.*there are \\['train', 'val'\\]"), ({"labels": "labels.csv"}, "data.folder.labels"),
    ({"masks": "nowhere"}, "data.folder.masks"), ({"labels": "masks"}, "data.folder.masks"),
])
def test_a_missing_list_table_or_folder_is_named_by_its_parameter(tmp_path, change: dict[str, str], said: str) -> None:
    with pytest.raises(AepslError, match=said):
        pack(masks_of_two_folders(tmp_path), tmp_path / "raw.zip", **change)


@pytest.mark.parametrize(("path", "said"), [("nowhere", "no such folder"), ("own/JPEGImages", "JPEGImages/ missing")])
def test_a_wrong_folder_is_told_as_such(tmp_path, path: str, said: str) -> None:
    (tmp_path / "own/JPEGImages").mkdir(parents=True)
    with pytest.raises(AepslError, match=f"data.path.*{said}"):
        pack(tmp_path / path, tmp_path / "raw.zip")


def test_a_list_that_is_no_text_is_named(tmp_path) -> None:
    root = write(tmp_path / "own", {"JPEGImages/a.jpg": b"", f"{LISTS}/train.txt": b"\xff\xfe\x00"})
    with pytest.raises(AepslError, match=r"train.txt.*UTF-8"):
        pack(root, tmp_path / "raw.zip")


def test_what_is_no_file_is_named_and_not_opened(tmp_path) -> None:
    root = tmp_path / "own"
    (root / "JPEGImages").mkdir(parents=True)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("pipe\nfolder\ndangling\n")
    os.mkfifo(root / "JPEGImages/pipe.jpg")  # reading it would wait for ever
    (root / "JPEGImages/folder.jpg").mkdir()
    (root / "JPEGImages/dangling.jpg").symlink_to("nowhere")
    (root / "labels.csv").write_text("id,labels\n")
    with pytest.raises(FaultList) as caught:
        pack(root, tmp_path / "raw.zip", labels="labels.csv")
    assert [fault.partition(":")[0] for fault in caught.value.faults] == [f"JPEGImages/{name}.jpg" for name in ("dangling", "folder", "pipe")]
    assert not (tmp_path / "raw.zip").exists()


def test_the_home_of_nobody_is_explained(tmp_path) -> None:
    with pytest.raises(AepslError, match=r"data\.path: expected a path, found ~no-such-user/x, and there is no such user"):
        pack(Path("~no-such-user/x"), tmp_path / "raw.zip")
