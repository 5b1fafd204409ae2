"""Downloads against a real server: mirrors in order, checksum before use, and an account of everything that went wrong."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aepsl.data.download import fetch
from aepsl.errors import AepslError

GOOD = b"the archive" * 1000
MD5, SHA256 = hashlib.md5(GOOD).hexdigest(), hashlib.sha256(GOOD).hexdigest()


class Server(ThreadingHTTPServer):
    """/good, /wrong (other bytes), /short (breaks off), /page (a login page), /silent (never answers); all else is 404."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []
        self.over = threading.Event()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.strip("/")
        self.server.asked.append(name)
        if name == "silent":
            self.server.over.wait(10)
            return
        body = {"good": GOOD, "wrong": b"something else", "short": GOOD, "page": b"<!DOCTYPE html>log in"}.get(name)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if name == "page" else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:100] if name == "short" else body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


def test_the_first_address_that_gives_the_right_bytes_is_used(server: Server, tmp_path: Path) -> None:
    urls = [server.url(name) for name in ("gone", "wrong", "short", "good", "never")]
    target = fetch(urls, tmp_path / "new folder/file.tar", md5=MD5)
    assert target == tmp_path / "new folder/file.tar"
    assert target.read_bytes() == GOOD
    assert server.asked == ["gone", "wrong", "short", "good"]
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("checksum", [{"md5": MD5}, {"sha256": SHA256}, {"sha256": SHA256[:8]}, {"md5": MD5.upper()}, {}])
def test_a_right_file_is_kept(tmp_path: Path, checksum: dict[str, str]) -> None:
    (tmp_path / "file").write_bytes(GOOD)
    assert fetch([], tmp_path / "file", **checksum).read_bytes() == GOOD


def test_a_wrong_file_is_replaced_only_by_a_right_one(server: Server, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with pytest.raises(AepslError, match=r"file: expected sha256"):
        fetch([server.url("wrong")], target, sha256=SHA256[:8])
    assert target.read_bytes() == b"old"
    assert fetch([server.url("good")], target, sha256=SHA256[:8]).read_bytes() == GOOD


def test_the_account_names_every_address_its_fault_and_where_to_put_the_file(server: Server, tmp_path: Path) -> None:
    urls = [server.url("gone"), server.url("wrong"), server.url("short"), "http://127.0.0.1:1/refused", "ftp://x/y", "http://[bad/"]
    with pytest.raises(AepslError) as caught:
        fetch(urls, tmp_path / "file.tar", md5=MD5)
    story = str(caught.value)
    faults = "404", f"expected md5 {MD5}", "expected 11000 bytes, found 100", "no connection", "expected an address", ""
    for url, said in zip(urls, faults, strict=True):
        line = next(line for line in story.splitlines() if f"- {url}:" in line)
        assert said in line
    assert f"put it at {tmp_path / 'file.tar'}" in story
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_does_not_pass_for_a_file_without_a_checksum(server: Server, tmp_path: Path) -> None:
    with pytest.raises(AepslError, match="found a web page"):
        fetch([server.url("page")], tmp_path / "file")


def test_a_silent_server_is_given_up_after_the_time_out(server: Server, tmp_path: Path) -> None:
    assert fetch([server.url("silent"), server.url("good")], tmp_path / "file", md5=MD5, timeout=0.3).read_bytes() == GOOD


def test_a_file_address_is_a_mirror_too(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(GOOD)
    assert fetch([(tmp_path / "disk").as_uri()], tmp_path / "file", md5=MD5).read_bytes() == GOOD
