from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_grey, encode_mask
from aepsl.errors import AepslError
from aepsl.evaluation.confusion import Confusion
from aepsl.evaluation.mining import RungCounts, at_area, mined_rounds, part_recall, threshold_curve

nan = float("nan")


def archives(folder, truths: dict[str, np.ndarray], regions: dict[str, dict[int, np.ndarray]]) -> tuple[ArchiveReader, ArchiveReader]:
    with ArchiveWriter(folder / "truth.zip") as out:
        for identifier, mask in truths.items():
            out.add(f"{identifier}.png", encode_mask(np.asarray(mask, np.uint8)))
    with ArchiveWriter(folder / "mined.zip") as out:
        for identifier, planes in regions.items():
            for label, plane in planes.items():
                out.add(f"{identifier}/{label}.png", encode_grey(np.asarray(plane, np.uint8)))
    return ArchiveReader(folder / "truth.zip"), ArchiveReader(folder / "mined.zip")


TRUTHS = {"a": [[1, 1, 1, 2, 0, 0, 0, 255]], "b": [[1, 0, 2, 2]]}
MINED = {"a": {1: [[1, 2, 0, 2, 2, 0, 0, 1]], 2: [[0, 2, 0, 1, 0, 0, 0, 0]]}, "b": {2: [[0, 1, 1, 0]]}}
LABELS = np.array([[True, True], [False, True]])  # class 1 is in b, but the image label does not say so


def test_rounds_by_hand(tmp_path):
    truth, mined = archives(tmp_path, TRUTHS, MINED)
    first, second = mined_rounds(["a", "b"], truth, mined, LABELS, rounds=2, processes=1)
    # Round 1: a: class 1 at 0 (hit) and 7 (void truth), class 2 at 3 (hit); b: class 2 at 1 (false), 2 (hit).
    # Object pixels of labelled classes: a 3 + 1, b 2. Matrix: background 3|0|1, class 1 3|1|0, class 2 1|0|2.
    assert first == {"round": 1, "area": 5 / 12, "precision": 3 / 4, "recall": 3 / 6, "classes_counted": 3,
                     "mean_iou": pytest.approx((3 / 8 + 1 / 4 + 2 / 4) / 3)}
    # Round 2 adds class 1 at 1 (hit), 3 and 4 (false), class 2 at 1 (false); pixels 1 and 3 of a are claimed twice.
    # Matrix: background 2|1|1|0, class 1 2|1|0|1, class 2 1|0|1|1.
    assert second == {"round": 2, "area": 7 / 12, "precision": 4 / 8, "recall": 4 / 6, "classes_counted": 3,
                      "mean_iou": pytest.approx((2 / 7 + 1 / 5 + 1 / 4) / 3)}


def test_nothing_mined_has_no_precision_and_no_recall_of_nothing(tmp_path):
    truth, mined = archives(tmp_path, {"a": [[1, 0]]}, {"a": {1: [[0, 0]]}})
    [row] = mined_rounds(["a"], truth, mined, np.array([[True]]), rounds=1, processes=1)
    assert (row["area"], row["recall"]) == (0, 0)
    assert np.isnan(row["precision"])


def test_an_image_without_labels_is_counted_as_unmined(tmp_path):
    truth, mined = archives(tmp_path, {"a": [[1, 0]]}, {})
    [row] = mined_rounds(["a"], truth, mined, np.array([[False]]), rounds=1, processes=1)
    assert row["area"] == 0
    assert row["mean_iou"] == pytest.approx((1 / 2 + 0) / 2)
    assert np.isnan(row["recall"])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 4))
def test_every_rung_equals_a_direct_count(seed, classes, rungs):
    rng = np.random.default_rng([seed])
    counts = RungCounts.empty(rungs, classes)
    direct = [Confusion(classes) for _ in range(rungs)]
    claims, hits, area = np.zeros((3, rungs), int)
    for _ in range(3):
        shape = tuple(rng.integers(1, 7, 2))
        truth = rng.choice(np.array([*range(classes + 1), 255], np.uint8), shape)
        labels = np.flatnonzero(rng.random(classes) < 0.6) + 1
        planes = {int(label): rng.integers(0, rungs + 1, shape) for label in labels}
        counts.add(planes, truth)
        for rung in range(rungs):
            held = np.stack([np.zeros(shape, bool), *[plane > rung for plane in planes.values()]])
            mask = np.select([held.sum(0) > 1, held.sum(0) == 1], [255, np.array([0, *labels])[held.argmax(0)]], 0)
            direct[rung].add(truth, mask)
            area[rung] += held.any(0).sum()
            claims[rung] += sum(((plane > rung) & (truth != 255)).sum() for plane in planes.values())
            hits[rung] += sum(((plane > rung) & (truth == label)).sum() for label, plane in planes.items())
    np.testing.assert_array_equal(counts.matrix, [confusion.matrix for confusion in direct])
    np.testing.assert_array_equal(counts.claims.sum(1), claims)
    np.testing.assert_array_equal(counts.hits.sum(1), hits)
    np.testing.assert_array_equal(counts.area, area)


