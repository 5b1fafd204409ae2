"""The files of report/data: JavaScript that any browser takes for JSON and nothing else, whatever images and classes are called."""

import json
import re

import pytest

from aepsl.report.facts import Gallery, Layer
from aepsl.report.shards import image_json, index_script, rounded, script, shard_name, shard_script, values_of

HOSTILE = ["</script><script>alert(1)</script>", "<!--", "]]>", "&lt;", "a\u2028b\u2029c", "\"'`\\", "${x}", "\0\x07\x1b[2J\x7f",
           "\u202egpj.exe", "\r\n", "💣", "\ud800", "__proto__", "../../etc/passwd", "); aepsl.run("]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_comes_back_as_it_was_and_cannot_end_a_script(text: str) -> None:
    data = script("index", {text: [text]})
    assert values_of(data) == ("index", [{text: [text]}])
    assert re.fullmatch(rb"[\x20-\x7e]+\n", data)
    assert not set(b"<>&") & set(data)


def test_numbers_that_json_lacks_are_no_values() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script("index", float("nan"))


def test_what_is_no_script_of_ours_is_refused() -> None:
    for data in (b"", b"alert(1)", b"aepsl.index({});", b"x;aepsl.index({});\n"):
        with pytest.raises(ValueError):
            values_of(data)


def test_scores_have_three_decimals() -> None:
    assert [rounded(value) for value in (None, 1.0, 0.0, 0.12345, 2 / 3)] == [None, 1, 0, 0.123, 0.667]
    assert isinstance(rounded(1.0), int)


def test_a_shard_holds_its_images() -> None:
    images = [image_json("UEc=", ["QQ==", None, {3: "Qg=="}]), image_json("x", [])]
    assert values_of(shard_script("full", 7, images)) == ("shard", ["full", 7, [["UEc=", ["QQ==", None, {"3": "Qg=="}]], ["x", []]]])
    assert shard_name("thumbs", 12) == "thumbs/00012.js"


def test_the_index_has_a_column_per_fact() -> None:
    gallery = Gallery(classes=["background", "cat"], colours=[(0, 0, 0), (1, 2, 3)], rounds=["r1"], round_colours=[(4, 5, 6)],
                      layers={"val": [Layer("after", "prediction", "classes")]}, ids=["a", "b"], splits=["val", "val"], sizes=[(3, 4), (5, 6)],
                      labels=[[1], []], scores={"iou": [0.5, None], "missed": [0.1, None], "spilled": [0, None], "confused": [0, None]})
    name, [index] = values_of(index_script(gallery, "d"))
    assert name == "index"
    assert json.loads(json.dumps(index["layers"])) == {"val": [{"key": "after", "title": "prediction", "kind": "classes"}]}
    assert index["images"] == {"id": ["a", "b"], "split": ["val", "val"], "width": [3, 5], "height": [4, 6], "labels": [[1], []], "iou": [0.5, None],
                               "missed": [0.1, None], "spilled": [0, None], "confused": [0, None]}
    assert (index["digest"], index["classes"], index["rounds"], index["per_shard"]) == ("d", ["background", "cat"], ["r1"], {"thumbs": 16, "full": 4})
