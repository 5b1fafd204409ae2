"""Sphinx configuration: `make docs` builds docs/_build/html from these pages, the parameters, dvc.yaml, the commands and the docstrings."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

from tools import reference  # noqa: E402

project = "aepsl"
author = "The aepsl developers"
copyright = author
version = release = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
myst_heading_anchors = 4  # the anchors that GitHub gives headings, so that links work there too
myst_enable_extensions = ["deflist", "colon_fence"]
suppress_warnings = ["misc.highlighting_failure"]
html_theme = "furo"
html_title = f"aepsl {release}"
html_static_path = ["_static"]
html_css_files = ["aepsl.css"]
html_copy_source = False
html_show_sphinx = False
pygments_style, pygments_dark_style = "friendly", "monokai"
doctest_test_doctest_blocks = ""  # examples in docstrings use their module's names: tests/docs runs them
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 100
# What torch, numpy and the standard library define is named, but not linked: pages are built without a network.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!aepsl\.).*"), ("py:class", r"aepsl\..*\.([A-Z]|Model)"), ("py:data", ".*")]  # type variables; constants


def generated(app: Any, name: str, source: list[str]) -> None:
    """`<!-- generated: api data -->` stands for what `tools.reference.api("data")` makes of the code."""
    source[0] = re.sub(r"<!-- generated: (\w+)(.*?) -->", lambda found: getattr(reference, found[1])(*found[2].split()), source[0])


def sections(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """The headings of a docstring as field lists."""
    lines[:] = reference.with_fields(lines)


def setup(app: Any) -> None:
    app.connect("source-read", generated)
    app.connect("autodoc-process-docstring", sections)
