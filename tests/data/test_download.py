"""Downloads against a real server that misbehaves in every way we know: the right bytes in the end, or the full story of why not."""

import datetime
import hashlib
import ipaddress
import itertools
import os
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from aepsl.data import part as parts
from aepsl.data import transfer
from aepsl.data.download import fetch
from aepsl.errors import AepslError

ROOT = Path(__file__).resolve().parents[2]
LONG = os.environ.get("AEPSL_FAULTS") == "long"
GOOD = b"the archive" * 1000
MD5, SHA256 = hashlib.md5(GOOD).hexdigest(), hashlib.sha256(GOOD).hexdigest()
BIG = random.Random(0).randbytes(3 << 20)
BIG_MD5 = hashlib.md5(BIG).hexdigest()


@dataclass
class Answer:
    """How the server answers one request."""

    body: bytes = GOOD
    status: int = 200  # other than 200: an error with this status
    ranges: bool = True
    tag: str | None = '"1"'
    conditions: bool = True  # whether If-Range is heeded
    length: int | Literal["right", "none", "chunked"] = "right"  # the whole length that the server tells
    cut: int | None = None  # bytes after which the connection ends
    reset: bool = False  # how: by a reset instead of an orderly end
    hold: threading.Event | None = None  # wait for this, or the end of the test, after the cut, then go on
    drip: float = 0  # seconds between any two bytes
    headers: dict[str, str] = field(default_factory=dict)


class Server(ThreadingHTTPServer):
    """Every path has a list of answers, of which the last is repeated; a path without any is 404."""

    daemon_threads = True
    block_on_close = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {
            "good": [Answer()], "wrong": [Answer(b"something else")], "short": [Answer(cut=100)],
            "page": [Answer(b"<!DOCTYPE html>log in", headers={"Content-Type": "text/html"})], "silent": [Answer(cut=0, hold=threading.Event())]}
        self.asked: list[str] = []
        self.ranges: list[str | None] = []
        self.sent: Counter[str] = Counter()
        self.held: list[threading.Event] = []
        self.scheme = "http"

    def url(self, path: str) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}/{path}"

    def say(self, path: str, *answers: Answer) -> str:
        self.answers[path] = list(answers)
        return self.url(path)

    def handle_error(self, *_: object) -> None:  # clients hang up on purpose
        pass


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.close_connection = True
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        self.server.ranges.append(self.headers.get("Range"))
        answers = self.server.answers.get(name, [Answer(status=404)])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer.status != 200:
            self.send_response(answer.status)
            for header in answer.headers.items():
                self.send_header(*header)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body, total = answer.body, len(answer.body) if isinstance(answer.length, str) else answer.length
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-")) if answer.ranges else 0
        if answer.conditions and self.headers.get("If-Range") not in (None, answer.tag, answer.headers.get("Last-Modified")):
            start = 0
        if start and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        headers = {"Content-Type": "application/octet-stream"} | ({"ETag": answer.tag} if answer.tag else {}) | answer.headers
        if start:
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        if answer.length == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif answer.length != "none":
            headers["Content-Length"] = str(total - start)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()
        content = body[start:]
        self.push(name, content[:answer.cut], answer)
        if answer.hold:
            self.server.held.append(answer.hold)
            answer.hold.wait(600)  # what goes on by itself would be counted, though nobody asked for it
        if answer.cut is None:
            if answer.length == "chunked":
                self.wfile.write(b"0\r\n\r\n")
        elif answer.hold:
            self.push(name, content[answer.cut:], answer)
        elif answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def push(self, name: str, content: bytes, answer: Answer) -> None:
        step = 1 if answer.drip else 1 << 16
        for at in range(0, len(content), step):
            block = content[at:at + step]
            self.server.sent[name] += len(block)  # first: who has the last byte may look at once
            self.wfile.write(b"%x\r\n%b\r\n" % (len(block), block) if answer.length == "chunked" else block)
            if answer.drip:
                time.sleep(answer.drip)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


