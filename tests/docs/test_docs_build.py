"""`make docs`: no warning, everything in it, nothing from a network, every example true."""

import doctest
import importlib
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs.conftest import ROOT, sphinx

SOURCE = ROOT / "src/aepsl"
SOURCES = sorted(path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)


class Loaded(HTMLParser):
    """What a browser fetches to show a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        for name in ("src", "href") if tag in ("link", "script", "img", "iframe", "source") else ():
            if found.get(name) and found.get("rel") not in ("index", "search", "next", "prev"):
                self.addresses.append(found[name] or "")


def test_every_page_is_built_and_in_the_table_of_contents(built: Path) -> None:
    contents = (built / "index.html").read_text(encoding="utf-8")
    for source in SOURCES:
        page = source.with_suffix(".html")
        assert (built / page).is_file()
        below = source.parts[:2] == ("reference", "api") or source.name == "index.md"
        assert below or f'href="{page}"' in contents, f"{source}: name it in docs/index.md"


def test_pages_load_nothing_from_a_network(built: Path) -> None:
    for page in built.rglob("*.html"):
        for address in Loaded(page.read_text(encoding="utf-8")).addresses:
            assert not re.match(r"(https?:)?//", address), f"{page.name}: {address}"
    assert not re.search(r"url\(['\"]?(https?:)?//", (built / "_static/aepsl.css").read_text())


def test_every_module_has_its_place_in_the_api(built: Path) -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (built / "reference/api").glob("*.html"))
    # Of the command line its own page tells.
    modules = [".".join(path.relative_to(ROOT / "src").with_suffix("").parts) for path in (ROOT / "src/aepsl").rglob("*.py")
               if path.stem not in ("__init__", "__main__") and "cli" not in path.parts]
    assert len(modules) > 60
    assert [name for name in modules if f'id="module-{name}"' not in pages] == []


def test_examples_on_pages_are_true(built: Path) -> None:
    result = sphinx("doctest", built.parent)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    found = re.search(r"(\d+) tests\n\s*0 failures in tests", result.stdout)
    assert found, result.stdout[-1000:]
    assert int(found[1]) >= 6


EXAMPLES = [path for path in SOURCE.rglob("*.py") if re.search(r"(?m)^ *>>> ", path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_in_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT / "src").with_suffix("").parts))
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


def test_some_docstrings_have_examples() -> None:
    assert len(EXAMPLES) >= 3


def test_the_pictures_are_small() -> None:
    pictures = list((ROOT / "docs/pictures").iterdir())
    assert {picture.name for picture in pictures} >= {"erasing.jpg", "labels.jpg", "prediction.jpg", "report.jpg"}
    assert sum(picture.stat().st_size for picture in pictures) < 400_000
