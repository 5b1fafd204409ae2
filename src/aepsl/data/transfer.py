"""One try at one address: append what a server sends to the beginning of a file that is there already (RFC 9110, range requests)."""

import errno
import http.client
import math
import re
import shutil
import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from aepsl.data.part import Note, Part
from aepsl.progress import progress

AGENT = "aepsl (research; dataset download)"  # some hosts turn away Python's own name
MIB = 1 << 20
BLOCK = 1 << 18
SLOWEST = 1024  # bytes per second, over one time-out; what is slower has stalled
LARGEST = 64 << 30  # bytes, where neither caller nor server names a length
PASSING_STATUS = {408, 425, 429, 502, 503, 504}
PASSING_ERRORS = (TimeoutError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError, http.client.IncompleteRead,
                  ssl.SSLEOFError, ssl.SSLZeroReturnError)
UNREACHABLE = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH}
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_ZIPPED = (".gz", ".tgz")


class Fault(Exception):  # noqa: N818 - what went wrong with one try, not the end of the download
    """Why a try failed.

    Attributes
    ----------
    passes : whether the same address may do better in a moment.
    wait : seconds that the server asks to wait.
    """

    def __init__(self, what: str, *, passes: bool = False, wait: float = 0) -> None:
        super().__init__(what)
        self.passes = passes
        self.wait = wait


