from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aepsl.evaluation.tables import confusion_rows


def shares(rows: list[dict[str, str]]) -> dict[tuple[str, str], int]:
    return dict(Counter((row["actual"], row["predicted"]) for row in rows))


def test_every_actual_class_is_shared_out_by_its_predictions():
    matrix = np.array([[3, 1, 0, 0], [0, 2**40, 0, 2**40], [0, 0, 0, 0]])
    assert shares(confusion_rows(matrix, ["background", "cat", "dog"], per_class=8)) == {
        ("background", "background"): 6, ("background", "cat"): 2, ("cat", "cat"): 4, ("cat", "ignored"): 4}


def test_rows_follow_the_order_of_the_matrix():
    assert confusion_rows(np.array([[1, 1]]), ["a"], per_class=2) == [{"actual": "a", "predicted": "a"}, {"actual": "a", "predicted": "ignored"}]


def test_names_that_do_not_fit_the_matrix_are_refused():
    with pytest.raises(ValueError):
        confusion_rows(np.ones((2, 3), int), ["a", "b", "c"])


@given(st.integers(1, 5), st.integers(0, 2**32 - 1), st.integers(1, 300))
def test_rounding_keeps_the_number_of_rows_and_stays_within_one_of_the_share(classes, seed, per_class):
    rng = np.random.default_rng([seed])
    matrix = rng.integers(0, 9, (classes, classes + 1)) * rng.integers(0, 2, (classes, 1))
    names = [f"c{number}" for number in range(classes)]
    found = shares(confusion_rows(matrix, names, per_class=per_class))
    for actual, counts in zip(names, matrix, strict=True):
        numbers = np.array([found.get((actual, name), 0) for name in [*names, "ignored"]])
        assert numbers.sum() == (per_class if counts.sum() else 0)
        if counts.sum():
            np.testing.assert_allclose(numbers, counts / counts.sum() * per_class, atol=1)
            assert not numbers[counts == 0].any()
