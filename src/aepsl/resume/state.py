"""Where the state of a running stage lies, and whose it is.

State is kept outside the outputs, which DVC deletes before a stage runs, in a folder named by a fingerprint of everything that can
change the result: so a run goes on only from what the very same run had reached. It is removed on success.
"""

import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from aepsl.data.archive import write_atomically
from aepsl.errors import AepslError
from aepsl.ranks import ALONE, Ranks
from aepsl.resume.interrupt import held

ABOUT, LOCK, REMOVED = "about.json", "lock", ".removed"
PACKAGES = ("joblib", "numpy", "pillow", "pydensecrf2", "scikit-image", "scipy", "torch")


@dataclass
class State:
    """The state of one run of a stage.

    Attributes
    ----------
    folder : where it is kept; None = nowhere, an interruption loses everything.
    every : seconds between two savings; 0 = after every item or batch.
    key : digest of what the result depends on.
    resumed : whether an interrupted run had left something that this one goes on from.
    ranks : the processes of the run, which share the folder.
    """

    folder: Path | None
    every: float
    key: str = ""
    resumed: bool = False
    ranks: Ranks = ALONE

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Save inside this block: what cannot be saved, because the disk is full, say, must not stop the work itself."""
        try:
            yield
        except OSError as error:
            print(f"{self.folder}: cannot keep what is done so far ({error.strerror or error}); the work goes on, but an interruption would lose it",
                  file=sys.stderr, flush=True)
            self.folder = None

    def seal(self, content: bytes, place: str) -> str:
        """MD5 of what is kept, whose it is and where in its work it belongs; part of its name, so that nothing damaged or foreign is believed."""
        digest = hashlib.md5(f"{self.key} {place} ".encode(), usedforsecurity=False)
        digest.update(content)
        return digest.hexdigest()


def default_root(checkout: Path) -> Path:
    """Folder of all states: the environment's AEPSL_STATE, which queued and temporary experiments of DVC share, or the checkout's scratch/state."""
    return checkout / (os.environ.get("AEPSL_STATE") or "scratch/state")


def md5(path: Path) -> str | None:
    """MD5 of a file in hexadecimal, as DVC computes it; None where there is no such file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def fingerprint(params: Mapping[str, Any], inputs: Mapping[str, str | None], code: Iterable[Path]) -> dict[str, str]:
    """What a result depends on, each part as 16 hexadecimal digits.

    Parameters
    ----------
    params : JSON values by dotted path.
    inputs : MD5 by name.
    code : files of the project that the stage has imported.
    """
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    parts = {"parameters": dict(params), "inputs": dict(inputs), "code": sorted([path.name, md5(path)] for path in code), "versions": versions}
    return {name: _digest(part) for name, part in parts.items()}


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


@contextmanager
def opened(root: Path, stage: str, key: Mapping[str, str], *, every: float, checkout: Path) -> Iterator[State]:
    """The state of a run, kept under ``root`` until the block is left without an exception, or with one but nothing saved.

    Parameters
    ----------
    stage : with its step, such as "mine@r2".
    key : its :func:`fingerprint`.
    checkout : for those who list what is left.

    Another checkout that shares ``root`` may be at the same work: each takes a folder that nobody is using.
    """
    lock, folder, whole = None, None, _digest([stage, dict(key)])
    try:
        for removed in root.glob(f".*{REMOVED}"):
            shutil.rmtree(removed, ignore_errors=True)
        others = [left for left in leftovers(root) if left.stage == stage]
        name = f"{stage}-{whole}"
        for folder in (root / name, *(root / f"{name}-{number}" for number in range(2, 100))):
            folder.mkdir(parents=True, exist_ok=True)
            if (lock := try_lock(folder / LOCK)) is not None:
                break
        assert folder is not None
        for temporary in folder.rglob(".*.tmp"):
            temporary.unlink()
        if others and not (folder / ABOUT).exists():
            changed = " and ".join(name for name, digest in key.items() if others[-1].key.get(name) != digest) or "the folder"
            print(f"{stage}: starts afresh: what an interrupted run left in {others[-1].folder} was for other {changed}", file=sys.stderr, flush=True)
        write_atomically(folder / ABOUT, json.dumps({"stage": stage, "checkout": str(checkout), "started": _now(), "key": dict(key)}).encode())
    except OSError as error:
        print(f"{root}: cannot keep the state of this run there ({error.strerror or error}); an interruption would lose all it did. "
              "AEPSL_STATE names another folder", file=sys.stderr, flush=True)
        folder = None
    kept = False
    try:
        yield State(folder, every, whole)
    except BaseException:
        kept = folder is not None and any(path.name not in (ABOUT, LOCK) for path in folder.rglob("*"))
        raise
    finally:
        if folder is not None and not kept:
            with held():
                remove(folder)
        if lock is not None:
            lock.close()


