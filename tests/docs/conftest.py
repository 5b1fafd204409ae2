"""The built documentation, once for all tests that look at it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def sphinx(builder: str, out: Path) -> subprocess.CompletedProcess[str]:
    """As `make docs` calls it."""
    return subprocess.run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", builder, "-d", str(out / "doctrees"), str(ROOT / "docs"),
                           str(out / builder)], cwd=ROOT, capture_output=True, text=True, timeout=3600, check=False)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the HTML pages."""
    out = tmp_path_factory.mktemp("docs")
    result = sphinx("html", out)
    assert result.returncode == 0, result.stderr[-5000:]
    return out / "html"
