"""Archives for the test server: what is written passes, every fault that is made here is found and named, nothing is unpacked."""

import bz2
import gzip
import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from aepsl.data import voc
from aepsl.data.archive import decode_indices, encode_mask, voc_palette
from aepsl.data.index import Index, write_index
from aepsl.errors import AepslError, FaultList
from aepsl.evaluation.submission import VOC_FOLDER, VOC_LAYOUT, Layout, expected_images, layout_of, write_submission
from aepsl.evaluation.submission_check import submission_faults

SIZES = {"2008_1": (6, 4), "2008_2": (4, 6), "2008_3": (5, 5)}
Entry = tuple[str, bytes | tarfile.TarInfo]


def mask(identifier: str, value: int = 0) -> np.ndarray:
    width, height = SIZES[identifier]
    content = np.zeros((height, width), np.uint8)
    content[1:3, 1:3] = value or int(identifier[-1])
    return content


def sound(folder: str = VOC_FOLDER) -> dict[str, bytes]:
    return {f"{folder}/{identifier}.png": encode_mask(mask(identifier)) for identifier in SIZES}


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def tar_bytes(entries: list[Entry], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content in entries:
            member = tarfile.TarInfo(name) if isinstance(content, bytes) else content
            member.size = len(content) if isinstance(content, bytes) else 0
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def packed(path: Path, entries: list[Entry]) -> Path:
    path.write_bytes(gzip.compress(tar_bytes(entries), 1))
    return path


def check(path: Path, sizes: Any = SIZES) -> list[str]:
    return submission_faults(path, sizes, folder=VOC_FOLDER, highest=20)


@pytest.fixture
def archive(tmp_path: Path) -> Callable[[dict[str, bytes | tarfile.TarInfo | None]], list[str]]:
    """``archive({name: content, or None to leave it out})``: the faults of a sound archive with these changes."""
    def make(changes: dict[str, bytes | tarfile.TarInfo | None]) -> list[str]:
        return check(packed(tmp_path / "my.tar.gz", [(name, content) for name, content in (sound() | changes).items() if content is not None]))
    return make


# ---- writing


def test_what_is_written_is_sound_and_holds_the_masks(tmp_path: Path) -> None:
    path = tmp_path / "deep/submission.tar.gz"
    write_submission(path, ["2008_3", "2008_1", "2008_2"], mask, layout=VOC_LAYOUT)
    assert check(path) == []
    with tarfile.open(path, "r:gz") as tar:
        assert tar.getnames() == [f"results/VOC2012/Segmentation/comp6_test_cls/{identifier}.png" for identifier in SIZES]
        for member, identifier in zip(tar.getmembers(), SIZES, strict=True):
            assert (member.uid, member.gid, member.uname, member.gname, member.mode, member.mtime) == (0, 0, "", "", 0o644, 315532800)
            content = tar.extractfile(member)
            assert content is not None
            assert np.array_equal(decode_indices(content.read()), mask(identifier))


def test_equal_masks_give_equal_bytes_whatever_the_name_and_order(tmp_path: Path) -> None:
    write_submission(tmp_path / "a.tar.gz", list(SIZES), mask, layout=VOC_LAYOUT)
    write_submission(tmp_path / "b.tar.gz", list(SIZES)[::-1], mask, layout=VOC_LAYOUT)
    content = (tmp_path / "a.tar.gz").read_bytes()
    assert content == (tmp_path / "b.tar.gz").read_bytes()
    assert content[3:8] == bytes(5)  # gzip's header: no name, time 0


def test_a_writer_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "submission.tar.gz"
    path.write_bytes(b"before")
    with pytest.raises(KeyError):
        write_submission(path, ["2008_1", "2009_1"], mask, layout=VOC_LAYOUT)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("submission.tar.gz", b"before")]


def test_no_images_give_an_empty_archive(tmp_path: Path) -> None:
    write_submission(tmp_path / "submission.tar.gz", [], mask, layout=VOC_LAYOUT)
    assert check(tmp_path / "submission.tar.gz", {}) == []
    assert len(check(tmp_path / "submission.tar.gz")) == len(SIZES)