def serving(running: Server) -> Iterator[Server]:
    with running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        for hold in running.held:
            hold.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    yield from serving(Server())


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of 127.0.0.1, and its key, in one file."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    signed = x509.CertificateBuilder(
        issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1, not_valid_before=now - datetime.timedelta(1),
        not_valid_after=now + datetime.timedelta(1)).add_extension(
        x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False).sign(key, hashes.SHA256())
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
                     + signed.public_bytes(serialization.Encoding.PEM))
    return file


@pytest.fixture
def secure(certificate: Path) -> Iterator[Server]:
    running = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    running.socket = context.wrap_socket(running.socket, server_side=True, do_handshake_on_connect=False)
    running.scheme = "https"
    yield from serving(running)


class Pauses(list[float]):
    """Stands in for ``sleep``: notes the pauses."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


def get(urls: str | list[str], target: Path, **options: Any) -> Path:
    """``fetch`` without waiting."""
    return fetch([urls] if isinstance(urls, str) else urls, target, **{"md5": MD5, "sleep": Pauses(), **options})


def story_of(urls: str | list[str], target: Path, **options: Any) -> str:
    with pytest.raises(AepslError) as caught:
        get(urls, target, **options)
    return str(caught.value)


# ---- addresses, checksums, the account


def test_the_first_address_that_gives_the_right_bytes_is_used(server: Server, tmp_path: Path) -> None:
    urls = [server.url(name) for name in ("gone", "wrong", "short", "good", "never")]
    target = get(urls, tmp_path / "new folder/file.tar", tries=1)
    assert target == tmp_path / "new folder/file.tar"
    assert target.read_bytes() == GOOD
    assert server.asked == ["gone", "wrong", "short", "good"]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("checksum", [{"md5": MD5}, {"sha256": SHA256}, {"sha256": SHA256[:8]}, {"md5": MD5.upper()}, {}])
def test_a_right_file_is_kept(tmp_path: Path, checksum: dict[str, str]) -> None:
    (tmp_path / "file").write_bytes(GOOD)
    assert fetch([], tmp_path / "file", **checksum).read_bytes() == GOOD
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_wrong_file_is_replaced_only_by_a_right_one(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(AepslError, match=r"file: expected sha256"):
        fetch([server.url("wrong")], target, sha256=SHA256[:8])
    assert target.read_bytes() == b"old"
    assert fetch([server.url("good")], target, sha256=SHA256[:8]).read_bytes() == GOOD


def test_the_account_names_every_address_its_fault_and_where_to_put_the_file(server: Server, tmp_path: Path) -> None:
    urls = [server.url("gone"), server.url("wrong"), "http://127.0.0.1:1/refused", "ftp://x/y", "http://[bad/", server.say("busy", Answer(status=503))]
    story = story_of(urls, tmp_path / "file.tar", size=len(GOOD))
    faults = "404", "expected 11000 bytes, found 14 on the server", "no connection", "expected an address", "", "503 Service Unavailable (4 times)"
    for url, said in zip(urls, faults, strict=True):
        assert len(lines := [line for line in story.splitlines() if f"- {url}:" in line]) == 1
        assert said in lines[0]
    assert f"(11000 bytes, md5 {MD5}), put it at {tmp_path / 'file.tar'}" in story
    assert list(tmp_path.iterdir()) == []


def test_the_account_names_every_try_and_what_is_kept(server: Server, tmp_path: Path) -> None:
    url = server.say("moody", Answer(cut=100), Answer(status=503), Answer(cut=50, reset=True), Answer(status=403))
    story = story_of(url, tmp_path / "file")
    said = [line.removeprefix(f"  - {url}: ") for line in story.splitlines() if url in line]
    assert said[0] == "expected 11000 bytes, found 100: the connection broke off"
    assert said[1] == "the server answered 503 Service Unavailable"
    assert said[3] == "the server answered 403 Forbidden"
    assert len(said) == 4
    kept = (tmp_path / ".file.part").stat().st_size
    assert kept >= 100
    assert f"The first {kept} bytes are kept in {tmp_path / '.file.part'}: run again" in story
    assert (tmp_path / ".file.part").read_bytes() == GOOD[:kept]


def test_a_proxy_that_does_not_answer_is_named_without_its_password_and_where_there_is_none_it_is_asked_for(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = "Behind a proxy: export https_proxy=http://host:port, and run again."
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert ask in story_of("http://127.0.0.1:1/file", tmp_path / "file")
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:1")
    story = story_of("http://data.invalid/file", tmp_path / "file")
    assert "no connection by the proxy 127.0.0.1:1 (http_proxy, https_proxy): " in story
    assert "secret" not in story
    assert ask not in story


@pytest.mark.parametrize("path", ["gone", "wrong", "page"])
def test_what_cannot_pass_is_tried_once(server: Server, tmp_path: Path, path: str) -> None:
    pauses = Pauses()
    story_of(server.url(path), tmp_path / "file", sleep=pauses)
    story_of(server.say("forbidden", Answer(status=403)), tmp_path / "file", sleep=pauses)
    assert server.asked == [path, "forbidden"]
    assert pauses == []
    assert list(tmp_path.iterdir()) == []


def test_a_file_address_is_a_mirror_too(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(GOOD)
    assert get((tmp_path / "disk").as_uri(), tmp_path / "file").read_bytes() == GOOD
    assert "no connection" in story_of((tmp_path / "none").as_uri(), tmp_path / "other")


# ---- what can pass: pauses


def test_pauses_double_with_jitter(server: Server, tmp_path: Path) -> None:
    busy = server.say("busy", *[Answer(status=status) for status in (429, 502, 503, 504, 503)], Answer())
    pauses = Pauses()
    assert get(busy, tmp_path / "file", tries=6, pause=2, sleep=pauses).read_bytes() == GOOD
    assert len(pauses) == 5
    assert all(0.5 <= pause / (2 * 2**number) <= 1.5 for number, pause in enumerate(pauses))
    assert len({pause / 2**number for number, pause in enumerate(pauses)}) > 1


def test_a_wait_that_the_server_asks_for_is_kept(server: Server, tmp_path: Path) -> None:
    date = {"Retry-After": "Wed, 21 Oct 2015 07:28:33 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}
    busy = server.say("busy", Answer(status=503, headers={"Retry-After": "7"}), Answer(status=429, headers=date),
                      Answer(status=503, headers={"Retry-After": "soon"}), Answer())
    pauses = Pauses()
    server.RequestHandlerClass.date_time_string, kept = lambda *_: date["Date"], Handler.date_time_string
    try:
        get(busy, tmp_path / "file", sleep=pauses, pause=0.01)
    finally:
        Handler.date_time_string = kept
    assert pauses[:2] == [7, 33]
    assert 0 < pauses[2] < 0.1


def test_a_server_that_asks_for_an_hour_is_left_for_the_next(server: Server, tmp_path: Path) -> None:
    busy, pauses = server.say("busy", Answer(status=503, headers={"Retry-After": "3600"})), Pauses()
    assert get([busy, server.url("good")], tmp_path / "file", sleep=pauses).read_bytes() == GOOD
    assert pauses == []
    assert "503 Service Unavailable and asks to wait 3600 s" in story_of(busy, tmp_path / "other")


def test_a_silent_server_is_given_up_after_the_time_out(server: Server, tmp_path: Path) -> None:
    # Long enough for the second server, however busy the machine.
    assert get([server.url("silent"), server.url("good")], tmp_path / "file", timeout=3, tries=1).read_bytes() == GOOD
    never = socket.create_server(("127.0.0.1", 0))
    with never:  # takes the connection and says nothing
        url = f"http://127.0.0.1:{never.getsockname()[1]}/x"
        assert f"{url}: no answer within 0.1 s (2 times)" in story_of(url, tmp_path / "other", timeout=0.1, tries=2)


def test_a_server_that_drips_has_stalled(server: Server, tmp_path: Path) -> None:
    drips = server.say("drips", Answer(drip=0.01))
    seconds = itertools.count()  # one at every look at the clock; a byte that is a little late has not timed out
    story = story_of(drips, tmp_path / "file", timeout=30, tries=2, clock=lambda: next(seconds))
    assert "the transfer stalled: " in story
    assert server.asked == ["drips", "drips"]
    assert get([drips, server.url("good")], tmp_path / "file", timeout=3, tries=1).read_bytes() == GOOD


def test_tries_count_only_while_nothing_comes(server: Server, tmp_path: Path) -> None:
    url = server.say("flaky", *[Answer(BIG, cut=(1 << 20) + 1)] * 2, Answer(BIG))
    assert get(url, tmp_path / "file", md5=BIG_MD5, tries=1).read_bytes() == BIG
    url = server.say("worse", *[Answer(BIG, cut=1000)] * 4, Answer(BIG))
    assert story_of(url, tmp_path / "other", md5=BIG_MD5, tries=3).count("broke off") == 3


def test_a_wall_clock_that_runs_backwards_changes_nothing(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backwards = iter(range(10**9, 0, -1000))
    monkeypatch.setattr(time, "time", lambda: next(backwards))
    url = server.say("flaky", Answer(cut=5000), Answer(status=503, headers={"Retry-After": "1"}), Answer())
    pauses = Pauses()
    assert get(url, tmp_path / "file", sleep=pauses).read_bytes() == GOOD
    assert all(0 <= pause < 10 for pause in pauses)


# ---- continuing


@pytest.mark.parametrize("seed", range(200 if LONG else 12))
def test_connections_that_drop_anywhere_cost_no_byte_twice(server: Server, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    cuts = [draw.randrange(len(BIG) // 3) for _ in range(draw.randrange(1, 9))]
    busy = [Answer(status=draw.choice([429, 502, 503, 504])) for _ in range(draw.randrange(3))]
    tag = draw.choice([None, '"1"'])
    answers = [Answer(BIG, cut=cut, tag=tag) for cut in cuts] + busy
    draw.shuffle(answers)
    url = server.say("flaky", *answers, Answer(BIG, tag=tag))
    assert get(url, tmp_path / "file", md5=BIG_MD5, tries=12).read_bytes() == BIG
    assert server.sent["flaky"] == len(BIG)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("seed", range(100 if LONG else 6))
def test_resets_mirrors_and_servers_without_ranges_in_any_order_end_in_the_right_bytes(server: Server, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    urls = []
    for mirror in range(4):
        answers = [draw.choice([
            Answer(BIG, cut=draw.randrange(len(BIG)), reset=draw.random() < 0.5, ranges=draw.random() < 0.7, tag=draw.choice([None, '"1"', 'W/"2"'])),
            Answer(BIG, length=draw.choice(["chunked", "none"]), cut=draw.randrange(len(BIG))),
            Answer(BIG, length=len(BIG) + draw.choice([-1000, 1000])),
            Answer(draw.randbytes(1000)), Answer(status=draw.choice([403, 404, 429, 500, 503])),
            Answer(b"<html>no</html>")]) for _ in range(draw.randrange(1, 5))]
        urls.append(server.say(str(mirror), *answers))
    assert get([*urls, server.say("last", Answer(BIG))], tmp_path / "file", md5=BIG_MD5).read_bytes() == BIG
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


CHILD = """
import sys
from pathlib import Path
from aepsl.data.download import fetch
fetch([sys.argv[1]], Path(sys.argv[2]), md5=sys.argv[3])
"""


def child(*arguments: str, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", CHILD, *arguments], env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
                            stderr=subprocess.PIPE, **options)


@pytest.mark.parametrize("at", random.Random(1).sample(range(1, len(BIG)), 40 if LONG else 3))
def test_a_killed_process_started_again_fetches_only_the_rest(server: Server, tmp_path: Path, at: int) -> None:
    url, part = server.say("slow", Answer(BIG, cut=at, hold=threading.Event()), Answer(BIG)), tmp_path / ".file.part"
    with child(url, str(tmp_path / "file"), BIG_MD5) as process:
        while not (part.exists() and part.stat().st_size == at):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    server.sent.clear()
    assert get(url, tmp_path / "file", md5=BIG_MD5).read_bytes() == BIG
    assert server.ranges == [None, f"bytes={at}-"]
    assert server.sent["slow"] == len(BIG) - at
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def left_by_a_killed_process(folder: Path, content: bytes, *, url: str, md5: str = MD5, tag: str = '"1"') -> None:
    part = parts.Part(folder / "file", checksum=f'{{"md5": "{md5}"}}' if md5 else "").__enter__()
    part.begin(url, tag, None)
    part.write(content)
    part._file.close()  # and nothing else, as at a kill
    assert (folder / ".file.part").stat().st_size == len(content)


def test_what_a_process_killed_after_the_last_byte_left_needs_no_server(tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path, GOOD, url="http://127.0.0.1:1/x")
    assert get([], tmp_path / "file").read_bytes() == GOOD
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_what_is_left_of_another_file_is_not_continued(server: Server, tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path, b"x" * 500, url=server.url("good"), md5="0" * 32)
    assert get(server.url("good"), tmp_path / "file").read_bytes() == GOOD
    for damage in (b"", b"{", b"[]", b'{"address": 1}', None):
        (tmp_path / "file").unlink()
        left_by_a_killed_process(tmp_path, b"x" * 500, url=server.url("good"))
        memo = tmp_path / ".file.part.json"
        memo.unlink() if damage is None else memo.write_bytes(damage)
        assert get(server.url("good"), tmp_path / "file").read_bytes() == GOOD
    assert server.ranges == [None] * 6


def test_without_a_checksum_nothing_of_an_earlier_run_is_continued(server: Server, tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path, GOOD[:500], url=server.url("good"), md5="")
    url = server.say("flaky", Answer(cut=100), Answer())
    assert fetch([url], tmp_path / "file", sleep=Pauses()).read_bytes() == GOOD
    assert server.ranges == [None, "bytes=100-"]
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_without_a_checksum_one_address_does_not_continue_the_other(server: Server, tmp_path: Path) -> None:
    first, second = server.say("first", Answer(cut=100)), server.say("second", Answer())
    assert fetch([first, second], tmp_path / "file", sleep=Pauses(), tries=1).read_bytes() == GOOD
    assert server.ranges == [None, None]


def test_what_an_earlier_run_left_goes_when_the_file_is_put_there_by_hand(tmp_path: Path) -> None:
    left_by_a_killed_process(tmp_path, GOOD[:500], url="http://127.0.0.1:1/x")
    (tmp_path / "file").write_bytes(GOOD)
    get([], tmp_path / "file")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_file_that_changed_between_two_tries_comes_whole(server: Server, tmp_path: Path) -> None:
    old = random.Random(2).randbytes(len(GOOD))
    url = server.say("changing", Answer(old, cut=5000, tag='"old"'), Answer(tag='"new"'))
    assert get(url, tmp_path / "file").read_bytes() == GOOD
    date = [{"Last-Modified": f"Wed, 21 Oct 2015 07:28:0{second} GMT"} for second in (0, 1)]
    url = server.say("dated", Answer(old, cut=5000, tag=None, headers=date[0]), Answer(tag=None, headers=date[1]))
    assert fetch([url], tmp_path / "dated", sleep=Pauses()).read_bytes() == GOOD
    assert server.sent["changing"] == server.sent["dated"] == 5000 + len(GOOD)


@pytest.mark.parametrize("checksum", [{"md5": MD5}, {}])
def test_a_server_that_continues_a_changed_file_is_found_out(server: Server, tmp_path: Path, checksum: dict[str, str]) -> None:
    old = random.Random(2).randbytes(len(GOOD))
    url = server.say("careless", Answer(old, cut=5000, tag='"old"'), Answer(tag='"new"', conditions=False), Answer(tag='"new"'))
    assert fetch([url], tmp_path / "file", sleep=Pauses(), **checksum).read_bytes() == GOOD
    longer = server.say("longer", Answer(old + old, cut=5000), Answer())
    assert fetch([longer], tmp_path / "other", sleep=Pauses(), **checksum).read_bytes() == GOOD


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path) -> None:
    url = server.say("plain", Answer(cut=5000), Answer(ranges=False))
    assert get(url, tmp_path / "file").read_bytes() == GOOD
    assert server.sent["plain"] == 5000 + len(GOOD)


def test_a_range_that_the_server_has_not_starts_over(server: Server, tmp_path: Path) -> None:
    longer = server.say("longer", Answer(b"x" * 20000, cut=15000), Answer(status=404))
    url = server.say("right", Answer())
    assert get([longer, url], tmp_path / "file").read_bytes() == GOOD
    assert server.ranges == [None, "bytes=15000-", "bytes=15000-", None]


@pytest.mark.parametrize("said", ["bytes 5-10999/11000", "bytes 100-", "pages 1-2/3", ""])
def test_another_range_than_asked_for_is_not_written(server: Server, tmp_path: Path, said: str) -> None:
    class Odd(Handler):
        def send_header(self, keyword: str, value: str) -> None:
            super().send_header(keyword, said if keyword == "Content-Range" else value)

    url = server.say("odd", Answer(cut=100), Answer(), Answer(ranges=False))
    server.RequestHandlerClass = Odd
    assert get(url, tmp_path / "file").read_bytes() == GOOD
    assert server.ranges == [None, "bytes=100-", None]


def test_what_one_mirror_began_another_completes(server: Server, tmp_path: Path) -> None:
    first, second = server.say("first", Answer(BIG, cut=2 << 20, tag='"a"'), Answer(status=404)), server.say("second", Answer(BIG, tag='"b"'))
    assert get([first, second], tmp_path / "file", md5=BIG_MD5).read_bytes() == BIG
    assert server.sent == {"first": 2 << 20, "second": len(BIG) - (2 << 20)}


def test_a_wrong_beginning_gets_one_clean_try(server: Server, tmp_path: Path) -> None:
    wrong = server.say("began", Answer(b"x" * len(GOOD), cut=5000), Answer(status=404))
    pauses = Pauses()
    assert get([wrong, server.url("good")], tmp_path / "file", sleep=pauses).read_bytes() == GOOD
    assert server.ranges[2:] == ["bytes=5000-", None]
    assert len(pauses) == 1  # after the broken connection alone
    other = server.say("other", Answer(b"y" * len(GOOD)))
    story = story_of([server.say("began", Answer(b"x" * len(GOOD), cut=5000), Answer(status=404)), other], tmp_path / "none")
    assert server.asked[-2:] == ["other", "other"]
    assert story.count(f"{other}: expected md5") == 2


def test_a_wrong_mirror_that_breaks_off_every_time_is_left_in_the_end(server: Server, tmp_path: Path) -> None:
    wrong = server.say("wrong", *[Answer(b"x" * len(GOOD), cut=5000), Answer(b"x" * len(GOOD))] * 20)
    assert get([wrong, server.url("good")], tmp_path / "file").read_bytes() == GOOD
    assert server.asked == [*["wrong"] * 4, "good"]


def test_a_login_page_does_not_cost_what_is_there(server: Server, tmp_path: Path) -> None:
    portal = [Answer(b" \n<!doctype HTML><p>Pay first", ranges=False), Answer(b"<html>", ranges=False, headers={"Content-Type": "text/html"})]
    for page in portal:
        url = server.say("hotel", Answer(cut=5000), page)
        assert "expected a file, found a web page" in story_of(url, tmp_path / "file")
        assert (tmp_path / ".file.part").stat().st_size == 5000
        assert get(server.url("good"), tmp_path / "file").read_bytes() == GOOD
        (tmp_path / "file").unlink()


# ---- lengths and encodings


def test_lengths_that_lie(server: Server, tmp_path: Path) -> None:
    long = server.say("long", Answer(length=20000))
    assert get(long, tmp_path / "long").read_bytes() == GOOD  # the checksum knows better
    assert "expected 20000 bytes, found 11000: the connection broke off" in story_of(long, tmp_path / "none", md5=None)
    short = server.say("short", Answer(length=5000))
    story = story_of(short, tmp_path / "none")
    assert f"{short}: expected md5 {MD5}, found " in story
    assert "(5000 bytes)" in story
    assert server.asked.count("short") == 1
    assert "expected 11000 bytes, found 5000 on the server" in story_of(short, tmp_path / "none", size=len(GOOD))


@pytest.mark.parametrize("length", ["none", "chunked"])
@pytest.mark.parametrize("size", [None, len(GOOD)])
def test_a_file_of_untold_length(server: Server, tmp_path: Path, length: Any, size: int | None) -> None:
    url = server.say("untold", Answer(length=length, cut=5000), Answer(length=length, ranges=False))
    assert get(url, tmp_path / "file", size=size).read_bytes() == GOOD


def test_a_stream_without_end_is_cut_off(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    endless = server.say("endless", Answer(BIG * 4, length="chunked"))
    assert "expected 11000 bytes, found more" in story_of(endless, tmp_path / "file", size=len(GOOD))
    monkeypatch.setattr(transfer, "LARGEST", 1 << 20)
    assert "expected 1048576 bytes, found more" in story_of(endless, tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", ["-5", "many", "1e3", "9" * 40])
def test_a_length_that_is_no_number_is_no_length(server: Server, tmp_path: Path, length: str) -> None:
    url = server.say("odd", Answer(length="none", headers={"Content-Length": length}))
    assert get(url, tmp_path / "file").read_bytes() == GOOD


def test_an_empty_file_is_a_file(server: Server, tmp_path: Path) -> None:
    assert get(server.say("empty", Answer(b"")), tmp_path / "file", md5=hashlib.md5(b"").hexdigest()).read_bytes() == b""


def test_an_encoded_answer_is_refused_but_for_archives_that_servers_call_encoded(server: Server, tmp_path: Path) -> None:
    encoded = Answer(headers={"Content-Encoding": "x-gzip"})
    assert "found it encoded (x-gzip)" in story_of(server.say("file.tar", encoded), tmp_path / "file")
    assert get(server.say("file.tgz", encoded), tmp_path / "file").read_bytes() == GOOD


def test_a_web_page_does_not_pass_for_a_file_without_a_checksum(server: Server, tmp_path: Path) -> None:
    for page in (server.url("page"), server.say("bare", Answer(b"<html>")), server.say("called", Answer(headers={"Content-Type": "text/html"}))):
        with pytest.raises(AepslError, match="found a web page"):
            fetch([page], tmp_path / "file")
    assert get(server.url("called"), tmp_path / "file").read_bytes() == GOOD  # with a checksum, the bytes decide


# ---- redirects, TLS, proxies


def test_redirects_are_followed(server: Server, tmp_path: Path) -> None:
    moved = server.say("moved", Answer(status=302, headers={"Location": server.say("flaky", Answer(cut=100), Answer())}))
    assert get(moved, tmp_path / "file").read_bytes() == GOOD
    assert server.ranges == [None, None, "bytes=100-", "bytes=100-"]


@pytest.mark.parametrize(("location", "said"), [("file:///etc/hostname", "not allowed"), ("ftp://127.0.0.1/x", "not followed"), ("data:,x", "not allowed")])
def test_redirects_lead_to_no_other_kind_of_address(server: Server, tmp_path: Path, location: str, said: str) -> None:
    url = server.say("astray", Answer(status=302, headers={"Location": location}))
    assert said in story_of(url, tmp_path / "file", md5=None)
    assert server.asked == ["astray"]
    assert list(tmp_path.iterdir()) == []


def test_redirects_in_a_circle_end(server: Server, tmp_path: Path) -> None:
    story = story_of(server.say("circle", Answer(status=301, headers={"Location": server.url("circle")})), tmp_path / "file")
    assert "301" in story
    assert len(server.asked) < 15


def test_a_self_signed_server_is_refused_with_the_way_out(secure: Server, tmp_path: Path) -> None:
    story = story_of(secure.url("good"), tmp_path / "file")
    assert "certificate is not trusted (self-signed certificate)" in story
    assert "SSL_CERT_FILE" in story
    assert "https_proxy" in story
    assert secure.asked == []


def test_a_server_whose_authority_is_named_is_trusted(secure: Server, certificate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    url = secure.say("flaky", Answer(BIG, cut=1 << 20), Answer(BIG, cut=1 << 20, reset=True), Answer(BIG))
    assert get(url, tmp_path / "file", md5=BIG_MD5).read_bytes() == BIG
    other = f"https://localhost:{secure.server_port}/good"
    assert "certificate is not trusted (Hostname mismatch" in story_of(other, tmp_path / "other")


def test_a_secured_address_leads_to_no_open_one(secure: Server, server: Server, certificate: Path, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    down = secure.say("down", Answer(status=302, headers={"Location": server.url("good")}))
    assert "which is not secured; not followed" in story_of(down, tmp_path / "file")
    assert server.asked == []
    up = server.say("up", Answer(status=301, headers={"Location": secure.url("good")}))
    assert get(up, tmp_path / "file").read_bytes() == GOOD


def test_an_open_server_at_a_secured_address_is_explained(server: Server, tmp_path: Path) -> None:
    assert "no connection: [SSL" in story_of(server.url("good").replace("http:", "https:"), tmp_path / "file")


def test_a_proxy_of_the_environment_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.url(""))
    assert get("http://data.invalid/good", tmp_path / "file").read_bytes() == GOOD
    monkeypatch.setenv("https_proxy", server.url(""))
    assert "Tunnel connection failed" in story_of("https://data.invalid/good", tmp_path / "other")


# ---- disk, locks, progress


def test_a_full_disk_is_told_before_the_download(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1 << 20})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda _: usage)
    story = story_of([server.say("big", Answer(BIG)), server.url("never")], tmp_path / "file", md5=BIG_MD5)
    assert "3 MiB more are needed, 1 MiB are free; make room in" in story
    assert server.asked == ["big"]


def test_a_disk_that_fills_meanwhile_keeps_what_has_arrived(server: Server, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk."""
    limited = "import resource, signal; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n" + CHILD
    run = subprocess.run([sys.executable, "-c", limited, server.say("big", Answer(BIG)), str(tmp_path / "file"), BIG_MD5],
                         env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True, check=False)
    assert f"AepslError: {tmp_path / 'file'}: expected to write it, found: File too large; make room in {tmp_path}" in run.stderr
    assert get(server.url("big"), tmp_path / "file", md5=BIG_MD5).read_bytes() == BIG
    assert server.ranges == [None, "bytes=1048576-"]


