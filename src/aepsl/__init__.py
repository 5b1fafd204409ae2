"""Adversarial erasing and prohibitive segmentation learning: pixel-wise segmentation from image-level labels (Wei et al., CVPR 2017).

To use a trained model::

    from aepsl import Segmenter
    mask = Segmenter.load("models/aepsl.pt").predict("photograph.jpg").mask
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aepsl.segmenter import Prediction as Prediction
    from aepsl.segmenter import Segmenter as Segmenter

__all__ = ["Prediction", "Segmenter", "__version__"]


def __getattr__(name: str) -> Any:
    """The names that are for users, loaded when they are asked for: torch takes seconds, which what needs no network should not cost."""
    if name == "Segmenter":
        from aepsl.segmenter import Segmenter
        return Segmenter
    if name == "Prediction":
        from aepsl.segmenter import Prediction
        return Prediction
    if name == "__version__":
        from aepsl.version import VERSION
        return VERSION
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
