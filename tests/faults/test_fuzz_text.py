"""Texts from anywhere: parameters, split lists, annotations, label tables, indexes and the small JSON files of artefacts."""

import csv
import datetime
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from ruamel.yaml import YAML

from aepsl.data import folder, voc
from aepsl.data.archive import ArchiveReader, ArchiveWriter
from aepsl.data.index import SPLITS, Index, read_index, read_mean_pixel, write_index
from aepsl.errors import AepslError, FaultList
from aepsl.mining.record import read_rounds
from aepsl.params import load_params
from aepsl.segmentation.scores import read_stride
from tests.faults.fuzzing import altered, fuzz, mutated

ROOT = Path(__file__).resolve().parents[2]
PRESETS = [path.read_bytes() for path in sorted((ROOT / "presets").glob("*.yaml"))]
# Without comments, so that what is changed matters.
BARE = [yaml.safe_dump(yaml.safe_load(preset), sort_keys=False).encode() for preset in PRESETS]
LAUGHS = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(b"%c: &%c [%s]\n" % (to, to, b", ".join([b"*%c" % to_before] * 9))
                                                          for to_before, to in zip(b"abcdefgh", b"bcdefghi", strict=True))
MERGES = b"a: &a {x: 1}\n" + b"".join(b"%c: &%c {<<: [%s]}\n" % (to, to, b", ".join([b"*%c" % before] * 9))
                                      for before, to in zip(b"abcdefgh", b"bcdefghi", strict=True))
DEEP = [b"a: " * 1 + b"[" * depth + b"]" * depth for depth in (20, 60, 300, 3000, 30000)]


def judge_params(path: Path) -> Any:
    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        params = load_params(path).model_dump()
        # DVC reads the same file by YAML 1.2 with another parser: what it would take for other values must not be accepted.
        return same(params, YAML(typ="safe", pure=True).load(data.decode("utf-8-sig")))

    return judge


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, dict):
        return isinstance(theirs, dict) and {*ours} == {*theirs} and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return isinstance(theirs, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, str):  # where text is wanted, both are given the same letters, whatever else YAML could make of them
        return isinstance(theirs, str | float | int | datetime.date) and (not isinstance(theirs, str) or ours == theirs)
    return (type(ours) is type(theirs) and ours == theirs) or (isinstance(ours, float) and type(theirs) in (int, float) and ours == theirs)


def test_parameter_files_with_changed_bytes(tmp_path: Path) -> None:
    fuzz("params.yaml, bytes", mutated([*BARE, *BARE, PRESETS[0], LAUGHS, MERGES, *DEEP]), judge_params(tmp_path / "params.yaml"),
         names=[str(tmp_path / "params.yaml")], short=60, long=1500)


@pytest.mark.parametrize("preset", ["shapes", "folder"])
def test_parameter_files_with_changed_values(tmp_path: Path, preset: str) -> None:
    content = yaml.safe_load((ROOT / f"presets/{preset}.yaml").read_text())
    values = altered(content).map(lambda value: yaml.safe_dump(value, sort_keys=False, allow_unicode=False).encode("utf-8", "surrogatepass"))
    fuzz(f"params.yaml, values of {preset}", values, judge_params(tmp_path / "params.yaml"), names=[str(tmp_path / "params.yaml")], short=60,
         long=1000)


def named(name: str, error: ValueError) -> Exception:
    """The error of a parser with the name of its file, as the caller adds it; a library's own error is none of a parser's."""
    return AepslError(f"{name}: {error}") if type(error) is ValueError else TypeError(f"not explained: {error!r}")


# ---- lists, annotations, label tables: as a user's folder has them


IMAGES = {"a": b"\xff\xd8", "b c": b"\xff\xd8", "größe/d.e": b"\x89PNG"}
LISTS = [b"a\nb c\n", "a\r\nb c\r\ngr\u00f6\u00dfe/d.e\r\n".encode(), "\ufeffgr\u00f6\u00dfe/d.e\na".encode(),
         b"/JPEGImages/a.jpg /SegmentationClass/a.png\n",
         "a\nb c\n".encode("utf-16"), b"JPEGImages/" * 3000 + b".jpgx" * 3000]