def test_vocs_classes_in_another_order_get_the_servers_numbers(tmp_path: Path) -> None:
    layout = layout_of(sorted(voc.CLASSES, reverse=True))
    assert layout.folder == VOC_FOLDER
    assert layout.values[:3] == (0, 20, 19)  # tvmonitor, train
    write_submission(tmp_path / "a.tar.gz", ["2008_2"], mask, layout=layout)
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        content = tar.extractfile(tar.getmembers()[0])
        assert content is not None
        assert np.array_equal(decode_indices(content.read()), mask("2008_2", 19))


def test_other_classes_keep_their_numbers_in_a_folder_that_is_not_vocs() -> None:
    assert layout_of(["cat", "dog"]) == Layout("results", (0, 1, 2))
    assert layout_of(voc.CLASSES) == VOC_LAYOUT
    assert VOC_LAYOUT.highest == 20


def test_values_that_are_no_class_are_left_for_the_check_to_find(tmp_path: Path) -> None:
    layout = layout_of(sorted(voc.CLASSES))
    write_submission(tmp_path / "a.tar.gz", list(SIZES), lambda identifier: mask(identifier, 255), layout=layout)
    assert [fault.split(": ")[1] for fault in check(tmp_path / "a.tar.gz")] == [
        "expected a class in every pixel, found void, 255, in 4 pixel(s)"] * 3


# ---- the file as a whole


def as_zip(files: dict[str, bytes], separator: str = "/") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name.replace("/", separator)), content)
    return buffer.getvalue()


TAR = tar_bytes(list(sound().items()))


@pytest.mark.parametrize(("content", "found"), [
    (as_zip(sound()), "found a zip archive"), (as_zip(sound(), "\\"), "found a zip archive"), (TAR, "found a tar without compression"),
    (bz2.compress(TAR), "found a bzip2 file"), (encode_mask(mask("2008_1")), "found a single PNG"), (b"", "found an empty file"),
    (b"hello", "found a file of another kind")], ids=["zip", "zip of Windows", "tar", "tar.bz2", "PNG", "empty", "text"])
def test_another_kind_of_file_is_named_with_what_to_do(tmp_path: Path, content: bytes, found: str) -> None:
    path = tmp_path / "my.tar.gz"
    path.write_bytes(content)
    assert check(path) == [f"{path}: expected a .tar.gz archive, {found}; pack it with: tar -czf submission.tar.gz results"]


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    assert check(tmp_path / "none.tar.gz") == [f"{tmp_path}/none.tar.gz: no such file"]
    [fault] = check(tmp_path)
    assert fault.startswith(f"{tmp_path}: expected a .tar.gz archive, found a folder")


@pytest.mark.parametrize("inside", [b"", encode_mask(mask("2008_1")), as_zip(sound()), b"x" * 2000], ids=["nothing", "PNG", "zip", "text"])
def test_a_gzip_of_something_else_is_named(tmp_path: Path, inside: bytes) -> None:
    path = tmp_path / "my.tar.gz"
    path.write_bytes(gzip.compress(inside))
    [fault] = check(path)
    assert fault.startswith(f"{path}: expected a tar archive inside the gzip, found something else (")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_an_archive_that_was_cut_off_says_how_far_it_goes(tmp_path: Path, share: float) -> None:
    path = packed(tmp_path / "my.tar.gz", list(sound().items()))
    data = path.read_bytes()
    path.write_bytes(data[:int(len(data) * share)])
    faults = check(path)
    assert faults[0].startswith(f"{path}: expected a complete archive, found it damaged or broken off behind ")
    assert "of 3 expected images were not reached" in faults[0]
    assert len(faults) == 1


def test_a_missing_gzip_checksum_is_found_though_all_masks_are_there(tmp_path: Path) -> None:
    path = packed(tmp_path / "my.tar.gz", list(sound().items()))
    path.write_bytes(path.read_bytes()[:-6])
    [fault] = check(path)
    assert "behind 3 member(s)" in fault
    assert "0 of 3 expected images were not reached" in fault


def test_a_damaged_header_inside_does_not_pass_for_the_end(tmp_path: Path) -> None:
    data = bytearray(TAR)
    data[data.index(f"{VOC_FOLDER}/2008_2".encode()) + 200] ^= 1
    (tmp_path / "my.tar.gz").write_bytes(gzip.compress(bytes(data)))
    faults = check(tmp_path / "my.tar.gz")
    assert "expected nothing behind the end of the tar, found more" in faults[0]
    assert [fault.partition(":")[0] for fault in faults[1:]] == [f"{VOC_FOLDER}/2008_2.png", f"{VOC_FOLDER}/2008_3.png"]


