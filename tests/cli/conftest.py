"""The command ``aepsl`` in this process, for tests that need no process of their own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from aepsl.cli.app import app


@pytest.fixture
def aepsl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """``aepsl("clean", "--prune")`` in an empty folder: stdout, stderr and exit code apart. What is left over there is of this test alone."""
    monkeypatch.chdir(tmp_path)
    for name in ("AEPSL_STATE", "GITHUB_ACTIONS", "FORCE_COLOR", "PY_COLORS", "TERMINAL_WIDTH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def call(*words: str | Path, text: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words], input=text, prog_name="aepsl")
    return call
