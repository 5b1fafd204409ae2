"""Checking raw.zip: every fault at once and by file, nothing written; sound data give images, truth, index and mean pixel."""

import io
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aepsl.data import shapes, voc
from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_image, decode_indices, encode_mask
from aepsl.data.index import read_index
from aepsl.data.prepare import prepare
from aepsl.errors import AepslError, FaultList

Files = dict[str, bytes | str | None]


def jpeg(value: int = 90, width: int = 8, height: int = 6, *, mode: str = "RGB", kind: str = "JPEG", orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new(mode, (width, height), value if mode != "RGB" else (value, value, value)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def mask(*values: int, width: int = 8, height: int = 6) -> bytes:
    return encode_mask(np.resize(np.array(values, np.uint8), (height, width)))


def xml(*names: str) -> bytes:
    return voc.format_annotation("x.jpg", 8, 6, [(name, (1, 1, 2, 2)) for name in names])


def sound() -> Files:
    """Two training images, one of val and one of test; classes cat and dog."""
    return {"ImageSets/Segmentation/train.txt": "b\na.x\n", "ImageSets/Segmentation/val.txt": "v 1\n",
            "ImageSets/Segmentation/test.txt": "t\n", "JPEGImages/t.jpg": jpeg(),
            "JPEGImages/a.x.PNG": jpeg(10, kind="PNG"), "JPEGImages/b.JPG": jpeg(90, 4, 2), "JPEGImages/v 1.jpeg": jpeg(),
            "Annotations/a.x.xml": xml("cat"), "Annotations/b.xml": xml("dog", "cat", "dog"), "Annotations/v 1.xml": xml("dog"),
            "SegmentationClass/b.png": mask(0, 1, 2, 255, width=4, height=2), "SegmentationClass/v 1.png": mask(0, 2)}


def make(folder: Path, files: Files, **description: Any) -> Path:
    raw = folder / "raw.zip"
    fields: dict[str, Any] = {"source": "folder", "classes": None, "mask_values": None, "labels": "xml"} | description
    with ArchiveWriter(raw) as archive:
        archive.add("dataset.json", voc.Description(**fields).to_json())
        for name, content in files.items():
            if content is not None:
                archive.add(name, content.encode() if isinstance(content, str) else content)
    return raw


def run(folder: Path, raw: Path, classes: list[str] | None = None, unlisted: Any = "error") -> dict[str, Any]:
    return prepare(raw, classes=classes, unlisted=unlisted, images=folder / "out/images.zip", truth=folder / "out/truth.zip",
                   index=folder / "out/index.csv", mean_pixel=folder / "out/mean_pixel.json")


def faults(folder: Path, files: Files, classes: list[str] | None = None, unlisted: str = "error", **description: Any) -> str:
    with pytest.raises(FaultList) as caught:
        run(folder, make(folder, files, **description), classes, unlisted)
    assert not (folder / "out").exists()
    return "\n".join(caught.value.faults)


def test_sound_data_give_index_images_truth_mean_and_counts(tmp_path) -> None:
    files = sound()
    metrics = run(tmp_path, make(tmp_path, files))
    index = read_index(tmp_path / "out/index.csv")
    assert index.classes == ("cat", "dog")
    assert index.ids == ("a.x", "b", "t", "v 1")
    assert index.splits == ("train", "train", "test", "val")
    assert index.sizes.tolist() == [[8, 6], [4, 2], [8, 6], [8, 6]]
    assert index.labels.tolist() == [[True, False], [True, True], [False, False], [False, True]]
    images = ArchiveReader(tmp_path / "out/images.zip")
    assert images.names() == ["a.x.png", "b.jpg", "t.jpg", "v 1.jpg"]
    assert images.read("b.jpg") == files["JPEGImages/b.JPG"]
    truth = ArchiveReader(tmp_path / "out/truth.zip")
    assert truth.names() == ["b.png", "v 1.png"]
    assert decode_indices(truth.read("b.png")).tolist() == [[0, 1, 2, 255]] * 2
    mean = [(48 * 10 + 8 * 90) / 56] * 3  # every pixel counts the same, not every image
    assert json.loads((tmp_path / "out/mean_pixel.json").read_text()) == {"mean_pixel": pytest.approx(mean)}
    assert metrics == {"classes": 2, "images": {"train": 2, "val": 1, "test": 1}, "left_out": 0, "masks": {"train": 1, "val": 1},
                       "train_images_per_class": {"cat": 2, "dog": 1}, "mean_pixel": pytest.approx(mean)}


def test_the_order_of_the_classes_numbers_the_masks(tmp_path) -> None:
    run(tmp_path, make(tmp_path, sound(), mask_values={"cat": 7, "dog": 1, "yak": 2}), ["dog", "cat"], "leave-out")
    truth = ArchiveReader(tmp_path / "out/truth.zip")
    assert decode_indices(truth.read("b.png"))[0].tolist() == [0, 1, 255, 255]  # value 2 is a yak, which is not listed


def test_unlisted_classes_are_faults_or_left_out(tmp_path) -> None:
    told = faults(tmp_path, sound(), ["cat"], mask_values={"cat": 1, "dog": 2})
    assert "class 'dog' is not in data.classes but in 2 image(s), such as 'b'" in told
    assert "class 'dog' (2) is not in data.classes but in 2 mask(s)" in told
    files = sound() | {"ImageSets/Segmentation/val.txt": "v 1\nw\n", "JPEGImages/w.jpg": jpeg(), "Annotations/w.xml": xml("cat", "dog"),
                       "SegmentationClass/w.png": mask(1, 2, 0)}
    metrics = run(tmp_path, make(tmp_path, files, mask_values={"cat": 1, "dog": 2}), ["cat"], "leave-out")
    assert metrics["left_out"] == 1
    assert metrics["images"] == {"train": 2, "val": 1, "test": 1}
    index = read_index(tmp_path / "out/index.csv")
    assert index.ids == ("a.x", "b", "t", "w")
    assert index.labels.tolist() == [[True], [True], [False], [True]]
    truth = ArchiveReader(tmp_path / "out/truth.zip")
    assert truth.names() == ["b.png", "w.png"]
    assert decode_indices(truth.read("w.png"))[0, :3].tolist() == [1, 255, 0]


def test_without_masks_the_truth_is_empty(tmp_path) -> None:
    files = {name: content for name, content in sound().items() if not name.startswith("Seg")}
    assert run(tmp_path, make(tmp_path, files))["masks"] == {"train": 0, "val": 0}
    assert ArchiveReader(tmp_path / "out/truth.zip").names() == []


def test_val_is_optional_and_so_are_masks_of_train(tmp_path) -> None:
    assert run(tmp_path, make(tmp_path, sound() | {"ImageSets/Segmentation/val.txt": None}))["images"]["val"] == 0


def test_labels_from_a_table(tmp_path) -> None:
    files = {name: content for name, content in sound().items() if not name.startswith("Ann")}
    table = "id,labels\nb,dog;cat\na.x,cat\nv 1,dog\nnot listed,cow\n"
    run(tmp_path, make(tmp_path, files | {"labels.csv": table}, labels="csv"))
    assert read_index(tmp_path / "out/index.csv").classes == ("cat", "dog")  # names of images in no split do not count
    assert "labels.csv: expected a line for every image of train and val, found none for 'v 1'" in faults(
        tmp_path / "2", files | {"labels.csv": table.replace("v 1", "v")}, labels="csv")
    assert "labels.csv: line 1" in faults(tmp_path / "3", files | {"labels.csv": ""}, labels="csv")


def test_labels_from_masks(tmp_path) -> None:
    files = sound() | {"SegmentationClass/a.x.png": mask(0, 1), "Annotations/b.xml": None}
    run(tmp_path, make(tmp_path, files, labels="masks", mask_values={"cat": 2, "dog": 1}))
    index = read_index(tmp_path / "out/index.csv")
    assert index.classes == ("cat", "dog")
    assert index.labels.tolist() == [[False, True], [True, True], [False, False], [True, False]]
    told = faults(tmp_path / "2", sound(), labels="masks", mask_values={"cat": 2, "dog": 1})
    assert "a.x.png: expected the mask that gives the labels" in told
    with pytest.raises(AepslError, match="mask_values"):
        run(tmp_path, make(tmp_path, files, labels="masks"))


def test_classes_come_from_the_parameter_then_the_data_set_then_the_labels(tmp_path) -> None:
    for classes, described, expected in ((["dog", "cat"], ["cat", "dog"], ("dog", "cat")), (None, ["dog", "cat"], ("dog", "cat")),
                                         (None, None, ("cat", "dog"))):
        run(tmp_path, make(tmp_path, sound(), classes=described), classes)
        assert read_index(tmp_path / "out/index.csv").classes == expected


TRUNCATED = jpeg(200, 64, 64)[:-40]


@pytest.mark.parametrize(("change", "said"), [
    ({"JPEGImages/b.JPG": TRUNCATED}, "JPEGImages/b.JPG: expected a complete JPEG or PNG"),
    ({"JPEGImages/b.JPG": b"text"}, "JPEGImages/b.JPG: expected a complete JPEG or PNG, found a file of another kind"),
    ({"JPEGImages/b.JPG": b""}, "JPEGImages/b.JPG"),
    ({"JPEGImages/b.JPG": jpeg(1, 4, 2, mode="I;16", kind="PNG")}, "JPEGImages/b.JPG.*8 bits per channel"),
    ({"JPEGImages/b.JPG": None}, "JPEGImages/b.jpg: expected an image of train, found no such file"),
    ({"JPEGImages/b.png": jpeg(1, 4, 2, kind="PNG")}, "JPEGImages/b.*too; keep one"),
    ({"JPEGImages/t.jpg": TRUNCATED}, "JPEGImages/t.jpg: expected a complete"),
    ({"Annotations/b.xml": None}, "Annotations/b.xml: expected the labels"),
    ({"Annotations/b.xml": "<annotation>"}, "Annotations/b.xml: expected VOC annotation XML"),
    ({"Annotations/b.xml": '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>'}, "Annotations/b.xml.*DOCTYPE"),
    ({"Annotations/b.xml": xml()}, "labels of 'b' .train.: expected at least one class"),
    ({"SegmentationClass/b.png": mask(0, 1, width=2, height=4)}, "Class/b.png: expected the size of its image, 4×2, found 2×4$"),
    ({"SegmentationClass/b.png": mask(0, 9, 3, width=4, height=2)}, r"b.png: expected values out of \[0, 1, 2, 255\], found \[3, 9\]"),
    ({"SegmentationClass/b.png": jpeg(1, 4, 2, kind="PNG")}, "SegmentationClass/b.png: expected a complete palette or grey PNG.*mode RGB"),
    ({"SegmentationClass/b.png": mask(1, width=4, height=2)[:-30]}, "SegmentationClass/b.png: expected a complete"),
    ({"SegmentationClass/v 1.png": None}, "SegmentationClass/v 1.png: expected the mask of an image of val"),
    ({"ImageSets/Segmentation/train.txt": None}, "train.txt: expected the list"),
    ({"ImageSets/Segmentation/val.txt": "\n"}, "val.txt: expected at least one id"),
    ({"ImageSets/Segmentation/val.txt": "v 1\nb\n"}, "val.txt: id 'b' is in the list of train too"),
    ({"ImageSets/Segmentation/val.txt": "v 1\nv 1\n"}, "val.txt: id 'v 1' is listed 2 times"),
    ({"ImageSets/Segmentation/val.txt": "v 1\n../v\n/v\nv\x07\n"}, r"(?s)'\.\./v'.*'/v'.*'v\\x07'"),
    ({"ImageSets/Segmentation/train.txt": "a.x\n"}, "class 'dog' has no training image"),
])
def test_a_fault_is_named_by_its_file_and_nothing_is_written(tmp_path, change: Files, said: str) -> None:
    told = faults(tmp_path, sound() | change)
    assert re.search(said, told, re.MULTILINE), told


@pytest.mark.parametrize(("classes", "said"), [
    (["cat", "dog", "cat"], "class 'cat' is named 2 times"), (["cat", "dog", "background"], "'background' is a reserved name"),
    (["cat", "dog", "id"], "'id' is a reserved name"), (["cat", "dog", "Dog"], "class 'Dog' has no training image"),
    (["cat", "dog", "a\nb"], "expected a printable name"), (["cat", " dog"], "expected a printable name"),
])
def test_unfit_class_names_are_faults(tmp_path, classes: list[str], said: str) -> None:
    assert said in faults(tmp_path, sound(), classes)


def test_mask_values_must_name_every_class_and_differ(tmp_path) -> None:
    assert "found none for dog" in faults(tmp_path / "1", sound(), mask_values={"cat": 1, "yak": 2}, unlisted="leave-out")
    assert "found 1 2 times" in faults(tmp_path / "2", sound(), mask_values={"cat": 1, "dog": 1, "yak": 2})


def test_all_faults_are_told_at_once(tmp_path) -> None:
    change: Files = {"JPEGImages/b.JPG": TRUNCATED, "Annotations/a.x.xml": None, "SegmentationClass/v 1.png": mask(77)}
    told = faults(tmp_path, sound() | change, ["dog", "dog"])
    for said in ("b.JPG", "a.x.xml", "v 1.png", "'dog' is named 2 times", "'cat' is not in data.classes"):
        assert said in told


def test_a_split_of_which_everything_is_left_out_is_a_fault(tmp_path) -> None:
    assert "split val: expected at least one image" in faults(tmp_path, sound(), ["cat"], "leave-out", mask_values={"cat": 1, "dog": 2})


def test_exif_orientation_matters_only_where_the_sizes_differ(tmp_path) -> None:
    turned: Files = {"JPEGImages/b.JPG": jpeg(90, 4, 2, orientation=6)}
    run(tmp_path / "1", make(tmp_path / "1", sound() | turned))
    assert "EXIF orientation is 6" in faults(tmp_path / "2", sound() | turned | {"SegmentationClass/b.png": mask(1, width=2, height=4)})


def test_a_missing_or_strange_archive_is_one_clear_error(tmp_path) -> None:
    with pytest.raises(AepslError, match="no such file"):
        run(tmp_path, tmp_path / "raw.zip")
    with ArchiveWriter(tmp_path / "raw.zip") as archive:
        archive.add("dataset.json", b"{}")
    with pytest.raises(AepslError, match=r"dataset.json"):
        run(tmp_path, tmp_path / "raw.zip")


def test_generated_shapes_pass_and_give_the_same_bytes_in_several_processes(tmp_path, monkeypatch) -> None:
    shapes.pack(tmp_path / "raw.zip", seed=1, train=70, val=10, size=48)
    metrics = run(tmp_path / "1", tmp_path / "raw.zip")
    assert metrics["images"] == {"train": 70, "val": 10, "test": 0} == metrics["masks"] | {"test": 0}
    monkeypatch.setattr("aepsl.data.prepare.ALONE", 0)
    assert run(tmp_path / "2", tmp_path / "raw.zip") == metrics
    for name in ("images.zip", "truth.zip", "index.csv", "mean_pixel.json"):
        assert (tmp_path / "1/out" / name).read_bytes() == (tmp_path / "2/out" / name).read_bytes()
    images, index = ArchiveReader(tmp_path / "1/out/images.zip"), read_index(tmp_path / "1/out/index.csv")
    train = [decode_image(images.read(f"{identifier}.jpg")).reshape(-1, 3) for identifier in index.split("train").ids]
    assert metrics["mean_pixel"] == pytest.approx(np.concatenate(train).mean(0).tolist())


def test_the_real_animals_are_sound(tmp_path, third_party) -> None:
    from aepsl.data import folder

    animals = third_party("voc-animals/VOC2012")
    lists = {}
    for split, name, count in (("train", "trainaug", 60), ("val", "val", 10)):
        lists[split] = str(tmp_path / f"{split}.txt")
        lines = (animals / f"ImageSets/Segmentation/{name}.txt").read_text().split()
        Path(lists[split]).write_text("\n".join(lines[::len(lines) // count]))
    folder.pack(tmp_path / "raw.zip", animals, splits=lists, labels="xml", masks="SegmentationClassAug", mask_values="voc2012")
    classes = ["cat", "cow", "dog", "horse", "sheep", "person"]
    metrics = run(tmp_path, tmp_path / "raw.zip", classes, "leave-out")
    assert metrics["masks"] == {split: metrics["images"][split] for split in ("train", "val")}
    assert set(metrics["train_images_per_class"]) == set(classes)


def grey_of_few_bits(bits: int) -> bytes:
    rows = b"".join(b"\0" + bytes([0x1B] * (4 * bits // 8 or 1)) for _ in range(2))
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", 4, 2, bits, 0, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_masks_of_few_bits_are_refused_because_decoders_stretch_their_numbers(tmp_path, bits: int) -> None:
    told = faults(tmp_path, sound() | {"SegmentationClass/b.png": grey_of_few_bits(bits)})
    assert f"SegmentationClass/b.png: expected a complete palette or grey PNG of 8 bits, found grey of {bits} bits" in told


def test_a_flipped_bit_in_the_pixels_of_a_png_is_found(tmp_path) -> None:
    damaged = bytearray(mask(0, 1, 2, 255, width=4, height=2))
    damaged[-20] ^= 1
    assert "SegmentationClass/b.png: expected a complete palette or grey PNG" in faults(tmp_path / "1", sound() | {"SegmentationClass/b.png": bytes(damaged)})
    picture = bytearray(jpeg(10, kind="PNG"))
    picture[picture.index(b"IDAT") + 6] ^= 1
    assert "JPEGImages/a.x.PNG: expected a complete JPEG or PNG" in faults(tmp_path / "2", sound() | {"JPEGImages/a.x.PNG": bytes(picture)})


def test_a_jpeg_is_no_mask_whatever_its_name(tmp_path) -> None:
    told = faults(tmp_path, sound() | {"SegmentationClass/b.png": jpeg(1, 4, 2, mode="L")})
    assert "SegmentationClass/b.png: expected a complete palette or grey PNG of 8 bits, found a JPEG" in told


def test_damaged_exif_data_are_no_fault(tmp_path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 2)).save(buffer, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x09\xff\xff\xff\xff" + bytes(9))
    run(tmp_path, make(tmp_path, sound() | {"JPEGImages/b.JPG": buffer.getvalue()}))


def test_a_list_in_another_encoding_is_named(tmp_path) -> None:
    raw = make(tmp_path, sound() | {"ImageSets/Segmentation/test.txt": "t\n".encode("utf-16")})
    with pytest.raises(FaultList, match=r"test\.txt: expected text in UTF-8 with one id a line"):
        run(tmp_path, raw)
