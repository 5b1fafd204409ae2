import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aepsl.errors import AepslError
from aepsl.params import CrfSettings
from aepsl.segmentation import crf, masks
from aepsl.segmentation.presets import PRESETS
from tests.segmentation.all_pairs import exact_marginals

PUBLISHED = CrfSettings(iterations=5, bilateral_weight=10, bilateral_xy=80, bilateral_rgb=13, spatial_weight=3, spatial_xy=3)


def halves(height: int = 16, width: int = 16) -> np.ndarray:
    """A dark left and a bright right half."""
    image = np.full((height, width, 3), 20, np.uint8)
    image[:, width // 2:] = 230
    return image


def test_upsampling_puts_cell_values_on_the_pixels_under_their_centres():
    grid = np.array([[[0, 4]], [[8, 0]]], np.float16)
    full = masks.upsample(grid, (2, 6), stride=4)
    assert full.dtype == np.float32
    np.testing.assert_array_equal(full[0], [[0, 1, 2, 3, 4, 4]] * 2)
    np.testing.assert_array_equal(full[1], [[8, 6, 4, 2, 0, 0]] * 2)


def test_upsampling_at_stride_one_changes_nothing():
    values = np.random.default_rng([1]).random((3, 4, 5), np.float32)
    np.testing.assert_array_equal(masks.upsample(values, (4, 5), stride=1), values)


def test_argmax_mask_takes_the_most_probable_class_and_background_where_nothing_is_left():
    probabilities = np.array([[[0.5, 0.2, 0]], [[0.2, 0.3, 0]], [[0.3, 0.5, 0]]], np.float32)
    np.testing.assert_array_equal(masks.argmax_mask(probabilities, (1, 3), stride=1), np.array([[0, 2, 0]], np.uint8))


def test_crf_moves_the_border_to_the_edge_of_the_image():
    image = halves(16, 16)
    object_probability = np.where(np.arange(16) >= 6, 0.7, 0.3) * np.ones((16, 1))  # two columns too far left
    probabilities = np.stack([1 - object_probability, object_probability]).astype(np.float32)
    mask = crf.refine(image, probabilities, PRESETS["psa"], stride=1)
    np.testing.assert_array_equal(mask, np.repeat(np.where(np.arange(16) >= 8, 1, 0)[None], 16, 0))


def test_a_prohibited_class_appears_nowhere_and_labels_are_mapped_back():
    probabilities = np.zeros((6, 2, 2), np.float16)
    probabilities[0], probabilities[4] = [[0.9, 0.1]] * 2, [[0.1, 0.9]] * 2
    mask = crf.refine(halves(), probabilities, PRESETS["deeplab"], stride=8)
    assert set(np.unique(mask)) == {0, 4}
    assert (mask[0, 0], mask[0, -1]) == (0, 4)
    assert mask.dtype == np.uint8


def test_only_background_or_only_one_class_possible_needs_no_inference():
    probabilities = np.zeros((3, 2, 2), np.float32)
    assert (crf.refine(halves(), probabilities, PUBLISHED, stride=8) == 0).all()
    probabilities[2] = 0.1
    assert (crf.refine(halves(), probabilities, PUBLISHED, stride=8) == 2).all()


def test_a_pixel_without_evidence_follows_its_neighbours():
    probabilities = np.zeros((3, 16, 16), np.float16)
    probabilities[0], probabilities[1] = 0.1, 0.9
    probabilities[:, 5, 5] = 0
    assert (crf.refine(np.full((16, 16, 3), 90, np.uint8), probabilities, PUBLISHED, stride=1) == 1).all()


def test_scores_that_do_not_add_up_to_one_give_the_same_mask():
    rng = np.random.default_rng([2])
    probabilities = rng.random((3, 16, 16), np.float32)
    image = rng.integers(0, 256, (16, 16, 3), np.uint8)
    np.testing.assert_array_equal(crf.refine(image, probabilities, PUBLISHED, stride=1),
                                  crf.refine(image, probabilities / 4, PUBLISHED, stride=1))


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (53, 1), (1, 2000), (3, 400)])
def test_images_of_extreme_size_work(size):
    rng = np.random.default_rng([3])
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    image.setflags(write=False)
    probabilities = rng.random((3, -(-size[0] // 8), -(-size[1] // 8)), np.float32)
    for preset in PRESETS.values():
        mask = crf.refine(image, probabilities, preset, stride=8)
        assert mask.shape == size
        assert mask.max() <= 2


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_marginals_are_a_distribution_and_do_not_depend_on_the_order_of_labels(height, width, count, seed):
    rng = np.random.default_rng([seed])
    unary = rng.random((count, height, width), np.float32)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    marginals = crf.marginals(unary, image, PUBLISHED)
    np.testing.assert_allclose(marginals.sum(0), 1, rtol=1e-4)
    order = rng.permutation(count)
    # Sums in another order differ by 1e-7, which five iterations with a weight of 10 can grow a thousandfold where classes tie.
    np.testing.assert_allclose(crf.marginals(unary[order], image, PUBLISHED), marginals[order], atol=1e-3)


def test_without_pairwise_terms_the_marginals_are_the_soft_max():
    unary = np.array([[[0.0, 1.0]], [[1.0, 0.0]]], np.float32)
    alone = PUBLISHED.model_copy(update={"bilateral_weight": 0, "spatial_weight": 0})
    marginals = crf.marginals(unary, np.zeros((1, 2, 3), np.uint8), alone)
    np.testing.assert_allclose(marginals[0, 0], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], rtol=1e-5)


def test_scores_that_are_not_finite_are_refused():
    probabilities = np.full((2, 2, 2), np.nan, np.float32)
    with pytest.raises(AepslError, match="finite"):
        crf.refine(halves(), probabilities, PUBLISHED, stride=8)
    with pytest.raises(AepslError, match="finite"):
        masks.argmax_mask(probabilities, (16, 16), stride=8)


def test_an_image_of_another_size_than_the_energies_is_refused():
    with pytest.raises(ValueError, match="expected an image"):
        crf.marginals(np.zeros((2, 4, 4), np.float32), np.zeros((4, 5, 3), np.uint8), PUBLISHED)


def test_pydensecrf_is_named_with_what_to_do_where_it_is_chosen_and_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydensecrf", None)
    unary, image = np.zeros((2, 4, 4), np.float32), np.zeros((4, 4, 3), np.uint8)
    assert crf.marginals(unary, image, PUBLISHED).shape == unary.shape
    with pytest.raises(AepslError, match=r"refine.backend: .*set refine.backend to torch.*pip install pydensecrf2"):
        crf.marginals(unary, image, PUBLISHED, backend="pydensecrf")


@pytest.mark.parametrize("backend", ["torch", "pydensecrf"])
def test_every_setting_reaches_its_argument(backend):
    """Each setting by itself changes the marginals, as it changes those of all pairs of pixels."""
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf", reason="pydensecrf is not installed: it is optional and must be compiled")
    rng = np.random.default_rng([4])
    image, unary = rng.integers(100, 130, (9, 12, 3), np.uint8), rng.random((2, 9, 12), np.float32)
    usual = CrfSettings(iterations=3, bilateral_weight=4, bilateral_xy=8, bilateral_rgb=10, spatial_weight=3, spatial_xy=2)
    before, exact = crf.marginals(unary, image, usual, backend=backend), exact_marginals(unary, image, usual)
    for name, value in {"iterations": 1, "bilateral_weight": 1, "bilateral_xy": 3, "bilateral_rgb": 30, "spatial_weight": 1, "spatial_xy": 1}.items():
        other = usual.model_copy(update={name: value})
        moved = crf.marginals(unary, image, other, backend=backend) - before
        wanted = exact_marginals(unary, image, other) - exact
        assert np.corrcoef(moved.ravel(), wanted.ravel())[0, 1] > 0.9, name
        assert 0.5 < np.abs(moved).mean() / np.abs(wanted).mean() < 2, name


def test_presets_hold_the_published_values():
    values = {name: (p.bilateral_weight, p.bilateral_xy, p.bilateral_rgb, p.spatial_weight, p.spatial_xy)
              for name, p in PRESETS.items()}
    assert values == {"deeplab": (4, 121, 5, 3, 3), "deeplab-v2": (4, 67, 3, 3, 1), "psa": (10, 80, 13, 3, 3), "afa": (4, 64, 5, 3, 3)}
    assert {p.iterations for p in PRESETS.values()} == {10}


@pytest.mark.parametrize("backend", ["torch", "pydensecrf"])
@pytest.mark.parametrize(("image", "annotation", "output", "agreement"), [
    ("im1", "anno1", "out1", 0.9994), ("im1", "anno1-b", "out1-b", 0.9995), ("im2", "anno2", "out2", 0.9985)])
def test_published_results_are_reproduced(third_party, image, annotation, output, agreement, backend):
    if backend == "pydensecrf":
        pytest.importorskip("pydensecrf", reason="pydensecrf is not installed: it is optional and must be compiled")
    folder = third_party("fixtures/densecrf")
    pixels, marks, published = (np.asarray(Image.open(folder / f"{name}.png").convert("RGB")) for name in (image, annotation, output))
    codes, labels = np.unique(marks @ np.array([65536, 256, 1]), return_inverse=True)  # black = 0 comes first: unsure
    labels = labels.reshape(marks.shape[:2]) - (codes[0] == 0)
    codes = codes[codes > 0] if codes[0] == 0 else codes
    sure = np.where(labels == np.arange(len(codes))[:, None, None], 0.7, 0.3 / (len(codes) - 1))
    unary = -np.log(np.where(labels < 0, 1 / len(codes), sure))
    found = codes[crf.marginals(unary, pixels, PUBLISHED, backend=backend).argmax(0)]
    # The third tells settings apart: 10 iterations give 0.9964, σ 60/13 0.9954, 80/10 0.9978, spatial σ 4 0.9983, weights 8 or 4 0.9984 or 0.9978.
    assert (found == published @ np.array([65536, 256, 1])).mean() > agreement
