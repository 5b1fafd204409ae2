from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aepsl.data.archive import ArchiveReader, ArchiveWriter, encode_grey, encode_mask
from aepsl.errors import AepslError
from aepsl.evaluation.confusion import Confusion
from aepsl.evaluation.mining import RungCounts, at_equal, best_single, erasing_gains, mined_rounds, part_recall, threshold_curve

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


CURVE = [{"threshold": 0.0, "area": 0.8, "precision": 0.4, "recall": 1.0, "mean_iou": 0.3, "classes_counted": 3},
         {"threshold": 0.25, "area": 0.8, "precision": 0.4, "recall": 1.0, "mean_iou": 0.3, "classes_counted": 3},
         {"threshold": 0.5, "area": 0.4, "precision": 0.8, "recall": 0.6, "mean_iou": 0.5, "classes_counted": 2},
         {"threshold": 0.75, "area": 0.0, "precision": nan, "recall": 0.0, "mean_iou": 0.1, "classes_counted": 1}]


def test_equal_area_and_equal_recall_are_read_between_two_thresholds():
    expected = {"threshold": 0.25, "area": 0.6, "precision": 0.6, "recall": 0.8, "mean_iou": 0.4}
    for key in ("area", "recall"):
        assert {name: pytest.approx(value) for name, value in at_equal(CURVE, key, expected[key]).items()} == expected
    assert at_equal(CURVE, "area", 0.4)["precision"] == 0.8


def test_where_the_curve_does_not_reach_there_is_no_baseline():
    for curve, area in ((CURVE, 0.2), (CURVE, 0.9), (CURVE, nan), ([], 0.5), (CURVE[3:], 0.0)):
        assert all(np.isnan(value) for value in at_equal(curve, "area", area).values())


def test_of_thresholds_of_equal_recall_the_most_precise_is_the_baseline():
    curve = [CURVE[0] | {"threshold": 0.0, "area": 0.9, "precision": 0.3}, CURVE[1] | {"threshold": 0.25, "area": 0.5, "precision": 0.7}, CURVE[2]]
    assert at_equal(curve, "recall", 1.0) == {name: curve[1][name] for name in ("threshold", "area", "precision", "recall", "mean_iou")}


def test_the_best_single_threshold_is_that_of_the_highest_mean_the_lowest_of_equals():
    assert best_single(CURVE) == CURVE[2]
    assert best_single([CURVE[2] | {"threshold": 0.4}, *CURVE[2:]])["threshold"] == 0.4
    assert best_single([CURVE[0] | {"mean_iou": nan}, CURVE[1]]) == CURVE[1]
    assert np.isnan(best_single([])["mean_iou"])


def test_gains_of_erasing_by_hand():
    rounds = [{"round": "r1", "area": 0.4, "precision": 0.8, "recall": 0.6, "mean_iou": 0.5},
              {"round": "r2", "area": 0.6, "precision": 0.75, "recall": 0.9, "mean_iou": 0.55},
              {"round": "r3", "area": 0.9, "precision": 0.5, "recall": 1.0, "mean_iou": 0.4}]
    first, second, third = erasing_gains(rounds, CURVE)
    assert first == {"round": "r1", "area": 0.4, "precision": 0.8, "recall": 0.6, "miou": 0.5, "single_precision_at_equal_area": 0.8,
                     "single_recall_at_equal_area": 0.6, "single_miou_at_equal_area": 0.5, "single_precision_at_equal_recall": 0.8,
                     "gain_precision_at_equal_area": 0, "gain_precision_at_equal_recall": 0}
    # At area 0.6 the curve has 0.6, 0.8 and 0.4; at recall 0.9, three quarters of the way to 1, it has 0.5.
    assert [second[key] for key in list(second)[5:]] == [pytest.approx(value) for value in (0.6, 0.8, 0.4, 0.5, 0.15, 0.25)]
    assert np.isnan([third[f"{kind}_at_equal_area"] for kind in ("single_precision", "single_recall", "single_miou", "gain_precision")]).all()
    assert (third["single_precision_at_equal_recall"], third["gain_precision_at_equal_recall"]) == (0.4, pytest.approx(0.1))


def test_a_round_gains_nothing_over_itself(tmp_path):
    """Round 1 lies on its own curve, where its threshold is one of the curve's."""
    rng = np.random.default_rng([10])
    heats = {name: {1: rng.random((9, 8), np.float32)} for name in "ab"}
    truth, mined = archives(tmp_path, {name: rng.choice([0, 1, 255], (9, 8)) for name in "ab"},
                            {name: {1: planes[1] > 0.5} for name, planes in heats.items()})
    rounds = mined_rounds("ab", truth, mined, np.array([[True]] * 2), rounds=1, processes=1)
    [row] = erasing_gains(rounds, threshold_curve("ab", truth, heats.__getitem__, 1))
    assert row["gain_precision_at_equal_area"] == 0
    assert row["gain_precision_at_equal_recall"] <= 0  # a higher threshold may have the same recall and fewer false pixels


def test_the_policy_decides_on_pixels_claimed_twice(tmp_path):
    truth, mined = archives(tmp_path, {"a": [[0, 1]]}, {"a": {1: [[1, 1]], 2: [[1, 0]]}})
    means = {policy: mined_rounds(["a"], truth, mined, np.array([[True, True]]), rounds=1, void_as=policy, processes=1)[0]["mean_iou"]
             for policy in ("miss", "background", "left-out")}
    assert means == {"miss": 1 / 2, "background": 1, "left-out": 1}  # background 0 of 1, 1 of 1, not counted; class 1 1 of 1
    heats = {1: np.ones((1, 2), np.float32), 2: np.array([[1, 0]], np.float32)}
    [row] = threshold_curve(["a"], truth, lambda _: heats, 2, levels=1, void_as="background")
    assert row["mean_iou"] == 1


def test_no_rounds_have_no_rows(tmp_path):
    truth, mined = archives(tmp_path, {"a": [[1, 0]]}, {})
    assert mined_rounds(["a"], truth, mined, np.array([[True]]), rounds=0, processes=1) == []


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
