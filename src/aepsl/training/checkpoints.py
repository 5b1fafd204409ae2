"""Checkpoints of a training: everything its next step depends on that (seed, step) does not give."""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aepsl.data.archive import write_atomically
from aepsl.networks.tensors import load_tensors
from aepsl.resume.state import State

COST = 0.01  # largest share of the time that may be spent on saving


class Checkpoints:
    """The checkpoints of one training, the newest two of them: should the newest be damaged, the one before it still serves.

    Parameters
    ----------
    state : where, and how many seconds apart. Saving that takes long takes place less often: never more than :data:`COST` of the time.
    label : for messages.
    """

    def __init__(self, state: State, *, label: str) -> None:
        self._state = state
        self._label = label
        self._folder = state.folder and state.folder / "training"
        self._last = time.monotonic()
        self._cost = 0.0

    def latest(self) -> dict[str, Any] | None:
        """What the newest sound checkpoint holds, or None. What is damaged is removed."""
        for path in reversed(self._paths()):
            try:
                if path.name != self._name(int(path.name.partition("-")[0]), path.read_bytes()):
                    raise ValueError("another content than its name tells of")
                content: dict[str, Any] = load_tensors(path)
            except (OSError, ValueError) as error:
                print(f"{self._label}: a checkpoint is damaged, the one before it is taken ({path}: {error})", file=sys.stderr, flush=True)
                path.unlink()
                continue
            self._state.resumed = True
            print(f"{self._label}: goes on after batch {content['step']}, where an interrupted run was saved", file=sys.stderr, flush=True)
            return content
        return None

    def offer(self, step: int, content: Callable[[], dict[str, Any]]) -> None:
        """Save the state after ``step`` batches if it is time to."""
        if self._state.folder and time.monotonic() - self._last >= (max(self._state.every, self._cost / COST) if self._state.every else 0):
            self.save(step, content)

    def save(self, step: int, content: Callable[[], dict[str, Any]]) -> None:
        """Save the state after ``step`` batches."""
        if self._folder is None or self._state.folder is None:
            return
        start = time.monotonic()
        with self._state.saving():
            buffer = io.BytesIO()
            torch.save({"step": step, **content()}, buffer)
            data = buffer.getvalue()
            write_atomically(self._folder / self._name(step, data), data)
            for path in self._paths()[:-2]:
                path.unlink()
        self._last = time.monotonic()
        self._cost = self._last - start

    def _name(self, step: int, content: bytes) -> str:
        return f"{step:09d}-{self._state.seal(content, f'training {step}')}.pt"

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("[0-9]*-*.pt")) if self._folder else []
