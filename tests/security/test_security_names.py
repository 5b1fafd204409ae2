"""Names from anywhere, of images, classes and data sets: they are refused, or they stay names.

In no path, no shell, no terminal and no table do they become more.
"""

import csv
import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aepsl.data import folder, voc
from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices, encode_grey, encode_mask
from aepsl.data.index import read_index
from aepsl.data.prepare import prepare
from aepsl.data.samples import read_mined
from aepsl.errors import AepslError
from aepsl.evaluation.pictures import contact_sheet
from aepsl.evaluation.submission import layout_of, write_submission
from aepsl.evaluation.submission_check import submission_faults
from aepsl.evaluation.tables import write_csv

SIZE = (4, 3)
# Allowed: they are only ever names of entries in archives, and letters in tables.
ODD_IDS = ["CON", "nul.txt", "aux", "a|b", "<script>x</script>", "<!-- x", "=1+1", "@x", "-rf", "--help", "$(touch canary)", "`touch canary`",
           "; touch canary", "a'b", 'a"b', "a,b", "%s%n",
           "{x}", "[x](y)", "猫", "e\u0301", "sub/folder/x", ".hidden", "a.b.c", "~", "*", "?", ":x", " x"[1:]]
BAD_IDS = ["../x", "a/../../x", "/etc/x", "a//b", "./x", "..", "a\\b", "\x1b[2J", "a\x00b", "a\x07b", "a\x7fb", "a\x9bb", "a\u202eb", "a\u2066b",
           "x" * 300, "y/" * 600 + "y"]
ODD_CLASSES = ["../../x", "/etc/x", "CON", "a|b", "<script>x</script>", "<!-- x -->", "a'b", 'a"b', "a,b", "a;b", "$(touch canary)", "{x}", "%s",
               "[x](y)", "猫", "1", "a/b", "a\\b", "~", "`x`"]
BAD_CLASSES = ["=cmd()", "+1", "-1", "@SUM(A1)", "\x1b[2J", "a\nb", "a\rb", "a\tb", "a\x00b", "a\u202eb", "a\u2028b", " a", "a ", "", "x" * 101,
               "background", "void", "id", "split"]


def user_folder(root: Path, ids: list[str], classes: list[str]) -> Path:
    for number, identifier in enumerate(ids):
        picture, mask = io.BytesIO(), encode_mask(np.full(SIZE[::-1], 1 + number % len(classes), np.uint8))
        Image.new("RGB", SIZE, (number, 0, 0)).save(picture, "PNG")
        for place, data in ((f"JPEGImages/{identifier}.png", picture.getvalue()), (f"SegmentationClass/{identifier}.png", mask)):
            (root / place).parent.mkdir(parents=True, exist_ok=True)
            (root / place).write_bytes(data)
    rows = io.StringIO()
    writer = csv.writer(rows)
    writer.writerow(["id", *classes])
    writer.writerows([identifier, *(int(number % len(classes) == place) for place in range(len(classes)))] for number, identifier in enumerate(ids))
    (root / "labels.csv").write_text(rows.getvalue(), encoding="utf-8")
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(ids), encoding="utf-8")
    return root


def prepared(root: Path, out: Path, classes: list[str] | None = None) -> Any:
    folder.pack(out / "raw.zip", root, splits={"train": "train", "val": None}, labels="labels.csv", masks="SegmentationClass", mask_values=None)
    return prepare(out / "raw.zip", classes=classes, unlisted="error", images=out / "images.zip", truth=out / "truth.zip", index=out / "index.csv",
                   mean_pixel=out / "mean_pixel.json")


def test_odd_ids_stay_names_from_the_users_folder_to_the_test_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root, out = user_folder(tmp_path / "own", ODD_IDS, ["cat", "dog"]), tmp_path / "out"
    prepared(root, out, ["cat", "dog"])
    index = read_index(out / "index.csv")
    assert index.ids == tuple(sorted(ODD_IDS))
    masks = ArchiveReader(out / "truth.zip")
    assert sorted(masks) == sorted(f"{identifier}.png" for identifier in ODD_IDS)
    layout = layout_of(index.classes)
    write_submission(out / "my.tar.gz", index.ids, lambda identifier: masks.mask(f"{identifier}.png"), layout=layout)
    with tarfile.open(out / "my.tar.gz") as tar:
        assert sorted(tar.getnames()) == sorted(f"results/{identifier}.png" for identifier in ODD_IDS)
    assert submission_faults(out / "my.tar.gz", dict.fromkeys(ODD_IDS, SIZE), folder="results", highest=2) == []
    assert sorted(os.listdir(out)) == ["images.zip", "index.csv", "mean_pixel.json", "my.tar.gz", "raw.zip", "truth.zip"]
    assert sorted(os.listdir(tmp_path)) == ["out", "own"]