@pytest.mark.parametrize("processes", [1, 2])
def test_rounds_do_not_depend_on_order_or_processes(tmp_path, processes):
    rng = np.random.default_rng([8])
    ids = [f"i{number:02d}" for number in range(40)]
    labels = rng.random((40, 3)) < 0.5
    regions = {name: {label + 1: rng.integers(0, 4, (6, 5)) for label in np.flatnonzero(row)}
               for name, row in zip(ids, labels, strict=True)}
    truth, mined = archives(tmp_path, {name: rng.integers(0, 4, (6, 5)) for name in ids}, regions)
    order = rng.permutation(40)
    shuffled = mined_rounds([ids[place] for place in order], truth, mined, labels[order], rounds=3, processes=processes)
    assert shuffled == mined_rounds(ids, truth, mined, labels, rounds=3, processes=1)
    assert [row["round"] for row in shuffled] == [1, 2, 3]
    assert all(one["area"] <= two["area"] and one["recall"] <= two["recall"] for one, two in pairwise(shuffled))


def test_a_threshold_mines_what_is_above_it(tmp_path):
    truth, _ = archives(tmp_path, {"a": [[1, 1, 0, 0]]}, {})
    heat = np.array([[1, 0.5, np.nextafter(np.float32(0.5), np.float32(1)), 0]], np.float32)
    curve = threshold_curve(["a"], truth, lambda _: {1: heat}, 1, levels=4)
    assert [row["threshold"] for row in curve] == [0, 0.25, 0.5, 0.75]
    assert [row["area"] for row in curve] == [3 / 4, 3 / 4, 2 / 4, 1 / 4]  # 0.5 itself is not above 0.5, and 0 not above 0
    assert [row["precision"] for row in curve] == [2 / 3, 2 / 3, 1 / 2, 1]
    assert [row["recall"] for row in curve] == [1, 1, 1 / 2, 1 / 2]


def test_a_curve_at_the_threshold_of_the_rule_equals_the_mined_round(tmp_path):
    rng = np.random.default_rng([9])
    heats = {name: {label: rng.random((9, 8), np.float32) for label in (1, 3)} for name in "abc"}
    regions = {name: {label: heat > 0.5 for label, heat in planes.items()} for name, planes in heats.items()}
    truth, mined = archives(tmp_path, {name: rng.choice([0, 1, 2, 3, 255], (9, 8)) for name in "abc"}, regions)
    [row] = mined_rounds("abc", truth, mined, np.array([[True, False, True]] * 3), rounds=1, processes=1)
    curve = threshold_curve("abc", truth, heats.__getitem__, 3)
    assert len(curve) == 256
    assert {**curve[128], "round": 1} == {**row, "threshold": 0.5}


def test_equal_area_is_read_between_two_thresholds():
    curve = [{"threshold": 0.0, "area": 0.8, "precision": 0.4, "recall": 1.0, "mean_iou": 0.3},
             {"threshold": 0.25, "area": 0.8, "precision": 0.4, "recall": 1.0, "mean_iou": 0.3},
             {"threshold": 0.5, "area": 0.4, "precision": 0.8, "recall": 0.6, "mean_iou": 0.5},
             {"threshold": 0.75, "area": 0.0, "precision": nan, "recall": 0.0, "mean_iou": 0.1}]
    point = at_area(curve, 0.6)
    assert {key: pytest.approx(value) for key, value in point.items()} == {"area": 0.6, "threshold": 0.25, "precision": 0.6, "recall": 0.8,
                                                                         "mean_iou": 0.4}
    assert at_area(curve, 0.4)["precision"] == 0.8
    for area in (0.2, 0.9, nan):
        with pytest.raises(ValueError, match="expected an area of the curve"):
            at_area(curve, area)
    with pytest.raises(ValueError, match="expected an area of the curve"):
        at_area([], 0.5)


def test_parts_are_mined_when_their_own_class_claims_them(tmp_path):
    truth, mined = archives(tmp_path, {"a": [[1, 1, 1, 2, 2, 0]]}, {"a": {1: [[1, 2, 0, 1, 0, 0]], 2: [[0, 0, 1, 2, 0, 1]]}})
    parts = np.array([[1, 2, 2, 1, 2, 0]], np.uint8)
    rows = part_recall(["a"], truth, mined, np.array([[True, True]]), lambda _: parts, rounds=2, processes=1)
    assert rows == [{"round": 1, "head": 1 / 2, "body": 0}, {"round": 2, "head": 1, "body": 1 / 3}]


def test_regions_of_another_size_a_later_round_and_heat_beyond_one_are_refused(tmp_path):
    truth, mined = archives(tmp_path, {"a": [[1, 0]], "b": [[1, 0]], "c": [[2, 0]]},
                            {"a": {1: [[1]]}, "b": {1: [[3, 0]]}, "c": {1: [[1, 0]]}})
    labels = np.array([[True]])
    with pytest.raises(AepslError, match=r"a: expected regions of the truth's size, height and width \(1, 2\), found \(1, 1\)"):
        mined_rounds(["a"], truth, mined, labels, rounds=2, processes=1)
    with pytest.raises(AepslError, match="b: expected rounds up to 2, found 3"):
        mined_rounds(["b"], truth, mined, labels, rounds=2, processes=1)
    with pytest.raises(AepslError, match="c: truth: expected values 0 to 1 and 255, found 2"):
        mined_rounds(["c"], truth, mined, labels, rounds=2, processes=1)
    for heat in (1.5, nan):
        with pytest.raises(ValueError, match=r"expected the heatmap of class 1 in \[0, 1\]"):
            threshold_curve(["b"], truth, lambda _, heat=heat: {1: np.array([[0, heat]])}, 1)
