"""Fetch a file over HTTP: several addresses, a checksum before use, and the full story when all of them fail."""

import hashlib
import http.client
import math
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from aepsl.errors import AepslError
from aepsl.progress import progress

BLOCK = 1 << 20
AGENT = "aepsl (research; dataset download)"  # some hosts turn away Python's own name


def fetch(urls: Sequence[str], target: Path, *, md5: str | None = None, sha256: str | None = None, timeout: float = 30) -> Path:
    """Make sure ``target`` exists with the right checksum, and return it.

    A file that is there and right is kept. Otherwise the addresses are tried in order; what arrives gets its name only
    after its length and checksum have been found right.

    Parameters
    ----------
    urls : http, https or file addresses.
    md5, sha256 : in hexadecimal, whole or their beginning; None = not checked.
    timeout : seconds without an answer after which the next address is tried.

    Raises
    ------
    AepslError : no address gave the file; says what went wrong with each, and where to put the file by hand.
    """
    story = []
    if target.is_file():
        wrong = checksum_fault(target, md5=md5, sha256=sha256)
        if wrong is None:
            return target
        story.append(f"{target}: {wrong}")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        for url in urls:
            wrong = _download(url, temporary, timeout, checked=bool(md5 or sha256)) or checksum_fault(temporary, md5=md5, sha256=sha256)
            if wrong is None:
                temporary.replace(target)
                return target
            story.append(f"{url}: {wrong}")
    finally:
        temporary.unlink(missing_ok=True)
    tried = "\n".join(f"  - {line}" for line in story)
    raise AepslError(f"{target.name}: expected to download it, found no address that gives the right file:\n{tried}\n"
                     f"Get the file in another way, put it at {target}, and run again")


def checksum_fault(file: Path, *, md5: str | None, sha256: str | None = None) -> str | None:
    """What is wrong with the checksum of a file, or None; the checksums may be given by their beginning."""
    for name, expected in (("md5", md5), ("sha256", sha256)):
        if expected:
            with file.open("rb") as content:
                found = hashlib.file_digest(content, lambda name=name: hashlib.new(name, usedforsecurity=False)).hexdigest()  # type: ignore[misc]
            if not found.startswith(expected.lower()):
                return f"expected {name} {expected}, found {found} ({file.stat().st_size} bytes)"
    return None


def _download(url: str, target: Path, timeout: float, *, checked: bool) -> str | None:
    """Write what the address gives; what went wrong, or None."""
    if not url.startswith(("http://", "https://", "file://")):
        return "expected an address that starts with http://, https:// or file://"
    try:
        request = urllib.request.Request(url, headers={"User-Agent": AGENT})
        with urllib.request.urlopen(request, timeout=timeout) as answer, target.open("wb") as file:
            if not checked and answer.headers.get_content_type() == "text/html":
                return "expected a file, found a web page"
            expected = int(answer.headers.get("Content-Length") or -1)
            blocks = max(0, math.ceil(expected / BLOCK))
            for block in progress(_blocks(answer), total=blocks, label=f"download {url.rpartition('/')[2]}", unit="MiB block"):
                file.write(block)
            if 0 <= expected != file.tell():
                return f"expected {expected} bytes, found {file.tell()}: the connection broke off"
            file.flush()
            os.fsync(file.fileno())
    except urllib.error.HTTPError as error:
        return f"the server answered {error.code} {error.reason}"
    except urllib.error.URLError as error:
        return f"no connection: {error.reason}"
    except (http.client.HTTPException, OSError, ValueError) as error:
        return f"the transfer failed: {error or type(error).__name__}"
    return None


def _blocks(answer: BinaryIO) -> Iterator[bytes]:
    while block := answer.read(BLOCK):
        yield block
