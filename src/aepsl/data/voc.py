"""The PASCAL VOC layout: its classes, split lists, annotation XML and label tables. Parsers only; no file is opened here.

Every parser raises ``ValueError`` with expected and found; the caller adds the name of the file.
"""

import csv
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal
from xml.etree import ElementTree as ET

from aepsl.data.archive import ArchiveReader, parse_json
from aepsl.errors import shown

CLASSES = ("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
           "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor")
MASK_VALUES = {name: value for value, name in enumerate(CLASSES, 1)}

IMAGES, ANNOTATIONS, MASKS, LISTS, PARTS = "JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation", "Parts"
LABELS_CSV, DESCRIPTION = "labels.csv", "dataset.json"

_PAIR = re.compile(r"^(?:.*/)?JPEGImages/(?P<id>.+?)\.(?:jpe?g|png)(?:\s+\S.*)?$", re.IGNORECASE)
LONGEST_LINE = 4096  # characters of two paths
LONGEST_PART = 250  # bytes of an id, so that file systems, which allow 255, take it with its extension
LONGEST_ID = 1000
LONGEST_CLASS = 100  # characters
TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # letters that turn the reading direction, so that names deceive
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Description:
    """What the files of data/raw.zip do not say themselves; stored in it as dataset.json.

    Attributes
    ----------
    classes : the classes of the data set in order, None = those that the labels name.
    mask_values : value of every class in the mask files, None = its position in the class list, from 1. It may name more
        classes than are used.
    labels : where image-level labels come from: Annotations/*.xml, labels.csv, or the values found in the masks.
    """

    source: str
    classes: list[str] | None
    mask_values: dict[str, int] | None
    labels: Literal["xml", "csv", "masks"]

    def to_json(self) -> bytes:
        return (json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n").encode()

    @classmethod
    def from_json(cls, data: bytes) -> "Description":
        fields = parse_json(data)
        if not isinstance(fields, dict) or set(fields) != {"source", "classes", "mask_values", "labels"}:
            raise ValueError(f"expected source, classes, mask_values and labels, found {shown(fields)}")
        source, classes, values, labels = (fields[name] for name in ("source", "classes", "mask_values", "labels"))
        if not isinstance(source, str):
            raise ValueError(f"source: expected a name, found {shown(source)}")
        if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
            raise ValueError(f"classes: expected a list of names or null, found {shown(classes)}")
        if values is not None and not (isinstance(values, dict) and all(type(value) is int and 1 <= value <= 254 for value in values.values())):
            raise ValueError(f"mask_values: expected a value from 1 to 254 for every class or null, found {shown(values)}")
        if labels not in ("xml", "csv", "masks"):
            raise ValueError(f"labels: expected xml, csv or masks, found {shown(labels)}")
        return cls(source, classes, values, labels)


def parse_list(text: str) -> list[str]:
    """Ids of a split list in its order, duplicates kept.

    A line is an id, which may contain spaces, or ``/JPEGImages/<id>.jpg /SegmentationClass/<id>.png``; empty lines are skipped.
    """
    lines = (line.strip() for line in text.lstrip("\ufeff").splitlines())
    # The time that the pattern takes grows with the square of a line's length; what is so long is no id anyway.
    return [match["id"] if len(line) <= LONGEST_LINE and (match := _PAIR.match(line)) else line for line in lines if line]


def id_fault(identifier: str) -> str | None:
    """What makes a string unfit as an id, or None. Ids may hold spaces, dots, any letters, and "/" for subfolders."""
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in TURNING for character in identifier):
        return f"id {shown(identifier)}: expected no control characters"
    parts = identifier.split("/")
    if identifier.startswith("/") or "\\" in identifier or any(part in ("", ".", "..") for part in parts):
        return f"id {shown(identifier)}: expected a name relative to {IMAGES}/, without a leading '/', empty, '.' or '..' parts, or backslashes"
    if any(len(part.encode()) > LONGEST_PART for part in parts) or len(identifier) > LONGEST_ID:
        return f"id {shown(identifier)}: expected at most {LONGEST_PART} bytes between two '/' and {LONGEST_ID} in all, found {len(identifier)}"
    return None


def class_fault(name: str) -> str | None:
    """What makes a string unfit as the name of a class, or None. Names stand in tables and metrics, never in paths."""
    if not name.strip() or name != name.strip() or not name.isprintable():
        return f"expected a printable name without space around it, found {shown(name)}"
    if name[0] in "=+-@":
        return f"expected a name that no spreadsheet takes for a formula, found {shown(name)}, which begins with {name[0]!r}"
    if len(name) > LONGEST_CLASS:
        return f"expected at most {LONGEST_CLASS} characters, found {len(name)}: {shown(name)}"
    return None