# ---- which files


def test_a_missing_image_is_named(archive: Any) -> None:
    assert archive({f"{VOC_FOLDER}/2008_2.png": None}) == [f"{VOC_FOLDER}/2008_2.png: expected the mask of a listed image, found no such file"]


@pytest.mark.parametrize("name", ["2007_9.png", "2008_1.PNG", "2008_1.png.txt", "deeper/notes.txt"])
def test_a_file_too_many_is_named(archive: Any, name: str) -> None:
    assert archive({f"{VOC_FOLDER}/{name}": sound()[f"{VOC_FOLDER}/2008_1.png"]}) == [
        f"{VOC_FOLDER}/{name}: expected only masks of the listed images, found another file"]


@pytest.mark.parametrize("name", ["._2008_1.png", ".DS_Store"])
def test_what_macos_adds_is_told_apart(archive: Any, name: str) -> None:
    [fault] = archive({f"{VOC_FOLDER}/{name}": b"\0"})
    assert fault.startswith(f"{VOC_FOLDER}/{name}: expected only masks")
    assert "COPYFILE_DISABLE=1" in fault


@pytest.mark.parametrize("folder", ["VOC2012/Segmentation/comp6_test_cls", "results/VOC2012/Segmentation/comp5_test_cls", "predictions",
                                    "results/voc2012/Segmentation/comp6_test_cls", f"submission/{VOC_FOLDER}"])
def test_a_wrong_folder_is_told_once_with_a_file_in_it(tmp_path: Path, folder: str) -> None:
    [fault] = check(packed(tmp_path / "my.tar.gz", list(sound(folder).items())))
    assert fault.startswith(f"{folder}/: expected the masks in {VOC_FOLDER}/, found 3 file(s) here, such as {folder}/2008_1.png; pack it with")


def test_masks_without_a_folder_and_with_the_separators_of_windows_are_in_the_wrong_place(tmp_path: Path) -> None:
    [fault] = check(packed(tmp_path / "flat.tar.gz", [(name.rpartition("/")[2], content) for name, content in sound().items()]))
    assert fault.startswith("top level: expected the masks in ")
    [fault] = check(packed(tmp_path / "windows.tar.gz", [(name.replace("/", "\\"), content) for name, content in sound().items()]))
    assert fault.startswith("results\\VOC2012\\Segmentation\\comp6_test_cls\\: expected the masks in ")


def test_masks_in_a_wrong_folder_are_looked_at_all_the_same(tmp_path: Path) -> None:
    files = sound("elsewhere") | {"elsewhere/2008_2.png": encode_mask(mask("2008_2", 99))}
    assert [fault.split(":")[0] for fault in check(packed(tmp_path / "my.tar.gz", list(files.items())))] == ["elsewhere/", "elsewhere/2008_2.png"]


def test_folders_and_a_leading_dot_as_tar_writes_them_are_sound(tmp_path: Path) -> None:
    folders = [(name, special(name, tarfile.DIRTYPE)) for name in ("./results", "./results/VOC2012", "./results/VOC2012/Main")]
    assert check(packed(tmp_path / "my.tar.gz", [*folders, *((f"./{name}", content) for name, content in sound().items())])) == []


def test_an_image_that_is_there_twice_is_named(tmp_path: Path) -> None:
    again = [(f"./{VOC_FOLDER}/2008_1.png", encode_mask(mask("2008_1"))), ("old/2008_1.png", encode_mask(mask("2008_1")))]
    faults = check(packed(tmp_path / "my.tar.gz", [*sound().items(), *again]))
    assert [fault.partition(",")[0] for fault in faults[1:]] == [f"{name}: expected one mask of this image" for name, _ in again]
    assert all(f"beside {VOC_FOLDER}/2008_1.png" in fault for fault in faults[1:])
    assert faults[0].startswith("old/: expected the masks in")


@pytest.mark.parametrize("name", ["/etc/passwd", "../2008_1.png", f"{VOC_FOLDER}/../../x.png", "results/../../../2008_1.png", "..\\2008_1.png",
                                  "C:/2008_1.png", "\\\\server\\2008_1.png"])
