import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import uniform_filter

from aepsl.networks.grid import from_grid
from aepsl.params import CrfSettings
from aepsl.segmentation import crf, mean_field
from aepsl.segmentation.presets import PRESETS
from tests.segmentation.all_pairs import exact_marginals

DENSE = CrfSettings(iterations=10, bilateral_weight=4, bilateral_xy=30, bilateral_rgb=10, spatial_weight=3, spatial_xy=3)
SPATIAL = CrfSettings(iterations=5, bilateral_weight=0, bilateral_xy=30, bilateral_rgb=10, spatial_weight=3, spatial_xy=2)
WEAK = CrfSettings(iterations=5, bilateral_weight=1, bilateral_xy=8, bilateral_rgb=20, spatial_weight=0.5, spatial_xy=2)


def scene(seed: int, height: int, width: int, classes: int, noise: float = 4) -> tuple[np.ndarray, np.ndarray]:
    """A noisy photograph of coloured discs, and noisy probabilities (classes, H, W) float32 of disc n being class n + 1."""
    rng = np.random.default_rng([seed])
    rows, columns = np.mgrid[:height, :width]
    truth = np.zeros((height, width), np.int64)
    for label in range(1, min(classes, 4)):
        middle, radius = rng.random(2) * (height, width), max(2, min(height, width) * (0.15 + 0.2 * rng.random()))
        truth[(rows - middle[0])**2 + (columns - middle[1])**2 < radius**2] = label
    colours = rng.integers(30, 225, (classes, 3))
    image = np.clip(colours[truth] + rng.normal(0, noise, (height, width, 3)), 0, 255).astype(np.uint8)
    logits = 5.0 * (np.arange(classes)[:, None, None] == truth) + rng.normal(0, 1, (classes, 1, 1))
    coarse = rng.normal(0, 1.2, (classes, height // 8 + 2, width // 8 + 2)).astype(np.float32)
    logits += [np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC)) for plane in coarse]
    probabilities = torch.from_numpy(uniform_filter(logits, (0, 5, 5)).astype(np.float32)).softmax(0)
    return image, probabilities.numpy()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("settings", [DENSE, SPATIAL, WEAK], ids=["dense", "spatial", "weak"])
def test_inference_agrees_with_the_sum_over_all_pairs(settings, seed):
    image, probabilities = scene(seed, 18, 24, 3)
    unary = -np.log(probabilities)
    exact, found = exact_marginals(unary, image, settings), crf.marginals(unary, image, settings)
    # Between them lies the lattice's kernel, some percent from the Gaussian (test_permutohedral.py): seen at most 0.004 and 0.03.
    assert np.abs(exact - found).mean() < 0.01
    assert (exact.argmax(0) == found.argmax(0)).mean() >= 0.985
    assert np.abs(exact - found).mean() < 0.2 * np.abs(exact - probabilities).mean()  # inference itself changes much more


@pytest.mark.parametrize("preset", PRESETS)
def test_labels_and_marginals_agree_with_pydensecrf(preset):
    pytest.importorskip("pydensecrf", reason="pydensecrf is not installed: it is optional and must be compiled")
    settings, seen = PRESETS[preset], set()
    for seed in range(2):
        image, probabilities = scene(seed, 90, 120, 9)
        unary = -np.log(np.maximum(probabilities, crf.LEAST_PROBABILITY))
        theirs = crf.marginals(unary, image, settings, backend="pydensecrf")
        # The same sums in another order. A rounding that ends in another simplex changes nothing: both have the point on their common side.
        np.testing.assert_allclose(crf.marginals(unary, image, settings), theirs, atol=0.01)
        own, compiled = (crf.refine(image, probabilities, settings, stride=1, backend=backend) for backend in ("torch", "pydensecrf"))
        assert (own == compiled).mean() >= 0.999
        seen |= set(compiled.flat)
    assert len(seen) > 1


@pytest.mark.parametrize("preset", ["deeplab", "psa"])
def test_leaving_out_classes_that_cannot_win_leaves_the_labels(preset):
    settings = PRESETS[preset]
    for seed in range(3):
        image, probabilities = scene(seed, 80, 100, 21)
        logits, pixels = torch.from_numpy(probabilities)[None].log(), torch.from_numpy(image)[None]
        everything = mean_field.marginals(logits, pixels, settings).argmax(1)
        assert (mean_field.labels(logits, pixels, settings) == everything).float().mean() >= 0.999


