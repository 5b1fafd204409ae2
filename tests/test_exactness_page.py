"""docs/exactness.md: every fact has a standing and a test, and every test it names exists."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/exactness.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(("| fact |", "|---"))]
STANDINGS = {f"[{letter}]" for letter in "PFDRU–"}


@cache
def names_in(name: str) -> set[str]:
    return {node.name for node in ast.parse((ROOT / name).read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_every_fact_has_a_standing_and_tests_that_exist(row: str) -> None:
    fact, standing, tests = (cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])
    assert fact
    assert set(standing.split()) <= STANDINGS
    assert standing
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", tests)
    assert named
    assert len(named) == tests.count("`") / 2
    for path, test in named:
        assert test in names_in(path), f"{path} has no {test}: correct docs/exactness.md"


def test_the_page_is_read() -> None:
    assert len(ROWS) > 40
