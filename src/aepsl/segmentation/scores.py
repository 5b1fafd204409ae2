"""The scores artefact: class probabilities on the network's grid in half precision, one .npy per image."""

import io
import json

import numpy as np

from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.errors import AepslError

GRID = "grid.json"


def write_grid(archive: ArchiveWriter, stride: int) -> None:
    """Add the grid's stride in pixels."""
    archive.add(GRID, json.dumps({"stride": stride}).encode())


def read_stride(archive: ArchiveReader) -> int:
    """Pixels between two cells of the grid."""
    return int(json.loads(archive.read(GRID))["stride"])


def write_scores(archive: ArchiveWriter, identifier: str, probabilities: np.ndarray) -> None:
    """Add the probabilities (1+C, h, w) of one image; a prohibited class is a plane of zeros."""
    buffer = io.BytesIO()
    np.save(buffer, probabilities.astype(np.float16), allow_pickle=False)
    archive.add(f"{identifier}.npy", buffer.getvalue())


def read_scores(archive: ArchiveReader, identifier: str) -> np.ndarray:
    """The probabilities (1+C, h, w) float16 of one image."""
    try:
        return np.asarray(np.load(io.BytesIO(archive.read(f"{identifier}.npy")), allow_pickle=False))
    except (ValueError, EOFError) as error:
        raise AepslError(f"{archive.path}: entry {identifier}.npy is damaged ({error}); run `dvc repro predict`") from error
