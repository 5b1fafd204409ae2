"""Hostile and damaged tar archives: what is no plain file is never read, limits hold before memory is taken, nothing reaches the disk."""

import gzip
import io
import os
import random
import struct
import sys
import tarfile
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aepsl.data import tarball
from aepsl.data.tarball import TarFiles
from aepsl.errors import AepslError

LONG = os.environ.get("AEPSL_FAULTS") == "long"


def entry(name: str, content: bytes = b"", form: int = tarfile.GNU_FORMAT, **fields: Any) -> bytes:
    """Header and content of one file, written by the standard library; ``fields`` changes the header."""
    header = tarfile.TarInfo(name)
    header.size = len(content)
    for field, value in fields.items():
        setattr(header, field, value)
    return header.tobuf(form) + content + bytes(-len(content) % 512)


END = bytes(1024)
PLAIN = entry("top/data/a", b"first") + entry("top/data/sub/b", b"second")


def save(folder: Path, content: bytes, *, zipped: bool = False) -> Path:
    file = folder / ("x.tgz" if zipped else "x.tar")
    file.write_bytes(gzip.compress(content, 1) if zipped else content)
    return file


def files(file: Path) -> dict[str, bytes]:
    with TarFiles(file, "data") as tar:
        return {name: tar.read(header) for name, header in tar}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_plain_files_are_read_in_their_order(tmp_path: Path, zipped: bool, form: int) -> None:
    long = "top/data/" + "/".join("d" * 40 for _ in range(4))
    content = entry("./top/data/a", b"first", form=form) + entry("elsewhere", b"x" * 600, form=form) + entry(long, b"long", form=form)
    found = files(save(tmp_path, content + END, zipped=zipped))
    assert list(found.items()) == [("a", b"first"), (long.removeprefix("top/data/"), b"long")]


@pytest.mark.parametrize("odd", [
    entry("/top/data/evil", b"x"), entry("top/data/../evil", b"x"), entry("../data/evil", b"x"), entry("//data/evil", b"x"),
    *(entry("top/data/evil", type=kind, linkname="/etc/passwd") for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE)),
    entry("top/data/evil", type=tarfile.LNKTYPE, linkname="top/data/a"),
    *(entry("top/data/evil", type=kind, devmajor=1, devminor=3) for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE)),
    entry("top/data/evil", type=tarfile.FIFOTYPE), entry("top/data/evil", type=tarfile.DIRTYPE), entry("data", b"x"),
    entry("top/data/evil", b"x" * 512, form=tarfile.PAX_FORMAT, pax_headers={"GNU.sparse.map": "0,512", "GNU.sparse.size": "99999999"})],
    ids=["absolute", "up", "up first", "double slash", "symlink", "hard link", "hard link inside", "character device", "block device", "fifo",
         "folder", "the folder's name", "sparse"])
@pytest.mark.parametrize("zipped", [False, True])
def test_what_is_no_plain_file_is_none(tmp_path: Path, odd: bytes, zipped: bool) -> None:
    found = files(save(tmp_path, entry("top/data/a", b"first") + odd + entry("top/data/z", b"last") + END, zipped=zipped))
    assert found == {"a": b"first", "z": b"last"}


@pytest.mark.parametrize("second", ["top/data/a", "other/data/a", "./top//data/a"])
def test_a_name_that_comes_twice_is_refused(tmp_path: Path, second: str) -> None:
    with pytest.raises(AepslError, match=r"x\.tar: expected a complete .tar archive within the limits, found \S+data/a twice; delete it"):
        files(save(tmp_path, PLAIN + entry(second, b"other") + END))


def claim(size: int, *, kind: bytes = b"0", name: bytes = b"top/data/evil") -> bytes:
    """A header with a right checksum that claims any size, negative ones too."""
    field = b"\x80" + size.to_bytes(11, "big") if size >= 0 else b"\xff" + (256**11 + size).to_bytes(11, "big")
    header = bytearray(name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + field + b"00000000000\0" + b" " * 8 + kind + bytes(355))
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


