"""Starting the processes that do one stage together, and saying in one voice what became of them."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from aepsl.errors import AepslError
from aepsl.params import Compute
from aepsl.ranks import GROUP, SHELL, Place
from aepsl.resume import interrupt
from aepsl.resume.state import alive

LOG = Path("scratch/launcher.log")  # what torchrun or srun itself said in the end, where no process explained anything
_NOISE = re.compile(r"\[?[WE]\d{4} |Traceback \(most recent call last\)|srun: |slurmstepd: ")


class Gone(AepslError):  # noqa: N818 - what happened, like Interrupted
    """A process of the group has explained what ended it; the message is complete."""


def command_of(compute: Compute, stage: str, options: Sequence[str]) -> list[str] | None:
    """The command that starts a stage in several processes, None where one is enough.

    Raises
    ------
    AepslError : ``compute.launcher`` cannot be read.
    """
    if compute.launcher:
        try:
            words = shlex.split(compute.launcher)
        except ValueError as error:
            raise AepslError(f"compute.launcher: expected a command, found {compute.launcher!r} ({error}); mend its quotes") from None
        module = ["-m", f"stages.{stage}", *options]
        return [*words, *module] if any(Path(word).name in ("torchrun", "torch.distributed.run") for word in words) else [
            *words, sys.executable, *module]
    count = compute.devices
    if count == 0:
        import torch

        count = torch.cuda.device_count() if compute.device in ("auto", "cuda") else 1
    if count <= 1:
        return None
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(count),
            "-m", f"stages.{stage}", *options]


def follow_up(command: Sequence[str], *, threads: int) -> None:
    """Run the command and wait for it; signals are passed on to it once.

    Raises
    ------
    Gone : a process of the group failed, in its words.
    AepslError : the command cannot be started, or failed without a word.
    Interrupted : this process was asked to stop; the group has ended.
    """
    for left in Path("scratch").glob("group-*"):  # of one that was killed
        if (number := left.name.partition("-")[2]).isdecimal() and not alive(int(number)):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(f"scratch/group-{os.getpid()}").resolve()
    folder.mkdir(parents=True)
    try:
        own = {GROUP: str(folder), SHELL: f"{os.uname().nodename} {os.getpid()}", "PYTHONUNBUFFERED": "1"}
        # In a group of its own, so that Ctrl-C comes to it once, from here.
        try:
            process = subprocess.Popen(command, env={"OMP_NUM_THREADS": str(threads or 1)} | os.environ | own, stderr=subprocess.PIPE, text=True,
                                       errors="replace", process_group=0)
        except OSError as error:
            raise AepslError(f"compute.launcher: cannot start {command[0]} ({error.strerror}); install it, correct its name, or empty the parameter "
                             "and set compute.devices") from None
        held_back: list[str] = []
        try:
            assert process.stderr is not None
            for line in process.stderr:
                if held_back or _NOISE.match(line):  # of the launcher: the processes themselves explain
                    held_back.append(line)
                elif not any(folder.iterdir()):
                    print(line, end="", file=sys.stderr, flush=True)
            status = process.wait()
        except BaseException:
            with interrupt.held():
                process.terminate()
                process.communicate()
            raise
        said = sorted(folder.iterdir())
        if status and said:
            raise Gone(said[0].read_text(encoding="utf-8", errors="replace"))
        if status:
            LOG.write_text("".join(held_back), encoding="utf-8", errors="replace")
            killed = status in (-9, 137) or re.search(r"SIGKILL|Killed|exitcode *: -9", "".join(held_back))
            reason = ": one of them was killed, often because memory ran out" if killed else ""
            raise AepslError(f"the processes of compute.devices or compute.launcher ended with status {status} and without a word{reason}. "
                             f"What the launcher said is in {LOG}. Then run `dvc repro` again; what was finished is kept")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def explain(message: str, here: Place) -> None:
    """Say what ended this process: to whoever launched it, if that is one of ours, otherwise on stderr."""
    folder = os.environ.get(GROUP) if here.size > 1 or GROUP in os.environ else None
    if folder:
        try:
            path = Path(folder) / f"{here.rank:06d}"
            path.write_text(message, encoding="utf-8", errors="replace")
            return
        except OSError:  # a machine that does not see the folder
            pass
    print(message, file=sys.stderr, flush=True)
