"""The version of aepsl, for what it writes; pyproject.toml has the same."""

VERSION = "0.1.0"
