"""Small metric files that `dvc metrics` and `dvc plots` read: the one writer of each format."""

import csv
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aepsl.data.archive import write_atomically

DIGITS = 6


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> None:
    """Write a dictionary in its own order; floats rounded to 6 decimals, NaN as null, NumPy values as plain ones."""
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def write_metrics(path: str | os.PathLike[str], numbers: Mapping[str, Any], how: Mapping[str, Any]) -> None:
    """Write a metrics file: the numbers at its top level and, under ``how``, how they came about.

    ``how`` becomes a list of one dictionary. DVC makes a column of every number and text, however deeply nested, but leaves lists
    out: so `dvc metrics show` stays readable and everything is still in the same file.
    """
    write_json(path, {**numbers, "how": [how]})


def write_csv(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> None:
    """Write rows of the same keys; floats with 6 significant digits, NaN and None as an empty cell.

    Parameters
    ----------
    columns : their order; by default that of the first row. Needed where there may be no row.
    """
    names = list(columns if columns is not None else rows[0] if rows else [])
    if not names:
        raise ValueError("expected at least one row or the names of the columns")
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for number, row in enumerate(rows):
        if set(row) != set(names):
            raise ValueError(f"row {number}: expected the columns {names}, got {list(row)}")
        writer.writerow([_cell(row[name]) for name in names])
    write_atomically(path, buffer.getvalue().encode())


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, DIGITS) + 0.0  # + 0.0 turns -0.0 into 0.0
    return value


def _cell(value: Any) -> str:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)


def confusion_rows(matrix: np.ndarray, names: Sequence[str], *, per_class: int = 200) -> list[dict[str, str]]:
    """A confusion matrix (1+C, 2+C) as the list of (actual, predicted) pairs that DVC's confusion template counts.

    Every actual class that occurs gets ``per_class`` rows, shared out by its predictions; the last column is "ignored".
    """
    columns = [*names, "ignored"]
    rows = []
    for actual, counts in zip(names, matrix, strict=True):
        if counts.sum():
            # Rounding the cumulative shares keeps their sum.
            bounds = np.round(np.concatenate([[0], counts.cumsum() / counts.sum()]) * per_class).astype(int)
            rows += [{"actual": actual, "predicted": name} for name, number in zip(columns, np.diff(bounds), strict=True) for _ in range(number)]
    return rows