def test_a_name_that_leads_out_of_the_archive_is_named(tmp_path: Path, name: str) -> None:
    path = packed(tmp_path / "my.tar.gz", [*sound().items(), (name, encode_mask(mask("2008_1")))])
    assert check(path) == [f"{name}: expected a name inside the archive, found one that leads out of it"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(("kind", "found"), [(tarfile.SYMTYPE, "a symbolic link"), (tarfile.LNKTYPE, "a hard link"), (tarfile.CHRTYPE, "a device"),
                                             (tarfile.BLKTYPE, "a device"), (tarfile.FIFOTYPE, "a pipe")])
def test_what_is_no_plain_file_is_named(archive: Any, kind: bytes, found: str) -> None:
    name = f"{VOC_FOLDER}/2008_2.png"
    assert archive({name: special(name, kind, f"{VOC_FOLDER}/2008_1.png")}) == [f"{name}: expected a plain file, found {found}"]


def test_control_characters_of_a_name_are_not_printed(archive: Any) -> None:
    [fault] = archive({f"{VOC_FOLDER}/\x1b[2Jx.png": b""})
    assert fault.isprintable()
    assert "\\x1b[2Jx.png" in fault


# ---- what is in the files


def rgb(identifier: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.array(voc_palette(), np.uint8).reshape(-1, 3)[mask(identifier)]).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("content", "said"), [
    (rgb("2008_2"), "expected a palette PNG of 8 bits, found RGB of 8 bits"),
    (encode_mask(mask("2008_2").T), "expected the size of its image, 4×6, found 6×4"),
    (encode_mask(mask("2008_2", 21)), "expected values 0 to 20, found 21 in 4 pixel(s)"),
    (encode_mask(mask("2008_2", 255)), "expected a class in every pixel, found void, 255, in 4 pixel(s): only the truth may leave pixels out"),
    (b"not a PNG", "expected a complete PNG, found a file of another kind or a damaged one"),
    (bytes(2_000_000), "expected at most 1048768 bytes, found 2000000")], ids=["RGB", "size", "value", "void", "no PNG", "far too large"])
def test_a_fault_inside_a_file_is_told_with_its_name(archive: Any, content: bytes, said: str) -> None:
    assert archive({f"{VOC_FOLDER}/2008_2.png": content}) == [f"{VOC_FOLDER}/2008_2.png: {said}"]


def test_everything_that_is_wrong_is_told_at_once(archive: Any) -> None:
    name = f"{VOC_FOLDER}/2008_3.png"
    faults = archive({f"{VOC_FOLDER}/2008_1.png": rgb("2008_1"), f"{VOC_FOLDER}/2008_2.png": None, name: special(name, tarfile.SYMTYPE, "x"),
                      "notes.txt": b"", "../x": b""})
    assert sorted(fault.partition(":")[0] for fault in faults) == ["../x", "notes.txt", *(f"{VOC_FOLDER}/2008_{number}.png" for number in (1, 2, 3))]


def test_without_sizes_everything_else_is_checked(tmp_path: Path) -> None:
    path = packed(tmp_path / "my.tar.gz", list((sound() | {f"{VOC_FOLDER}/2008_2.png": encode_mask(np.full((3, 3), 77, np.uint8))}).items()))
    assert check(path, dict.fromkeys(SIZES)) == [f"{VOC_FOLDER}/2008_2.png: expected values 0 to 20, found 77 in 9 pixel(s)"]


# ---- hostile archives


def test_an_archive_that_swells_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "my.tar.gz"
    header = tarfile.TarInfo("zeros")
    header.size = 1 << 40
    with gzip.open(path, "wb", 1) as file:
        file.write(header.tobuf())
        for _ in range(80):
            file.write(bytes(1 << 20))
    faults = check(path)  # room for masks of these sizes: 8 bytes a pixel and 1 MiB each, and 64 MiB
    assert "more than 70255176 bytes of content" in faults[0]
    assert "3 of 3 expected images were not reached" in faults[0]


def test_a_header_that_swells_is_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "my.tar.gz"
    header = special("long", tarfile.GNUTYPE_LONGNAME)
    header.size = 1 << 36
    path.write_bytes(gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(5000)))
    [fault] = check(path)
    assert "a header of 68719476736 bytes" in fault


def test_a_size_below_zero_does_not_send_the_reader_in_a_circle(tmp_path: Path) -> None:
    header = bytearray(tarfile.TarInfo("back").tobuf())
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # −1024, in base 256
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    before = tar_bytes([(f"{VOC_FOLDER}/2008_1.png", bytes(512))])[:1024]
    path = tmp_path / "my.tar.gz"
    path.write_bytes(gzip.compress(before + bytes(header) + bytes(10240)))
    faults = check(path)  # Python refuses such a header itself, or this module does, whichever is newer
    assert "damaged" in faults[0]


