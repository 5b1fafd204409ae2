"""The scores artefact: class probabilities on the network's grid in half precision, one .npy per image."""

import io
import json

import numpy as np

from aepsl.data.archive import ArchiveReader
from aepsl.errors import AepslError

GRID = "grid.json"


def encoded_grid(stride: int) -> dict[str, bytes]:
    """The entry with the grid's stride in pixels."""
    return {GRID: json.dumps({"stride": stride}).encode()}


def read_stride(archive: ArchiveReader) -> int:
    """Pixels between two cells of the grid."""
    return int(json.loads(archive.read(GRID))["stride"])


def encoded_scores(identifier: str, probabilities: np.ndarray) -> dict[str, bytes]:
    """The entry with the probabilities (1+C, h, w) of one image; a prohibited class is a plane of zeros."""
    buffer = io.BytesIO()
    np.save(buffer, probabilities.astype(np.float16), allow_pickle=False)
    return {f"{identifier}.npy": buffer.getvalue()}


def read_scores(archive: ArchiveReader, identifier: str) -> np.ndarray:
    """The probabilities (1+C, h, w) float16 of one image."""
    try:
        return np.asarray(np.load(io.BytesIO(archive.read(f"{identifier}.npy")), allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise AepslError(f"{archive.path}: entry {identifier}.npy is damaged ({error}); run `dvc repro predict`") from error
