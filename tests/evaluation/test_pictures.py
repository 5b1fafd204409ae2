import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aepsl.data.index import Index
from aepsl.evaluation.pictures import ROUND_COLOURS, contact_sheet, mined_overlay, overlay, spread


def index_of(count: int) -> Index:
    return Index(("c",), tuple(f"i{row}" for row in range(count)), ("val",) * count, np.ones((count, 2), int), np.ones((count, 1), bool))


def test_a_mask_lies_over_the_image_in_voc_colours_with_void_white_and_background_dimmed():
    image = np.full((1, 4, 3), 100, np.uint8)
    found = overlay(image, np.array([[0, 1, 15, 255]], np.uint8))
    assert found.dtype == np.uint8
    # 0.5 · 100; 0.35 · 100 + 0.65 · (128, 0, 0), (192, 128, 128), (255, 255, 255)
    np.testing.assert_allclose(found[0], [[50, 50, 50], [118, 35, 35], [159, 118, 118], [200, 200, 200]], atol=1)
    assert (image == 100).all()


def test_mined_pixels_have_the_colour_of_their_round_up_to_the_one_asked_for():
    image = np.full((1, 4, 3), 100, np.uint8)
    mined = {1: np.array([[0, 1, 0, 3]], np.uint8), 2: np.array([[0, 0, 2, 0]], np.uint8)}
    tints = [np.array(ROUND_COLOURS[place]) * 0.65 + 35 for place in range(3)]
    plain = np.full(3, 60)
    for number, expected in ((0, [plain] * 4), (1, [plain, tints[0], plain, plain]), (2, [plain, tints[0], tints[1], plain]),
                             (3, [plain, *tints])):
        np.testing.assert_allclose(mined_overlay(image, mined, number)[0], expected, atol=1)


def test_more_rounds_than_colours_start_over():
    image = np.zeros((1, 2, 3), np.uint8)
    first, sixth = mined_overlay(image, {1: np.array([[1, 6]], np.uint8)}, 6)[0]
    np.testing.assert_array_equal(first, sixth)


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
    assert pixels.shape == (18 + 2 * 24, 4 + 2 * 24, 3)
    assert (pixels[18:28, 4:24] == [200, 10, 10]).all()
    assert (pixels[28:42, 4:24] == 255).all()
    assert (pixels[18:42, 28:] == 255).all()
    assert (pixels[42:62, 28:48] == 70).all()
    assert (pixels[:18] < 255).any()
    assert contact_sheet([[wide, None], [None, grey]], ["image", "mask"], cell=20) == sheet


@pytest.mark.parametrize("rows", [[], [[None]], [[np.zeros((1, 300, 3), np.uint8)]]])
def test_a_contact_sheet_of_little_or_of_extremes(rows):
    assert Image.open(io.BytesIO(contact_sheet(rows, ["a"]))).size == (4 + 148, 18 + 148)
