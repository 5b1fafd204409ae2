import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from aepsl.resume import interrupt
from aepsl.resume.interrupt import Interrupted, held

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
    interrupt.install()
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_becomes_an_exception_that_no_except_exception_catches(signum: signal.Signals) -> None:
    with pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), signum)
    assert (caught.value.signum, str(caught.value)) == (signum, signum.name)
    assert not isinstance(caught.value, Exception)


def test_a_signal_waits_until_all_blocks_that_hold_it_are_left() -> None:
    done: list[str] = []

    def work() -> None:
        with held():
            with held():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("inner")
            done.append("outer")
        done.append("after")

    with pytest.raises(Interrupted):
        work()
    assert done == ["inner", "outer"]
    with held():  # nothing is left of it
        pass


def test_a_second_signal_does_not_wait() -> None:
    done: list[str] = []

    def work() -> None:
        with held():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("once")
            os.kill(os.getpid(), signal.SIGINT)
            done.append("twice")

    with pytest.raises(Interrupted):
        work()
    assert done == ["once"]


def test_an_error_inside_a_held_block_does_not_swallow_the_signal() -> None:
    def work() -> None:
        with held():
            os.kill(os.getpid(), signal.SIGTERM)
            raise ValueError("a step that failed")

    with pytest.raises(Interrupted) as caught:
        work()
    assert isinstance(caught.value.__context__, ValueError)


FORKED = """
import os, signal, time
from aepsl.resume import interrupt
interrupt.install()
ready, tell = os.pipe()
child = os.fork()
if not child:
    os.write(tell, b"!")  # Python forgets a signal that comes before a fork is complete
    time.sleep(300)
    os._exit(7)
os.read(ready, 1)
os.kill(child, signal.SIGINT)
time.sleep(0.2)
print(os.waitpid(child, os.WNOHANG) == (0, 0))
os.kill(child, signal.SIGTERM)
print(os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM)
"""


def test_a_forked_worker_leaves_ctrl_c_to_its_parent_and_ends_quietly_when_told_to() -> None:
    result = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("True\nTrue\n", "")


IGNORING = """
import os, signal
from aepsl.resume import interrupt
signal.signal(signal.SIGINT, signal.SIG_IGN)
interrupt.install()
os.kill(os.getpid(), signal.SIGINT)
print("at work")
try:
    os.kill(os.getpid(), signal.SIGTERM)
except interrupt.Interrupted as error:
    print(error)
"""


def test_a_background_job_is_not_met_by_ctrl_c() -> None:
    result = subprocess.run([sys.executable, "-c", IGNORING], capture_output=True, text=True, check=True)
    assert result.stdout == "at work\nSIGTERM\n"
