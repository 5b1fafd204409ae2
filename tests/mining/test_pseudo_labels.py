import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aepsl.mining.pseudo_labels import merge

LOW, HIGH = 0.01, 0.9


def single(saliency: float, *claims: int) -> int:
    """The label of one pixel mined for ``claims`` out of the classes 3 and 7."""
    mined = {label: np.array([[label in claims]]) for label in (3, 7)}
    return int(merge(mined, np.array([[saliency]]), background_below=0.06)[0, 0])


@pytest.mark.parametrize(("saliency", "claims", "label"), [
    (HIGH, [3], 3), (HIGH, [7], 7), (LOW, [], 0),
    (HIGH, [3, 7], 255),  # claimed by more than one class
    (LOW, [3, 7], 255),
    (LOW, [3], 255),  # low saliency inside a mined region
    (HIGH, [], 255),  # claimed by neither
])
def test_a_pixel_is_one_class_or_background_or_one_of_three_kinds_of_ignored(saliency, claims, label):
    assert single(saliency, *claims) == label


def test_saliency_at_the_threshold_is_not_low():
    assert single(0.06) == 255
    assert single(np.nextafter(0.06, 0)) == 0
    assert single(0.06, 3) == 3


def test_an_image_without_mined_classes_is_background_and_ignored():
    assert merge({}, np.array([[LOW, HIGH]]), background_below=0.06).tolist() == [[0, 255]]


def test_an_image_by_hand():
    mined = {1: np.array([[1, 1, 0, 0, 1]], bool), 2: np.array([[0, 1, 1, 0, 0]], bool)}
    label = merge(mined, np.array([[HIGH, HIGH, HIGH, LOW, LOW]]), background_below=0.06)
    assert label.dtype == np.uint8
    assert label.tolist() == [[1, 255, 2, 0, 255]]


SCENES = st.tuples(st.integers(0, 2**32 - 1), st.sets(st.integers(1, 254), max_size=4), st.floats(0, 1))


def scene(seed: int, classes: set[int]) -> tuple[dict[int, np.ndarray], np.ndarray, np.random.Generator]:
    rng = np.random.default_rng([seed])
    return {label: rng.random((6, 5)) < 0.4 for label in sorted(classes)}, rng.random((6, 5)), rng


@given(SCENES)
def test_a_label_is_background_ignored_or_the_only_class_that_claims_the_pixel(drawn):
    seed, classes, below = drawn
    mined, saliency, _ = scene(seed, classes)
    label = merge(mined, saliency, background_below=below)
    assert set(np.unique(label)) <= {0, 255} | classes
    claims = sum((region.astype(int) for region in mined.values()), np.zeros((6, 5), int))
    assert (label[claims > 1] == 255).all()
    np.testing.assert_array_equal(label == 0, (claims == 0) & (saliency < below))
    for number, region in mined.items():
        np.testing.assert_array_equal(label == number, region & (claims == 1) & (saliency >= below))


@given(SCENES, st.floats(0, 1))
def test_a_higher_threshold_only_adds_background_and_only_removes_objects(drawn, more):
    seed, classes, below = drawn
    mined, saliency, _ = scene(seed, classes)
    low, high = (merge(mined, saliency, background_below=level) for level in sorted((below, more)))
    assert (high[low == 0] == 0).all()
    objects = (high > 0) & (high < 255)
    np.testing.assert_array_equal(low[objects], high[objects])


@given(SCENES)
def test_mining_more_for_a_class_never_turns_a_pixel_into_another_one(drawn):
    seed, classes, below = drawn
    mined, saliency, rng = scene(seed, classes)
    before = merge(mined, saliency, background_below=below)
    for number in mined:
        after = merge(mined | {number: mined[number] | (rng.random((6, 5)) < 0.5)}, saliency, background_below=below)
        changed = after != before
        assert np.isin(after[changed], [number, 255]).all()
        assert (before[changed & (after == number)] == 255).all()


@given(SCENES)
def test_the_order_of_the_classes_does_not_matter(drawn):
    seed, classes, below = drawn
    mined, saliency, _ = scene(seed, classes)
    backwards = dict(reversed(mined.items()))
    np.testing.assert_array_equal(merge(backwards, saliency, background_below=below), merge(mined, saliency, background_below=below))