def own_folder(root: Path) -> None:
    for name, data in IMAGES.items():
        for where, suffix, content in (("JPEGImages", "jpg", data), ("Annotations", "xml", b"<annotation/>")):
            (root / where / f"{name}.{suffix}").parent.mkdir(parents=True, exist_ok=True)
            (root / where / f"{name}.{suffix}").write_bytes(content)
    (root / "ImageSets/Segmentation").mkdir(parents=True)


def test_split_lists(tmp_path: Path) -> None:
    own_folder(tmp_path)
    listed, raw = tmp_path / "ImageSets/Segmentation/train.txt", tmp_path / "raw.zip"

    def judge(data: bytes) -> bool:
        listed.write_bytes(data)
        count = folder.pack(raw, tmp_path, splits={"train": "train", "val": None, "test": None}, labels="xml", masks=None, mask_values=None)
        text, packed = data.decode(), ArchiveReader(raw)
        ids = packed.read("ImageSets/Segmentation/train.txt").decode().splitlines()
        assert count["train"] == len(ids) == len([line for line in text.lstrip("\ufeff").splitlines() if line.strip()])
        return set(ids) <= IMAGES.keys() and all(re.search(rf"(^|[/\s\ufeff\0-\x20]){re.escape(name)}([\s.]|$)", text) for name in ids)

    fuzz("split list", mutated(LISTS), judge, names=[str(tmp_path), "data.folder.train", "list of train"], short=60, long=1000)


XML = [voc.format_annotation("a.jpg", 500, 375, [("cat", (1, 2, 3, 4)), ("größe & <b>", (1, 1, 500, 375))]),
       b'<?xml version="1.0" encoding="latin-1"?><annotation><object><name>caf\xe9</name><part><name>head</name></part></object></annotation>',
       '<annotation><object><name>cat</name></object></annotation>'.encode("utf-16"), b"<annotation></annotation>",
       b"<!DOCTYPE a [" + b"".join(b"<!ENTITY %c '%s'>" % (to, b"&%c;" % before * 10) for before, to in zip(b"abcdefgh", b"bcdefghi", strict=True))
       + b"]><annotation><object><name>&i;</name></object></annotation>",
       b"<annotation>" + b"<a>" * 20000, b"<annotation><object><name>" + b"x" * 10**6 + b"</name></object></annotation>"]


def test_annotations() -> None:
    def judge(data: bytes) -> bool:
        try:
            names = voc.parse_annotation(data)
        except ValueError as error:
            raise named("a.xml", error) from None
        again = voc.parse_annotation(voc.format_annotation("a.jpg", 1, 1, [(name, (1, 1, 1, 1)) for name in names]))
        assert again == [" ".join(name.split("\r")) if "\r" in name else name for name in names] or again == names
        return data.count(b"<object>") <= len(names) + 2 or b"\0" in data

    fuzz("annotation XML", mutated(XML), judge, names=["a.xml"], short=80, long=1500)


TABLES = [b'id,labels\na,cat;dog\n"b c",\n', b'\xef\xbb\xbfid,cat,"polar bear"\r\na,1,0\r\nb,0,1\r\n', b"id,cat\ra,1\rb,0\r",
          b"id,labels\n" + b'"' + b"x" * 200_000]


def test_label_tables() -> None:
    def judge(data: bytes) -> bool:
        try:
            labels, faults = voc.parse_labels(data.decode())
        except UnicodeDecodeError:
            raise AepslError("labels.csv: expected text in UTF-8, found another encoding") from None
        if faults:
            raise FaultList("labels.csv", [f"labels.csv: {fault}" for fault in faults])
        rows = [[cell.strip() for cell in row] for row in csv.reader(io.StringIO(data.decode().lstrip("\ufeff"), newline=""), strict=True)]
        filled = [row for row in rows[1:] if any(row)]
        assert [*labels] == [row[0] for row in filled]
        if rows[0][1:] == ["labels"]:
            return all(";".join(names).replace(" ", "") in row[1].replace(" ", "") or len(names) < row[1].count(";") + 1
                       for names, row in zip(labels.values(), filled, strict=True))
        return all(names == [name for name, cell in zip(rows[0][1:], row[1:], strict=True) if cell == "1"]
                   for names, row in zip(labels.values(), filled, strict=True))

    fuzz("label table", mutated(TABLES), judge, names=["labels.csv"], short=80, long=1500)


