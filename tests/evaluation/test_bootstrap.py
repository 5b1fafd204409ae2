import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aepsl.evaluation.bootstrap import BLOCK, mean_and_interval, mean_iou_interval, resampled
from aepsl.evaluation.confusion import Confusion, Counted, margins, mean_iou

POLICIES = ("miss", "background", "left-out")


def images_of(*pairs: tuple[list[int], list[int]], classes: int = 2) -> np.ndarray:
    """(N, 1+C, 2+C) matrices of images given as truth and prediction."""
    return np.stack([Confusion(classes).add(np.array([truth], np.uint8), np.array([prediction], np.uint8)).matrix for truth, prediction in pairs])


def random_images(seed: int, *, count: int, classes: int = 3, right: float = 0.6) -> np.ndarray:
    rng = np.random.default_rng([seed])
    values = np.array([*range(classes + 1), 255], np.uint8)
    pairs = []
    for _ in range(count):
        truth = rng.choice(values[:-1], 40)
        pairs.append((truth.tolist(), np.where(rng.random(40) < right, truth, rng.choice(values, 40)).tolist()))
    return images_of(*pairs, classes=classes)


def test_the_interval_by_hand():
    # a: background 2 of 2 and class 1 2 of 2: mean 1. b: background 1 of 2, class 1 claimed for 1, never true: IoU 1/2 and 0, mean 1/4.
    # Together: background 3 of 4, class 1 2 of 3: mean 17/24. Of two draws, a quarter are aa, a half ab or ba, a quarter bb.
    matrices = images_of(([0, 0, 1, 1], [0, 0, 1, 1]), ([0, 0], [0, 1]))
    images = margins(matrices)
    assert mean_iou_interval(images, void_as="miss") == (1 / 4, 1)
    assert mean_iou_interval(images, void_as="miss", level=0.4) == (pytest.approx(17 / 24), pytest.approx(17 / 24))
    assert mean_and_interval("m", Counted(matrices.sum(0), images), void_as="miss") == {"m": pytest.approx(17 / 24), "m_low": 1 / 4, "m_high": 1}


def test_a_class_that_is_absent_from_a_resample_is_not_counted_in_it():
    # Class 2 is in b alone and missed there: b counts it as 0, mean 0; a does not have it, mean 1, not 1/2.
    images = margins(images_of(([0, 0], [0, 0]), ([2, 2], [0, 0])))
    assert mean_iou_interval(images, void_as="miss") == (0, 1)


def test_void_predictions_follow_the_policy():
    images = margins(images_of(([0, 0, 1], [0, 255, 1])))
    assert mean_iou_interval(images, void_as="miss") == (3 / 4, 3 / 4)
    assert mean_iou_interval(images, void_as="background") == (1, 1)
    assert mean_iou_interval(images, void_as="left-out") == (1, 1)


def test_nothing_to_score_has_no_interval():
    nothing = np.zeros((0, 3, 4), np.int64)
    assert mean_iou_interval(margins(nothing), void_as="miss") is None
    assert mean_iou_interval(margins(images_of(([255], [0]), ([255], [1]))), void_as="miss") is None
    assert list(mean_and_interval("m", Counted(nothing.sum(0), margins(nothing)), void_as="miss").values())[1:] == [None, None]


def test_void_images_have_no_score_and_take_no_part():
    images = margins(images_of(([255], [0]), ([0, 1], [0, 1])))
    assert mean_iou_interval(images, void_as="miss") == (1, 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.sampled_from(POLICIES))
def test_equal_images_give_an_interval_without_width(seed, count, policy):
    matrix = random_images(seed, count=1)
    point = mean_iou(matrix[0], void_as=policy)[0]
    assert mean_iou_interval(margins(np.repeat(matrix, count, 0)), void_as=policy, resamples=60) == (point, point)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(30, 60), st.floats(0.3, 0.8), st.sampled_from(POLICIES))
def test_the_interval_holds_the_score_of_usual_data(seed, count, right, policy):
    matrices = random_images(seed, count=count, right=right)
    low, high = mean_iou_interval(margins(matrices), void_as=policy, resamples=200) or (1, 0)
    assert 0 <= low < mean_iou(matrices.sum(0), void_as=policy)[0] < high <= 1
    assert high - low < 0.2


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 2 * BLOCK + 1))
def test_a_resample_is_a_sum_of_as_many_images_drawn_with_replacement(seed, count, resamples):
    images = np.eye(count, dtype=np.int64)[:, None]  # image i counts one in column i: a resample's counts are its draws
    drawn = np.concatenate(list(resampled(images, resamples, seed=seed)))
    assert drawn.shape == (resamples, 1, count)
    assert (drawn.sum((1, 2)) == count).all()
    assert (drawn >= 0).all()
    other = margins(random_images(seed, count=count))
    np.testing.assert_array_equal(np.concatenate(list(resampled(other, resamples, seed=seed))), np.tensordot(drawn[:, 0], other, 1))


def test_every_image_is_drawn_equally_often_and_the_draws_are_fixed():
    images = np.eye(4, dtype=np.int64)[:, None]
    drawn = np.concatenate(list(resampled(images, 4000)))[:, 0]
    np.testing.assert_allclose(drawn.mean(0), 1, atol=0.06)
    np.testing.assert_allclose(drawn.var(0), 3 / 4, atol=0.06)  # binomial, 4 draws of probability 1/4
    np.testing.assert_array_equal(drawn, np.concatenate(list(resampled(images, 4000)))[:, 0])
    assert not np.array_equal(drawn, np.concatenate(list(resampled(images, 4000, seed=1)))[:, 0])


@pytest.mark.parametrize("bits", [32, 50, 58])
def test_resampled_counts_are_exact_however_many_pixels(bits):
    """32: beyond int32. 58: beyond what float64 holds, where a sum of floats would lose the odd ones."""
    images = (np.array([[3], [5], [9]], np.int64) << bits) + np.array([[1], [3], [7]])
    draws = np.concatenate(list(resampled(np.eye(3, dtype=np.int64), 100)))
    expected = [sum(int(weight) * int(count) for weight, count in zip(row, images[:, 0], strict=True)) for row in draws]
    assert np.concatenate(list(resampled(images, 100)))[:, 0].tolist() == expected
    assert max(expected) > 2 ** (bits + 4)


def test_beyond_two_billion_pixels_the_interval_stays_that_of_the_shares():
    matrices = random_images(3, count=20)
    small, large = (mean_iou_interval(margins(part), void_as="miss", resamples=100) for part in (matrices, matrices << 36))
    assert (matrices << 36).sum() > 2**31
    assert small == large
