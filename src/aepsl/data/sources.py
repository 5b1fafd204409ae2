"""Where the data come from: one function per source writes the same raw.zip."""

from pathlib import Path
from typing import Any

from aepsl.data import folder, shapes, voc2012
from aepsl.params import Data


def pack_raw(data: Data, out: Path, *, cache: Path) -> dict[str, Any]:
    """Write data/raw.zip: VOC layout as found, and dataset.json (:class:`aepsl.data.voc.Description`).

    The classes used are not chosen here, so that another choice does not pack anew.

    Parameters
    ----------
    cache : folder of downloaded archives, kept between runs.

    Returns
    -------
    The source and the number of images per split.
    """
    images: dict[str, int]
    if data.source == "shapes":
        images = shapes.pack(out, **data.shapes.model_dump())
    elif data.source == "folder":
        chosen = data.folder
        splits = {"train": chosen.train, "val": chosen.val, "test": chosen.test}
        images = folder.pack(out, Path(data.path), splits=splits, labels=chosen.labels, masks=chosen.masks, mask_values=chosen.mask_values)
    else:
        wanted = data.voc2012
        images = voc2012.pack(out, Path(data.path) if data.path else None, cache=cache, train=wanted.train, labels=wanted.labels,
                              test=wanted.test, mirrors=wanted.mirrors)
    return {"source": data.source, "images": images}