def test_members_without_end_are_not_followed(tmp_path: Path) -> None:
    path = packed(tmp_path / "my.tar.gz", [(f"x/{number}", b"") for number in range(1100)])
    faults = check(path)
    assert "more than 1003 members" in faults[0]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
def test_damaged_archives_are_told_and_never_raise(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(tar_bytes(list(sound().items()), data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT]))))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, 1024))] = data.draw(st.integers(0, 255))
    zipped = bytearray(gzip.compress(bytes(content), 1))
    for _ in range(data.draw(st.integers(0, 2))):
        zipped[data.draw(st.integers(2, len(zipped) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "my.tar.gz"
    path.write_bytes(bytes(zipped))
    assert all(isinstance(fault, str) for fault in check(path))


# ---- what is expected


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of VOC's classes: one image of val, and the three of SIZES as test."""
    sizes = np.array([(9, 9), *SIZES.values()])
    write_index(Index(voc.CLASSES, ("2007_9", *SIZES), ("val", "test", "test", "test"), sizes, np.zeros((4, 20), bool)), tmp_path / "index.csv")
    return tmp_path / "index.csv"


def listed(folder: Path, text: str) -> Path:
    (folder / "test.txt").write_text(text)
    return folder / "test.txt"


def test_an_index_gives_its_test_images_and_their_sizes(index: Path) -> None:
    assert expected_images(None, index) == (SIZES, VOC_LAYOUT)
    assert expected_images(index, Path("none.csv")) == (SIZES, VOC_LAYOUT)


def test_a_list_gets_its_sizes_from_the_index_where_that_has_them(tmp_path: Path, index: Path) -> None:
    assert expected_images(listed(tmp_path, "2008_2\n2007_9\n2008_7\n"), index) == ({"2008_2": (4, 6), "2007_9": (9, 9), "2008_7": None}, VOC_LAYOUT)
    assert expected_images(listed(tmp_path, "2008_7\r\n"), tmp_path / "none.csv") == ({"2008_7": None}, VOC_LAYOUT)


def test_the_layout_is_that_of_the_index_only_where_it_knows_the_images(tmp_path: Path) -> None:
    write_index(Index(("cat", "dog"), ("a",), ("test",), np.array([(2, 2)]), np.zeros((1, 2), bool)), tmp_path / "index.csv")
    assert expected_images(listed(tmp_path, "a\n"), tmp_path / "index.csv") == ({"a": (2, 2)}, Layout("results", (0, 1, 2)))
    assert expected_images(listed(tmp_path, "2008_1\n"), tmp_path / "index.csv") == ({"2008_1": None}, VOC_LAYOUT)


def test_ids_may_have_folders_of_their_own(tmp_path: Path) -> None:
    sizes = {"a/1": (6, 4), "1": (6, 4), "results/1": (6, 4)}
    layout = layout_of(["cat", "dog"])
    write_submission(tmp_path / "my.tar.gz", sizes, lambda _: mask("2008_1"), layout=layout)
    assert submission_faults(tmp_path / "my.tar.gz", sizes, folder=layout.folder, highest=layout.highest) == []


@pytest.mark.parametrize(("text", "said"), [
    ("", "found no id"), ("a\nb\na\n", "id 'a' is listed 2 times"), ("../a\n", "expected a name relative to")])
def test_a_faulty_list_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(FaultList, match=r"test\.txt: expected a list") as caught:
        expected_images(listed(tmp_path, text), None)
    assert said in str(caught.value)


def test_a_missing_list_a_missing_index_and_one_without_test_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(AepslError, match=r"none\.txt: no such file$"):
        expected_images(tmp_path / "none.txt", None)
    with pytest.raises(AepslError, match=r"none\.csv: no such file; `dvc repro prepare` makes the index, or name the list"):
        expected_images(None, tmp_path / "none.csv")
    write_index(Index(("cat",), ("a",), ("val",), np.array([(2, 2)]), np.zeros((1, 1), bool)), tmp_path / "index.csv")
    with pytest.raises(AepslError, match=r"index\.csv: expected images of the split test, found none; or name the list"):
        expected_images(None, tmp_path / "index.csv")
