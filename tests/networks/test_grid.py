import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aepsl.networks.grid import from_grid, to_grid
from aepsl.networks.trunks import build_trunk

SIDE, STRIDE = st.integers(1, 40), st.sampled_from([1, 2, 3, 8, 16])


def cells(side: int, stride: int) -> int:
    return len(range(0, side, stride))


def plane(rows: Tensor, columns: Tensor) -> Tensor:
    return (0.5 * rows[:, None] - 0.25 * columns + 3)[None, None]


def test_labels_are_those_under_the_cell_centres():
    assert to_grid(torch.arange(15).view(1, 3, 5), 2).tolist() == [[[0, 2, 4], [10, 12, 14]]]
    assert to_grid(torch.arange(12).view(1, 2, 6), 4).tolist() == [[[0, 4]]]


def test_values_between_cell_centres_are_linear_and_beyond_the_last_one_repeat():
    grid = torch.tensor([[[[0.0, 4.0]], [[8.0, 0.0]]]])
    assert from_grid(grid, (2, 7), 4).tolist() == [[[[0, 1, 2, 3, 4, 4, 4]] * 2, [[8, 6, 4, 2, 0, 0, 0]] * 2]]
    assert from_grid(grid.mT, (5, 1), 4)[0, 0].tolist() == [[0], [1], [2], [3], [4]]


def test_the_paper_s_crop_has_41_cells_and_a_centre_on_its_last_pixel():
    assert to_grid(torch.zeros(1, 321, 321), 8).shape == (1, 41, 41)
    assert from_grid(torch.rand(1, 1, 41, 41), (321, 321), 8).shape == (1, 1, 321, 321)


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, STRIDE, st.integers(0, 2**32 - 1))
def test_upsampling_keeps_the_values_at_the_cell_centres_and_their_range(height, width, stride, seed):
    grid = torch.rand(2, 3, cells(height, stride), cells(width, stride), generator=torch.Generator().manual_seed(seed))
    full = from_grid(grid, (height, width), stride)
    assert full.shape == (2, 3, height, width)
    torch.testing.assert_close(to_grid(full.flatten(0, 1), stride).view_as(grid), grid)
    assert full.min() >= grid.min() - 1e-6
    assert full.max() <= grid.max() + 1e-6


@settings(max_examples=60, deadline=None)
@given(SIDE, SIDE, STRIDE)
def test_a_slope_is_reproduced_exactly_between_the_first_and_the_last_cell_centre(height, width, stride):
    rows, columns = torch.arange(height, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    full = from_grid(plane(rows[::stride], columns[::stride]), (height, width), stride)
    # Beyond the last centre its value repeats.
    last_row, last_column = ((cells(side, stride) - 1) * stride for side in (height, width))
    torch.testing.assert_close(full, plane(rows.clamp(max=last_row), columns.clamp(max=last_column)))


@given(SIDE, SIDE, st.sampled_from([2, 8, 16]), st.sampled_from([(0, 1), (1, 0), (-1, 0), (0, -1)]))
def test_a_grid_that_does_not_fit_the_image_is_refused(height, width, stride, error):
    rows, columns = (cells(side, stride) + more for side, more in zip((height, width), error, strict=True))
    with pytest.raises(ValueError, match=f"expected a grid of {cells(height, stride)}×{cells(width, stride)} cells .* got {rows}×{columns}"):
        from_grid(torch.zeros(1, 1, rows, columns), (height, width), stride)


@pytest.mark.parametrize(("height", "width"), [(33, 41), (32, 17), (7, 50)])
def test_the_grid_is_that_of_the_trunks(height, width):
    trunk = build_trunk("mobilenet_v2", output_stride=8, width=0.1).eval()
    with torch.inference_mode():
        features = trunk(torch.zeros(1, 3, height, width))
    assert to_grid(torch.zeros(1, height, width), 8).shape[1:] == features.shape[2:]
    assert from_grid(features, (height, width), 8).shape[2:] == (height, width)