# ---- what stages hand on


def test_indexes(tmp_path: Path) -> None:
    path = tmp_path / "index.csv"
    samples = []
    for classes, ids in ((("cat", "polar, bear"), ("a", "größe/b c", 'q"')), (("x",), ()), (voc.CLASSES, tuple(map(str, range(20))))):
        rng = np.random.default_rng(len(ids))
        write_index(Index(classes, ids, tuple(rng.choice(SPLITS, len(ids)).tolist()), rng.integers(1, 999, (len(ids), 2)),
                          rng.random((len(ids), len(classes))) < 0.5), path)
        samples.append(path.read_bytes())

    def judge(data: bytes) -> bool:
        path.write_bytes(data)
        index = read_index(path)
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
        assert [*index.classes] == rows[0][4:]
        return [[row[0], row[1], *map(int, row[2:])] for row in rows[1:]] == [
            [*facts, *size, *map(int, labels)] for *facts, size, labels in zip(index.ids, index.splits, index.sizes.tolist(), index.labels.tolist(),
                                                                               strict=True)]

    fuzz("index.csv", mutated([*samples, samples[0].replace(b"\n", b"\r\n")]), judge, names=[str(path)], short=80, long=1500)


SMALL_FILES: dict[str, tuple[str, Any]] = {
    "dataset.json": ("dataset.json", {"source": "folder", "classes": ["cat", "dog"], "mask_values": {"cat": 1, "dog": 2}, "labels": "xml"}),
    "rounds.json": ("rounds.json", [{"round": "r1", "epochs": [1], "losses": [0.04], "final_loss": 0.04, "held_out_images": 0,
                                     "held_out_accuracy": None, "scale": 1.0, "mined_area": 0.1}]),
    "grid.json": ("grid.json", {"stride": 8}), "mean_pixel.json": ("mean_pixel.json", {"mean_pixel": [120.5, 3.0, 255]})}


def read_small(kind: str, path: Path) -> Any:
    if kind == "mean_pixel.json":
        return {"mean_pixel": [*read_mean_pixel(path)]}
    archive = ArchiveReader(path)
    if kind == "dataset.json":
        try:
            return vars(voc.Description.from_json(archive.text(kind)))
        except ValueError as error:
            raise named("dataset.json", error) from None
    return read_rounds(archive) if kind == "rounds.json" else {"stride": read_stride(archive)}


@pytest.mark.parametrize("kind", SMALL_FILES)
def test_small_files(tmp_path: Path, kind: str) -> None:
    name, content = SMALL_FILES[kind]
    path = tmp_path / (name if kind == "mean_pixel.json" else "artefact.zip")
    text = json.dumps(content).encode()
    inputs = mutated([text, json.dumps(content, indent=1).encode(), text.replace(b"{", b'{"stride": 1, "stride": 2, ')]) | altered(content).map(
        lambda value: json.dumps(value).encode())

    def judge(data: bytes) -> bool:
        if kind == "mean_pixel.json":
            path.write_bytes(data)
        else:
            with ArchiveWriter(path) as archive:
                archive.add(name, data)
        found = read_small(kind, path)
        said = json.loads(data)
        return bool(found == said) and not any(isinstance(value, float) and not math.isfinite(value) for value in _leaves(said))

    fuzz(kind, inputs, judge, names=[name], short=40, long=800)


def _leaves(value: Any) -> list[Any]:
    below = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [value] if below is None else [leaf for part in below for leaf in _leaves(part)]
