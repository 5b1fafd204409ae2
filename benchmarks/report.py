"""The report's page at 100 and at 10,000 images: bytes it asks for before anybody scrolls, and when its first pictures are painted.

Its gallery is opened from disk in a fresh headless Chromium. The other way is a page that shows the same pictures without pages and shards: all the
thumbnails of all images at once. Seconds depend on the machine and on what else it does; bytes do not.
"""

import shutil
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import row, tell
from benchmarks.report_data import RUN, gallery_of, overview_of, write_report
from benchmarks.results import Row

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
             "--disable-sync"]
SCREEN = {"width": 1280, "height": 800}
SHARDS = 40  # that are written: many more than are asked for
WEIGHT_AIM, TIME_AIM = 2e6, 1.0  # bytes before scrolling, seconds to the first pictures
# Milliseconds from the start of the navigation until all pictures in the first card are decoded and a frame with them was drawn.
PAINTED = """async () => {
    const painted = () => { const images = [...(document.querySelector('.card')?.querySelectorAll('img') ?? [])];
                            return images.length > 1 && images.every((image) => image.complete && image.naturalWidth); };
    while (!EMPTY && !painted()) await new Promise(requestAnimationFrame);
    await new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
    return performance.now();
}"""


def empty_view(browser: Any, folder: Path) -> float:
    """Seconds to a frame of a page that holds nothing: what no page can beat."""
    (folder / "empty.html").write_text("<!doctype html><title>empty</title>")
    context = browser.new_context(viewport=SCREEN)
    page = context.new_page()
    page.goto((folder / "empty.html").resolve().as_uri())
    seconds = float(page.evaluate(PAINTED.replace("!EMPTY", "false"))) / 1000
    context.close()
    return seconds


def first_view(browser: Any, folder: Path) -> tuple[int, float]:
    """Bytes of the files that the gallery asks for, and seconds to its first pictures, in a context without any cache."""
    context = browser.new_context(viewport=SCREEN)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "index.html").resolve().as_uri() + "#gallery")
    seconds = float(page.evaluate(PAINTED.replace("!EMPTY", "true"))) / 1000
    page.wait_for_timeout(500)  # what is asked for later, though nobody scrolls, counts too
    context.close()
    files = {Path(url.removeprefix("file://").partition("#")[0]) for url in asked if url.startswith("file://")}
    return sum(file.stat().st_size for file in files), seconds


def topic(quick: bool) -> Iterator[Row]:
    """Rows of weight and of time at both sizes; none where there is no Chromium or no Playwright."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return
    if program is None:
        return
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        for count in (100,) if quick else (100, 10_000):
            folder = Path(name) / str(count)
            write_report(folder, overview_of(), gallery_of(count, size=(120, 90) if quick else (500, 375)), most_shards=SHARDS, run=RUN)
            thumbs = [path.stat().st_size for path in sorted((folder / "data/thumbs").iterdir())]
            found = [first_view(browser, folder) for _ in range(1 if quick else 7)]
            weight, seconds = found[0][0], statistics.median(second for _, second in found)
            everything = weight + statistics.mean(thumbs[:5]) * count / 16
            yield row(f"report page, {count:,} images: weight before scrolling", weight / 1e6, everything / 1e6, unit="MB", aim=1,
                      repeats=len(found), equal=f"at most {WEIGHT_AIM / 1e6:g} MB are wanted: {'kept' if weight <= WEIGHT_AIM else 'missed'}",
                      limit=f"index.js, with a row of some 60 bytes per image, has {(folder / 'data/index.js').stat().st_size / 1e6:.2f} MB of it, "
                            f"a shard of 16 images with all layers {statistics.mean(thumbs[:5]) / 1e6:.2f} MB; the peer loads every thumbnail.")
            yield row(f"report page, {count:,} images: first pictures from disk, on the wall", seconds, TIME_AIM, unit="s", aim=1, repeats=len(found),
                      limit=f"The peer is the {TIME_AIM:g} s that are wanted. An empty page takes "
                            f"{statistics.median(empty_view(browser, folder) for _ in found):.2f} s here, Chromium being started.")
        browser.close()


if __name__ == "__main__":
    tell(topic)
