"""The files of report/data: JavaScript that hands JSON to the page, for a page opened from disk may load scripts and nothing else.

``index.js`` holds a row per image; ``thumbs/00000.js`` and ``full/00000.js``, … hold the pictures of some consecutive images each.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from aepsl.report.facts import Gallery

PER_SHARD = {"thumbs": 16, "full": 4}  # images in a file: enough for few files, few enough to be loaded at once
DIGITS = 3
_ESCAPED = {ord(letter): f"\\u{ord(letter):04x}" for letter in "<>&\x7f"}
_CALL = re.compile(rb"aepsl\.(\w+)\((.*)\);\n", re.DOTALL)


def script(function: str, *values: Any) -> bytes:
    """A call ``aepsl.function(…);`` with JSON values, in plain ASCII.

    Within JSON only texts hold < > and &, which as escapes cannot end a script element. Letters beyond ASCII are escaped too: no line separator
    that ends a statement, nothing that turns the reading direction, no encoding to guess.
    """
    arguments = ",".join(json.dumps(value, separators=(",", ":"), allow_nan=False) for value in values)
    return f"aepsl.{function}({arguments.translate(_ESCAPED)});\n".encode("ascii")


def values_of(data: bytes) -> tuple[str, list[Any]]:
    """Function and values of a :func:`script`.

    Raises
    ------
    ValueError : it is none.
    """
    match = _CALL.fullmatch(data)
    if match is None:
        raise ValueError("expected one call of aepsl")
    return match[1].decode(), json.loads(b"[" + match[2] + b"]")


def index_script(gallery: Gallery, digest: str) -> bytes:
    """``aepsl.index(…)``: a column per fact of the images, in the order of the shards.

    Parameters
    ----------
    digest : of all that the report shows, which ``run.js`` names too: what it tells is of this report only where they are equal.
    """
    return script("index", {
        "digest": digest, "classes": list(gallery.classes), "colours": list(gallery.colours), "rounds": list(gallery.rounds),
        "round_colours": list(gallery.round_colours),
        "layers": {split: [{"key": layer.key, "title": layer.title, "kind": layer.kind} for layer in layers]
                   for split, layers in gallery.layers.items()},
        "per_shard": PER_SHARD,
        "images": {"id": list(gallery.ids), "split": list(gallery.splits), "width": [width for width, _ in gallery.sizes],
                   "height": [height for _, height in gallery.sizes], "labels": [list(labels) for labels in gallery.labels],
                   **{name: [rounded(value) for value in values] for name, values in gallery.scores.items()}}})


def rounded(value: float | None) -> float | int | None:
    """A score in few characters."""
    if value is None:
        return None
    short = round(float(value), DIGITS)
    return int(short) if short == int(short) else short


def shard_name(kind: str, number: int) -> str:
    """Name of a shard below report/data."""
    return f"{kind}/{number:05d}.js"


def shard_script(kind: str, number: int, images: Sequence[bytes]) -> bytes:
    """``aepsl.shard(kind, number, […])`` of what :func:`image_json` made of the images."""
    return f'aepsl.shard("{kind}",{number},['.encode() + b",".join(images) + b"]);\n"


def image_json(photo: str, layers: Sequence[str | Mapping[int, str] | None]) -> bytes:
    """An image of a shard: ``[photograph, [layer, …]]``, each in base64; of a heatmap per class an object by the class's number."""
    return json.dumps([photo, list(layers)], separators=(",", ":")).encode("ascii")
