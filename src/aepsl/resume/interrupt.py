"""SIGINT and SIGTERM as an exception that never comes in the middle of a training step."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """Someone asked the stage to stop; like KeyboardInterrupt no ``except Exception`` catches it."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signal.Signals(signum).name)


_quietly = False  # see install()
_main = 0  # process that installed the handlers
_held = 0  # depth of held()
_waiting = 0  # signal that came while held
_raised = 0  # signal that came otherwise
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def install(*, quietly: bool = False) -> None:
    """From now on SIGINT and SIGTERM raise :class:`Interrupted` in the main thread of this process.

    One that is ignored stays so: a shell starts background jobs in this way, whom Ctrl-C does not concern.

    Parameters
    ----------
    quietly : they end the process with one line instead, for as long as it has begun nothing.
    """
    global _main, _quietly, _raised
    _main, _quietly, _raised = os.getpid(), quietly, 0
    for signum in SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _receive)


def ignore() -> None:
    """From now on nothing is left to interrupt: the process is about to end by itself."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _receive(signum: int, frame: FrameType | None) -> None:
    global _waiting, _raised
    if os.getpid() != _main:
        # A forked worker: Ctrl-C reaches it too, but it is its parent's to end it, by SIGTERM.
        if signum == signal.SIGTERM:
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        return
    if _quietly:
        print(f"\nended by {signal.Signals(signum).name} before it began", file=sys.stderr, flush=True)
        os._exit(128 + signum)
    # A signal to the whole process group ends the workers too, which torch would report from here in the middle of a step.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not _held or _waiting:  # a second signal no longer waits
        _raised = signum
        raise Interrupted(signum)
    _waiting = signum


def waiting() -> int:
    """The signal that waits for :func:`held` to be left, 0 = none."""
    return _waiting


@contextmanager
def held() -> Iterator[None]:
    """Let a signal wait until the block is left, so that what is saved is whole."""
    global _held, _waiting
    if _raised and sys.exc_info()[1] is None:  # where nothing could catch it: the interpreter ignores what a finaliser or a hook of fork raises
        raise Interrupted(_raised)
    _held += 1
    try:
        yield
    finally:
        _held -= 1
        if _waiting and not _held:
            signum, _waiting = _waiting, 0
            raise Interrupted(signum)


@contextmanager
def blocked() -> Iterator[None]:
    """Let a signal wait, and keep it from the processes started in the block as long as they live: they are their parent's to end."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
