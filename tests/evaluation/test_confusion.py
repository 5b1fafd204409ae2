
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aepsl.data.archive import ArchiveReader, ArchiveWriter, decode_indices, encode_mask
from aepsl.errors import AepslError
from aepsl.evaluation.confusion import (
    Confusion,
    convention,
    coverage,
    evaluate_masks,
    iou,
    margins,
    mean_iou,
    mean_iou_of,
    pixel_accuracy,
    precision,
    recall,
)

POLICIES = ("miss", "background", "left-out")
nan = float("nan")

TRUTH = np.array([[0, 0, 0, 1, 1, 1, 2, 255]], np.uint8)
PREDICTION = np.array([[0, 1, 255, 1, 255, 0, 255, 2]], np.uint8)


def counted() -> np.ndarray:
    return Confusion(2).add(TRUTH, PREDICTION).matrix


def test_the_matrix_has_a_row_per_true_class_and_a_last_column_for_void_predictions():
    assert counted().dtype == np.int64
    np.testing.assert_array_equal(counted(), [[1, 1, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1]])


def test_void_as_miss_counts_for_the_true_class_and_claims_nothing():
    matrix = counted()
    np.testing.assert_allclose(iou(matrix, void_as="miss"), [1 / 4, 1 / 4, 0])
    np.testing.assert_allclose(precision(matrix, void_as="miss"), [1 / 2, 1 / 2, nan])
    np.testing.assert_allclose(recall(matrix, void_as="miss"), [1 / 3, 1 / 3, 0])
    assert mean_iou(matrix, void_as="miss") == (pytest.approx(1 / 6), 3)
    assert pixel_accuracy(matrix, void_as="miss") == pytest.approx(2 / 7)


def test_void_as_background_claims_background():
    matrix = counted()
    np.testing.assert_allclose(iou(matrix, void_as="background"), [2 / 6, 1 / 4, 0])
    np.testing.assert_allclose(precision(matrix, void_as="background"), [2 / 5, 1 / 2, nan])
    np.testing.assert_allclose(recall(matrix, void_as="background"), [2 / 3, 1 / 3, 0])
    assert pixel_accuracy(matrix, void_as="background") == pytest.approx(3 / 7)


def test_void_left_out_removes_the_pixel_and_coverage_tells():
    matrix = counted()
    np.testing.assert_allclose(iou(matrix, void_as="left-out"), [1 / 3, 1 / 3, nan])
    np.testing.assert_allclose(recall(matrix, void_as="left-out"), [1 / 2, 1 / 2, nan])
    assert mean_iou(matrix, void_as="left-out") == (pytest.approx(1 / 3), 2)
    assert pixel_accuracy(matrix, void_as="left-out") == pytest.approx(1 / 2)
    assert coverage(matrix) == pytest.approx(4 / 7)


def test_abstaining_never_raises_the_score_when_void_is_a_miss():
    rng = np.random.default_rng([5])
    truth, prediction = rng.integers(0, 4, (2, 30, 30)).astype(np.uint8)
    sure = mean_iou(Confusion(3).add(truth, np.where(prediction == truth, prediction, 255)).matrix, void_as="left-out")[0]
    unsure = mean_iou(Confusion(3).add(truth, np.where(prediction == truth, prediction, 255)).matrix, void_as="miss")[0]
    assert sure == 1  # what leaving out makes of a quarter right
    assert unsure == pytest.approx((prediction == truth).mean(), abs=0.02)


def test_a_class_neither_in_truth_nor_in_prediction_is_not_counted_and_a_false_claim_is():
    truth = np.zeros((1, 4), np.uint8)
    assert mean_iou(Confusion(5).add(truth, truth).matrix, void_as="miss") == (1, 1)
    assert mean_iou(Confusion(5).add(truth, np.array([[0, 0, 0, 3]])).matrix, void_as="miss") == (pytest.approx(3 / 8), 2)


def test_an_empty_count_has_no_score():
    matrix = Confusion(2).matrix
    for policy in POLICIES:
        assert np.isnan(iou(matrix, void_as=policy)).all()
        assert np.isnan(pixel_accuracy(matrix, void_as=policy))
        mean, counted_classes = mean_iou(matrix, void_as=policy)
        assert np.isnan(mean)
        assert counted_classes == 0
    assert np.isnan(coverage(matrix))


