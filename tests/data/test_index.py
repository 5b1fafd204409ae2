import string
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aepsl.data.index import SPLITS, Index, read_index, read_mean_pixel, write_index, write_mean_pixel
from aepsl.errors import AepslError

INDEX = Index(("cat", "dog"), ("2007_000032", "a,b", "c/ü"), ("train", "val", "test"), np.array([[500, 281], [3, 4], [5, 6]]),
              np.array([[True, False], [True, True], [False, False]]))


def same(one: Index, two: Index) -> None:
    assert (one.classes, one.ids, one.splits) == (two.classes, two.ids, two.splits)
    np.testing.assert_array_equal(one.sizes, two.sizes)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.labels.dtype == two.labels.dtype == bool


def test_an_index_is_a_table_anyone_can_read(tmp_path):
    write_index(INDEX, tmp_path / "index.csv")
    assert (tmp_path / "index.csv").read_text(encoding="utf-8") == (
        'id,split,width,height,cat,dog\n2007_000032,train,500,281,1,0\n"a,b",val,3,4,1,1\nc/ü,test,5,6,0,0\n')
    same(read_index(tmp_path / "index.csv"), INDEX)


def test_splits_and_rows_are_taken_in_the_order_asked_for():
    same(INDEX.split("val", "test"), INDEX.take([1, 2]))
    assert INDEX.split("test", "val").ids == ("a,b", "c/ü")
    assert INDEX.take([2, 0]).ids == ("c/ü", "2007_000032")
    assert INDEX.take([2, 0]).labels.tolist() == [[False, False], [True, False]]


def many(count: int) -> Index:
    return Index(("cat", "dog"), tuple(f"i{row:04}" for row in range(count)), ("train",) * count, np.full((count, 2), 8), np.ones((count, 2), bool))


def test_images_are_held_out_by_their_id_alone():
    everything = many(1000)
    fit, held = everything.hold_out(0.1)
    assert sorted(fit.ids + held.ids) == list(everything.ids)
    assert 70 <= len(held) <= 130
    # Other images, another order: the same fate. A larger share: the same images and more.
    assert set(everything.take(range(900, 100, -3)).hold_out(0.1)[1].ids) == set(held.ids) & set(everything.take(range(900, 100, -3)).ids)
    assert set(held.ids) < set(everything.hold_out(0.3)[1].ids)


def test_nothing_is_held_out_where_none_is_asked_for():
    fit, held = many(50).hold_out(0.0)
    assert (len(fit), len(held)) == (50, 0)


def test_an_index_may_be_empty(tmp_path):
    nothing = INDEX.split()
    assert (len(nothing), nothing.sizes.shape, nothing.labels.shape) == (0, (0, 2), (0, 2))
    write_index(nothing, tmp_path / "index.csv")
    same(read_index(tmp_path / "index.csv"), nothing)


TEXT = st.text(string.ascii_letters + string.digits + " ,;\"'/._-ü漢", min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_index_round_trips(tmp_path_factory, data):
    ids = data.draw(st.lists(TEXT, unique=True, max_size=5))
    classes = data.draw(st.lists(TEXT, unique=True, min_size=1, max_size=4))
    rng = np.random.default_rng([len(ids), len(classes)])
    index = Index(tuple(classes), tuple(ids), tuple(rng.choice(SPLITS, len(ids)).tolist()), rng.integers(1, 9999, (len(ids), 2)),
                  rng.random((len(ids), len(classes))) < 0.5)
    path = tmp_path_factory.mktemp("index") / "index.csv"
    write_index(index, path)
    same(read_index(path), index)


@pytest.mark.parametrize(("text", "message"), [
    ("", "expected a header starting with id,split,width,height"),
    ("name,split,width,height\n", "expected a header starting with id,split,width,height"),
    ("id,split,width,height,cat\na,train,1,2\n", "expected 5 columns, line 2 has another number"),
    ("id,split,width,height,cat\na,train,1,2,1\n\n", "expected 5 columns, line 3 has another number"),
    ("id,split,width,height,cat\na,train,1,2,yes\n", "expected whole numbers .* 'yes'"),
    ("id,split,width,height,cat\na,train,1.5,2,1\n", "expected whole numbers .* '1.5'"),
])
def test_a_table_of_another_form_is_refused(tmp_path, text, message):
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(AepslError, match=rf"index\.csv: {message}.*; run `dvc repro -f prepare`"):
        read_index(tmp_path / "index.csv")


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(AepslError, match=r"none\.csv: no such file"):
        read_index(tmp_path / "none.csv")


def test_an_index_does_not_change():
    with pytest.raises(AttributeError):
        INDEX.ids = ()  # type: ignore[misc]
    assert replace(INDEX, splits=("train",) * 3).split("train").ids == INDEX.ids


@pytest.mark.parametrize(("line", "message"), [
    ("a,train,1,2,1", "expected every id once and none empty, found 'a' 2 times"), (",train,1,2,1", "expected every id once and none empty, found ''"),
    ("b,trian,1,2,1", "expected a split out of train, val, test, found 'trian' for 'b'"), ("b,val,0,2,1", "width and height of a pixel or more"),
    ("b,val,1,2,5", "labels of 0 or 1"), ("b,val,1,99999999999999999999,1", "expected whole numbers"), ("b,val,١,2,1", "expected whole numbers"),
    ('b,val,1,2,"1', "expected a table as CSV in UTF-8, found"), ("b\udcff,val,1,2,1", "expected a table as CSV in UTF-8, found")])
def test_rows_that_no_image_could_have_are_refused(tmp_path, line, message):
    (tmp_path / "index.csv").write_bytes(f"id,split,width,height,cat\na,train,1,2,1\n{line}\n".encode("utf-8", "surrogateescape"))
    with pytest.raises(AepslError, match=rf"index\.csv: .*{message}.*; run `dvc repro -f prepare`"):
        read_index(tmp_path / "index.csv")


def test_classes_differ(tmp_path):
    (tmp_path / "index.csv").write_text("id,split,width,height,cat,cat\n")
    with pytest.raises(AepslError, match="expected every class once and none empty, found 'cat' 2 times"):
        read_index(tmp_path / "index.csv")


def test_the_mean_pixel_comes_back_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "mean_pixel.json"
    write_mean_pixel([1, 2.5, 255], path)
    assert read_mean_pixel(path) == (1, 2.5, 255)
    for text in ("", "{", "[]", "{}", '{"mean_pixel": [1, 2]}', '{"mean_pixel": [1, 2, 256]}', '{"mean_pixel": [1, 2, true]}', '{"mean_pixel": [1, 2, NaN]}'):
        path.write_text(text)
        with pytest.raises(AepslError, match=r"mean_pixel\.json: expected .*found .*; run `dvc repro -f prepare`"):
            read_mean_pixel(path)
    with pytest.raises(AepslError, match=r"none\.json: no such file"):
        read_mean_pixel(tmp_path / "none.json")
