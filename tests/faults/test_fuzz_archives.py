"""Zip archives and archives for the test server, from anywhere: damaged, lying about what they hold, or made to harm."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from aepsl.data.archive import MOST_BYTES, ArchiveReader, ArchiveWriter, encode_mask
from aepsl.errors import AepslError
from aepsl.evaluation.submission_check import submission_faults
from tests.faults.fuzzing import TOKENS, fuzz, mutated

CONTENT = {"b.png": b"hello", "größe/a.png": bytes(range(256)) * 3, "empty": b"", "c.json": b"[" + b" " * 2000 + b"]"}
SCRAPS = [*TOKENS[-12:], b"PK\x03\x04", b"PK\x06\x06", b"PK\x06\x07", b"\x01\x00\x10\x00" + b"\xff" * 16, b"\x63\x00", b"../", b"\0", b"\x09\x00",
          b"\x0e\x00"]


def ours(path: Path) -> bytes:
    with ArchiveWriter(path) as archive:
        for name, data in CONTENT.items():
            archive.add(name, data)
    return path.read_bytes()


def theirs(method: int, *, long: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.comment = b"a comment"
        for name, data in CONTENT.items():
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=long) as file:
                file.write(data)
    return buffer.getvalue()


def everything(path: Path) -> dict[str, bytes]:
    archive = ArchiveReader(path)
    return {name: archive.read(name) for name in archive}


def test_zips_with_changed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    samples = [ours(path), ours(path), theirs(zipfile.ZIP_STORED), theirs(zipfile.ZIP_DEFLATED), theirs(zipfile.ZIP_DEFLATED, long=True),
               theirs(zipfile.ZIP_BZIP2)]

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        return everything(path) == CONTENT

    fuzz("zip, bytes", mutated(samples, SCRAPS), judge, names=[str(path)], short=100, long=2500, isolated=tmp_path)


def test_what_a_zip_of_ours_holds_is_never_taken_for_missing(tmp_path: Path) -> None:
    """Absence has a meaning, such as "nothing mined": a name changed in the directory must not pass for it, even where no entry is read."""
    path = tmp_path / "a.zip"

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        archive = ArchiveReader(path)
        return [*archive] == [*CONTENT] and all(name in archive for name in CONTENT)

    whole = ours(path)
    flips = st.tuples(st.integers(whole.index(b"PK\x01\x02"), len(whole) - 1), st.integers(0, 7)).map(lambda at: whole[:at[0]]
        + bytes([whole[at[0]] ^ 1 << at[1]]) + whole[at[0] + 1:])
    fuzz("zip, one bit of the directory", flips, judge, names=[str(path)], short=100, long=1500)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "method": st.sampled_from([0, 8, 9, 12, 14, 93, 99, 65535]), "flags": st.sampled_from([1, 8, 0x20, 0x40, 0x800, 0x2000, 65535]),
    "crc": st.integers(0, 2**32 - 1),
    "packed": st.sampled_from([0, 1, 4, 2**31, 2**32 - 2, 2**32 - 1]), "size": st.sampled_from([0, 1, 4, 6, 2**20, MOST_BYTES, MOST_BYTES + 1,
                                                                                                2**32 - 2, 2**32 - 1]),
    "offset": st.sampled_from([0, 1, 30, 1000, 2**32 - 1]), "mode": st.sampled_from([0o120777, 0o060666, 0o020666, 0o010666, 0o140777, 0o040755,
                                                                                     0o100644]),
    "name": st.sampled_from(["../x", "/x", "C:x", "a\\b", "a\0b", "x/../../y", "..", "b.png", "", "\x1b[2J", "a" * 5000, "aux", "x/"]),
    "extra": st.sampled_from([b"\x01\0\x08\0" + b"\xff" * 8, b"\x01\0\x18\0" + struct.pack("<QQQ", 2**63, 5, 0), b"\x01\0",
                              b"up\x09\0\x01\0\0\0\0evil", b"\xff" * 7]),
    "year": st.sampled_from([0, 0xFFFF])}


def liar(entries: Mapping[str, bytes], local: Mapping[str, Any], central: Mapping[str, Any], which: int, end: Mapping[str, int]) -> bytes:
    """A zip put together by hand, one of whose entries says in its header, or in the directory, what is not so."""
    body, directory = b"", b""
    for number, (name, data) in enumerate(entries.items()):
        squeezed = zlib.compress(data, 9)[2:-4]
        true = {"method": 8, "flags": 0x800, "crc": zlib.crc32(data), "packed": len(squeezed), "size": len(data), "offset": len(body), "mode": 0,
                "name": name, "extra": b"", "year": 33}

        def header(lies: Mapping[str, Any], true: dict[str, Any] = true, lying: bool = number == which) -> tuple[dict[str, Any], bytes, bytes, bytes]:
            said = true | (lies if lying else {})
            written = said["name"].encode("utf-8", "surrogatepass")
            common = struct.pack("<HHHHIIIHH", said["flags"], said["method"], 0, said["year"], said["crc"], said["packed"], said["size"],
                                 len(written), len(said["extra"]))
            return said, common, written, said["extra"]

        said, common, written, extra = header(central)
        directory += (b"PK\x01\x02" + struct.pack("<HH", 788, 45) + common + struct.pack("<HHHII", 0, 0, 0, said["mode"] << 16, said["offset"])
                      + written + extra)
        said, common, written, extra = header(local)
        body += b"PK\x03\x04" + struct.pack("<H", 45) + common + written + extra + squeezed
    last = {"count": len(entries), "size": len(directory), "offset": len(body)} | end
    return body + directory + b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, last["count"] & 0xFFFF, last["count"] & 0xFFFF, last["size"],
                                                          last["offset"], 0)


BOMB = bytes(40 << 20)
ENTRIES = [CONTENT, {"bomb": BOMB, **CONTENT}, {"small": bytes(1 << 19)}]


def test_zips_that_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    lies = st.dictionaries(st.sampled_from([*FIELDS]), st.none(), max_size=2).flatmap(lambda chosen: st.fixed_dictionaries({name: FIELDS[name]
                                                                                                                            for name in chosen}))
    ends = st.just({}) | st.fixed_dictionaries({name: st.sampled_from([0, 1, 65535, 2**32 - 1]) for name in ("count", "size", "offset")})
    inputs = st.tuples(st.sampled_from([0, 0, 0, 2, 1]), lies, st.booleans(), lies, st.integers(0, 3),
                       st.sampled_from([0, 0, 1]).flatmap(lambda some: ends if some else st.just({})))

    def judge(given: Any) -> bool:
        entries, local, both, central, which, end = given
        path.write_bytes(liar(ENTRIES[entries], central if both else local, central, which, end))
        found = everything(path)
        # A name may be a lie that header and directory agree on: then it is the name.
        return sorted(found.values()) == sorted(ENTRIES[entries].values()) or (end.get("size") == 0 and not found)

    fuzz("zip, lies", inputs, judge, names=[str(path)], short=100, long=2500, isolated=tmp_path)


# ---- archives for the test server

FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"
SIZES = {"2008_1": (5, 4), "2008_2": (4, 6), "sub/3": (7, 3)}
MASKS = {name: np.resize(np.arange(5, dtype=np.uint8), size[::-1]) for name, size in SIZES.items()}


def tar(members: list[tuple[str, bytes, dict[str, Any]]], kind: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for name, data, facts in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            for key, value in facts.items():
                setattr(member, key, value)
            archive.addfile(member, io.BytesIO(data) if member.isreg() else None)
    return buffer.getvalue()


SOUND = [(f"{FOLDER}/{name}.png", encode_mask(mask), {}) for name, mask in MASKS.items()]
NAMES = ["../x.png", "/x.png", f"{FOLDER}/../2008_1.png", f"{FOLDER}//2008_1.png", f"./{FOLDER}/2008_1.png", "C:/2008_1.png", "2008_1.png",
         f"{FOLDER}\\2008_1.png", "a\nb", "\x1b[2J",
         "x" * 300, f"{FOLDER}/2008_1.PNG", f"{FOLDER}/con.png", ".DS_Store", f"{FOLDER}/2008_1.png", f"{FOLDER}/2008_9.png", f"{FOLDER}/",
         "\udcff.png"]
KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE, tarfile.CONTTYPE,
         tarfile.GNUTYPE_SPARSE, b"Z"]
MEMBERS = st.tuples(st.sampled_from(NAMES), st.sampled_from([b"", SOUND[0][1], bytes(3000), b"\x89PNG" * 9]),
                    st.just({}) | st.fixed_dictionaries({"type": st.sampled_from(KINDS),
                                                         "linkname": st.sampled_from(["/etc/passwd", "../../x", f"{FOLDER}/2008_1.png"])})
                    | st.fixed_dictionaries({"pax_headers": st.sampled_from([{"path": "../../x"}, {"size": "-1"}, {"size": str(2**62)},
                                                                             {"GNU.sparse.realsize": "1" * 30}])}))


def judge_submission(path: Path) -> Any:
    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        if faults := submission_faults(path, SIZES, folder=FOLDER, highest=20):
            raise AepslError("\n".join(faults))
        with tarfile.open(path) as archive:  # accepted: then it holds what the server wants
            files = {member.name.removeprefix("./"): archive.extractfile(member).read() for member in archive
                     if not member.isdir()}  # type: ignore[union-attr]
        return files == {name: data for name, data, _ in SOUND}

    return judge


def test_submissions_with_changed_bytes(tmp_path: Path) -> None:
    path = tmp_path / "my.tar.gz"
    plain = [tar(SOUND, kind) for kind in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)]
    inside = mutated(plain, [*SCRAPS, b"00000000000\0", b"\x80" + b"\xff" * 11, b"77777777777\0"]).map(lambda data: gzip.compress(data, 1, mtime=0))
    outside = mutated([gzip.compress(data, 6, mtime=0) for data in plain] + [gzip.compress(plain[0], mtime=0) * 2, b"", b"PK\x03\x04", plain[0]],
                      SCRAPS)
    fuzz("submission, bytes", inside | outside, judge_submission(path), names=[str(path), FOLDER], short=80, long=2000)


def test_submissions_with_strange_members(tmp_path: Path) -> None:
    path = tmp_path / "my.tar.gz"

    def pack(given: Any) -> bytes:
        strange, kept, kind, level = given
        return gzip.compress(tar([*SOUND[:kept], *strange], kind), level, mtime=0)

    inputs = st.tuples(st.lists(MEMBERS, max_size=3), st.integers(0, 3), st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
                       st.sampled_from([1, 9])).map(pack)
    fuzz("submission, members", inputs, judge_submission(path), names=[str(path), FOLDER, "top level", "../../x",
                                                                       *(ascii(name)[1:-1] for name in NAMES)], short=80, long=1500)
