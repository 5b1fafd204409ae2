"""SIGINT and SIGTERM as an exception that never comes in the middle of a training step."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Someone asked the stage to stop; like KeyboardInterrupt no ``except Exception`` catches it."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


_main = 0  # process that installed the handlers
_held = 0  # depth of held()
_waiting = 0  # signal that came while held


def install() -> None:
    """From now on SIGINT and SIGTERM raise :class:`Interrupted` in the main thread of this process."""
    global _main
    _main = os.getpid()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _receive)


def _receive(signum: int, frame: FrameType | None) -> None:
    global _waiting
    if os.getpid() != _main:
        # A forked worker: Ctrl-C reaches it too, but it is its parent's to end it, by SIGTERM.
        if signum == signal.SIGTERM:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        return
    # A signal to the whole process group ends the workers too, which torch would report from here in the middle of a step.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not _held or _waiting:  # a second signal no longer waits
        raise Interrupted(signum)
    _waiting = signum


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait until the block is left, so that what is saved is whole."""
    global _held, _waiting
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _waiting and not _held:
            signum, _waiting = _waiting, 0
            raise Interrupted(signum)
