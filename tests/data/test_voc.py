"""The parsers of the VOC layout: lists, annotations, label tables, ids."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aepsl.data import voc
from aepsl.data.archive import ArchiveReader, ArchiveWriter


def test_a_list_may_hold_ids_or_pairs_of_paths() -> None:
    text = "\ufeff2007_000032\n\n  a b.c \r\n/JPEGImages/2008_1.jpg /SegmentationClassAug/2008_1.png\n/JPEGImages/x/y z.JPEG\nünï\n"
    assert voc.parse_list(text) == ["2007_000032", "a b.c", "2008_1", "x/y z", "ünï"]


def test_a_list_keeps_its_duplicates() -> None:
    assert voc.parse_list("b\na\nb\n") == ["b", "a", "b"]


@pytest.mark.parametrize("identifier", ["2007_000032", "a b", "a.b.c", "site 1/x", "ünï", "...", "a..b"])
def test_ids_are_any_names(identifier: str) -> None:
    assert voc.id_fault(identifier) is None


@pytest.mark.parametrize("identifier", ["/a", "../a", "a/../b", "a//b", "a/", "./a", "a\tb", "a\x00b", "a\\b", ""])
def test_unfit_ids_are_named(identifier: str) -> None:
    assert repr(identifier) in (voc.id_fault(identifier) or "")


def test_objects_of_an_annotation_count_even_if_difficult_and_their_parts_do_not() -> None:
    text = b"""<annotation><object><name>person</name><difficult>1</difficult><part><name>head</name></part></object>
        <object><name> dog </name></object><object><name>person</name></object></annotation>"""
    assert voc.parse_annotation(text) == ["person", "dog", "person"]


@pytest.mark.parametrize(("text", "said"), [
    (b"<annotation><object></annotation>", "mismatched tag"),
    (b"", "no element found"),
    (b"<html/>", "<annotation>"),
    (b"<annotation><object/></annotation>", "<name>"),
    (b'<!DOCTYPE annotation [<!ENTITY a "b">]><annotation/>', "DOCTYPE"),
    ('<?xml version="1.0" encoding="utf-16"?><!DOCTYPE annotation><annotation/>'.encode("utf-16"), "DOCTYPE"),
])
def test_faulty_annotations_are_refused(text: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        voc.parse_annotation(text)


def test_entities_are_refused_before_they_are_expanded() -> None:
    entities = b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 50) for n in range(1, 12))
    bomb = b'<!DOCTYPE a [<!ENTITY a0 "x">' + entities + b"]><a>&a11;</a>"
    with pytest.raises(ValueError, match="DOCTYPE"):
        voc.parse_annotation(bomb)


@given(st.lists(st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1), max_size=4))
def test_annotations_come_back_as_written(names: list[str]) -> None:
    assert voc.parse_annotation(voc.format_annotation("a.jpg", 5, 4, [(name, (1, 1, 5, 4)) for name in names])) == names


def test_label_tables_have_two_forms() -> None:
    assert voc.parse_labels("id,labels\na,cat;dog\n\nb,\n") == ({"a": ["cat", "dog"], "b": []}, [])
    assert voc.parse_labels('\ufeffid,cat,"polar bear"\na,1,0\nb c,1,1\n') == ({"a": ["cat"], "b c": ["cat", "polar bear"]}, [])


@pytest.mark.parametrize(("text", "said"), [
    ("", "expected the columns"), ("name,labels\n", "expected the columns"), ("id,cat\na,2\n", "line 2: expected 0 or 1"),
    ("id,cat\na\n", "line 2: expected 2 columns"), ("id,labels\na,x\na,y\n", "line 3: id 'a'"),
])
def test_faults_of_a_label_table_name_the_line(text: str, said: str) -> None:
    assert said in voc.parse_labels(text)[1][0]


def test_image_names_strip_the_last_extension_only(tmp_path) -> None:
    with ArchiveWriter(tmp_path / "images.zip") as archive:
        for name in ("a.b.jpg", "site 1/c.png"):
            archive.add(name, b"")
    assert voc.image_names(ArchiveReader(tmp_path / "images.zip")) == {"a.b": "a.b.jpg", "site 1/c": "site 1/c.png"}


def test_voc_numbers_its_classes_in_alphabetical_order() -> None:
    assert len(voc.CLASSES) == 20
    assert list(voc.CLASSES) == sorted(voc.CLASSES)
    assert voc.MASK_VALUES["person"] == 15


def test_a_line_too_long_for_a_path_is_no_pair_and_takes_no_time() -> None:
    [identifier] = voc.parse_list("JPEGImages/" * 20_000 + ".jpgx" * 20_000)
    assert "expected at most 250 bytes between two '/' and 1000 in all" in str(voc.id_fault(identifier))


@pytest.mark.parametrize("identifier", ["x" * 251, "ä" * 126, "/".join(["x" * 100] * 10), "a\u2028b", "a\u202eb", "a\x85b"])
def test_ids_that_no_file_could_have_or_that_deceive_are_unfit(identifier: str) -> None:
    assert str(voc.id_fault(identifier)).isprintable()


@pytest.mark.parametrize("name", ["=1+1", "+a", "-a", "@a", "", " a", "a\n", "\x1b[2J", "a\u202eb", "x" * 101])
def test_unfit_names_of_classes_are_named(name: str) -> None:
    assert str(voc.class_fault(name)).startswith("expected ")
    assert str(voc.class_fault(name)).isprintable()


@pytest.mark.parametrize("name", ["cat", "größe", "polar bear", "a|b", "<b>", "../../x", "猫", "it's", "1+1", "CON"])
def test_names_of_classes_are_any_printable_text(name: str) -> None:
    assert voc.class_fault(name) is None


@pytest.mark.parametrize(("text", "said"), [
    ("id,cat,cat\n", "another name for every column, found 'cat' 2 times"), ("id,cat,\n", "found '' 1 times"), ('id,labels\na,"cat\nb,dog\n', "expected a table as CSV"),
    ("id,labels\n" + "x" * 200_000, "field larger than field limit")])
def test_tables_that_could_be_misread_are_refused(text: str, said: str) -> None:
    labels, [fault] = voc.parse_labels(text)
    assert not labels
    assert said in fault


def test_a_table_may_have_the_line_ends_of_any_system() -> None:
    for end in ("\n", "\r\n", "\r"):
        assert voc.parse_labels(f"id,labels{end}a,cat{end}") == ({"a": ["cat"]}, [])


@pytest.mark.parametrize("change", [
    {"source": 1}, {"classes": "cat"}, {"classes": [1]}, {"mask_values": [1]}, {"mask_values": {"cat": 0}}, {"mask_values": {"cat": 255}}, {"mask_values": {"cat": True}},
    {"labels": "none"}, {"labels": ["xml"]}, {"more": 1}])
def test_a_description_of_other_content_is_refused(change: dict) -> None:
    fields = {"source": "folder", "classes": ["cat"], "mask_values": {"cat": 1}, "labels": "xml"}
    assert voc.Description.from_json(json.dumps(fields).encode()) == voc.Description("folder", ["cat"], {"cat": 1}, "xml")
    with pytest.raises(ValueError, match="expected .*, found "):
        voc.Description.from_json(json.dumps(fields | change).encode())
