"""The panels of an image: colours, errors, scores and what is painted, on arrays small enough to be reckoned by hand."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage.color import rgb2lab

from aepsl.evaluation.confusion import Confusion
from aepsl.report.facts import ERROR_COLOURS, HEAT_COLOURS, REGION_COLOUR, RIGHT_COLOUR
from aepsl.report.layers import (
    HATCH,
    HEAT_ALPHA,
    OKABE_ITO,
    Panels,
    class_colours,
    errors,
    first_round,
    lab_as_seen,
    painted,
    painted_classes,
    painted_grey,
    painted_heat,
    photo,
    predicted_layers,
    scores_of,
    stride_of,
    train_layers,
)

TRUTH = np.array([[0, 0, 1, 1, 1, 2, 2, 255]], np.uint8)
MASK = np.array([[0, 1, 1, 0, 2, 2, 255, 1]], np.uint8)  # right, spilled, right, missed, confused, right, ignored, truth void


def rgba(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


# --- colours

def test_the_first_colours_are_okabe_and_itos_and_each_begins_the_longer_list() -> None:
    assert class_colours(3) == OKABE_ITO[:3]
    assert class_colours(12)[:8] == class_colours(8)
    assert class_colours(0) == ()


def test_eight_classes_are_told_apart_without_red_or_green_cones() -> None:
    normal, without_red, without_green = lab_as_seen(np.array(class_colours(8)))
    assert np.allclose(normal, rgb2lab(np.array(class_colours(8), np.uint8)), atol=0.05)
    for seen in (normal, without_red, without_green):
        distances = np.sqrt(((seen[:, None] - seen[None]) ** 2).sum(-1)) + 1e3 * np.eye(8)
        assert distances.min() > 14  # some 2 can just be seen side by side


def test_the_four_errors_are_told_apart_without_red_or_green_cones() -> None:
    for seen in lab_as_seen(np.array([*ERROR_COLOURS, RIGHT_COLOUR])):
        distances = np.sqrt(((seen[:, None] - seen[None]) ** 2).sum(-1)) + 1e3 * np.eye(4)
        assert distances.min() > 25


def test_254_classes_have_as_many_colours() -> None:
    colours = class_colours(254)
    assert len(set(colours)) == 254
    seen = lab_as_seen(np.array(colours[:20]))
    assert all((np.sqrt(((view[:, None] - view[None]) ** 2).sum(-1)) + 1e3 * np.eye(20)).min() > 10 for view in seen)


# --- layers

def test_which_layers_there_are() -> None:
    assert [layer.key for layer in train_layers(["a", "b"], None, truth=True)] == ["heat-a", "erased-b", "heat-b", "mined", "saliency", "merged",
                                                                                   "truth", "errors"]
    assert [layer.key for layer in train_layers(["a"], "s2", truth=False)] == ["heat-a", "mined", "saliency", "merged", "labels"]
    assert [layer.key for layer in predicted_layers(truth=True)] == ["before", "after", "truth", "errors"]
    assert [layer.key for layer in predicted_layers(truth=False)] == ["before", "after"]
    for layers in (train_layers(["a", "b", "c"], "s3", truth=True), predicted_layers(truth=True)):
        assert len({layer.key for layer in layers}) == len({layer.title for layer in layers}) == len(layers)


def test_a_pixel_belongs_to_the_first_round_that_mined_it_for_any_class() -> None:
    mined = {1: np.array([[0, 2, 3, 1]], np.uint8), 4: np.array([[0, 0, 1, 2]], np.uint8)}
    assert first_round(mined, (1, 4)).tolist() == [[0, 2, 1, 1]]


# --- errors and scores

def test_errors_of_every_kind() -> None:
    assert errors(TRUTH, MASK, void_as="miss").tolist() == [[0, 2, 4, 1, 3, 4, 1, 0]]
    assert errors(TRUTH, MASK, void_as="background").tolist() == [[0, 2, 4, 1, 3, 4, 1, 0]]
    assert errors(TRUTH, MASK, void_as="left-out").tolist() == [[0, 2, 4, 1, 3, 4, 0, 0]]


def test_scores_of_one_image() -> None:
    matrix = Confusion(2).add(TRUTH, MASK).matrix
    # Background: 1 right of {0,1} true and {0,3} said; class 1: 1 of 3 true and 2 said; class 2: 1 of 2 true and 2 said.
    scores = scores_of(matrix, void_as="miss")
    assert scores["iou"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 3) / 3)
    assert (scores["missed"], scores["confused"]) == (pytest.approx(2 / 5), pytest.approx(1 / 5))
    assert scores["spilled"] == pytest.approx(1 / 4)  # of the pixels called an object, where the truth is known
    left = scores_of(matrix, void_as="left-out")
    assert (left["missed"], left["confused"], left["spilled"]) == (pytest.approx(1 / 4), pytest.approx(1 / 4), pytest.approx(1 / 4))
    assert left["iou"] == pytest.approx((1 / 3 + 1 / 4 + 1 / 2) / 3)


@pytest.mark.parametrize("void_as", ["miss", "background", "left-out"])
def test_shares_are_those_of_the_painted_errors(void_as) -> None:
    rng = np.random.default_rng(3)
    truth, mask = rng.choice([0, 1, 2, 3, 255], (2, 40, 50)).astype(np.uint8)
    scores, found = scores_of(Confusion(3).add(truth, mask).matrix, void_as=void_as), np.bincount(errors(truth, mask, void_as=void_as).ravel())
    assert scores["missed"] == pytest.approx(found[1] / (found[1] + found[3] + found[4]))
    assert scores["confused"] == pytest.approx(found[3] / (found[1] + found[3] + found[4]))
    assert scores["spilled"] == pytest.approx(found[2] / (found[2] + found[3] + found[4]))


def test_nothing_to_find_and_nothing_found_is_no_fault() -> None:
    empty = Confusion(2).add(np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8)).matrix
    assert scores_of(empty, void_as="miss") == {"iou": 1.0, "missed": 0, "spilled": 0, "confused": 0}
    unknown = Confusion(2).add(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8)).matrix
    assert scores_of(unknown, void_as="miss") == {"iou": 0.0, "missed": 0, "spilled": 0, "confused": 0}


# --- painting

def test_classes_are_painted_background_left_clear_and_ignored_pixels_hatched() -> None:
    colours = ((0, 0, 0), *class_colours(3))
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 4:8], mask[:, 8:] = 3, 255
    pixels = rgba(painted_classes(mask, (16, 16), colours))
    assert (pixels[:, :4, 3] == 0).all()
    assert (pixels[:, 4:8] == (*colours[3], 255)).all()
    ignored = {tuple(pixel) for pixel in pixels[:, 8:].reshape(-1, 4).tolist()}
    assert ignored == set(HATCH)
    assert len({tuple(row.ravel().tolist()) for row in pixels[:8, 8:]}) == 8  # slanted lines


def test_all_of_254_classes_fit_one_picture() -> None:
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert rgba(painted_classes(mask, (16, 16), ((0, 0, 0), *class_colours(254)))).shape == (16, 16, 4)


def test_saliency_is_painted_grey() -> None:
    pixels = rgba(painted_grey(np.array([[0, 128, 255]], np.uint8), (3, 1)))
    assert pixels[0, [0, 2]].tolist() == [[0, 0, 0, 255], [255, 255, 255, 255]]
    assert abs(int(pixels[0, 1, 0]) - 128) <= 9


def test_heat_lies_where_its_cells_do() -> None:
    heat = np.zeros((16, 32), np.uint8)
    heat[4, 20] = 255  # pixel (32, 160) of the image
    pixels = rgba(painted_heat(heat, (256, 128), (256, 128)))  # an eighth on a side, as the grid
    assert pixels.shape == (16, 32, 4)
    assert np.unravel_index(pixels[..., 3].astype(int).argmax(), (16, 32)) in {(4, 20), (4, 19), (3, 20), (3, 19)}
    full = rgba(painted_heat(np.full((16, 32), 255, np.uint8), (256, 128), (128, 64)))
    assert (full == (*HEAT_COLOURS[-1], HEAT_ALPHA[1])).all()
    assert full.shape == (8, 16, 4)
    ramp = rgba(painted_heat(np.tile(np.arange(32, dtype=np.uint8) * 8, (16, 1)), (256, 128), (256, 128)))
    assert (np.diff(ramp[0, :, 3].astype(int)) >= 0).all()


@pytest.mark.parametrize(("shape", "full", "stride"), [((47, 63), (500, 375), 8), ((24, 32), (500, 375), 16), ((375, 500), (500, 375), 1),
                                                       ((1, 500), (4000, 1), 8), ((1, 1), (1, 1), 1)])
def test_the_stride_of_a_grid_follows_from_the_sizes(shape, full, stride) -> None:
    assert stride_of(shape, full) == stride


def test_a_grid_of_another_image_is_refused() -> None:
    assert stride_of((48, 63), (500, 375)) is None
    with pytest.raises(ValueError, match="expected heat on a grid of 500×375 pixels, found 63×48 cells"):
        painted_heat(np.zeros((48, 63), np.uint8), (500, 375), (500, 375))


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 300), (4000, 3), (5, 4)])
def test_images_of_any_shape_are_painted_at_the_same_size_and_never_enlarged(width: int, height: int) -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 255], (height, width)).astype(np.uint8)
    panels = Panels(rng.integers(0, 256, (height, width, 3), np.uint8), {"r1": {1: np.full((-(-height // 8), -(-width // 8)), 9, np.uint8)}},
                    {1: (mask == 1).astype(np.uint8)}, {"saliency": mask, "merged": mask, "truth": mask})
    layers = train_layers(["r1", "r2"], None, truth=True)
    for side in (128, 512):
        picture, found = painted(panels, layers, ["r1", "r2"], ((0, 0, 0), *class_colours(1)), side, void_as="miss", per_class=False)
        size = Image.open(io.BytesIO(picture)).size
        assert max(size) == min(side, max(width, height))
        assert min(size) >= 1
        for layer, data in zip(layers, found, strict=True):
            if data is not None and layer.kind != "heat":
                assert Image.open(io.BytesIO(data)).size == size, layer.key


def test_what_an_image_lacks_is_nothing_and_heat_comes_for_each_class_where_asked() -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    mined = {1: np.eye(8, dtype=np.uint8), 2: np.eye(8, dtype=np.uint8)[::-1] * 2}
    heat = {"r1": {1: np.full((1, 1), 255, np.uint8), 2: np.zeros((1, 1), np.uint8)}}
    layers = train_layers(["r1", "r2"], None, truth=True)
    panels = Panels(image, heat, mined, {"saliency": image[..., 0], "merged": mined[1]})

    def named(per_class: bool) -> dict:
        found = painted(panels, layers, ["r1", "r2"], ((0, 0, 0), *class_colours(2)), 64, void_as="miss", per_class=per_class)[1]
        return dict(zip([layer.key for layer in layers], found, strict=True))

    one, each = named(False), named(True)
    assert [key for key, data in one.items() if data is None] == ["heat-r2", "truth", "errors"]
    assert set(each["heat-r1"]) == {1, 2}
    assert rgba(one["heat-r1"]).tolist() == rgba(each["heat-r1"][1]).tolist()  # the largest of the two
    erased = rgba(one["erased-r2"])
    assert (erased[mined[1] == 1] == (*REGION_COLOUR, 255)).all()
    assert (erased[mined[1] == 0][:, 3] == 0).all()  # what round 2 mined was seen by its classifier
    colours = class_colours(2)
    assert (rgba(one["mined"])[mined[2] == 2][:, :3] == colours[1]).all()
    assert Image.open(io.BytesIO(photo(image, (8, 8)))).format == "WEBP"
