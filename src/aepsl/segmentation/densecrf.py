"""The one place that imports pydensecrf, which must be compiled and may be missing."""

from typing import Any

from aepsl.errors import AepslError


def require_densecrf() -> Any:
    """The module pydensecrf.densecrf, or an error that says how to get it."""
    try:
        from pydensecrf import densecrf
    except ImportError as error:
        raise AepslError(f"refine.crf: expected the package pydensecrf, found none that loads ({error}); run `make setup` or "
                         "`pip install pydensecrf2` (it needs a C++ compiler), or set refine.crf to none") from error
    return densecrf
