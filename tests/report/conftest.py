"""A headless Chromium for the page's tests, and pages in it that may not complain, nor ask anything of a network."""

import functools
import http.server
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report_data import RUN, gallery_of, overview_of, write_report

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync"]
NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")  # not the session: while it runs, this thread has an event loop, and tests elsewhere start their own
def browser() -> Iterator[Any]:
    """One Chromium for all tests of the page. Without one they skip, or fail where AEPSL_BROWSER says that it is required."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        reason = f"expected one of {', '.join(NAMES)} on PATH: apt-get install chromium"
        if os.environ.get("AEPSL_BROWSER") == "required":
            pytest.fail(reason)
        pytest.skip(reason)
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed here")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """``visit(folder or address, "#hash", missing=("run.js",), **context)``: a page of a report.

    At the end of the test none may have written an error to the console but of the files named as missing, thrown one, or asked for anything
    that is neither beside it nor on this machine. ``page.asked`` lists the paths of what it asked for.
    """
    contexts, faults = [], []

    def open_page(place: Path | str, address: str = "", *, missing: tuple[str, ...] = (), **options: Any) -> Any:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.asked = []

        def told(message: Any) -> None:
            where = message.location.get("url", "")
            if message.type in ("error", "warning") and not any(where.endswith(name) for name in missing):
                faults.append(f"{message.type}: {message.text} ({where})")

        def asked(request: Any) -> None:
            if request.url.startswith("data:"):
                return
            page.asked.append(request.url)
            if not request.url.startswith(("file://", "http://127.0.0.1:")):
                faults.append(f"asked for {request.url}")

        page.on("console", told)
        page.on("pageerror", lambda error: faults.append(f"thrown: {error}"))
        page.on("request", asked)
        start = place if isinstance(place, str) else (place / "index.html").resolve().as_uri()
        page.goto(start + address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 images of 20 classes, 80 of them for training, with truth and run.js. Tests do not write into it."""
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, overview_of(), gallery_of(100, size=(200, 150)), sides=(96, 192), run=RUN)
    return folder


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """``serve(folder)``: the address of its index.html on a server of this machine."""
    servers = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    def start(folder: Path) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/index.html"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