def test_counts_beyond_two_billion_pixels_stay_exact():
    part = Confusion(2).add(TRUTH, PREDICTION)
    for _ in range(40):
        part = part + part
    np.testing.assert_array_equal(part.matrix, counted() << 40)
    np.testing.assert_array_equal(iou(part.matrix, void_as="miss"), iou(counted(), void_as="miss"))
    assert part.add(TRUTH, PREDICTION).matrix[0, 0] == 2**40 + 1


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 254), st.integers(1, 6))
def test_order_and_partition_of_the_images_do_not_matter(seed, classes, images):
    rng = np.random.default_rng([seed])
    values = np.array([*range(classes + 1), 255], np.uint8)
    pairs = [rng.choice(values, (2, int(rng.integers(1, 9)), 7)) for _ in range(images)]
    whole, shuffled, left, right = (Confusion(classes) for _ in range(4))
    for truth, prediction in pairs:
        whole.add(truth, prediction)
    for place in rng.permutation(images):
        shuffled.add(*pairs[place])
        (left if place % 2 else right).add(*pairs[place])
    np.testing.assert_array_equal(whole.matrix, shuffled.matrix)
    np.testing.assert_array_equal(whole.matrix, (left + right).matrix)
    assert whole.matrix.sum() == sum(np.count_nonzero(truth != 255) for truth, _ in pairs)
    expected = [[sum(np.count_nonzero((t == a) & (p == b)) for t, p in pairs) for b in (0, classes, 255)] for a in (0, classes)]
    np.testing.assert_array_equal(whole.matrix[np.ix_([0, classes], [0, classes, classes + 1])], expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 9), st.integers(0, 9))
def test_runs_of_equal_pixels_are_counted_like_their_pixels(seed, height, width):
    rng = np.random.default_rng([seed])
    truth, prediction = (rng.choice(np.array([0, 1, 2, 255], np.uint8), (height, width), p=rng.dirichlet((0.3,) * 4)) for _ in range(2))
    expected = [[np.count_nonzero((truth == actual) & (prediction == named)) for named in (0, 1, 2, 255)] for actual in (0, 1, 2)]
    np.testing.assert_array_equal(Confusion(2).add(truth, prediction).matrix, expected)
    np.testing.assert_array_equal(Confusion(2).add(truth.T, prediction.T).matrix, expected)


@pytest.mark.parametrize("prediction", [np.array([[0, 3]], np.uint8), np.array([[0, 254]], np.uint8), np.array([[0, -1]]),
                                        np.array([[0, 259]]), np.array([[0, 0.5]])])
def test_values_outside_the_classes_are_refused(prediction):
    with pytest.raises(AepslError, match=r"2007_000032: prediction: expected values 0 to 2 and 255 for void, found"):
        Confusion(2).add(np.zeros((1, 2), np.uint8), prediction, name="2007_000032")
    with pytest.raises(AepslError, match=r"truth: expected values 0 to 2"):
        Confusion(2).add(prediction, np.zeros((1, 2), np.uint8))


def test_a_refused_image_leaves_the_counts_alone():
    confusion = Confusion(2)
    with pytest.raises(AepslError, match="expected"):
        confusion.add(np.zeros((1, 2), np.uint8), np.array([[0, 9]], np.uint8))
    assert confusion.matrix.sum() == 0


def test_another_size_another_number_of_classes_and_an_unknown_policy_are_refused():
    with pytest.raises(AepslError, match=r"a: expected a prediction of the truth's size, height and width \(1, 2\), found \(2, 1\)"):
        Confusion(2).add(np.zeros((1, 2), np.uint8), np.zeros((2, 1), np.uint8), name="a")
    with pytest.raises(ValueError, match="expected counts of 2 classes, got 3"):
        Confusion(2).merge(Confusion(3))
    with pytest.raises(ValueError, match="expected void_as"):
        iou(counted(), void_as="ignore")
    with pytest.raises(ValueError, match="expected 1 to 254 classes"):
        Confusion(255)


def test_margins_by_hand():
    # Right; true and answered; predicted; true and void.
    np.testing.assert_array_equal(margins(counted()), [[1, 1, 0], [2, 2, 0], [2, 2, 0], [1, 1, 1]])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.sampled_from(POLICIES))
