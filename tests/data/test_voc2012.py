"""PASCAL VOC 2012 from archives in the published form, small ones built here: trainaug, masks of SBD, mirrors, faults."""

import functools
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from scipy.sparse import csc_matrix

from aepsl.data import voc, voc2012
from aepsl.data.archive import ArchiveReader, decode_indices, encode_mask
from aepsl.data.contents import read_contents
from aepsl.data.index import read_index
from aepsl.data.prepare import prepare
from aepsl.errors import AepslError, FaultList

KIT, SETS = "VOCdevkit/VOC2012", "VOCdevkit/VOC2012/ImageSets/Segmentation"
SIZE = (5, 4)  # width, height
CLASS = {1: 1, 2: 2, 3: 3, 4: 4, 8: 1, 9: 2}  # number of the class in image 2007_<key>


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", SIZE, (9, 9, 9)).save(buffer, "JPEG")
    return buffer.getvalue()


def class_mask(value: int) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], np.uint8)
    mask[1:3] = value
    return mask


def mat(mask: Any, *, name: str = "GTcls", compressed: bool = True) -> bytes:
    """As SBD stores a mask: a struct with Boundaries (a cell of one sparse matrix per class), Segmentation, CategoriesPresent."""
    present = np.setdiff1d(mask, 0)
    boundaries = np.empty((20, 1), object)
    for number in range(1, 21):
        boundaries[number - 1, 0] = csc_matrix(np.atleast_2d(np.equal(mask, number)).astype(float)) if np.ndim(mask) < 3 else 0
    buffer = io.BytesIO()
    savemat(buffer, {name: {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": present[:, None]}}, do_compression=compressed)
    return buffer.getvalue()


def trainval() -> dict[str, bytes]:
    """VOC: train 1 and 2, val 8 and 9; further images 3 and 4 that only SBD lists. Classes: see CLASS."""
    files = {f"{SETS}/train.txt": b"2007_1\n2007_2\n", f"{SETS}/val.txt": b"2007_8\n2007_9\n"}
    for number in CLASS:
        files[f"{KIT}/JPEGImages/2007_{number}.jpg"] = jpeg()
        files[f"{KIT}/Annotations/2007_{number}.xml"] = voc.format_annotation("", *SIZE, [(voc.CLASSES[CLASS[number] - 1], (1, 1, 2, 2))])
    return files | {f"{KIT}/SegmentationClass/2007_{number}.png": encode_mask(class_mask(CLASS[number])) for number in (1, 2, 8, 9)}


@functools.cache
def sbd() -> dict[str, bytes]:
    """SBD: train 2, 3 and 9, val 4 and 8; its masks say 20 (tvmonitor) everywhere, to be told from VOC's."""
    root = "benchmark_RELEASE/dataset"
    lists = {f"{root}/train.txt": b"2007_2\n2007_3\n2007_9\n", f"{root}/val.txt": b"2007_4\n2007_8\n"}
    unread = {f"{root}/inst/2007_3.mat": mat(class_mask(7), name="GTinst"), f"{root}/img/2007_3.jpg": b"", f"{root}/cls/README": b""}
    return lists | unread | {f"{root}/cls/2007_{number}.mat": mat(class_mask(20), compressed=number % 2 == 0) for number in (2, 3, 4, 8, 9)}


def tar(path: Path, files: dict[str, bytes], mode: Any) -> str:
    with tarfile.open(path, mode) as archive:
        folder = tarfile.TarInfo("VOCdevkit")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        link = tarfile.TarInfo(f"{KIT}/JPEGImages/2007_5.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def archives(tmp_path: Path) -> voc2012.Archives:
    """Small archives on a mirror, by file address."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    test = {f"{SETS}/test.txt": b"2008_1\n", f"{KIT}/JPEGImages/2008_1.jpg": jpeg()}

    def publish(name: str, files: dict[str, bytes], mode: str) -> voc2012.Published:
        md5 = tar(mirror / name, files, mode)
        return voc2012.Published(name, ("http://127.0.0.1:1/dead", (mirror / name).as_uri()), md5, (mirror / name).stat().st_size)

    return voc2012.Archives(trainval=publish("VOCtrainval_11-May-2012.tar", trainval(), "w"), test=publish("VOC2012test.tar", test, "w"),
                            sbd=publish("benchmark.tgz", sbd(), "w:gz"))


def pack(folder: Path, archives: voc2012.Archives, *, path: Path | None = None, train: Any = "trainaug", labels: Any = "xml",
         test: bool = False, mirrors: dict[str, list[str]] | None = None) -> tuple[ArchiveReader, dict[str, int]]:
    images = voc2012.pack(folder / "raw.zip", path, cache=folder / "cache", train=train, labels=labels, test=test, mirrors=mirrors or {},
                          archives=archives)
    return ArchiveReader(folder / "raw.zip"), images


def test_trainaug_is_voc_train_and_sbd_without_voc_val(tmp_path: Path, archives: voc2012.Archives) -> None:
    raw, images = pack(tmp_path, archives)
    assert images == {"train": 4, "val": 2}
    lists = {split: voc.parse_list(raw.read(f"ImageSets/Segmentation/{split}.txt").decode()) for split in ("train", "val")}
    assert lists == {"train": ["2007_1", "2007_2", "2007_3", "2007_4"], "val": ["2007_8", "2007_9"]}


def test_masks_are_vocs_own_where_there_is_one_and_sbds_elsewhere(tmp_path: Path, archives: voc2012.Archives) -> None:
    raw, _ = pack(tmp_path, archives)
    for number, value in ((1, 1), (2, 2), (3, 20), (4, 20), (8, 1), (9, 2)):
        assert np.array_equal(decode_indices(raw.read(f"SegmentationClass/2007_{number}.png")), class_mask(value))


def test_vocs_own_train_needs_no_sbd(tmp_path: Path, archives: voc2012.Archives) -> None:
    raw, images = pack(tmp_path, archives, train="train")
    assert images == {"train": 2, "val": 2}
    assert "JPEGImages/2007_3.jpg" not in raw
    assert [file.name for file in (tmp_path / "cache").iterdir()] == ["VOCtrainval_11-May-2012.tar"]


def test_the_test_images_come_without_labels_and_masks(tmp_path: Path, archives: voc2012.Archives) -> None:
    raw, images = pack(tmp_path, archives, test=True)
    assert images["test"] == 1
    assert [name for name in raw if "2008_1" in name] == ["JPEGImages/2008_1.jpg"]


@pytest.mark.parametrize(("labels", "classes", "train"), [
    ("xml", ["aeroplane", "bicycle", "bird", "boat"], [1, 1, 1, 1]), ("masks", ["bicycle", "aeroplane", "tvmonitor"], [1, 1, 2])])
def test_prepare_takes_it_with_labels_of_either_kind(tmp_path: Path, archives: voc2012.Archives, labels: str, classes: list[str],
                                                     train: list[int]) -> None:
    pack(tmp_path, archives, labels=labels, test=True)
    metrics = prepare(tmp_path / "raw.zip", classes=classes, unlisted="leave-out", images=tmp_path / "images.zip",
                      truth=tmp_path / "truth.zip", index=tmp_path / "index.csv", mean_pixel=tmp_path / "mean_pixel.json")
    assert metrics["images"] == {"train": 4, "val": 2, "test": 1}
    assert metrics["masks"] == {"train": 4, "val": 2}
    assert list(metrics["train_images_per_class"].values()) == train
    truth = decode_indices(ArchiveReader(tmp_path / "truth.zip").read("2007_4.png"))
    assert np.array_equal(truth, class_mask(classes.index("tvmonitor") + 1 if labels == "masks" else 255))
    assert not read_index(tmp_path / "index.csv").split("test").labels.any()


def test_equal_archives_give_equal_bytes(tmp_path: Path, archives: voc2012.Archives) -> None:
    for name in ("1", "2"):
        pack(tmp_path / name, archives)
    assert (tmp_path / "1/raw.zip").read_bytes() == (tmp_path / "2/raw.zip").read_bytes()


def test_archives_that_the_user_has_are_not_downloaded(tmp_path: Path, archives: voc2012.Archives) -> None:
    own = tmp_path / "own"
    (tmp_path / "mirror").rename(own)
    _, images = pack(tmp_path, archives, path=own)
    assert images["train"] == 4
    assert not (tmp_path / "cache").exists()


def test_an_own_archive_with_a_wrong_checksum_is_refused(tmp_path: Path, archives: voc2012.Archives) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/benchmark.tgz").write_bytes(b"half of it")
    with pytest.raises(AepslError, match=r"own/benchmark.tgz: expected md5"):
        pack(tmp_path, archives, path=tmp_path / "own")


def test_mirrors_of_the_user_come_first_and_their_names_are_checked(tmp_path: Path, archives: voc2012.Archives) -> None:
    (tmp_path / "mirror").rename(tmp_path / "elsewhere")
    with pytest.raises(AepslError, match="no address that gives the right file"):
        pack(tmp_path, archives)
    mirrors = {archive.name: [(tmp_path / "elsewhere" / archive.name).as_uri()] for archive in (archives.trainval, archives.sbd)}
    assert pack(tmp_path, archives, mirrors=mirrors)[1]["train"] == 4
    with pytest.raises(AepslError, match=r"data.voc2012.mirrors.*VOC.tar"):
        pack(tmp_path, archives, mirrors={"VOC.tar": []})


def rebuilt(archives: voc2012.Archives, folder: Path, which: str, files: dict[str, bytes], mode: str) -> voc2012.Archives:
    old = getattr(archives, which)
    md5 = tar(folder / "mirror" / old.name, files, mode)
    new = voc2012.Published(old.name, old.urls, md5, (folder / "mirror" / old.name).stat().st_size)
    return voc2012.Archives(**{key: new if key == which else getattr(archives, key) for key in ("trainval", "test", "sbd")})


def test_members_that_the_lists_name_and_the_archives_lack_are_told_at_once(tmp_path: Path, archives: voc2012.Archives) -> None:
    lost = f"{KIT}/JPEGImages/2007_3.jpg", f"{KIT}/Annotations/2007_9.xml"
    files = {name: content for name, content in trainval().items() if name not in lost}
    with pytest.raises(FaultList) as caught:
        pack(tmp_path, rebuilt(archives, tmp_path, "trainval", files, "w"))
    assert len(caught.value.faults) == 2
    assert not (tmp_path / "raw.zip").exists()


def test_masks_that_the_lists_of_sbd_name_and_the_archive_lacks_are_told(tmp_path: Path, archives: voc2012.Archives) -> None:
    files = {name: content for name, content in sbd().items() if not name.endswith("2007_4.mat")}
    with pytest.raises(FaultList, match=r"cls/2007_4.mat"):
        pack(tmp_path, rebuilt(archives, tmp_path, "sbd", files, "w:gz"))


def test_a_link_in_an_archive_is_no_file(tmp_path: Path, archives: voc2012.Archives) -> None:
    files = trainval() | {f"{SETS}/train.txt": b"2007_1\n2007_5\n"}
    with pytest.raises(FaultList, match=r"JPEGImages/2007_5.jpg, found none"):
        pack(tmp_path, rebuilt(archives, tmp_path, "trainval", files, "w"), train="train")


@pytest.mark.parametrize(("which", "files", "mode"), [("trainval", {"other/file": b""}, "w"), ("sbd", {"other/file": b""}, "w:gz"),
                                                      ("trainval", trainval(), "w:gz")])
def test_an_archive_of_something_else_is_named(tmp_path: Path, archives: voc2012.Archives, which: str, files: dict[str, bytes],
                                               mode: str) -> None:
    with pytest.raises(AepslError, match=getattr(archives, which).name):
        pack(tmp_path, rebuilt(archives, tmp_path, which, files, mode))


def test_the_archives_are_those_that_are_published() -> None:
    published = voc2012.Archives()
    oxford, file = "host.robots.ox.ac.uk/pascal/VOC/voc2012/", "VOCtrainval_11-May-2012.tar"
    assert published.trainval == voc2012.Published(
        file, (f"https://{oxford}{file}", f"https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/{file}", f"https://pjreddie.com/media/files/{file}",
               f"http://{oxford}{file}"), "6cd6e144f989b92b3379bac3b3de84fd", 1999639040)
    assert published.test == voc2012.Published(
        "VOC2012test.tar", ("https://pjreddie.com/media/files/VOC2012test.tar", "http://pjreddie.com/media/files/VOC2012test.tar"),
        "9065beb292b6c291fad82b2725749fda", 1850626560)
    assert published.sbd == voc2012.Published(
        "benchmark.tgz", ("https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",),
        "82b4d87ceb2ed10f6038a1cba92111cb", 1419539633)


def test_addresses_without_tls_come_last_and_never_without_a_whole_checksum() -> None:
    for archive in vars(voc2012.Archives()).values():
        secured = [url.startswith("https://") for url in archive.urls]
        assert secured == sorted(secured, reverse=True)
        assert secured[0]
        assert len(bytes.fromhex(archive.md5)) == 16


# ---- hostile archives


@pytest.mark.parametrize("own", [True, False], ids=["own", "downloaded"])
@pytest.mark.parametrize("which", ["trainval", "sbd", "test"])
def test_no_archive_is_opened_before_all_checksums_are_right(tmp_path: Path, archives: voc2012.Archives, which: str, own: bool,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    name = getattr(archives, which).name
    folder = tmp_path / "mirror"
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)

    def opened(*_: object) -> None:
        raise AssertionError("opened before it was checked")

    monkeypatch.setattr(voc2012, "TarFiles", opened)
    with pytest.raises(AepslError, match=f"{name}: expected (md5|to download it)"):
        pack(tmp_path, archives, test=True, path=folder if own else None)
    assert not (tmp_path / "raw.zip").exists()


@pytest.mark.parametrize(("line", "said"), [(b"../../evil", "'..'"), (b"/etc/passwd", "leading '/'"), (b"a\x00b", "control"), (b"\xff", "UTF-8")])
@pytest.mark.parametrize("which", ["trainval", "sbd"])
def test_a_list_that_names_no_ids_is_refused(tmp_path: Path, archives: voc2012.Archives, which: str, line: bytes, said: str) -> None:
    name, files, mode = ((f"{SETS}/train.txt", trainval(), "w") if which == "trainval" else
                         ("benchmark_RELEASE/dataset/val.txt", sbd(), "w:gz"))
    with pytest.raises(AepslError, match=r"(train|val)\.txt: ") as caught:
        pack(tmp_path, rebuilt(archives, tmp_path, which, files | {name: files[name] + line + b"\n"}, mode))
    assert said in str(caught.value)


@pytest.mark.parametrize("evil", ["VOCdevkit/VOC2012/../../../evil.txt", "/VOCdevkit/VOC2012/JPEGImages/2007_1.jpg",
                                  "../VOCdevkit/VOC2012/SegmentationClass/2007_3.png"])
def test_a_name_that_leads_elsewhere_is_as_good_as_absent(tmp_path: Path, archives: voc2012.Archives, evil: str) -> None:
    before = {file for file in tmp_path.parent.rglob("*") if tmp_path not in file.parents}
    raw, images = pack(tmp_path, rebuilt(archives, tmp_path, "trainval", {evil: b"evil"} | trainval(), "w"))
    assert images == {"train": 4, "val": 2}
    assert not any(raw.read(name) == b"evil" for name in raw)
    assert {file for file in tmp_path.parent.rglob("*") if tmp_path not in file.parents} == before
    assert {file.name for file in tmp_path.iterdir()} == {"mirror", "cache", "raw.zip"}


def test_masks_beyond_all_measure_are_refused(tmp_path: Path, archives: voc2012.Archives, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voc2012, "LARGEST_SUPPLEMENT", 1000)
    with pytest.raises(AepslError, match=r"benchmark\.tgz: expected masks of at most"):
        pack(tmp_path, archives)


# ---- the masks of SBD


TWO_CLASSES = np.array([[0, 5, 5, 0], [0, 5, 12, 12], [0, 0, 12, 255]], np.uint8)


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "plain"])
@pytest.mark.parametrize("mask", [TWO_CLASSES, TWO_CLASSES[:1], TWO_CLASSES[:, :1], np.zeros((2, 2), np.uint8)], ids=["two", "row", "column", "none"])
def test_a_mask_of_sbd_is_read_as_it_was_stored(mask: np.ndarray, compressed: bool) -> None:
    found = voc2012.read_sbd_mask(mat(mask, compressed=compressed))
    assert found.dtype == np.uint8
    assert np.array_equal(found, mask)


V73 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n" + bytes(400)


@pytest.mark.parametrize(("data", "said"), [
    (V73, r"expected a MAT-file of version 5, found one of version 7\.3 \(HDF5\); save it with -v7"),
    (V73[512:], r"version 7\.3"),
    (V73[:512], "expected a complete MAT-file of version 5, found a damaged or foreign one"),
    (b"", "found a damaged or foreign one"),
    (b"<html>not found</html>" * 20, "found a damaged or foreign one"),
    (mat(TWO_CLASSES, name="GTinst"), "expected a struct GTcls with a field Segmentation, found none"),
    (mat(TWO_CLASSES.astype(float)), r"expected GTcls\.Segmentation \(H, W\) uint8, found \(3, 4\) float64"),
    (mat(np.zeros((2, 3, 4), np.uint8)), r"uint8, found \(2, 3, 4\) uint8"),
    (mat(TWO_CLASSES + 9), r"expected classes 0 to 20 in GTcls\.Segmentation, found \[21\]")],
    ids=["v7.3", "HDF5", "header alone", "empty", "web page", "GTinst", "float", "three axes", "values"])
def test_another_file_in_place_of_a_mask_is_explained(data: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        voc2012.read_sbd_mask(data)


def test_a_struct_without_a_mask_is_explained() -> None:
    buffer = io.BytesIO()
    savemat(buffer, {"GTcls": TWO_CLASSES})
    with pytest.raises(ValueError, match="expected a struct GTcls"):
        voc2012.read_sbd_mask(buffer.getvalue())


@pytest.mark.parametrize("compressed", [True, False], ids=["compressed", "plain"])
def test_a_mask_cut_off_anywhere_is_explained(compressed: bool) -> None:
    data = mat(TWO_CLASSES, compressed=compressed)
    for length in range(0, len(data), len(data) // 40):
        with pytest.raises(ValueError, match="^expected a "):
            voc2012.read_sbd_mask(data[:length])


def test_all_masks_of_sbd_that_cannot_be_read_are_named_and_nothing_is_left(tmp_path: Path, archives: voc2012.Archives) -> None:
    root = "benchmark_RELEASE/dataset/cls"
    files = sbd() | {f"{root}/2007_3.mat": V73, f"{root}/2007_4.mat": mat(class_mask(20))[:200], f"{root}/2007_9.mat": b"of val, not needed"}
    with pytest.raises(FaultList, match=r"benchmark\.tgz: 2 mask\(s\) cannot be read") as caught:
        pack(tmp_path, rebuilt(archives, tmp_path, "sbd", files, "w:gz"))
    assert [fault.partition(": ")[0] for fault in caught.value.faults] == ["dataset/cls/2007_3.mat", "dataset/cls/2007_4.mat"]
    assert not (tmp_path / "raw.zip").exists()


def test_annotations_may_name_more_than_the_masks_show(tmp_path: Path, archives: voc2012.Archives) -> None:
    """Image 3, a mask of SBD: dog and bottle in the mask, with a void pixel; its annotation names a chair too."""
    mask = np.array([[0, 5, 5, 0, 0], [0, 5, 12, 12, 0], [0, 0, 12, 255, 0], [0] * 5], np.uint8)
    objects = [(name, (1, 1, 2, 2)) for name in ("dog", "bottle", "chair", "chair")]
    archives = rebuilt(archives, tmp_path, "trainval", trainval() | {f"{KIT}/Annotations/2007_3.xml": voc.format_annotation("", *SIZE, objects)}, "w")
    archives = rebuilt(archives, tmp_path, "sbd", sbd() | {"benchmark_RELEASE/dataset/cls/2007_3.mat": mat(mask)}, "w:gz")
    for labels, expected in (("xml", ["bottle", "chair", "dog"]), ("masks", ["bottle", "dog"])):
        pack(tmp_path / labels, archives, labels=labels)
        found = read_contents(ArchiveReader(tmp_path / labels / "raw.zip"), lambda entries: [
            np.unique(decode_indices(ArchiveReader(tmp_path / labels / "raw.zip").read(entry))).tolist() for entry in entries])
        assert found.faults == []
        assert sorted(set(found.labels["2007_3"] or ())) == expected
        assert found.labels["2007_1"] == ["aeroplane"]  # a mask of VOC's own, and its annotation