HOSTILE = {
    "huge": claim(1 << 60), "too large to read": claim((16 << 20) + 1) + bytes((16 << 20) + 512), "negative": claim(-512),
    "very negative": claim(-1 << 80), "more than there is": claim(5000) + b"x" * 512,
    "pax header of a GiB": claim(1 << 30, kind=b"x"), "global header of a GiB": claim(1 << 30, kind=b"g"), "long name of a GiB": claim(1 << 30, kind=b"L"),
    "long link of a GiB": claim(1 << 30, kind=b"K"), "negative header": claim(-1024, kind=b"x"), "header of a MiB": claim(1 << 20, kind=b"x") + bytes(2 << 20),
    "nested headers": entry("x", b"10 path=a\n", type=tarfile.XHDTYPE) * 5000,
    "pax size": entry("x", b"27 size=9999999999999999999\n", type=tarfile.XHDTYPE) + claim(0),
    "pax negative size": entry("x", b"13 size=-512\n", type=tarfile.XHDTYPE) + claim(0),
    "sparse of an EiB": claim(0, kind=b"S")[:483] + b"\x80" + (1 << 60).to_bytes(11, "big") + bytes(17),
    "sparse map without end": claim(0, kind=b"S")[:482] + b"\x01" + bytes(29) + (bytes(504) + b"\x01" + bytes(7)) * 20000,
    "numbers without end": entry("x", b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n", type=tarfile.XHDTYPE) + claim(0) + b"9" * (1 << 20),
}


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_ends_in_an_explanation_and_takes_no_memory(tmp_path: Path, name: str, zipped: bool) -> None:
    file = save(tmp_path, PLAIN + HOSTILE[name] + entry("top/data/z", b"last") + END, zipped=zipped)
    tracemalloc.start()
    try:
        with pytest.raises(AepslError, match=r"x\.t(ar|gz): expected a complete .*; delete it and run again"):
            files(file)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_negative_size_does_not_lead_back(tmp_path: Path) -> None:
    with pytest.raises(AepslError, match="elsewhere of -512 bytes"):
        files(save(tmp_path, claim(-512, name=b"elsewhere") + END))


def test_an_archive_of_too_many_entries_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarball, "MOST_ENTRIES", 2)
    with pytest.raises(AepslError, match="more than 2 entries"):
        files(save(tmp_path, PLAIN + END))
    monkeypatch.setattr(tarball, "MOST_ENTRIES", 3)
    assert len(files(save(tmp_path, PLAIN + END))) == 2


