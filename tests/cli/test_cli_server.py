"""``aepsl export`` and ``aepsl validate``."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from aepsl.data.archive import ArchiveWriter, decode_indices, encode_mask
from aepsl.data.index import Index, write_index
from aepsl.data.voc import CLASSES
from aepsl.evaluation.submission import VOC_FOLDER

Command = Callable[..., Result]
SIZES = {"2008_1": (7, 5), "2008_2": (4, 6), "deep/2008_3": (3, 3)}
MASKS = {f"{identifier}.png": encode_mask(np.full((height, width), 20, np.uint8)) for identifier, (width, height) in SIZES.items()}


def index(classes: tuple[str, ...] = CLASSES) -> None:
    """data/index.csv of this folder: the images above in the test split."""
    Path("data").mkdir()
    write_index(Index(classes, tuple(SIZES), ("test",) * 3, np.array(list(SIZES.values())), np.zeros((3, len(classes)), bool)), "data/index.csv")


def folder(masks: dict[str, bytes]) -> Path:
    for name, data in masks.items():
        path = Path("masks") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return Path("masks")


def test_a_folder_and_a_zip_of_masks_become_the_same_archive_which_is_sound(aepsl: Command) -> None:
    index()
    with ArchiveWriter("p.zip") as archive:
        archive.update(MASKS)
    for source, out in ((folder(MASKS | {"other.png": b"", "notes.txt": b""}), "a.tar.gz"), (Path("p.zip"), "b.tar.gz")):
        result = aepsl("export", source, "--out", out)
        assert result.exit_code == 0, result.stderr
        assert f"{out}: 3 masks in {VOC_FOLDER}/" in result.stdout
    assert Path("a.tar.gz").read_bytes() == Path("b.tar.gz").read_bytes()
    with tarfile.open("a.tar.gz") as tar:
        assert tar.getnames() == [f"{VOC_FOLDER}/{identifier}.png" for identifier in sorted(SIZES)]
    result = aepsl("validate", "a.tar.gz")
    assert (result.exit_code, result.stdout) == (0, f"a.tar.gz: sound. 3 masks in {VOC_FOLDER}/, values 0 to 20\n")


def test_every_missing_mask_is_named_before_anything_is_written(aepsl: Command) -> None:
    index()
    result = aepsl("export", folder({"2008_1.png": MASKS["2008_1.png"]}), "--out", "a.tar.gz")
    assert result.exit_code == 1
    assert "found none for 2;" in result.stderr
    assert "- 2008_2.png: no such mask" in result.stderr
    assert "- deep/2008_3.png: no such mask" in result.stderr
    assert not Path("a.tar.gz").exists()


def test_masks_of_another_size_give_no_archive(aepsl: Command) -> None:
    index()
    result = aepsl("export", folder(MASKS | {"2008_1.png": MASKS["2008_2.png"]}), "--out", "a.tar.gz")
    assert result.exit_code == 1
    assert "2008_1.png: expected the size of its image, 7×5, found 4×6" in result.stderr
    assert not Path("a.tar.gz").exists()
    Path("a.tar.gz").write_bytes(b"a good one")
    assert aepsl("export", "masks", "--out", "a.tar.gz").exit_code == 1
    assert {path.name: path.is_file() and path.read_bytes() for path in Path().iterdir()} == {
        "a.tar.gz": b"a good one", "data": False, "masks": False}


def test_other_classes_are_not_passed_off_as_vocs(aepsl: Command) -> None:
    index(tuple(f"class {number}" for number in range(20)))
    result = aepsl("export", folder(MASKS), "--out", "a.tar.gz")
    assert "in results/, sound; the classes are not the 20 of VOC, so it is not for the VOC test server" in result.stdout


def card(*classes: str) -> bytes:
    """What `aepsl predict` writes beside its masks."""
    return json.dumps({"values": {str(number): name for number, name in enumerate(("background", *classes))}}).encode()


def test_masks_that_say_their_classes_get_vocs_numbers_or_are_refused(aepsl: Command) -> None:
    Path("ids.txt").write_text("2008_1\n")
    masks = {"2008_1.png": encode_mask(np.array([[0, 1], [2, 0]], np.uint8))}
    for source in (folder(masks | {"aepsl.json": card("dog", "cat")}), Path("p.zip")):
        if source.suffix:
            with ArchiveWriter(source) as archive:
                archive.update(masks | {"aepsl.json": card("dog", "cat")})
        assert aepsl("export", source, "--out", "a.tar.gz", "--ids", "ids.txt").exit_code == 0
        with tarfile.open("a.tar.gz") as tar:
            content = tar.extractfile(f"{VOC_FOLDER}/2008_1.png")
            assert content is not None
            assert decode_indices(content.read()).tolist() == [[0, 12], [8, 0]]
        Path("a.tar.gz").unlink()
    for said, found in ((card("dog", "bandling"), "expected classes of VOC, found 1 other(s), such as 'bandling'"),
                        (b"{}", "expected what `aepsl predict` writes there")):
        folder({"aepsl.json": said})
        result = aepsl("export", "masks", "--out", "a.tar.gz", "--ids", "ids.txt")
        assert (result.exit_code, f"masks/aepsl.json: {found}" in result.stderr) == (1, True)
        assert not Path("a.tar.gz").exists()


def test_ids_may_come_from_a_list_without_an_index(aepsl: Command) -> None:
    Path("ids.txt").write_text("2008_1\n2008_2\n")
    result = aepsl("export", folder(MASKS), "--out", "a.tar.gz", "--ids", "ids.txt")
    assert result.exit_code == 0
    assert "sound for the VOC test server (not checked: the size of 2, which the index does not have)" in " ".join(result.stdout.split())
    result = aepsl("validate", "a.tar.gz", "--ids", "ids.txt")
    assert result.stdout == f"a.tar.gz: sound. 2 masks in {VOC_FOLDER}/, values 0 to 20 (not checked: the size of 2, which the index does not have)\n"


def test_every_fault_is_told_however_many(aepsl: Command) -> None:
    Path("ids.txt").write_text("".join(f"2009_{number}\n" for number in range(70)) + "2008_1\n2008_2\n")
    Path("two.txt").write_text("2008_1\n2008_2\n")
    assert aepsl("export", folder(MASKS), "--out", "a.tar.gz", "--ids", "two.txt").exit_code == 0
    result = aepsl("validate", "a.tar.gz", "--ids", "ids.txt")
    assert result.exit_code == 1
    assert result.stderr.startswith("a.tar.gz: 70 fault(s); the server would refuse or misread it\n")
    assert len(result.stderr.splitlines()) == 71
    assert result.stdout == ""


@pytest.mark.parametrize(("words", "status", "said"), [
    (("validate", "my.tar.gz"), 1, "data/index.csv: no such file; `dvc repro prepare` makes the index, or name the list of test ids with --ids"),
    (("validate",), 2, "Missing argument 'ARCHIVE'"),
    (("export", "masks"), 2, "Missing option '--out'"),
    (("export", "masks", "--out", "."), 2, "found a folder"),
])
def test_what_cannot_be_read_is_explained(aepsl: Command, words: tuple[str, ...], status: int, said: str) -> None:
    result = aepsl(*words)
    assert result.exit_code == status
    assert said in result.stderr
    assert "Traceback" not in result.stderr
