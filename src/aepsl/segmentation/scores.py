"""The scores artefact: class probabilities on the network's grid in half precision, one .npy per image."""

import io
import json
import math
import tokenize

import numpy as np

from aepsl.data.archive import ArchiveReader, parse_json
from aepsl.errors import AepslError, shown

GRID = "grid.json"
MOST_STRIDE = 256
HEADER_FAULTS = (ValueError, EOFError, SyntaxError, RecursionError, MemoryError, TypeError, tokenize.TokenError)  # of the literal that a header is


def encoded_grid(stride: int) -> dict[str, bytes]:
    """The entry with the grid's stride in pixels."""
    return {GRID: json.dumps({"stride": stride}).encode()}


def read_stride(archive: ArchiveReader) -> int:
    """Pixels between two cells of the grid."""
    try:
        content = parse_json(archive.text(GRID))
    except ValueError as error:
        raise AepslError(f"{archive.describe(GRID)} is damaged ({error}); run `dvc repro predict`") from error
    stride = content["stride"] if isinstance(content, dict) and set(content) == {"stride"} else None
    if type(stride) is not int or not 1 <= stride <= MOST_STRIDE:
        raise AepslError(f"{archive.describe(GRID)}: expected a stride from 1 to {MOST_STRIDE}, found {shown(content)}; run `dvc repro predict`")
    return stride


def encoded_scores(identifier: str, probabilities: np.ndarray) -> dict[str, bytes]:
    """The entry with the probabilities (1+C, h, w) of one image; a prohibited class is a plane of zeros."""
    buffer = io.BytesIO()
    np.save(buffer, probabilities.astype(np.float16), allow_pickle=False)
    return {f"{identifier}.npy": buffer.getvalue()}


def read_scores(archive: ArchiveReader, identifier: str) -> np.ndarray:
    """The probabilities (1+C, h, w) float16 of one image."""
    data = archive.read(f"{identifier}.npy")
    try:
        return _parse(data)
    except ValueError as error:
        raise AepslError(f"{archive.path}: entry {identifier}.npy is damaged ({error}); run `dvc repro predict`") from error


def _parse(data: bytes) -> np.ndarray:
    """The array of an .npy file: only numbers of half precision, in three dimensions, and as many as the file holds."""
    stream = io.BytesIO(data)
    if (version := np.lib.format.read_magic(stream)) != (1, 0):
        raise ValueError(f"version {version} of the format")
    try:
        shape, transposed, kind = np.lib.format.read_array_header_1_0(stream)
    except HEADER_FAULTS:
        raise ValueError("a header that cannot be read") from None
    if kind != np.float16 or kind.hasobject or len(shape) != 3 or min(shape) < 0:
        raise ValueError(f"expected float16 of three dimensions, found {kind} of {shown(shape)}")
    values = data[stream.tell():]
    if len(values) != 2 * math.prod(shape):
        raise ValueError(f"expected {2 * math.prod(shape)} bytes of numbers, found {len(values)}")
    array = np.frombuffer(values, kind).reshape(shape, order="F" if transposed else "C")
    if not np.isfinite(array).all():
        raise ValueError("NaN or infinity: the network they come from diverged, train it again")
    return array