def test_a_folder_that_cannot_be_made_is_explained(server: Server, tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    assert "taken/file: expected to write it, found: " in story_of(server.url("good"), tmp_path / "taken/file")


def test_two_runs_that_fetch_the_same_file_ask_once(server: Server, tmp_path: Path) -> None:
    hold = threading.Event()
    url = server.say("slow", Answer(BIG, cut=1 << 20, hold=hold), Answer(status=404))
    arguments = url, str(tmp_path / "file"), BIG_MD5
    with child(*arguments) as first:
        while not server.sent["slow"]:
            assert first.poll() is None
            time.sleep(0.01)
        with child(*arguments) as second:
            assert second.stderr is not None
            assert b"another run is writing it, waiting" in second.stderr.readline()
            hold.set()
    assert (first.returncode, second.returncode) == (0, 0)
    assert server.asked == ["slow"]
    assert (tmp_path / "file").read_bytes() == BIG
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_progress_counts_mebibytes_of_the_whole(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int, str, str]] = []

    def progress(items: Iterator[None], *, total: int, done: int, label: str, unit: str) -> Iterator[None]:
        number = 0
        try:
            for number, item in enumerate(items, 1):  # noqa: B007
                yield item
        finally:
            seen.append((number, done, total, label, unit))

    monkeypatch.setattr(transfer, "progress", progress)
    get(server.say("flaky", Answer(BIG, cut=2 << 20), Answer(BIG)), tmp_path / "file", md5=BIG_MD5)
    assert seen == [(2, 0, 3, "download file", "MiB"), (1, 2, 3, "download file", "MiB")]


def test_a_file_system_without_locks_is_no_obstacle(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(parts.fcntl, "flock", flock)
    assert get(server.url("good"), tmp_path / "file").read_bytes() == GOOD


@pytest.mark.parametrize("call", ["begin", "write", "publish"])
def test_a_process_that_dies_between_any_two_steps_leaves_what_the_next_one_heals(server: Server, tmp_path: Path, call: str,
                                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    class Death(BaseException):
        pass

    whole: Callable[..., Any] = getattr(parts.Part, call)

    def dies(part: parts.Part, *arguments: Any) -> None:
        if call != "begin":
            whole(part, *arguments)
        raise Death

    for survivor in (dies, whole):
        monkeypatch.setattr(parts.Part, call, survivor)
        if survivor is dies:
            with pytest.raises(Death):
                get(server.url("good"), tmp_path / "file")
    assert get(server.url("good"), tmp_path / "file").read_bytes() == GOOD
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
