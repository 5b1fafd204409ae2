"""Relative links of the repository's texts lead somewhere, anchors too."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(
    path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)
# Their anchors are the builder's to check.
GENERATED = {*(ROOT / "docs/reference/api").glob("*.md"), *(ROOT / f"docs/{name}.md" for name in (
    "reference/parameters", "reference/pipeline", "reference/commands", "changelog", "contributing"))}


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"(?ms)^ *```.*?^ *```$", "", text))


@cache
def anchors(page: Path) -> set[str]:
    """As GitHub names headings."""
    text = re.sub(r"(?ms)^ *```.*?^ *```$", "", page.read_text(encoding="utf-8"))
    titles = [re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"(?m)^#+ (.*)$", text)]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.is_relative_to(ROOT)
        assert found.exists(), f"{target} leads nowhere"
        if anchor and found.suffix == ".md" and found not in GENERATED:
            assert anchor in anchors(found), f"{target}: no such heading"


def test_pages_are_found() -> None:
    assert len(PAGES) > 30