def transfer(address: str, part: Part, *, size: int | None, trusting: bool, timeout: float,
             clock: Callable[[], float]) -> tuple[int, int | None]:
    """Complete the part from an address: the byte it went on from, and the length of the file, None where nobody has told it.

    Parameters
    ----------
    size : bytes of the whole file, if known.
    trusting : no checksum will tell whether these are the right bytes.
    timeout : seconds without an answer, or at less than :data:`SLOWEST`, after which the try ends.
    clock : seconds that never run backwards.

    Raises
    ------
    Fault : the server or the way to it; the part keeps what it has got, unless that belongs to another file.
    OSError : the disk.
    """
    if not address.startswith(("http://", "https://", "file://")):
        raise Fault("expected an address that starts with http://, https:// or file://")
    note = part.known(address)
    headers = {"User-Agent": AGENT}
    if note:
        headers["Range"] = f"bytes={part.size}-"
        if note.validator and note.address == address:
            headers["If-Range"] = note.validator  # a file that has changed comes whole
    try:
        answer = _opener().open(urllib.request.Request(address, headers=headers), timeout=timeout)
    except (http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code == 416:
                part.clear()
                raise Fault(f"the server has no bytes after {headers.get('Range', 'the first')}; starting over", passes=True) from None
        raise _explained(error, timeout) from None
    with answer:
        validator, encoding = _validator(answer.headers), answer.headers.get("Content-Encoding", "identity").lower()
        # Many servers call a .tgz a gzip-encoded .tar; its bytes are the file's own, for nothing here decodes them.
        if encoding != "identity" and not ("gzip" in encoding and urlsplit(address).path.endswith(_ZIPPED)):
            raise Fault(f"expected the file as it is, found it encoded ({encoding})")
        start, length = _extent(answer, address, part, note, validator)
        if size is not None and length not in (None, size):
            raise Fault(f"expected {size} bytes, found {length} on the server")
        first = _read(answer, timeout)
        if start == 0:  # only now, so that a login page does not cost what is there
            html = first.lstrip()[:9].lower()
            if html.startswith((b"<!doctype", b"<html")) or (trusting and answer.headers.get_content_type() == "text/html"):
                raise Fault("expected a file, found a web page")
            part.clear()
        end = length if size is None else size
        _need(part.target.parent, (end or 0) - start)
        part.begin(address, validator, length)
        blocks = _append(answer, first, part, timeout, clock, limit=LARGEST if end is None else end)
        for _ in progress(blocks, total=math.ceil((end or 0) / MIB), done=start // MIB, label=f"download {part.target.name}", unit="MiB"):
            pass
    if end is not None and part.size != end:
        raise Fault(f"expected {end} bytes, found {part.size}: the connection broke off", passes=True)
    return start, end


def _extent(answer: Any, address: str, part: Part, note: Note | None, validator: str | None) -> tuple[int, int | None]:
    """Where the answer starts in the file, and how long the server says the file is."""
    said = answer.headers.get("Content-Length", "")
    declared = int(said) if re.fullmatch(r"\d{1,18}", said) and not answer.headers.get("Transfer-Encoding") else None
    if (answer.status or 200) == 200:
        return 0, declared
    found = _RANGE.fullmatch(answer.headers.get("Content-Range", "")) if answer.status == 206 else None
    if found is None or note is None or int(found[1]) != part.size:
        part.clear()
        raise Fault(f"expected the whole file or what follows, found status {answer.status} "
                    f"and range {answer.headers.get('Content-Range')}; starting over", passes=answer.status == 206)
    length = None if found[3] == "*" else int(found[3])
    same = note.address != address or None in (validator, note.validator) or validator == note.validator
    if not same or None not in (length, note.length) and length != note.length:
        part.clear()
        raise Fault("expected what follows, found that the file has changed; starting over", passes=True)
    return part.size, length


def _append(answer: Any, first: bytes, part: Part, timeout: float, clock: Callable[[], float], *, limit: int) -> Iterator[None]:
    """Write what comes, and yield at every MiB of it."""
    since, received, reported, size = clock(), 0, 0, part.size
    block = first
    while block:
        if size + len(block) > limit:
            part.clear()
            raise Fault(f"expected {limit} bytes, found more")
        part.write(block)
        size, received, reported = size + len(block), received + len(block), reported + len(block)
        while reported >= MIB:
            reported -= MIB
            yield
        if (now := clock()) - since >= timeout:
            if received < SLOWEST * (now - since):
                raise Fault(f"the transfer stalled: {received} bytes in {now - since:.0f} s", passes=True)
            since, received = now, 0
        block = _read(answer, timeout)
    if reported:
        yield


def _read(answer: Any, timeout: float) -> bytes:
    try:
        block: bytes = answer.read1(BLOCK)
    except (http.client.HTTPException, OSError, ValueError) as error:
        raise _explained(error, timeout) from None
    return block


def _need(folder: Path, number: int) -> None:
    if (free := shutil.disk_usage(folder).free) < number:
        raise OSError(errno.ENOSPC, f"{number / MIB:.0f} MiB more are needed, {free / MIB:.0f} MiB are free")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any,
                         newurl: str) -> urllib.request.Request | None:
        new = urlsplit(newurl).scheme
        if new not in ("http", "https") or (urlsplit(req.full_url).scheme, new) == ("https", "http"):
            fp.close()
            raise Fault(f"the server sends on to {newurl}, which is not secured; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener() -> urllib.request.OpenerDirector:
    # Proxies as the environment names them. The context is made anew: SSL_CERT_FILE counts, a patched default does not.
    return urllib.request.build_opener(_Redirects, urllib.request.HTTPSHandler(context=ssl.create_default_context()))


def _validator(headers: Message) -> str | None:
    tag: str = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")  # a weak tag does not vouch for every byte


def _explained(error: Exception, timeout: float) -> Fault:
    """The fault behind an exception of urllib or http.client."""
    if isinstance(error, urllib.error.HTTPError):
        wait = _retry_after(error.headers)
        asked = f" and asks to wait {wait:.0f} s" if wait else ""
        return Fault(f"the server answered {error.code} {error.reason}{asked}", passes=error.code in PASSING_STATUS, wait=wait)
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Fault(f"the server's certificate is not trusted ({reason.verify_message}). If a proxy or an authority of your own network stands "
                     "between, name the file of its certificate in the environment variable SSL_CERT_FILE, or the proxy in https_proxy")
    if isinstance(reason, TimeoutError):
        return Fault(f"no answer within {timeout:g} s", passes=True)
    passes = isinstance(reason, PASSING_ERRORS) or (isinstance(reason, OSError) and reason.errno in UNREACHABLE) or (
        isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_AGAIN)
    story = "the transfer failed"
    if isinstance(error, urllib.error.URLError):
        story = "no connection" if isinstance(reason, FileNotFoundError) else f"no connection{by_proxy()}"
    return Fault(f"{story}: {str(reason) or type(reason).__name__}", passes=passes)


def by_proxy() -> str:
    """The proxies that this machine's settings name, without the passwords that may stand in them; "" = none."""
    proxies = urllib.request.getproxies()
    places = {urlsplit(proxies[kind]).netloc.rpartition("@")[2] or "of an odd address" for kind in ("http", "https") if kind in proxies}
    return f" by the proxy {' or '.join(sorted(places))} (http_proxy, https_proxy)" if places else ""


def _retry_after(headers: Message) -> float:
    """Seconds that the server asks to wait; a date is measured on the server's own clock."""
    said = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", said):
        return float(said)
    with suppress(ValueError, TypeError):
        return max(0.0, (parsedate_to_datetime(said) - parsedate_to_datetime(headers.get("Date", ""))).total_seconds())
    return 0
