"""docs/reliability.md: every fault names what is seen, what to do, and tests that exist; every fault test is named by a row."""

import re
from pathlib import Path

import pytest

from tests.test_exactness_page import names_in

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("|") and not line.startswith(("| fault |", "|---"))]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
FILES = ("kills", "disk", "damage", "processes", "dvc_runs")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_every_fault_has_an_account_and_tests_that_exist(row: str) -> None:
    fault, seen, remedy, tests = (cell.strip() for cell in row.split("|")[1:-1])
    assert fault
    assert seen
    assert remedy
    named = NAMED.findall(tests)
    assert named
    assert len(named) == tests.count("`") / 2
    for path, test in named:
        assert test in names_in(path), f"{path} has no {test}: correct docs/reliability.md"


def test_every_fault_that_is_tested_has_a_row() -> None:
    files = [f"tests/faults/test_{name}.py" for name in FILES]
    tested = {(path, test) for path in files for test in names_in(path) if test.startswith("test_")}
    assert tested == set(NAMED.findall(PAGE))