def remove(folder: Path) -> None:
    """Remove a folder of state as a whole: a half-removed one would be taken for a damaged one."""
    removed = folder.with_name(f".{folder.name}{REMOVED}")
    with suppress(OSError):
        folder.rename(removed)
    for left in (removed, folder):
        shutil.rmtree(left, ignore_errors=True)


@dataclass(frozen=True)
class Leftover:
    """The state of a run that is not at work: it was interrupted, or has failed."""

    folder: Path
    stage: str
    checkout: str
    started: str
    key: dict[str, str]

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


def leftovers(root: Path) -> list[Leftover]:
    """What lies under ``root`` and nobody is using, oldest first."""
    found = []
    for folder in root.iterdir() if root.is_dir() else ():
        try:
            if (folder / LOCK).exists():
                if (lock := try_lock(folder / LOCK)) is None:
                    continue
                lock.close()
            about = json.loads((folder / ABOUT).read_text())
            found.append(Leftover(folder, about["stage"], about["checkout"], about["started"], about["key"]))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            found.append(Leftover(folder, "unknown", "unknown", "unknown", {}))
    return sorted(found, key=lambda left: (left.started, left.folder))


@contextmanager
def alone(folder: Path, stage: str) -> Iterator[None]:
    """Refuse a second run of a stage in the same checkout, whose outputs both would write.

    Raises
    ------
    AepslError : it is running; names the process.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{stage}.lock"
        lock = try_lock(path)
    except OSError:  # a folder that cannot be written: the outputs will tell what is wrong with it
        yield
        return
    if lock is None:
        raise AepslError(f"another run of {stage} is at work in this checkout: {path.read_text().strip() or 'starting'}. "
                         "Wait for it to end, or end it (kill and the number of the process), and run again")
    with lock:
        lock.truncate(0)
        lock.write(f"process {os.getpid()} since {_now()}\n")
        lock.flush()
        yield


def try_lock(path: Path) -> IO[str] | None:
    """The file, locked as long as it is open and this process lives, or None if another process has it."""
    # A POSIX record lock: unlike flock it is not inherited by forked workers, which may outlive a killed parent by seconds.
    file = path.open("a+")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno())):  # not one that its owner removed meanwhile
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def sweep(outputs: Iterable[str]) -> None:
    """Remove temporary files that killed processes left beside the outputs, which are files or folders of files.

    Who calls this is :func:`alone` with the files. A folder may be another stage's too: there the process that wrote must be gone.
    """
    for output in map(Path, outputs):
        folder, pattern = (output, ".*.tmp") if output.is_dir() else (output.parent, f".{output.name}.*.tmp")
        for path in folder.glob(pattern):
            number = path.name.split(".")[-2]
            if number.isdecimal() and (folder != output or int(number) == os.getpid() or not alive(int(number))):
                path.unlink(missing_ok=True)


def alive(process: int) -> bool:
    """Whether a process of this machine lives."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
