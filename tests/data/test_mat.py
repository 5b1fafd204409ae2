"""MAT-files: what MATLAB and scipy write is read as scipy reads it; whatever is damaged ends in an explanation, never in a crash."""

import io
import json
import os
import random
import re
import struct
import subprocess
import sys
import tracemalloc
import zlib
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from aepsl.data.mat import read_mask_field

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("AEPSL_FAULTS") == "long"


def save(*, compressed: bool, **variables: Any) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=compressed)
    return buffer.getvalue()


def struct_of(mask: np.ndarray) -> dict[str, Any]:
    """As SBD has it, with fields before and after, among them cells of sparse matrices."""
    boundaries = np.empty((2, 1), object)
    boundaries[:, 0] = [csc_matrix(np.eye(3)), csc_matrix(np.ones((2, 2)))]
    return {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.array([[1.0], [2.0]])}


@settings(max_examples=500 if LONG else 60, deadline=None)
@given(mask=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9))), compressed=st.booleans())
def test_a_mask_is_read_as_scipy_reads_it(mask: np.ndarray, compressed: bool) -> None:
    data = save(compressed=compressed, other="text", GTcls=struct_of(mask), last=np.eye(2))
    found = read_mask_field(data, "GTcls", "Segmentation")
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert np.array_equal(found, mask)
    assert np.array_equal(found, loadmat(io.BytesIO(data), struct_as_record=False)["GTcls"].flat[0].Segmentation)


def test_of_an_array_of_structs_the_first_counts() -> None:
    several = np.empty((1, 2), [("Segmentation", object)])
    several[0, 0], several[0, 1] = (np.array([[1, 2]], np.uint8),), (np.array([[3]], np.uint8),)
    assert read_mask_field(save(compressed=True, GTcls=several), "GTcls", "Segmentation").tolist() == [[1, 2]]
    with pytest.raises(ValueError, match="expected a struct GTcls with a field Segmentation, found none"):
        read_mask_field(save(compressed=True, GTcls=several[:, :0]), "GTcls", "Segmentation")


@pytest.mark.parametrize("version", ["6.1_SOL2", "6.5.1_GLNX86", "7.1_GLNX86", "7.4_GLNX86"])
def test_what_matlab_itself_wrote_is_understood(version: str) -> None:
    """Files of MATLAB 6 and 7 on Linux and, the bytes the other way round, on Solaris; they come with scipy."""
    folder = resources.files("scipy.io.matlab").joinpath("tests/data")
    if not folder.joinpath(f"teststruct_{version}.mat").is_file():
        pytest.skip("this scipy comes without the files of its tests")
    data = folder.joinpath(f"teststruct_{version}.mat").read_bytes()
    for field, kind in (("stringfield", "char"), ("doublefield", "float64"), ("complexfield", "float64")):
        shape = loadmat(io.BytesIO(data), chars_as_strings=False)["teststruct"][0, 0][field].shape
        with pytest.raises(ValueError, match=re.escape(f"expected teststruct.{field} (H, W) uint8, found {shape} {kind}")):
            read_mask_field(data, "teststruct", field)
    with pytest.raises(ValueError, match="found none"):
        read_mask_field(data, "teststruct", "other")


def element(kind: int, content: bytes, order: str = "<") -> bytes:
    return struct.pack(f"{order}II", kind, len(content)) + content + bytes(-len(content) % 8)


def variable(mask: bytes, shape: tuple[int, ...], order: str = "<", kind: int = 9, storage: int = 2, names: bytes = b"Segmentation\0\0\0\0") -> bytes:
    def matrix(kind: int, shape: tuple[int, ...], name: bytes, rest: bytes) -> bytes:
        return element(14, element(6, struct.pack(f"{order}II", kind, 0), order) + element(5, struct.pack(f"{order}{len(shape)}i", *shape), order)
                       + element(1, name, order) + rest, order)

    inner = matrix(kind, shape, b"", element(storage, mask, order))
    return matrix(2, (1, 1), b"GTcls", element(5, struct.pack(f"{order}i", 16), order) + element(1, names, order) + inner)


HEAD = {"<": b" " * 124 + b"\x00\x01IM", ">": b" " * 124 + b"\x01\x00MI"}


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_orders_of_bytes_are_read(order: str) -> None:
    data = HEAD[order] + variable(bytes([1, 2, 3, 4, 5, 6]), (2, 3), order)
    assert read_mask_field(data, "GTcls", "Segmentation").tolist() == [[1, 3, 5], [2, 4, 6]]


