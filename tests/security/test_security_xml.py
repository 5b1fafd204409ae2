"""Annotations: no entity is expanded and no other file is opened, in whatever encoding the XML says so."""

from pathlib import Path

import pytest

from aepsl.data import voc

NAMES = "abcdefghij"
LAUGHS = "".join(f'<!ENTITY {name} "{(f"&{before};" if before else "ha") * 10}">' for before, name in zip(["", *NAMES], NAMES, strict=False))
BODY = "<annotation><object><name>{}</name></object></annotation>"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("text", [
    f"<!DOCTYPE a [{LAUGHS}]>" + BODY.format("&j;"), f'<!DOCTYPE a [<!ENTITY x "{"y" * 100_000}">]>' + BODY.format("&x;" * 10_000),
    '<!DOCTYPE a [<!ENTITY x SYSTEM "CANARY">]>'
    + BODY.format("&x;"), '<!DOCTYPE a [<!ENTITY % x SYSTEM "CANARY"> %x;]>' + BODY.format("cat"),
    '<!DOCTYPE a SYSTEM "CANARY">' + BODY.format("cat"),
    '<!DOCTYPE a PUBLIC "x" "http://127.0.0.1:9/x">' + BODY.format("cat"), "<!DOCTYPE a>" + BODY.format("cat"),
    "<!DOCTYPE a [<!ATTLIST annotation a CDATA 'x'>]>" + BODY.format("cat")],
    ids=["laughs", "quadratic", "file", "parameter entity", "external DTD", "public DTD", "bare", "attributes"])
def test_a_doctype_is_refused_before_anything_in_it_is_used(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "canary").write_text("secret")
    head = f'<?xml version="1.0" encoding="{ {"utf-16-be": "utf-16", "utf-8-sig": "utf-8"}.get(encoding, encoding)}"?>'
    data = (head + text.replace("CANARY", (tmp_path / "canary").as_uri())).encode(encoding)
    if encoding == "utf-16-be":
        data = b"\xfe\xff" + data
    with pytest.raises(ValueError, match="expected plain XML without a DOCTYPE, found <!DOCTYPE a>"):
        voc.parse_annotation(data)


def test_entities_that_nobody_declared_are_faults_and_those_of_xml_itself_are_not() -> None:
    with pytest.raises(ValueError, match="undefined entity"):
        voc.parse_annotation(BODY.format("&x;").encode())
    assert voc.parse_annotation(BODY.format("&lt;b&gt; &amp; &#228;").encode()) == ["<b> & ä"]


def test_xml_nested_a_million_deep_is_read_or_refused_and_never_a_crash() -> None:
    with pytest.raises(ValueError, match="expected VOC annotation XML"):
        voc.parse_annotation(b"<annotation>" + b"<a>" * 1_000_000)
    assert voc.parse_annotation(b"<annotation>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</annotation>") == []