def zeros(pieces: int) -> Iterator[bytes]:
    """A gzip stream of a header that claims 2^35 bytes and of ``pieces`` MiB, a thousandth of that on disk."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    yield packer.compress(claim(1 << 35, name=b"elsewhere"))
    for _ in range(pieces):
        yield packer.compress(bytes(1 << 20))
    yield packer.flush()


def test_a_tgz_that_unpacks_without_end_is_left_at_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "x.tgz"
    file.write_bytes(b"".join(zeros(256)))
    assert file.stat().st_size < 2 << 20
    monkeypatch.setattr(tarball, "LARGEST_ARCHIVE", 64 << 20)
    tracemalloc.start()
    try:
        with pytest.raises(AepslError, match="more than 0 GiB when unpacked"):
            files(file)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
    monkeypatch.setattr(tarball, "LARGEST_ARCHIVE", 1 << 40)
    with pytest.raises(AepslError, match="complete .tgz archive"):  # the stream ends before what the header claims
        files(file)


@pytest.mark.parametrize("zipped", [False, True])
def test_an_archive_cut_off_anywhere_is_explained(tmp_path: Path, zipped: bool) -> None:
    whole = save(tmp_path, PLAIN + END, zipped=zipped).read_bytes()
    needed = len(whole) - 8 if zipped else len(PLAIN) + 1  # without gzip's checksum; any zero after the last file marks the end
    for length in range(0, needed, max(1, needed // (1000 if LONG else 60))):
        file = tmp_path / ("cut.tgz" if zipped else "cut.tar")
        file.write_bytes(whole[:length])
        try:
            found = files(file)
        except AepslError as error:
            assert "delete it and run again" in str(error)
        else:  # deflate packs the zeros of the end into very few bits
            assert zipped
            assert length > needed - 8
            assert found == {"a": b"first", "sub/b": b"second"}


@pytest.mark.parametrize("zipped", [False, True])
def test_damage_is_explained_or_harmless(tmp_path: Path, zipped: bool) -> None:
    draw = random.Random(int(zipped))
    content = PLAIN + entry("top/data/" + "n" * 200, b"long" * 200) + entry("top/data/p", b"pax", form=tarfile.PAX_FORMAT,
                                                                             pax_headers={"comment": "é" * 90})
    for _ in range(20_000 if LONG else 600):
        damaged = bytearray(content + END)
        for _ in range(draw.randrange(1, 6)):
            at = draw.randrange(len(damaged))
            damaged[at:at + 1] = draw.choice([bytes([damaged[at] ^ 1 << draw.randrange(8)]), b"", draw.randbytes(3), struct.pack(">q", draw.getrandbits(63))])
        for start in range(0, len(damaged) - 511, 512):  # half of the time the headers' checksums are right in spite of it
            if draw.random() < 0.5 and any(damaged[start:start + 100]):
                damaged[start + 148:start + 156] = b" " * 8
                damaged[start + 148:start + 156] = b"%06o\0 " % sum(damaged[start:start + 512])
        file = save(tmp_path, bytes(damaged), zipped=zipped)
        if zipped and draw.random() < 0.5:
            packed = bytearray(file.read_bytes())
            packed[draw.randrange(len(packed))] ^= 1 << draw.randrange(8)
            file.write_bytes(packed)
        try:
            found = files(file)
        except AepslError:
            continue
        assert not any(name.startswith("/") or ".." in name.split("/") for name in found)


class Watch:
    """An audit hook that notes, while it is on, what this process does to the file system other than reading."""

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self)  # for good: Python takes none back

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if self.on and (writes or event in ("os.mkdir", "os.link", "os.symlink", "os.rename", "os.remove", "os.chmod", "os.chown", "os.truncate")):
            self.seen.append(event)


def test_reading_writes_nothing_to_disk(tmp_path: Path) -> None:
    odd = entry("../../evil", b"x") + entry("top/data/../../../evil", b"x") + entry("top/data/l", type=tarfile.SYMTYPE, linkname="/tmp")
    archives = [save(tmp_path, PLAIN + odd + END, zipped=zipped) for zipped in (False, True)]
    watch = Watch()
    try:
        watch.on = True
        for file in archives:
            assert files(file) == {"a": b"first", "sub/b": b"second"}
        assert watch.seen == []
        (tmp_path / "seen").write_bytes(b"")
        (tmp_path / "folder").mkdir()
        assert watch.seen == ["open", "os.mkdir"]  # it does see what is written
    finally:
        watch.on = False


def test_nothing_in_the_package_extracts_archives() -> None:
    source = Path(tarball.__file__).parents[1]
    calls = [f"{file.name}:{number}" for file in sorted(source.rglob("*.py")) for number, line in enumerate(file.read_text().splitlines(), 1)
             if ".extractall(" in line or ".extract(" in line or "unpack_archive" in line]
    assert calls == []


def test_a_file_object_is_only_read_forwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step back would unpack a .tgz again from its beginning."""
    steps: list[int] = []
    seek = tarball._Guarded.seek

    def noted(guarded: Any, position: int) -> int:
        steps.append(position - guarded.tell())
        return seek(guarded, position)

    monkeypatch.setattr(tarball._Guarded, "seek", noted)
    content = b"".join(entry(f"top/{folder}/{number}", b"x" * number * 100) for number in range(30) for folder in ("data", "img"))
    assert len(files(save(tmp_path, content + END, zipped=True))) == 30
    assert min(steps) >= 0


def test_an_empty_stream_is_no_archive(tmp_path: Path) -> None:
    for content in (b"", bytes(10), io.BytesIO(gzip.compress(b"")).getvalue()):
        (tmp_path / "x.tgz").write_bytes(content)
        with pytest.raises(AepslError):
            files(tmp_path / "x.tgz")
