import json

import numpy as np
import pytest

from aepsl.evaluation.tables import write_csv, write_json, write_metrics


def test_json_keeps_the_order_rounds_floats_and_writes_nan_as_null(tmp_path):
    path = tmp_path / "new/scores.json"
    write_json(path, {"z": 0.12345678, "a": np.float32(0.5), "n": float("nan"), "minus": -1e-9, "count": np.int64(2**40),
                      "rows": np.array([[1.0, np.nan]]), "nested": {"flag": True, "name": "größe", 3: None}})
    assert path.read_text(encoding="utf-8") == """{
  "z": 0.123457,
  "a": 0.5,
  "n": null,
  "minus": 0.0,
  "count": 1099511627776,
  "rows": [
    [
      1.0,
      null
    ]
  ],
  "nested": {
    "flag": true,
    "name": "größe",
    "3": null
  }
}
"""


def test_json_refuses_infinity_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "scores.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("inf")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["scores.json"]


def test_a_metrics_file_has_its_numbers_at_the_top_and_how_they_came_about_in_a_list(tmp_path):
    write_metrics(tmp_path / "m.json", {"miou": 0.5}, {"split": "val", "crf": {"preset": "none"}})
    assert json.loads((tmp_path / "m.json").read_text()) == {"miou": 0.5, "how": [{"split": "val", "crf": {"preset": "none"}}]}


def test_csv_has_the_columns_of_the_first_row(tmp_path):
    path = tmp_path / "rows.csv"
    write_csv(path, [{"round": 1, "area": 1 / 3, "note": "a,b", "ok": True},
                     {"area": np.float64("nan"), "round": np.int64(2), "note": None, "ok": False}])
    assert path.read_bytes() == b'round,area,note,ok\n1,0.333333,"a,b",true\n2,,,false\n'


def test_csv_without_rows_needs_the_columns(tmp_path):
    write_csv(tmp_path / "rows.csv", [], columns=["a", "b"])
    assert (tmp_path / "rows.csv").read_bytes() == b"a,b\n"
    with pytest.raises(ValueError, match="at least one row"):
        write_csv(tmp_path / "rows.csv", [])


def test_csv_refuses_rows_of_other_columns(tmp_path):
    with pytest.raises(ValueError, match=r"row 1: expected the columns \['a'\]"):
        write_csv(tmp_path / "rows.csv", [{"a": 1}, {"b": 1}])
    assert not (tmp_path / "rows.csv").exists()