def test_a_class_that_is_second_everywhere_still_wins_where_its_neighbours_agree():
    """Stripes narrower than the kernels, of two classes that are each a little more probable than a third, which is there all along."""
    stripes = (np.arange(24) // 2 % 2 * np.ones((24, 1))).astype(bool)
    probabilities = np.stack([np.full((24, 24), 0.45), np.where(stripes, 0.53, 0.02), np.where(stripes, 0.02, 0.53)]).astype(np.float32)
    mask = crf.refine(np.full((24, 24, 3), 90, np.uint8), probabilities, PRESETS["deeplab"], stride=1)
    assert (probabilities.argmax(0) != 0).all()
    assert (mask == 0).all()


def test_images_together_get_the_masks_they_get_one_by_one():
    scenes = [scene(seed, 60, 80, 6) for seed in range(4)]
    scenes[1][1][3:] = 0  # classes that one image may hold and another not
    scenes[2][1][:] = 0  # and one that may hold none
    images, probabilities = (np.stack(parts) for parts in zip(*scenes, strict=True))
    together = crf.refine_batch(images, probabilities, PRESETS["deeplab"], stride=1)
    single = np.stack([crf.refine(image, scores, PRESETS["deeplab"], stride=1) for image, scores in scenes])
    assert together.dtype == np.uint8
    assert together[1].max() <= 2
    assert (together[2] == 0).all()
    assert len(np.unique(single)) > 2
    assert (together == single).mean() >= 0.9999  # sums of two images in one table are in the same order; vectors may be of another width


def test_items_of_several_sizes_come_back_in_their_order():
    items = [(10 + n, *scene(n, 20 + 4 * (n % 3), 30, 3)) for n in range(11)]
    given = [(number, image.copy(), scores.copy()) for number, image, scores in items]
    out = list(crf.refined_on(torch.device("cpu"), iter(items), DENSE, stride=1, batch=2))
    assert [number for number, _ in out] == [number for number, _, _ in items]
    for (_, mask), (_, image, scores) in zip(out, given, strict=True):
        assert mask.shape == image.shape[:2]
        assert (mask == crf.refine(image, scores, DENSE, stride=1)).mean() >= 0.999


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")
def test_a_gpu_gives_the_masks_of_a_processor():
    scenes = [scene(seed, 90, 120, 9) for seed in range(4)]
    images, probabilities = (np.stack(parts) for parts in zip(*scenes, strict=True))
    own, again, expected = (crf.refine_batch(images, probabilities, PRESETS["deeplab"], stride=1, device=torch.device(name))
                            for name in ("cuda", "cuda", "cpu"))
    np.testing.assert_array_equal(own, again)
    assert (own == expected).mean() >= 0.999


@pytest.mark.parametrize("size", [(1, 1), (2, 37), (40, 2)])
@pytest.mark.parametrize("flat", [True, False], ids=["one colour", "noise"])
def test_degenerate_images_have_finite_marginals_as_those_of_all_pairs(size, flat):
    rng = np.random.default_rng([3])
    image = np.full((*size, 3), 7, np.uint8) if flat else rng.integers(0, 256, (*size, 3), np.uint8)
    unary = rng.random((3, *size), np.float32)
    found = crf.marginals(unary, image, DENSE)
    np.testing.assert_allclose(found.sum(0), 1, rtol=1e-5)
    if flat:
        np.testing.assert_allclose(found, exact_marginals(unary, image, DENSE), atol=0.1)


def test_very_unlikely_classes_stay_unlikely():
    image, probabilities = scene(1, 30, 40, 3)
    logits = torch.from_numpy(probabilities).log()
    logits[2] = -200
    found = mean_field.marginals(logits[None], torch.from_numpy(image)[None], DENSE)[0]
    assert found[2].max() < 1e-30
    assert found.isfinite().all()


@pytest.mark.parametrize("stride", [1, 4, 8])
@pytest.mark.parametrize("seed", range(6))
def test_a_class_that_counts_at_some_pixel_is_never_left_out_before_interpolating(seed: int, stride: int) -> None:
    rng = np.random.default_rng([seed, stride])
    height, width = (int(side) for side in rng.integers(1, 41, 2))
    # Likely classes and rare ones; from grids of one class per cell to grids where all are about equal.
    concentration = (0.05, 0.3, 3)[seed % 3] * rng.random(9)**3 + 1e-3
    cells = rng.dirichlet(concentration, (-(-height // stride), -(-width // stride))).astype(np.float32)
    grid = torch.from_numpy(cells).permute(2, 0, 1)[None].contiguous()
    share = from_grid(grid, (height, width), stride)
    counts = (share >= mean_field.SIGNIFICANT * share.amax(1, keepdim=True)).any(3).any(2)
    may = mean_field.may_count(grid, 1e-5)
    assert not (counts & ~may).any()


def test_a_class_far_behind_everywhere_is_left_out_before_interpolating() -> None:
    grid = torch.tensor([0.6, 0.35, 0.05])[None, :, None, None].expand(1, 3, 4, 5)
    assert mean_field.may_count(grid, 1e-5).tolist() == [[True, True, False]]