@pytest.mark.parametrize("identifier", BAD_IDS)
def test_ids_that_lead_elsewhere_or_hide_something_are_refused_and_nothing_is_opened(tmp_path: Path, identifier: str) -> None:
    root = user_folder(tmp_path / "own", ["a"], ["cat"])
    (root / "ImageSets/Segmentation/train.txt").write_text(f"a\n{identifier}\n", encoding="utf-8")
    with pytest.raises(AepslError, match=r"list of train: id ") as caught:
        prepared(root, tmp_path / "out", ["cat"])
    assert all(line.isprintable() and len(line) < 400 for line in str(caught.value).split("\n"))
    raw = tmp_path / "raw.zip"  # one that was made elsewhere
    with ArchiveWriter(raw) as archive:
        archive.add(voc.DESCRIPTION, voc.Description("folder", ["cat"], None, "csv").to_json())
        archive.add("ImageSets/Segmentation/train.txt", identifier.encode())
        archive.add(voc.LABELS_CSV, b"id,cat\n")
    with pytest.raises(AepslError, match=r"train\.txt: id "):
        prepare(raw, classes=None, unlisted="error", **{name: tmp_path / "out" / name for name in ("images", "truth", "index", "mean_pixel")})


def test_odd_classes_stay_letters_in_tables_and_never_become_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ids = [f"i{number:02d}" for number in range(len(ODD_CLASSES))]
    root, out = user_folder(tmp_path / "own", ids, ODD_CLASSES), tmp_path / "out"
    facts = prepared(root, out, ODD_CLASSES)
    index = read_index(out / "index.csv")
    assert index.classes == tuple(ODD_CLASSES)
    assert [*facts["train_images_per_class"]] == ODD_CLASSES
    write_csv(out / "per_class.csv", [{"class": name, "iou": 0.5} for name in index.classes])
    with (out / "per_class.csv").open(newline="", encoding="utf-8") as file:
        assert [row["class"] for row in csv.DictReader(file)] == ODD_CLASSES
    with ArchiveWriter(out / "r1.zip") as archive:  # as mine names its entries: by the number of the class
        for row, identifier in enumerate(index.ids):
            for label in np.flatnonzero(index.labels[row]) + 1:
                archive.add(f"{identifier}/{label}.png", encode_grey(np.ones(SIZE[::-1], np.uint8)))
    for row in range(len(index)):
        assert [*read_mined(ArchiveReader(out / "r1.zip"), index, row)] == [row + 1]
    for name in ("images", "truth", "r1"):
        assert not any(word in entry for entry in ArchiveReader(out / f"{name}.zip") for word in ("..", "x", "CON", "touch"))
    assert sorted(os.listdir(tmp_path)) == ["out", "own"]


@pytest.mark.parametrize("name", BAD_CLASSES)
def test_classes_that_tables_or_terminals_would_take_for_more_than_a_name_are_refused(tmp_path: Path, name: str) -> None:
    raw = tmp_path / "raw.zip"
    with ArchiveWriter(raw) as archive:
        archive.add(voc.DESCRIPTION, voc.Description("folder", ["cat", name], None, "xml").to_json())
        archive.add("ImageSets/Segmentation/train.txt", b"a\n")
        archive.add("Annotations/a.xml", voc.format_annotation("", *SIZE, [("cat", (1, 1, 1, 1))]))
        archive.add("JPEGImages/a.png", encode_mask(np.zeros(SIZE[::-1], np.uint8)))
    with pytest.raises(AepslError, match=r"data\.classes: .*(expected|reserved)") as caught:
        prepare(raw, classes=None, unlisted="error", **{kind: tmp_path / "out" / kind for kind in ("images", "truth", "index", "mean_pixel")})
    assert all(line.isprintable() and len(line) < 400 for line in str(caught.value).split("\n"))
    assert not (tmp_path / "out").exists()


def test_names_in_errors_move_no_cursor_and_turn_no_text(tmp_path: Path) -> None:
    place = tmp_path / "\x1b[2J\r  - all is well\u202e"
    place.mkdir()
    for work in (lambda: ArchiveReader(place / "a.zip").names(), lambda: read_index(place / "index.csv"), lambda: folder.pack(
            place / "raw.zip", place, splits={"train": "train"}, labels="xml", masks=None, mask_values=None)):
        with pytest.raises(AepslError) as caught:
            work()
        assert all(line.isprintable() for line in str(caught.value).split("\n"))
    with pytest.raises(AepslError, match=r"\\x1b\[2J"):
        decode_indices(b"", str(place))


def test_headings_of_pictures_are_drawn_whatever_their_letters() -> None:
    """The gallery's own headings hold no names; should any come to, they are drawn and nothing else."""
    assert contact_sheet([[None, None]], ["\x1b[2J\n<b>", "猫\u202e%s"]).startswith(b"\x89PNG")
