"""Fetch a file over HTTP: several addresses, a checksum before use, what has arrived kept, and the full story when all of them fail."""

import hashlib
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from aepsl.data.part import Part
from aepsl.data.transfer import MIB, Fault, by_proxy, transfer
from aepsl.errors import AepslError

LONGEST_PAUSE = 60.0  # seconds between two tries
LONGEST_WAIT = 120.0  # seconds that a server may ask for; if it asks for more, the next address is tried
_jitter = random.Random()  # its own, so that nobody's seed is touched


def fetch(urls: Sequence[str], target: Path, *, md5: str | None = None, sha256: str | None = None, size: int | None = None,
          timeout: float = 30, tries: int = 4, pause: float = 1, sleep: Callable[[float], None] = time.sleep,
          clock: Callable[[], float] = time.monotonic) -> Path:
    """Make sure ``target`` exists with the right checksum, and return it.

    A file that is there and right is kept. Otherwise the addresses are tried in order; what arrives gets its name only
    after its length and checksum have been found right. What has arrived when a connection breaks, or when the process is
    killed, is kept beside the target and continued, at another address too where a checksum is known. Of two processes that
    fetch the same file, the second waits and finds it.

    Parameters
    ----------
    urls : http, https or file addresses.
    md5, sha256 : in hexadecimal, whole or their beginning; None = not checked.
    size : in bytes; None = unknown.
    timeout : seconds without an answer after which a try ends.
    tries : at one address, in a row, that bring nothing (less than 1 MiB); only for faults that can pass.
    pause : seconds before the second try, then twice as long every time, at random between half and one and a half of it.
    sleep, clock : seconds; the clock never runs backwards.

    Raises
    ------
    AepslError : no address gave the file; says what went wrong with each, and where to put the file by hand. No space or permission.
    """
    checksums = {name: value.lower() for name, value in (("md5", md5), ("sha256", sha256)) if value}

    def fault_of(file: Path) -> str | None:
        return checksum_fault(file, md5=md5, sha256=sha256)

    part = Part(target, checksum=json.dumps(checksums) if checksums else "")
    story = []
    if target.is_file():
        if (wrong := fault_of(target)) is None:
            part.discard()
            return target
        story.append(f"{target}: {wrong}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part:
            if target.is_file() and fault_of(target) is None:  # by the process that this one has waited for
                part.clear()
                return target
            if part.size and fault_of(part.path) is None:  # killed after the last byte
                return part.publish()
            for url in urls:
                faults = []
                for fault in _tries(url, part, fault_of, size=size, trusting=not checksums, timeout=timeout, tries=tries, pause=pause,
                                    sleep=sleep, clock=clock):
                    if fault is None:
                        return part.publish()
                    faults.append(f"{url}: {fault}")
                for line, same in itertools.groupby(faults):
                    number = len(list(same))
                    story.append(f"{line} ({number} times)" if number > 1 else line)
            kept = part.size if checksums else 0
    except OSError as error:
        raise AepslError(f"{target}: expected to write it, found: {error.strerror or error}; make room in {target.parent}, or let this "
                         "account write there, and run again: what has arrived is kept") from error
    tried = "\n".join(f"  - {line}" for line in story)
    known = ([f"{size} bytes"] if size is not None else []) + [f"{name} {value}" for name, value in checksums.items()]
    described = f" ({', '.join(known)})" if known else ""
    raise AepslError(f"{target.name}: expected to download it, found no address that gives the right file:\n{tried}\n"
                     + (f"The first {kept} bytes are kept in {part.path}: run again to continue.\n" if kept else "")
                     + ("Behind a proxy: export https_proxy=http://host:port, and run again.\n"
                        if "no connection: " in tried and not by_proxy() else "")
                     + f"Get the file in another way{described}, put it at {target}, and run again")


def _tries(url: str, part: Part, fault_of: Callable[[Path], str | None], *, size: int | None, trusting: bool, timeout: float, tries: int,
           pause: float, sleep: Callable[[float], None], clock: Callable[[], float]) -> Iterator[Fault | None]:
    """Try one address as long as it makes sense, and yield what went wrong every time; None at the end if the part is the file."""
    left, farthest, pieced = tries, part.size, False
    while True:
        try:
            start, length = transfer(url, part, size=size, trusting=trusting, timeout=timeout, clock=clock)
            if (wrong := fault_of(part.path)) is None:
                yield None
                return
            part.clear()
            yield (fault := Fault(wrong, passes=length is None))  # without a length, a broken connection looks like the end
            if start and not pieced:  # a wrong beginning, from here or elsewhere, is this address's fault only once
                pieced = True
                continue
        except Fault as caught:
            # A server that promises more than there is never ends well, and yet the file may be there.
            if not trusting and part.size and fault_of(part.path) is None:
                yield None
                return
            yield (fault := caught)
        left = tries if part.size >= farthest + MIB else left - 1
        farthest = max(farthest, part.size)
        if not fault.passes or fault.wait > LONGEST_WAIT or left <= 0:
            return
        sleep(max(fault.wait, min(LONGEST_PAUSE, pause * 2.0 ** (tries - left - 1)) * _jitter.uniform(0.5, 1.5)))


def checksum_fault(file: Path, *, md5: str | None, sha256: str | None = None) -> str | None:
    """What is wrong with the checksum of a file, or None; the checksums may be given by their beginning."""
    for name, expected in (("md5", md5), ("sha256", sha256)):
        if expected:
            with file.open("rb") as content:
                found = hashlib.file_digest(content, lambda name=name: hashlib.new(name, usedforsecurity=False)).hexdigest()  # type: ignore[misc]
            if not found.startswith(expected.lower()):
                return f"expected {name} {expected}, found {found} ({file.stat().st_size} bytes)"
    return None
