"""Reading a file of tensors, ours or anyone's: within limits, compared with its checksums, and never running what it holds."""

import os
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from aepsl.data.archive import ZIP_FAULTS, entry_faults
from aepsl.errors import printable

MOST_BYTES = 1 << 33  # of a file: ten times the largest network here
# What torch.load raises on damaged bytes: nearly anything, but no MemoryError that is worth going on from.
LOAD_FAULTS = (*ZIP_FAULTS, pickle.UnpicklingError, LookupError, TypeError, AttributeError, AssertionError, ArithmeticError, MemoryError, ImportError)


def load_tensors(path: str | os.PathLike[str]) -> Any:
    """What ``torch.save`` wrote, on the processor: plain values and tensors alone.

    Raises
    ------
    FileNotFoundError : no such file.
    ValueError : what was found instead.
    """
    if Path(path).exists() and not Path(path).is_file():
        raise ValueError("a folder or something else that is no file")
    with Path(path).open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > MOST_BYTES:
            raise ValueError(f"{size} bytes, more than the {MOST_BYTES} that are read")
        begins = file.read(2)
        try:
            if begins == b"PK" or zipfile.is_zipfile(file):
                _check_zip(file)
        except LOAD_FAULTS as error:
            reason = printable(" ".join(str(error).split("\n")[0].split()), 200)
            raise ValueError(f"a damaged or unsafe one ({reason or type(error).__name__})") from error
        file.seek(0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old formats, which are read all the same
                return torch.load(file, map_location="cpu", weights_only=True)
        except LOAD_FAULTS as error:  # not in torch's words, which advise to read the file without protection
            raise ValueError("a damaged or unsafe one, with more in it than tensors and plain values" if begins in (b"PK", b"\x80\x02")
                             else "one that torch.save did not write") from error


def _check_zip(file: IO[bytes]) -> None:
    with zipfile.ZipFile(file) as archive:
        if faults := entry_faults(archive):
            raise ValueError(faults[0])
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise ValueError("compressed entries, which torch.save does not write")
        damaged = archive.testzip()  # torch does not compare the checksums it writes
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")


def tensor_fault(value: Any) -> str | None:
    """Why a value is no tensor that a network could hold, or None."""
    if not isinstance(value, Tensor):
        return f"expected a tensor, found {type(value).__name__}"
    if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex() or value.is_nested:
        return "expected a plain tensor, found a sparse, quantised, complex or empty-handed one"
    if not (value.is_floating_point() or value.dtype == torch.int64):
        return f"expected numbers with fractions or counters, found {value.dtype}"
    return None