class _NoDoctype(ET.TreeBuilder):
    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        # Entities, the way to a file of the machine or to gigabytes of text, can only be declared in a DOCTYPE.
        raise ValueError(f"expected plain XML without a DOCTYPE, found <!DOCTYPE {name}>")


def parse_annotation(data: bytes) -> list[str]:
    """Class names of the objects of a VOC annotation, in file order; ``difficult`` objects count, ``part`` names do not."""
    parser = ET.XMLParser(target=_NoDoctype())
    try:
        parser.feed(data)
        root = parser.close()
    except (ET.ParseError, LookupError) as error:
        raise ValueError(f"expected VOC annotation XML, found {error}") from None
    except UnicodeError:
        raise ValueError("expected VOC annotation XML in the encoding it names, found other bytes") from None
    if root.tag != "annotation":
        raise ValueError(f"expected a root element <annotation>, found <{root.tag}>")
    names = [(element.findtext("name") or "").strip() for element in root.findall("object")]
    if not all(names):
        raise ValueError("expected a <name> in every <object>, found none in one of them")
    return names


def format_annotation(filename: str, width: int, height: int, objects: Iterable[tuple[str, Box]]) -> bytes:
    """VOC annotation XML; boxes are (xmin, ymin, xmax, ymax) in pixels, counted from 1, both ends included."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = filename
    size = ET.SubElement(root, "size")
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        ET.SubElement(size, tag).text = str(value)
    ET.SubElement(root, "segmented").text = "1"
    for name, box in objects:
        element = ET.SubElement(root, "object")
        ET.SubElement(element, "name").text = name
        ET.SubElement(element, "difficult").text = "0"
        corners = ET.SubElement(element, "bndbox")
        for tag, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True):
            ET.SubElement(corners, tag).text = str(value)
    ET.indent(root, "\t")
    text: bytes = ET.tostring(root, encoding="utf-8")
    return text + b"\n"


def parse_labels(text: str) -> tuple[dict[str, list[str]], list[str]]:
    """Class names per id of a label table, and the faults found, one line each.

    Two forms: columns ``id`` and ``labels``, the names separated by ";"; or ``id`` and one column per class holding 0 or 1.
    """
    try:
        rows = list(csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), strict=True))
    except csv.Error as error:
        return {}, [f"expected a table as CSV, found {error}"]
    header = [name.strip() for name in rows[0]] if rows else []
    if len(header) < 2 or header[0] != "id":
        return {}, [f"line 1: expected the columns id,labels or id and one column per class, found {shown(','.join(header))}"]
    if twice := [name for name, count in Counter(header).items() if count > 1 or not name]:
        return {}, [f"line 1: expected another name for every column, found {shown(twice[0])} {header.count(twice[0])} times"]
    labels: dict[str, list[str]] = {}
    faults = []
    for number, row in enumerate(rows[1:], 2):
        if not any(cell.strip() for cell in row):
            continue
        cells = [cell.strip() for cell in row]
        if len(cells) != len(header):
            faults.append(f"line {number}: expected {len(header)} columns, found {len(cells)}")
        elif cells[0] in labels:
            faults.append(f"line {number}: id {shown(cells[0])} has an earlier line; remove one")
        elif header[1:] == ["labels"]:
            labels[cells[0]] = [name.strip() for name in cells[1].split(";") if name.strip()]
        elif wrong := [cell for cell in cells[1:] if cell not in ("0", "1")]:
            faults.append(f"line {number}: expected 0 or 1 in every class column, found {shown(wrong[0])}")
        else:
            labels[cells[0]] = [name for name, cell in zip(header[1:], cells[1:], strict=True) if cell == "1"]
    return labels, faults


def stem(name: str) -> str:
    """An entry name without its last extension: ``a/b.c.jpg`` gives ``a/b.c``."""
    return name.rpartition(".")[0]


def image_names(archive: ArchiveReader) -> dict[str, str]:
    """Entry name of every id in an archive of ``<id>.<extension>``, such as data/images.zip."""
    return {stem(name): name for name in archive}


def format_lists(splits: Mapping[str, Sequence[str]]) -> dict[str, bytes]:
    """The entries ``ImageSets/Segmentation/<split>.txt``, one id a line."""
    return {f"{LISTS}/{split}.txt": "".join(f"{identifier}\n" for identifier in ids).encode() for split, ids in splits.items()}
