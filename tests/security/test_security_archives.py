"""Zip archives made to harm: nothing is written outside, no link is followed, nothing is unpacked beyond its limits.

Archives for the test server, which are tar archives, are tried in tests/evaluation/test_submission.py too.
"""

import io
import multiprocessing
import os
import resource
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from aepsl.data.archive import MOST_BYTES, MOST_RATIO, ArchiveReader
from aepsl.data.prepare import prepare
from aepsl.errors import AepslError
from aepsl.evaluation.submission_check import submission_faults
from aepsl.mining.saliency import user_maps

FORK = multiprocessing.get_context("fork")
Reader = Callable[[Path], object]
READERS: dict[str, Reader] = {
    "names": lambda path: ArchiveReader(path).names(), "entry": lambda path: ArchiveReader(path).read("a.png"),
    "contains": lambda path: "a.png" in ArchiveReader(path),
    "maps": user_maps,
    "prepare": lambda path: prepare(path, classes=None, unlisted="error", **{name: path.parent / "out" / name
                                                                             for name in ("images", "truth", "index", "mean_pixel")})}


def packed(path: Path, name: str, data: bytes = b"x", *, mode: int = 0, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", b"")
        info = zipfile.ZipInfo("placeholder")
        info.filename = info.orig_filename = name  # unlike the constructor this keeps what it is given
        info.external_attr, info.compress_type = mode << 16, method
        archive.writestr(info, data)
    return path


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize("name", ["../x", "x/../../y", "/x", "//x", "C:/x", "c:x", "..\\x", "a\\..\\..\\x", ".."])
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path: Path, read: Reader, name: str) -> None:
    path = packed(tmp_path / "a.zip", name)
    with pytest.raises(AepslError, match=r"(?s)a\.zip: expected plain files.*: expected a name inside the archive, found one that leads out of it"):
        read(path)
    assert os.listdir(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("mode", "found"), [(stat.S_IFLNK, "a symbolic link"), (stat.S_IFCHR, "a device"), (stat.S_IFBLK, "a device"),
                                             (stat.S_IFIFO, "a device, pipe"),
                                             (stat.S_IFSOCK, "a device, pipe or socket")])
def test_links_and_devices_are_refused(tmp_path: Path, read: Reader, mode: int, found: str) -> None:
    path = packed(tmp_path / "a.zip", "b.png", b"/etc/passwd", mode=mode | 0o777)
    with pytest.raises(AepslError, match=rf"(?s)a\.zip: .*entry 'b\.png': expected a plain file, found {found}"):
        read(path)


def test_two_entries_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        path = packed(tmp_path / "a.zip", "a.png")
    with pytest.raises(AepslError, match=r"(?s)entry 'a\.png': expected every name once, found it 2 times"):
        ArchiveReader(path).read("a.png")


def test_other_methods_of_compression_are_refused_because_they_unpack_without_measure(tmp_path: Path) -> None:
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with pytest.raises(AepslError, match=rf"entry 'b': expected a stored or deflated entry, found compression method {method}"):
            ArchiveReader(packed(tmp_path / "a.zip", "b", method=method)).read("b")


# ---- bombs


def within(mebibytes: int, work: Callable[[], object]) -> None:
    """Run in a process that may take so much memory beyond what it has, and not a byte more."""
    def limited() -> None:
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (mebibytes << 20),) * 2)
        work()

    child = FORK.Process(target=limited)
    child.start()
    child.join(600)
    assert child.exitcode == 0


def refused(path: Path, said: str) -> None:
    with pytest.raises(AepslError, match=said):
        ArchiveReader(path).read("bomb")


def declare(path: Path, size: int) -> None:
    """Let the directory say another size of the last entry."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")
    data[at + 24:at + 28] = struct.pack("<I", size)
    path.write_bytes(bytes(data))


def test_an_entry_that_declares_gigabytes_is_not_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", "bomb")
    declare(path, MOST_BYTES + 1)
    within(64, lambda: refused(path, rf"entry 'bomb': expected at most {MOST_BYTES} bytes, found {MOST_BYTES + 1}"))


def test_an_entry_that_expands_a_thousandfold_is_not_unpacked(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", "bomb", bytes(256 << 20), method=zipfile.ZIP_DEFLATED)
    within(64, lambda: refused(path, rf"entry 'bomb': expected at most {MOST_RATIO} times the \d+ bytes it takes, found {256 << 20}"))


def test_an_entry_that_expands_to_more_than_it_declares_is_cut_off_there(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.zip", "bomb", bytes(256 << 20), method=zipfile.ZIP_DEFLATED)
    declare(path, 1000)
    within(64, lambda: refused(path, "entry 'bomb' is damaged"))


def test_entries_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """A bomb that keeps to the ratio of every entry lets many of them lie in one another."""
    kernel = zlib.compress(bytes(100_000))[2:-4]
    body = b"PK\x03\x04" + struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, zlib.crc32(bytes(100_000)), len(kernel), 100_000, 1, 0) + b"0" + kernel
    directory = b"".join(b"PK\x01\x02" + struct.pack("<HHHHHHIIIHHHHHII", 20, 20, 0, 8, 0, 33, zlib.crc32(bytes(100_000)), len(kernel), 100_000, 1, 0,
                                                     0, 0, 0, 0, 0)
                         + str(number).encode() for number in range(9))
    path = tmp_path / "a.zip"
    path.write_bytes(body + directory + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, 9, 9, len(directory), len(body), 0))
    archive = ArchiveReader(path)
    for name in "12345678":
        with pytest.raises(AepslError, match=rf"entry '{name}' is damaged"):
            archive.read(name)


def test_a_gzip_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "my.tar.gz"
    squeezed = io.BytesIO()
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    squeezed.write(packer.compress(bytes(300 << 20)) + packer.flush())
    path.write_bytes(squeezed.getvalue())

    def check() -> None:
        [fault] = submission_faults(path, {"a": (5, 4)}, folder="results", highest=20)[:1]
        assert "more than" in fault

    within(96, check)
