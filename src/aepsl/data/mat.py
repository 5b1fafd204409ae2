"""One mask out of a struct in a MAT-file of version 5, the format of SBD's masks.

scipy.io.loadmat is not used: on damaged files it can take the interpreter down. Here every length is held against the bytes
that are there, what is not asked for (cells, sparse matrices, other variables) is skipped unread, and nothing is unpacked beyond
:data:`LARGEST`. Source: MathWorks, "MAT-File Format", version 5, chapter 1.
"""

import struct
import zlib
from collections.abc import Iterator
from math import prod
from typing import Literal

import numpy as np

LARGEST = 16 << 20  # bytes of a variable
HDF5 = b"\x89HDF\r\n\x1a\n"
_INT8, _UINT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 2, 5, 6, 14, 15  # types of data elements
_STRUCT = 2
_CLASSES = {1: "cell", 2: "struct", 3: "object", 4: "char", 5: "sparse", 6: "float64", 7: "float32", 8: "int8", 9: "uint8", 10: "int16",
            11: "uint16", 12: "int32", 13: "uint32", 14: "int64", 15: "uint64", 16: "function", 17: "opaque"}
_MOST_AXES = 32
Order = Literal["<", ">"]


def read_mask_field(data: bytes, variable: str, field: str) -> np.ndarray:
    """The array (H, W) uint8 in a field of a struct; of an array of structs, the first.

    Raises
    ------
    ValueError : with expected and found: a file that is cut short or damaged, of another version, or without such an array.
    """
    if HDF5 in data[:1024]:
        raise ValueError("expected a MAT-file of version 5, found one of version 7.3 (HDF5); save it with -v7")
    try:
        found = _field(data, variable, field)
    except (_Damaged, struct.error, zlib.error) as error:
        raise ValueError(f"expected a complete MAT-file of version 5, found a damaged or foreign one ({error})") from None
    if found is None:
        raise ValueError(f"expected a struct {variable} with a field {field}, found none")
    kind, shape, content = found
    if kind != "uint8" or len(shape) != 2:
        raise ValueError(f"expected {variable}.{field} (H, W) uint8, found {shape} {kind}")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F").copy("C")


class _Damaged(Exception):
    pass


def _field(data: bytes, variable: str, field: str) -> tuple[str, tuple[int, ...], bytes] | None:
    """Class, shape and bytes of an array; the bytes are filled in for uint8 alone."""
    orders: dict[bytes, Order] = {b"\x00\x01IM": "<", b"\x01\x00MI": ">"}
    if (order := orders.get(data[124:128])) is None:
        raise _Damaged("no header")
    for kind, content in _elements(data[128:], order):
        if kind == _COMPRESSED:
            unpacked = list(_elements(_unpack(content), order))
            if len(unpacked) != 1:
                raise _Damaged(f"{len(unpacked)} variables in the place of one")
            kind, content = unpacked[0]
        if kind != _MATRIX:
            raise _Damaged(f"a data element of type {kind} in the place of a variable")
        matrix = _matrix(content, order)
        if matrix is None or matrix[2] != variable:
            continue
        if matrix[0] != _STRUCT or not prod(matrix[1]):
            return None
        return _member(matrix[3], field, order)
    return None


def _member(parts: Iterator[tuple[int, bytes]], field: str, order: Order) -> tuple[str, tuple[int, ...], bytes] | None:
    """A field of the first of some structs."""
    width = _integers(_next(parts, _INT32), order)
    names = _next(parts, _INT8)
    if len(width) != 1 or width[0] < 1 or len(names) % width[0]:
        raise _Damaged("field names that do not fit their length")
    fields = [names[at:at + width[0]].partition(b"\x00")[0] for at in range(0, len(names), width[0])]
    if fields.count(field.encode()) != 1:
        return None
    for _ in range(fields.index(field.encode())):
        _next(parts, _MATRIX)
    matrix = _matrix(_next(parts, _MATRIX), order)
    if matrix is None:
        return "float64", (0, 0), b""  # how an empty array is abbreviated
    kind, shape, _, rest = matrix
    if _CLASSES[kind] != "uint8":
        return _CLASSES[kind], shape, b""
    content = _next(rest, _UINT8)
    if len(content) != prod(shape):
        raise _Damaged(f"{len(content)} bytes for an array of {'×'.join(map(str, shape))}")
    return "uint8", shape, content


def _matrix(content: bytes, order: Order) -> tuple[int, tuple[int, ...], str, Iterator[tuple[int, bytes]]] | None:
    """Class number, shape, name, and what follows; None for an empty abbreviation."""
    if not content:
        return None
    parts = _elements(content, order)
    flags, shape, name = _next(parts, _UINT32), _integers(_next(parts, _INT32), order), _next(parts, _INT8)
    kind = struct.unpack(f"{order}I", flags[:4])[0] & 0xFF
    if kind not in _CLASSES:
        raise _Damaged(f"an array of class {kind}")
    if not 2 <= len(shape) <= _MOST_AXES or min(shape) < 0:
        raise _Damaged(f"an array of shape {shape[:_MOST_AXES]}")
    return kind, shape, name.decode("latin-1"), parts


def _elements(data: bytes, order: Order) -> Iterator[tuple[int, bytes]]:
    """Type and content of one data element after the other."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if kind >> 16:  # a small element: size and type in four bytes, the content in the next four
            kind, size, start = kind & 0xFFFF, kind >> 16, at + 4
            if size > 4:
                raise _Damaged(f"a small data element of {size} bytes")
        if start + size > len(data):
            raise _Damaged(f"{size} bytes promised, {len(data) - start} there")
        yield kind, data[start:start + size]
        at = start + size
        if kind != _COMPRESSED:
            at += -at % 8


def _next(parts: Iterator[tuple[int, bytes]], expected: int) -> bytes:
    kind, content = next(parts, (0, b""))
    if kind != expected:
        raise _Damaged(f"a data element of type {kind} in the place of {expected}" if kind else "a missing data element")
    return content


def _integers(content: bytes, order: Order) -> tuple[int, ...]:
    return struct.unpack(f"{order}{len(content) // 4}i", content)


def _unpack(content: bytes) -> bytes:
    stream = zlib.decompressobj()
    unpacked = stream.decompress(content, LARGEST)
    if stream.unconsumed_tail:
        raise _Damaged(f"more than {LARGEST >> 20} MiB when unpacked")
    if not stream.eof:
        raise _Damaged("compressed data that are cut short")
    return unpacked