def test_scores_of_many_sets_are_those_of_each(seed, classes, policy):
    matrices = np.random.default_rng([seed]).integers(0, 3, (4, 1 + classes, 2 + classes))
    matrices[0] = 0
    means, numbers = mean_iou_of(margins(matrices), void_as=policy)
    np.testing.assert_array_equal([mean_iou(matrix, void_as=policy) for matrix in matrices], np.stack([means, numbers], 1))
    np.testing.assert_array_equal(margins(matrices).sum(0), margins(matrices.sum(0)))
    for mean, number, values in zip(means, numbers, iou(matrices, void_as=policy), strict=True):
        known = values[~np.isnan(values)]
        assert (mean, number) == (pytest.approx(known.sum() / len(known) if len(known) else nan, nan_ok=True), len(known))


def test_the_convention_of_a_mean_names_the_classes_it_leaves_out():
    names = ["background", "cat", "dog"]
    assert convention(counted(), names, void_as="miss") == {"void_as": "miss", "classes_counted": 3, "classes_not_counted": []}
    assert convention(counted(), names, void_as="left-out") == {"void_as": "left-out", "classes_counted": 2, "classes_not_counted": ["dog"]}


@pytest.mark.parametrize("processes", [1, 2])
def test_masks_of_an_archive_are_counted_alike_by_any_number_of_processes(tmp_path, processes):
    rng = np.random.default_rng([6])
    masks = {f"image {number}": rng.integers(0, 3, (5, 4)).astype(np.uint8) for number in range(40)}
    with ArchiveWriter(tmp_path / "truth.zip") as out:
        for identifier, mask in masks.items():
            out.add(f"{identifier}.png", encode_mask(mask))
    truth = ArchiveReader(tmp_path / "truth.zip")
    expected = Confusion(2)
    for mask in masks.values():
        expected.add(mask, np.minimum(mask, 1))

    def predict(identifier: str) -> np.ndarray:
        return np.minimum(decode_indices(truth.read(f"{identifier}.png")), 1)

    found = evaluate_masks(list(masks), truth, predict, 2, processes=processes)
    np.testing.assert_array_equal(found.matrix, expected.matrix)
    np.testing.assert_array_equal(found.images, [margins(Confusion(2).add(mask, np.minimum(mask, 1)).matrix) for mask in masks.values()])


def test_per_class_scores_come_with_pixels_and_images(tmp_path):
    masks = {"a": TRUTH, "b": np.array([[1, 255]], np.uint8), "c": np.array([[0, 0]], np.uint8)}
    predictions = {"a": PREDICTION, "b": np.array([[0, 2]], np.uint8), "c": np.array([[0, 255]], np.uint8)}
    with ArchiveWriter(tmp_path / "truth.zip") as out:
        for identifier, mask in masks.items():
            out.add(f"{identifier}.png", encode_mask(mask))
    found = evaluate_masks(["a", "b", "c"], ArchiveReader(tmp_path / "truth.zip"), predictions.__getitem__, 2, processes=1).per_class(void_as="miss")
    assert list(found) == ["pixels", "images", "iou", "precision", "recall"]
    np.testing.assert_array_equal(found["pixels"], [5, 4, 1])
    np.testing.assert_array_equal(found["images"], [2, 2, 1])
    np.testing.assert_allclose(found["iou"], [2 / 7, 1 / 5, 0])
    np.testing.assert_allclose(found["precision"], [2 / 4, 1 / 2, nan])
    np.testing.assert_allclose(found["recall"], [2 / 5, 1 / 4, 0])


def test_no_images_count_as_nothing(tmp_path):
    found = evaluate_masks([], ArchiveReader(tmp_path / "none.zip"), {}.__getitem__, 2, processes=1)
    assert (found.matrix.sum(), found.images.shape) == (0, (0, 4, 3))
    assert found.per_class(void_as="miss")["images"].tolist() == [0, 0, 0]


def test_a_published_mean_that_counts_absent_classes_as_zero_is_explained(third_party):
    published = third_party("fixtures/scene-parsing")
    confusion = Confusion(150)
    for path in sorted((published / "annotations").glob("*.png")):
        truth, prediction = (np.asarray(Image.open(folder / path.name)) for folder in (path.parent, published / "predictions"))
        confusion.add(np.where(truth == 0, 255, truth), prediction)  # 0 = ignored there
    matrix = confusion.matrix
    mean, classes = mean_iou(matrix, void_as="miss")
    assert pixel_accuracy(matrix, void_as="miss") == 1
    assert (mean, mean * classes / 150) == (1, pytest.approx(0.1))
    names = ["other", *(f"class {number}" for number in range(1, 151))]
    assert len(convention(matrix, names, void_as="miss")["classes_not_counted"]) == 151 - 15
