"""Errors a user can act on: every message names the file or parameter, what was expected, what was found, what to do."""

from collections.abc import Sequence
from typing import Self


class AepslError(Exception):
    """A fault in the input or the set-up, not in the program; shown without a traceback."""


class FaultList(AepslError):  # noqa: N818 - a list, not one error
    """Several faults found in one pass, so that a user mends them all at once.

    Parameters
    ----------
    heading : what was checked and what to do, one sentence.
    faults : one line each.
    shown : how many are printed; the rest are counted.
    """

    def __init__(self, heading: str, faults: Sequence[str], shown: int = 50) -> None:
        self.faults = list(faults)
        self._arguments = heading, self.faults, shown
        lines = [f"  - {fault}" for fault in self.faults[:shown]]
        if len(self.faults) > shown:
            lines.append(f"  … and {len(self.faults) - shown} more")
        super().__init__("\n".join([heading, *lines]))

    def __reduce__(self) -> tuple[type[Self], tuple[str, list[str], int]]:
        # An exception is otherwise rebuilt from its message alone, which would fail on its way out of a worker process.
        return type(self), self._arguments
