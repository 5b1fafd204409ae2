"""Colleagues with a bare git repository, a folder and an S3 bucket between them; and the page whose commands they type."""

import hashlib
import os
import re
import shlex
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import make_server

from tests.conftest import ROOT, Checkout, commands, lock, succeed

LONG = os.environ.get("AEPSL_FAULTS") == "long"
# One pass, so that the CRF makes no labels. Without background in the labels, classes compete everywhere and the CRF has something to decide.
ONE_PASS = {"passes": ["s1"], "relabels": {}, "last_pass": "s1", "merge.background_below": 0.0, "merge.background_below_outdoors": 0.0}
TAIL = ("merge", "segment@s1", "predict", "refine", "export", "evaluate", "package", "rounds", "gallery", "report")
KEYS = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
OBJECT = re.compile(r"files/md5/([0-9a-f]{2})/([0-9a-f]{30})$")


# ---- the page


class Page:
    """docs/sharing.md: the tests run the commands it shows."""

    def __init__(self, text: str) -> None:
        self.blocks: dict[str, list[str]] = {}
        for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
            heading = section.partition("\n")[0]
            self.blocks[heading] = [line for block in re.findall(r"^```bash\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
                                    for line in block.splitlines()]

    def lines(self, heading: str, first: int = 0, last: int | None = None, **names: str) -> list[str]:
        """Commands ``first`` to before ``last`` below a heading. ``names`` say what stands in the place of the page's examples."""
        examples = {"store": "/srv/aepsl", "cache": "/srv/aepsl-cache", "bucket": "s3://lab/aepsl", "endpoint": "https://s3.example.org",
                    "hub": "git@example.org:lab/aepsl.git", "name": "NAME", "object": "f2/1211cdc4ce92f7064ed393e38bec9a"}
        lines = self.blocks[heading][first:last]
        # The longest example first: one is the beginning of another.
        for example, value in sorted(((examples[name], value) for name, value in names.items()), key=lambda pair: -len(pair[0])):
            lines = [line.replace(example, value) for line in lines]
        return lines


@pytest.fixture(scope="session")
def page() -> Page:
    return Page((ROOT / "docs/sharing.md").read_text(encoding="utf-8"))


def do(work: Checkout, lines: Iterable[str]) -> str:
    """Type commands into a checkout; all must succeed. Returns what they print."""
    return "".join(succeed(work.call("sh", "-c", line)) for line in lines)


# ---- what lies in a cache or a remote


def objects(folder: Path) -> dict[str, int]:
    """md5 and size in bytes of every object in a cache or a local remote, each of which must be whole."""
    found = {}
    for path in sorted(folder.glob("files/md5/??/*")):
        name, content = path.parent.name + path.name, path.read_bytes()
        if re.fullmatch("[0-9a-f]{32}", name):  # others are temporary files, which nobody reads
            assert hashlib.md5(content, usedforsecurity=False).hexdigest() == name, path
            found[name] = len(content)
    return found


def object_path(folder: Path, md5: str) -> Path:
    return folder / "files/md5" / md5[:2] / md5[2:]


def md5_of(work: Checkout, artefact: str) -> str:
    """What dvc.lock says of an artefact."""
    [found] = {out["md5"] for stage in lock(work).values() for out in stage.get("outs", ()) if out["path"] == artefact}
    return str(found)


def point(work: Checkout, **urls: Path | str) -> None:
    """Give remotes other addresses in this checkout alone."""
    text = "".join(f"['remote \"{name}\"']\n    url = {url}\n" for name, url in urls.items())
    (work / ".dvc/config.local").write_text(text)


# ---- an S3 server


class Door:
    """moto's S3 on loopback, and what passed. Every door of a process leads to the same buckets.

    With ``stop_after``, that many objects pass and all further ones stop halfway, until the door is closed.
    ``fetched`` holds the bytes of every object that went out whole, ``stored`` how often each was stored.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_after, self.admitted = stop_after, 0
        self.fetched: list[int] = []
        self.stored: Counter[str] = Counter()
        self.lock, self.stopped, self.closing = threading.Lock(), threading.Event(), threading.Event()
        self.app = DomainDispatcherApplication(create_backend_app)
        self.server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=MotoRequestHandler)
        self.server.daemon_threads = False  # closing would not wait for them
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Let nothing more in, break off what is stopped, and wait until all else that came in has ended, though its client may be dead."""
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method not in ("GET", "PUT") or not OBJECT.search(environ["PATH_INFO"]):
            yield from self.app(environ, start_response)
            return
        with self.lock:
            stop = self.stop_after is not None and self.admitted >= self.stop_after
            self.admitted += 1
        if stop and method == "PUT":  # an upload that breaks off is nothing at all to S3
            self.stopped.set()
            self.closing.wait(600)
            start_response("503 Service Unavailable", [])
            return
        statuses: list[str] = []

        def answer(status: str, *rest: Any) -> Any:
            statuses.append(status)
            return start_response(status, *rest)

        body = b"".join(self.app(environ, answer))
        if stop:
            yield body[:len(body) // 2]
            self.stopped.set()
            self.closing.wait(600)
            return
        # Noted before the answer, which a client that was killed does not take. Half a body is answered with 400, and not stored.
        if statuses[0].startswith("20"):
            with self.lock:
                if method == "PUT":
                    self.stored[environ["PATH_INFO"]] += 1
                else:
                    self.fetched.append(len(body))
        yield body


class Bucket:
    """The bucket ``lab``, and doors to it: ``url`` is that of one that is always open."""

    def __init__(self) -> None:
        self.doors = [Door()]
        self.url = self.doors[0].url
        self.client = boto3.client("s3", endpoint_url=self.url, aws_access_key_id="a", aws_secret_access_key="b", region_name="us-east-1")
        self.client.create_bucket(Bucket="lab")

    def door(self, work: Checkout, stop_after: int | None = None) -> Door:
        """A new door, by which this checkout goes from now on."""
        self.doors.append(Door(stop_after))
        do(work, [f"dvc remote modify --local bucket endpointurl {self.doors[-1].url}"])
        return self.doors[-1]

    def keys(self, prefix: str) -> set[str]:
        """md5 of every object below a prefix of the bucket."""
        contents = self.client.list_objects_v2(Bucket="lab", Prefix=prefix + "/").get("Contents", [])
        return {"".join(match.groups()) for entry in contents if (match := OBJECT.search(entry["Key"]))}


@pytest.fixture(scope="session")
def s3() -> Iterator[Bucket]:
    bucket = Bucket()
    yield bucket
    for door in bucket.doors:
        door.close()


# ---- the colleagues


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """Where the colleagues meet: ``hub.git``, ``store`` and everybody's checkouts."""
    folder = tmp_path_factory.mktemp("sharing")
    (folder / "home").mkdir()
    (folder / "home/.gitconfig").write_text("[user]\n\tname = A\n\temail = a@example.org\n[init]\n\tdefaultBranch = main\n")
    return folder


@pytest.fixture(scope="session")
def author(finished, place, page, s3) -> Checkout:
    """A: has run everything, committed it, and pushed it to the bare repository ``origin``, the folder ``store`` and the bucket ``bucket``."""
    work = finished.copy(place / "author")
    work.owner = {"HOME": str(place / "home"), **KEYS}
    work.set(ONE_PASS)
    succeed(work.stages([command.replace("/s2.", "/s1.") for command in commands(work, *TAIL)]))
    with (work / ".git/info/exclude").open("a") as file:
        file.write("/.settings/\n")
    do(work, ["dvc commit --force", "git add .", "git commit --quiet --message base", "git branch --move main",
              f"git init --quiet --bare {place}/hub.git", f"git remote add origin {place}/hub.git"])
    names = {"store": f"{place}/store", "bucket": "s3://lab/aepsl", "endpoint": s3.url}
    do(work, [*page.lines("Name a remote", **names), *page.lines("Publish a run"), "dvc push --remote bucket"])
    return work


@pytest.fixture
def clone(author, place, tmp_path, page) -> Callable[[str], Checkout]:
    """``clone("name")``: a fresh clone of what A pushed, without data."""
    def make(name: str) -> Checkout:
        [line] = page.lines("Change one thing in a fresh clone", 0, 1, hub=f"{place}/hub.git")
        do(author, [line.removesuffix("aepsl") + str(tmp_path / name)])
        return author.at(tmp_path / name)
    return make


def start(work: Checkout, command: str) -> subprocess.Popen[bytes]:
    """Start a command in a process group of its own."""
    return subprocess.Popen(shlex.split(command), cwd=work.folder, env=work.environment(), start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a command and all it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def kill_when(happened: threading.Event, work: Checkout, command: str) -> None:
    """Start a command and kill it as soon as something happens."""
    process = start(work, command)
    try:
        assert happened.wait(600)
        assert process.poll() is None
    finally:
        kill(process)
