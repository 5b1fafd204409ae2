import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aepsl.data.index import Index
from aepsl.evaluation.pictures import contact_sheet, mined_overlay, overlay, spread

COLOURS = [(0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)]


def index_of(count: int) -> Index:
    return Index(("c",), tuple(f"i{row}" for row in range(count)), ("val",) * count, np.ones((count, 2), int), np.ones((count, 1), bool))


def test_a_mask_lies_over_the_image_in_its_classes_colours_with_the_background_dimmed_and_void_hatched():
    image = np.full((1, 6, 3), 100, np.uint8)
    found = overlay(image, np.array([[0, 1, 2, 255, 255, 255]], np.uint8), COLOURS)
    assert found.dtype == np.uint8
    # 0.5 · 100; 0.35 · 100 + 0.65 · (230, 159, 0), (86, 180, 233); every third void pixel white, the others 0.5 · 100 + 90
    np.testing.assert_allclose(found[0], [[50, 50, 50], [184, 138, 35], [90, 152, 186], [255, 255, 255], [140, 140, 140], [140, 140, 140]], atol=1)
    assert (image == 100).all()


def test_mined_pixels_have_the_colour_of_the_first_round_to_find_them_up_to_the_one_asked_for():
    image = np.full((1, 5, 3), 100, np.uint8)
    mined = {1: np.array([[0, 1, 0, 3, 1]], np.uint8), 2: np.array([[0, 0, 2, 0, 2]], np.uint8)}
    tints = [np.array(colour) * 0.65 + 35 for colour in COLOURS[1:]]
    plain = np.full(3, 50)
    for number, expected in ((0, [plain] * 5), (1, [plain, tints[0], plain, plain, tints[0]]), (2, [plain, *tints[:2], plain, tints[0]]),
                             (3, [plain, *tints, tints[0]])):
        np.testing.assert_allclose(mined_overlay(image, mined, number, COLOURS[1:])[0], expected, atol=1)


def test_rows_are_spread_from_the_first_to_the_last():
    assert spread(index_of(9), 3) == [0, 4, 8]
    assert spread(index_of(2), 5) == [0, 1]
    assert spread(index_of(0), 5) == []


@given(st.integers(1, 60), st.integers(1, 60))
def test_spread_rows_are_distinct_ascending_and_as_many_as_asked_for(count, wanted):
    rows = spread(index_of(count), wanted)
    assert rows == sorted(set(rows))
    assert len(rows) == min(count, wanted)
    assert 0 <= rows[0] <= rows[-1] < count


def test_a_contact_sheet_keeps_proportions_and_leaves_gaps_empty():
    wide, grey = np.full((5, 10, 3), (200, 10, 10), np.uint8), np.full((4, 4), 70, np.uint8)
    sheet = contact_sheet([[wide, None], [None, grey]], ["image", "mask"], cell=20)
    pixels = np.asarray(Image.open(io.BytesIO(sheet)))
    assert pixels.shape == (18 + 14 + 24, 4 + 2 * 24, 3)  # a row is as high as its highest picture
    assert (pixels[18:28, 4:24] == [200, 10, 10]).all()
    assert (pixels[28:32] == 255).all()
    assert (pixels[18:32, 28:] == 255).all()
    assert (pixels[32:, 4:24] == 255).all()
    assert (pixels[32:52, 28:48] == 70).all()
    assert (pixels[:18] < 255).any()
    assert contact_sheet([[wide, None], [None, grey]], ["image", "mask"], cell=20) == sheet


@pytest.mark.parametrize(("rows", "height"), [([], 148), ([[None]], 148), ([[np.zeros((1, 300, 3), np.uint8)]], 5)])
def test_a_contact_sheet_of_little_or_of_extremes(rows, height):
    assert Image.open(io.BytesIO(contact_sheet(rows, ["a"]))).size == (4 + 148, 18 + height)


def test_a_legend_stands_below_and_goes_on_in_another_line_where_it_is_long():
    legend = [("one", COLOURS[1]), ("ignored", None), ("\x1b[2J a very long name of a class, much longer than the picture is wide", COLOURS[2])]
    plain, told = (np.asarray(Image.open(io.BytesIO(contact_sheet([[None]], ["a"], legend=names)))) for names in ([], legend))
    assert (told[:plain.shape[0]] == plain).all()
    below = told[plain.shape[0]:].reshape(-1, 3)
    assert {COLOURS[1], COLOURS[2], (255, 255, 255), (90, 90, 90)} <= set(map(tuple, below.tolist()))
    rows = [np.flatnonzero((told == colour).all(-1).any(1)).min() for colour in COLOURS[1:3]]
    assert rows[1] - rows[0] == 20
