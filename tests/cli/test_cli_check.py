"""``aepsl check``: the data doctor."""

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import Result

from aepsl.data.archive import encode_mask
from aepsl.data.voc import format_annotation
from tests.conftest import ROOT, Checkout, succeed

Command = Callable[..., Result]
LISTS = "ImageSets/Segmentation"


def photograph(seed: int, width: int = 80, height: int = 60, orientation: int = 1) -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def write(files: dict[str, bytes | str], root: str = "own") -> None:
    for name, content in files.items():
        path = Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@pytest.fixture
def own(aepsl: Command) -> Command:
    """The command beside a sound folder: cats a, b and dogs c, d to learn from, a cat v to score on; a table, lists, no masks."""
    write({**{f"JPEGImages/{name}.jpg": photograph(number) for number, name in enumerate("abcdv")},
           "labels.csv": "id,labels\na,cat\nb,cat\nc,dog\nd,dog\nv,cat\n", f"{LISTS}/train.txt": "a\nb\nc\nd\n", f"{LISTS}/val.txt": "v\n"})
    return aepsl


def notes(command: Command, *words: str) -> list[str]:
    """What is allowed but told of the folder."""
    result = command("check", "own", "--json", *words)
    assert result.exit_code == 0, result.stdout + result.stderr
    found: list[str] = json.loads(result.stdout)["notes"]
    return found


def test_a_sound_folder_is_counted_and_the_parameters_are_told(own: Command) -> None:
    result = own("check", "own", "--labels", "labels.csv", "--no-masks")
    assert result.exit_code == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["train", "4", "0"] in lines
    assert ["val", "1", "0"] in lines
    assert ["cat", "2", "1"] in lines
    assert ["dog", "2", "0"] in lines
    assert ("sound: 5 images, 2 classes. Next: cp presets/photos-quick.yaml params.yaml, set there\n  data.source: folder\n  data.path: own\n"
            "and run") in result.stdout
    assert sorted(path.name for path in Path().iterdir()) == ["own"]