@pytest.mark.parametrize("hostile", [
    variable(b"123456", (2, 4)), variable(b"123456", (1 << 30, 1 << 30)), variable(b"123456", (-2, -3)), variable(b"123456", (6,)),
    variable(b"123456", (1,) * 33), variable(b"123456", (2, 3), kind=99), variable(b"123456", (2, 3), storage=9),
    variable(b"123456", (2, 3), names=b"x" * 15), variable(b"123456", (2, 3), names=b""), element(14, b"\0" * 8), struct.pack("<II", 14, 1 << 31),
    struct.pack("<II", 0xFFFF000E, 0), b"\x0e\0\0", element(15, zlib.compress(bytes(17 << 20))), element(15, zlib.compress(b"") * 2),
    element(15, zlib.compress(variable(b"123456", (2, 3)) * 2)), element(15, b"no stream"), element(9, b"x" * 8)])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_that_promises_what_it_has_not_is_explained(hostile: bytes, packed: bool) -> None:
    data = HEAD["<"] + (element(15, zlib.compress(hostile)) if packed else hostile)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="^expected a (complete MAT-file|struct GTcls)"):
            read_mask_field(data, "GTcls", "Segmentation")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("content", "said"), [
    (element(15, zlib.compress(variable(b"123456", (2, 3)))[:-1]), "compressed data that are cut short"),
    (element(15, zlib.compress(bytes(17 << 20))), "more than 16 MiB when unpacked"), (struct.pack("<I", 5 << 16 | 14) + bytes(12), "small data element of 5"),
    (element(14, element(6, b"123") + element(5, bytes(8)) + element(1, b"x")), "unpack requires"), (element(14, element(6, bytes(8)) + element(5, b"12345")), "unpack requires")])
def test_damage_is_named(content: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=f"damaged or foreign one .*{said}"):
        read_mask_field(HEAD["<"] + content, "GTcls", "Segmentation")


def test_a_field_named_twice_is_none() -> None:
    data = HEAD["<"] + variable(b"123456", (2, 3), names=b"Segmentation\0\0\0\0" * 2)
    with pytest.raises(ValueError, match="with a field Segmentation, found none"):
        read_mask_field(data, "GTcls", "Segmentation")


# The child has little memory and time, and a fault handler; its count tells that it came to the end.
FUZZ = """
import faulthandler, json, random, resource, sys
from aepsl.data.voc2012 import read_sbd_mask
faulthandler.enable()
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (512 << 20),) * 2)
seeds = [bytes.fromhex(text) for text in json.load(sys.stdin)]
draw, count = random.Random(int(sys.argv[1])), {"explained": 0, "read": 0}
for _ in range(int(sys.argv[2])):
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.choice([1, 1, 2, 5, 20])):
        at = draw.randrange(len(data))
        kind = draw.randrange(5)
        if kind == 0:
            data[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            data[at] = draw.choice([0, 1, 2, 5, 9, 14, 15, 127, 128, 255])
        elif kind == 2:
            data[at:at + 4] = draw.choice([0, 1, 4, 8, 2**16, 2**31 - 1, 2**31, 2**32 - 1]).to_bytes(4, "little")
        elif kind == 3:
            del data[at:at + draw.randrange(1, 40)]
        else:
            data[at:at] = data[:draw.randrange(40)]
        if len(data) < 2:
            break
    try:
        mask = read_sbd_mask(bytes(data))
    except ValueError as error:
        assert str(error).startswith("expected "), error
        count["explained"] += 1
    else:
        assert mask.ndim == 2 and mask.dtype == "uint8" and set(mask.ravel().tolist()) <= {*range(21), 255}
        count["read"] += 1
print(json.dumps(count))
"""


@pytest.mark.parametrize("seed", range(10 if LONG else 1))
def test_random_damage_never_takes_the_interpreter_down(seed: int) -> None:
    mask = np.random.default_rng(seed).integers(0, 21, (7, 9)).astype(np.uint8)
    seeds = [save(compressed=compressed, GTcls=struct_of(mask)) for compressed in (False, False, True)]
    # Damage behind a right checksum: what is compressed is damaged before it is packed.
    seeds += [HEAD["<"] + variable(mask.tobytes("F"), mask.shape), HEAD[">"] + variable(mask.tobytes("F"), mask.shape, ">")]
    number = 20_000 if LONG else 4_000
    run = subprocess.run([sys.executable, "-c", FUZZ, str(seed), str(number)], input=json.dumps([data.hex() for data in seeds]), text=True,
                         env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    count = json.loads(run.stdout)
    assert count["explained"] + count["read"] == number
    assert min(count.values()) > number // 20


@pytest.mark.parametrize("seed", range(20 if LONG else 2))
def test_damage_inside_a_compressed_variable_is_explained_or_read(seed: int) -> None:
    draw = random.Random(seed)
    content = variable(bytes(range(20)), (4, 5))
    for _ in range(1000):
        damaged = bytearray(content)
        for _ in range(draw.randrange(1, 5)):
            damaged[draw.randrange(len(damaged))] = draw.choice([0, 1, 255, draw.randrange(256)])
        try:
            assert read_mask_field(HEAD["<"] + element(15, zlib.compress(damaged)), "GTcls", "Segmentation").ndim == 2
        except ValueError as error:
            assert str(error).startswith("expected ")
