import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aepsl.segmentation import permutohedral
from aepsl.segmentation.permutohedral import lattice


def points(d: int, count: int = 300, spread: float = 3, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed]).random((d, 1, count), np.float32) * np.float32(spread))


def gaussian(features: torch.Tensor) -> torch.Tensor:
    """exp(−distance² / 2) of all pairs, (P, P) float64."""
    rows = features[:, 0].t().double()
    return (-torch.cdist(rows, rows).square() / 2).exp()


def kernel(of: permutohedral.Lattice) -> torch.Tensor:
    return of.filtered(torch.eye(len(of.vertices)))


# A blur in each direction is a triangle of standard deviation 1, not a Gaussian, and splat and slice widen it: by itself the kernel is lower
# in the middle, the more so the more dimensions. Normalised, as the CRF uses it, what is left of the difference are some percent.
@pytest.mark.parametrize(("d", "scatter"), [(1, 0.01), (2, 0.02), (3, 0.03), (5, 0.05)])
def test_the_normalised_filter_is_a_gaussian_one_but_for_some_percent(d, scatter):
    features = points(d)
    values = torch.from_numpy(np.random.default_rng([2]).random((300, 2), np.float32))
    exact = gaussian(features)
    norm = exact.sum(1).rsqrt()
    ratio = lattice(features).normalised().filtered(values) / ((norm[:, None] * exact * norm) @ values.double())
    assert abs(ratio.mean() - 1) < 0.02
    assert ratio.std() < scatter
    assert torch.corrcoef(torch.stack([kernel(lattice(features)).double().flatten(), exact.flatten()]))[0, 1] > 0.95


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 5), st.integers(1, 40), st.floats(0.01, 300), st.integers(0, 2**32 - 1))
def test_the_kernel_holds_no_negative_share_and_every_point_gives_all_it_has(d, count, spread, seed):
    made = lattice(points(d, count, spread, seed))
    torch.testing.assert_close(made.taken.sum(1), torch.full((count,), 1 / (1 + 2.0**-d)))
    given_up = torch.zeros(count).index_add_(0, made.points.long(), made.given)
    torch.testing.assert_close(given_up, torch.ones(count), rtol=0, atol=1e-4 * max(1, spread / 10))
    assert kernel(made).min() > -1e-4 * max(1, spread / 10)  # float32 rounds large coordinates


@pytest.mark.parametrize("d", [1, 2, 5])
def test_neighbours_are_each_others_neighbours_along_every_axis(d):
    made = lattice(points(d, 500, 0.5))
    for axis in made.neighbours.long():
        own, before, behind = axis.unbind(1)
        assert torch.equal(own, torch.arange(made.size))
        there = before < made.size - 1
        assert torch.equal(behind[before[there]], own[there])
        assert there[:-1].any()
        assert before[-1] == behind[-1] == made.size - 1


def test_sets_of_points_do_not_see_each_other():
    one, other = points(5, 200, 2, seed=4), points(5, 200, 2, seed=5)
    values = torch.from_numpy(np.random.default_rng([6]).random((400, 3), np.float32))
    together = lattice(torch.cat([one, other], 1)).normalised().filtered(values)
    for place, features in enumerate((one, other)):
        part = slice(200 * place, 200 * (place + 1))
        torch.testing.assert_close(together[part], lattice(features).normalised().filtered(values[part]))


def test_more_cells_than_64_bits_can_number_are_still_told_apart(monkeypatch):
    features = points(5, 300, 2, seed=7)
    values = torch.from_numpy(np.random.default_rng([8]).random((300, 3), np.float32))
    usual = lattice(features).filtered(values)
    wide = torch.cat([features, features.flip(2) * 1e5], 1)  # a second set so far spread that the cells' numbers no longer fit
    cells = torch.tensor([[0, 2**20]] * 5)
    assert permutohedral._coded(cells, 1)[1][:-1].tolist() == list(permutohedral.ODD[:5])
    torch.testing.assert_close(lattice(wide).filtered(values.repeat(2, 1))[:300], usual)


def test_any_number_of_threads_gives_the_same_bytes():
    features, values = points(5, 5000, 4), torch.from_numpy(np.random.default_rng([9]).random((5000, 7), np.float32))
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(lattice(features).normalised().filtered(values))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], result) for result in results[1:])