def test_the_preset_follows_the_number_of_images(own: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "  data.path: own\n  data.unlisted: error\nand run" in own("check", "own", "--unlisted", "error").stdout
    monkeypatch.setattr("aepsl.cli.check.QUICK", 4)
    assert ("Next: cp presets/folder.yaml params.yaml, set there\n  data.source: folder\n  data.path: own\n  data.folder.labels: labels.csv\n"
            "  data.folder.masks: null\nand run") in own("check", "own").stdout


def test_parameters_that_cannot_be_read_do_not_keep_a_folder_from_being_checked(own: Command) -> None:
    for text, said in (("", "expected groups of parameters"), ("seed: x\n", "faulty parameter(s)"), ("a: [", "expected YAML")):
        Path("params.yaml").write_text(text)
        result = own("check", "own")
        assert result.exit_code == 0, result.stderr
        assert result.stderr.startswith("mind: the folder is looked at without params.yaml, which cannot be read (params.yaml: ")
        assert said in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert (own("check").exit_code, said in own("check").stderr) == (1, True)


def test_what_options_do_not_say_is_found_by_looking(own: Command) -> None:
    result = json.loads(own("check", "own", "--json").stdout)
    assert result["settings"] == {"train": "train", "val": "val", "test": None, "labels": "labels.csv", "masks": None, "mask_values": None,
                                  "classes": None, "unlisted": "leave-out"}
    write({"Annotations/a.xml": format_annotation("a.jpg", 80, 60, [("cat", (1, 1, 2, 2))])})
    assert json.loads(own("check", "own", "--json").stdout)["settings"]["labels"] == "xml"


def test_all_faults_are_told_at_once_and_each_once(own: Command) -> None:
    write({"JPEGImages/a.jpg": photograph(0)[:300], "JPEGImages/c.png": b"x", f"{LISTS}/train.txt": "a\nb\nc\nd\nlost\nb\n",
           "labels.csv": "id,labels\na,cat\nb,cat\nc,dog\nv,cat\nlost,cat\n", "SegmentationClass/v.png": encode_mask(np.zeros((3, 4), np.uint8))})
    result = own("check", "own")
    assert result.exit_code == 1
    heading, *faults = result.stderr.splitlines()
    assert heading == "own: 6 faults; mend the files, or take their ids off the lists"
    for said in ("JPEGImages/c: expected one image of this id, found c.jpg, c.png", "JPEGImages/lost.jpg: expected an image of train",
                 "id 'b' is listed 2 times", "labels.csv: expected a line for every image of train and val, found none for 'd'",
                 "JPEGImages/a.jpg: expected a complete JPEG or PNG, found a damaged one", "SegmentationClass/v.png: expected the size of its image"):
        assert sum(said in fault for fault in faults) == 1, said
    assert ["val", "1", "1"] in [line.split() for line in result.stdout.splitlines()]


def test_more_than_fifty_faults_are_told_on_demand(own: Command) -> None:
    write({f"{LISTS}/train.txt": "".join(f"{name}\n" for name in [*"abcd", *(f"lost{number:03}" for number in range(60))])})
    assert "… and" in own("check", "own").stderr
    result = own("check", "own", "--all")
    assert "JPEGImages/lost059.jpg" in result.stderr
    assert "… and" not in result.stderr


def test_it_finds_what_prepare_finds(finished: Checkout, tmp_path: Path, own: Command) -> None:
    """The same folder through the pipeline's own stages: the same counts where it is sound, the same lines where it is not."""
    work = finished.copy(tmp_path / "checkout")
    shutil.copytree("own", work / "own")
    work.set({"data.source": "folder", "data.path": "own", "data.folder.labels": "labels.csv", "data.folder.masks": None})
    pack = "python -m stages.download --out data/raw.zip"
    prepare = ("python -m stages.prepare --raw data/raw.zip --images data/images.zip --truth data/truth.zip --index data/index.csv "
               "--mean-pixel data/mean_pixel.json --metrics metrics")
    succeed(work.stages([pack, prepare]))
    result = json.loads(own("check", "own", "--json").stdout)
    assert json.loads((work / "metrics/data.json").read_text())["images"] == {"train": 4, "val": 1, "test": 0}
    assert result["images"] == {"train": 4, "val": 1}
    for folder in (work / "own", Path("own")):
        (folder / "JPEGImages/b.jpg").write_bytes(b"\xff\xd8\xff")
        (folder / "labels.csv").write_text("id,labels\na,cat\nb,cat\nc,\nd,dog\nv,cat\n")
    work.set({"data.unlisted": "error"})
    said = work.stages([pack, prepare])
    assert said.returncode == 1
    lines = [line for line in said.stderr.splitlines() if line.startswith("  - ")]
    assert len(lines) == 2
    assert own("check", "own", "--unlisted", "error").stderr.splitlines()[1:] == lines


def test_a_project_says_how_its_folder_is_read(own: Command) -> None:
    shutil.copy(ROOT / "presets/folder.yaml", "params.yaml")
    text = Path("params.yaml").read_text()
    for old, new in (("path: my-images", "path: own"), ("labels: xml", "labels: labels.csv"), ("masks: SegmentationClass", "masks: null"),
                     ("classes: null", "classes: [dog, cat]")):
        assert old in text
        text = text.replace(old, new, 1)
    Path("params.yaml").write_text(text)
    result = own("check")
    assert result.exit_code == 0, result.stderr
    assert "own: labels labels.csv, masks none, lists train, val (params.yaml)" in result.stdout
    assert result.stdout.index("dog ") < result.stdout.index("cat ")
    assert "Next: dvc repro" in result.stdout
    shutil.copytree("own", "other")
    assert "(found by looking)" in own("check", "other").stdout


def test_an_image_in_two_splits_is_told(own: Command) -> None:
    assert not any("in two splits" in note for note in notes(own))
    write({"JPEGImages/v.jpg": Path("own/JPEGImages/a.jpg").read_bytes(), "JPEGImages/d.jpg": Path("own/JPEGImages/c.jpg").read_bytes()})
    found = notes(own)
    assert any("1 image(s) are in two splits under different ids ('a' of train = 'v' of val)" in note for note in found)
    assert any("1 image(s) are there more than once within a split ('c' = 'd')" in note for note in found)


def test_what_is_suspicious_is_told(own: Command) -> None:
    write({"JPEGImages/a.jpg": photograph(9, 40, 30), "JPEGImages/b.jpg": photograph(9, orientation=6), "JPEGImages/spare.jpg": b"",
           "labels.csv": "id,labels\na,cat\nb,cat\nc,dog\nd,dog;Cat\nv,cat\nnobody,cat\n"})
    found = "\n".join(notes(own))
    for said in ("3 class(es) have fewer than 20 training images ('Cat', 'cat', 'dog')", "2 class(es) are in no image of val ('Cat', 'dog')",
                 "1 image(s) have no side of 64 pixels ('a')", "1 image(s) lie on their side but for a mark in their EXIF data ('b')",
                 "1 image(s) of JPEGImages/ are on no list ('spare')", "1 line(s) of the label table are of ids on no list ('nobody')",
                 "2 classes differ in capital letters alone ('Cat', 'cat')", "no image of val has a mask"):
        assert said in found, said
    assert "4 class(es)" not in found


def test_labels_that_are_separated_by_something_else_are_told(own: Command) -> None:
    assert not any("joined" in note for note in notes(own))
    write({"labels.csv": 'id,labels\na,"cat,dog"\nb,cat|dog;cat\nc,dog\nd,cat dog\nv,cat\n'})
    assert "3 class(es) are others joined ('cat dog', 'cat,dog', 'cat|dog'): separate the labels of an image by ;" in notes(own)


def test_images_without_a_label_are_told_apart_from_those_of_other_classes(own: Command) -> None:
    write({"labels.csv": "id,labels\na,cat\nb,\nc,dog\nd,cat;dog\nv,cat\n"})
    assert "1 image(s) are left out, for they have no label ('b')" in notes(own)
    assert not any("among data.classes" in note for note in notes(own))
    assert "1 image(s) are left out, for none of their labels is among data.classes" in notes(own, "--classes", "cat")


@pytest.mark.parametrize("separator", [";", "\t"])
def test_columns_that_are_not_separated_by_commas_are_one_fault(own: Command, separator: str) -> None:
    write({"labels.csv": f"id{separator}labels\na{separator}cat\n"})
    heading, *faults = own("check", "own").stderr.splitlines()
    assert "own: 1 fault" in heading
    assert len(faults) == 1
    assert faults[0].endswith("; separate columns by commas, and the labels of an image by ;")


def test_a_class_that_is_everywhere_is_told(own: Command) -> None:
    assert not any("are in more than" in note for note in notes(own))
    write({"labels.csv": "id,labels\na,cat\nb,cat\nc,cat;dog\nd,cat\nv,cat\n"})
    assert any("1 class(es) are in more than 90% of the training images ('cat')" in note for note in notes(own))


def test_masks_that_contradict_labels_are_told_and_masks_with_vocs_numbers_are_known(own: Command) -> None:
    mask = np.zeros((60, 80), np.uint8)
    mask[:9] = 8  # VOC's cat
    write({"SegmentationClass/v.png": encode_mask(mask)})
    result = own("check", "own")
    assert result.exit_code == 0, result.stderr
    assert "masks SegmentationClass with the values of voc2012" in result.stdout
    assert "data.folder.mask_values: voc2012" in result.stdout
    assert not any("shows other classes" in note for note in notes(own))
    assert any("1 image(s) have a mask that shows other classes than their labels name ('v')" in note
               for note in notes(own, "--mask-values", "cat=12,dog=8"))


@pytest.mark.parametrize(("words", "status", "said"), [
    (("check",), 2, "FOLDER: expected the folder to check, because there is no params.yaml here"),
    (("check", "nowhere"), 1, "data.path: expected a folder that holds JPEGImages/, found no such folder"),
    (("check", "own", "--train", "lost"), 1, "data.folder.train: expected the name of a list"),
    (("check", "own", "--labels", "lost.csv"), 1, "data.folder.labels: expected a file, found none"),
    (("check", "own", "--masks", "m", "--no-masks"), 2, "--masks and --no-masks"),
    (("check", "own", "--mask-values", "cat"), 2, "NAME=NUMBER"),
    (("check", "own", "--classes", "cat,bird"), 1, "class 'bird' has no training image"),
])
def test_what_cannot_be_checked_is_explained(own: Command, words: tuple[str, ...], status: int, said: str) -> None:
    result = own(*words)
    assert result.exit_code == status
    assert said in " ".join(result.stderr.replace("│", " ").split())


def test_names_from_a_folder_obey_nobody(own: Command) -> None:
    write({"JPEGImages/x\x1b[31m.jpg": b"", f"{LISTS}/train.txt": "a\nb\nc\nd\ne\x1b[2J\n",
           "labels.csv": "id,labels\na,cat\nb,c\x1b[31mat\nc,dog\nd,dog\nv,cat\n"})
    for words in ((), ("--json",)):
        result = own("check", "own", *words)
        assert result.exit_code == 1
        assert "\x1b" not in result.output
