"""A process that has imported what every stage imports, and forks one child per stage that is to be run, stopped or put under a fault.

Importing torch costs seconds, the stages of a tiny pipeline a fraction of one: so hundreds of runs become possible. A child is what
``python -m stages.x …`` is: it leads a session of its own, reads the checkout's own code and dies by the same signals.
Run as a script this is the server; :class:`Warm` is its client.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve()
IMPORTS = """numpy torch torch.utils.data torchvision.models PIL.Image PIL.ImageDraw PIL.ImageFilter pydantic.main pydantic.fields
pydantic.functional_validators pydantic.plugin._loader yaml joblib tqdm scipy.cluster.vq scipy.io scipy.ndimage scipy.sparse.csgraph
scipy.sparse.linalg skimage.color skimage.segmentation.slic_superpixels zipfile tarfile urllib.request xml.etree.ElementTree"""
# A fault to put a run under: the name of a function of injections.py, and its arguments.
Injection = tuple[str, dict[str, Any]]


class Run:
    """A stage at work in a process group of its own."""

    def __init__(self, server: "Warm", pid: int, stdout: Path, stderr: Path) -> None:
        self.server, self.pid, self.stdout, self.stderr = server, pid, stdout, stderr
        self.started = time.monotonic()
        self.seconds = 0.0
        self.status: int | None = None  # exit status; minus the signal where it died by one

    def wait(self, timeout: float = 300.0) -> int | None:
        """The exit status, or None where it still runs after ``timeout`` seconds."""
        if self.status is None:
            self.status = self.server.ask({"wait": self.pid, "timeout": timeout})["status"]
            self.seconds = time.monotonic() - self.started
        return self.status

    def kill(self, number: int, *, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, number)

    def await_handlers(self) -> None:
        """Until the stage has begun to heed SIGTERM and SIGINT, or has ended; a signal that comes before meets the interpreter alone."""
        status, term = Path(f"/proc/{self.pid}/status"), 1 << signal.SIGTERM - 1  # SIGINT is heeded by every interpreter
        while self.pid in living(self.pid):
            if any(int(mask, 16) & term for mask in re.findall(r"^Sig(?:Ign|Cgt):\s*(\w+)", status.read_text(), re.MULTILINE)):
                return
            time.sleep(0.001)

    @property
    def said(self) -> str:
        """What it printed."""
        return self.stdout.read_text(errors="replace") + self.stderr.read_text(errors="replace")


class Warm:
    """Client of the server: ``start`` runs a command ``python -m stages.x …`` in a checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        # Its own settings for every child: nothing of this machine's.
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "DVC", "GIT", "AEPSL"))}
        self.process = subprocess.Popen([sys.executable, str(HERE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment | {"OMP_NUM_THREADS": "1"}, start_new_session=True)

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def start(self, command: str, cwd: Path, *, inject: Sequence[Injection] = (), **environment: str) -> Run:
        self.count += 1
        stdout, stderr = (self.folder / f"{self.count}.{name}" for name in ("out", "err"))
        words = command.split()
        assert words[:2] == ["python", "-m"], command
        answer = self.ask({"argv": words[2:], "cwd": str(cwd), "inject": list(inject), "environment": environment, "stdout": str(stdout),
                           "stderr": str(stderr)})
        return Run(self, answer["pid"], stdout, stderr)

    def close(self) -> None:
        with self.process:  # whoever was forked from this process may hold its input open, so that it sees no end of it
            self.process.kill()


def living(session: int) -> list[int]:
    """The processes of a session that live: children and grandchildren of the process that began it, whatever became of it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                if int(its_session) == session and state not in "ZX":
                    found.append(int(entry.name))
    return found


# ---- the server


def serve() -> None:
    for name in IMPORTS.split():
        importlib.import_module(name)
    importlib.import_module("PIL.Image").preinit()
    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        answer = wait(request) if "wait" in request else {"pid": start(request)}
        print(json.dumps(answer), flush=True)


def start(request: dict[str, Any]) -> int:
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(ready)
        os.close(tell)
        become(request)
    os.close(tell)
    os.read(ready, 1)  # ends as soon as the child leads a session
    os.close(ready)
    return pid


def wait(request: dict[str, Any]) -> dict[str, Any]:
    end = time.monotonic() + request["timeout"]
    while True:
        pid, status = os.waitpid(request["wait"], os.WNOHANG)
        if pid or time.monotonic() > end:
            return {"status": os.waitstatus_to_exitcode(status) if pid else None}
        time.sleep(0.002)


def become(request: dict[str, Any]) -> NoReturn:
    """Turn this child into the stage. It ends as an interpreter ends, but for taking apart what the server has imported, which takes seconds."""
    for number, path, flags in ((0, os.devnull, os.O_RDONLY), (1, request["stdout"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                                (2, request["stderr"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)):
        descriptor = os.open(path, flags, 0o666)
        os.dup2(descriptor, number)
        os.close(descriptor)
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would have it ignored
        os.environ.update(request["environment"])
        os.chdir(request["cwd"])
        sys.path[0] = str(HERE.parent)
        for name, values in request["inject"]:
            getattr(importlib.import_module("injections"), name)(**values)
        sys.path[0] = request["cwd"]
        sys.argv = ["-m", *request["argv"][1:]]  # as the interpreter has it while it looks for the module
        runpy.run_module(request["argv"][0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as leave:
        status = leave.code if isinstance(leave.code, int) else int(leave.code is not None)
    except BaseException:
        traceback.print_exc()
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
