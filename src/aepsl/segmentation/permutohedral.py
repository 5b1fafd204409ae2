"""Gaussian filtering in many dimensions on the permutohedral lattice (Adams, Baek and Davis, "Fast High-Dimensional Filtering Using the
Permutohedral Lattice", Eurographics 2010).

Points give their values to the d + 1 vertices of the simplex they lie in (splat), vertices exchange values with their neighbours along each of
the d + 1 axes (blur), and points take the blurred values back (slice). All three are sums of weighted rows, over the same rows for every call,
so each is one ``embedding_bag``: rows are contiguous, every sum has a fixed order on a processor and on CUDA, whatever the number of threads.
"""

import math
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

TINY = 1e-20  # under the root of a norm
# Odd numbers without pattern, to number cells by where there are more of them than 64 bits can tell apart.
ODD = (-7046029254386353131, -4417276706812531889, 1609587929392839161, -8796714831421723037, 2870177450012600261, -2027651103412640419,
       -4658895280553007687)


@dataclass(frozen=True)
class Lattice:
    """A lattice of M vertices for P points of d dimensions. Row M of every table of vertex values is zero: the missing neighbour."""

    points: Tensor      # ((d+1)·P) int32, ordered by the vertex they give to
    given: Tensor       # ((d+1)·P) float32, the share that each of them gives
    starts: Tensor      # (M+1) int32, where in `points` those of a vertex begin
    neighbours: Tensor  # (d+1, M+1, 3) int32: along each axis a vertex itself, the one before, the one behind
    blur: Tensor        # (M+1, 3) float32: 1, ½, ½
    vertices: Tensor    # (P, d+1) int32, the vertices around each point
    taken: Tensor       # (P, d+1) float32, the share that it takes of each

    @property
    def size(self) -> int:
        """Rows of a table of vertex values, M + 1."""
        return len(self.starts)

    def blurred(self, values: Tensor) -> Tensor:
        """Values (P, K) of the points → blurred values (M+1, K) of the vertices."""
        table = summed(values, self.points, self.starts, self.given)
        thirds = torch.arange(0, self.blur.numel(), 3, dtype=torch.int32, device=values.device)
        for axis in self.neighbours:
            table = summed(table, axis.view(-1), thirds, self.blur.view(-1))
        return table

    def filtered(self, values: Tensor) -> Tensor:
        """Values (P, K) float32 → (P, K): at each point the sum over all points of values times exp(−distance² / 2), about."""
        return sliced(self.blurred(values), self.vertices, self.taken)

    def weighted(self, weight: float) -> "Lattice":
        """The same with all that points take multiplied."""
        return replace(self, taken=self.taken * weight)

    def normalised(self) -> "Lattice":
        """The same with the symmetric normalisation of Krähenbühl and Koltun: the kernel k(i, j) / √(Σ k(i, ·) Σ k(j, ·))."""
        norm = (self.filtered(self.given.new_ones(len(self.vertices), 1)) + TINY).rsqrt_()
        return replace(self, given=self.given * norm.view(-1).index_select(0, self.points), taken=self.taken * norm)


def sliced(table: Tensor, vertices: Tensor, taken: Tensor) -> Tensor:
    """Rows (P, K), each the sum of ``taken`` (P, n) times the rows ``vertices`` (P, n) of a table."""
    starts = torch.arange(0, vertices.numel(), vertices.shape[1], dtype=torch.int32, device=vertices.device)
    return summed(table, vertices.view(-1), starts, taken.view(-1))


def summed(table: Tensor, rows: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sums of weighted rows of a table, one from each start to the next: ``F.embedding_bag`` without the cost of its checks."""
    found: Tensor = torch.embedding_bag(table, rows, starts, False, 0, False, weights)[0]
    return found


def lattice(features: Tensor) -> Lattice:
    """The lattice of points with features (d, B, P) float32, in units of the Gaussian's standard deviation, d ≤ 5; B·P·(d + 1) below 2³¹.

    The B sets of P points do not see each other. Scaling, rounding to the nearest vertex of remainder 0 and order of the axes are those of the
    authors' code, so that values agree with it to float32's precision; the numbering of vertices is our own.
    """
    d, sets = features.shape[:2]
    elevated = _elevated(features.reshape(d, -1))
    nearest = torch.round(elevated / (d + 1))
    rank = _ranks(elevated - nearest * (d + 1)).add_(nearest.sum(0).to(torch.int8))
    shift = (rank < 0).to(torch.int8) - (rank > d).to(torch.int8)
    nearest += shift
    place = rank.add_(shift, alpha=d + 1).long()
    # Barycentric coordinates are the differences of what the rounding left, in descending order.
    left = torch.empty_like(elevated).scatter_(0, place, elevated.div_(d + 1).sub_(nearest))
    shares = torch.stack([1 + left[d] - left[0], *(left[i - 1] - left[i] for i in range(d, 0, -1))], 1)

    cells, factors = _coded(nearest[:d].long(), sets)
    of, first = _simplices(cells, place)  # many points lie in one simplex: vertices are looked for once in each
    place = place.index_select(1, first)
    steps = torch.empty_like(place).scatter_(0, place, factors[:, None].expand_as(place))
    # The next vertex of a simplex is one cell back along the axis of the next rank.
    corners = torch.cat([cells[first][None], -steps[1:].flip(0)]).cumsum_(0)
    codes, found = [], torch.empty_like(corners, dtype=torch.int32)
    known = 0
    for corner, numbers in zip(corners, found, strict=True):
        values, order = _sorted(corner)
        new = torch.cat([values.new_ones(1, dtype=torch.bool), values[1:] != values[:-1]])
        numbers[order] = new.cumsum(0, dtype=torch.int32).add_(known - 1)
        codes.append(values[new])
        known += len(codes[-1])
    vertices = found.t().contiguous().index_select(0, of)
    points, given, starts = _by_vertex(vertices, shares, known)
    blur = given.new_tensor([1, 0.5, 0.5]).repeat(known + 1, 1)
    blur[known] = 0
    return Lattice(points, given, starts, _neighbours(codes, factors), blur, vertices, shares.div_(1 + 2.0**-d))


def _simplices(cells: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
    """The simplex (P) of each point, numbered as they come, and a point of each, from the cells' numbers (P) and the axes' places (d+1, P)."""
    base = len(place)
    order = place[0]
    for axis in place[1:-1]:  # the last is the one left over
        order = order * base + axis
    low, high = (int(value) for value in torch.aminmax(cells))
    span = high - low + 1
    codes = order * (span if span * base**base < 2**63 else ODD[-1]) + cells
    values, order = _sorted(codes)
    new = torch.cat([values.new_zeros(1, dtype=torch.bool), values[1:] != values[:-1]])
    of = torch.empty_like(order, dtype=torch.int32).index_put_((order,), new.cumsum(0, dtype=torch.int32))
    new[0] = True
    return of, order[new]


def _by_vertex(vertices: Tensor, shares: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """``points``, ``given`` and ``starts`` of a :class:`Lattice` from the vertices and shares (P, d+1) of each point."""
    total, corners = vertices.numel(), vertices.shape[1]
    if vertices.device.type == "cpu":
        rows = csr_array((shares.view(-1).numpy(), vertices.view(-1).numpy(), np.arange(0, total + 1, corners, dtype=np.int32)),
                         shape=(len(vertices), count))
        columns = rows.tocsc()  # a counting sort
        return torch.from_numpy(columns.indices), torch.from_numpy(columns.data), torch.from_numpy(columns.indptr)
    numbers, order = torch.sort(vertices.view(-1), stable=True)
    starts = torch.searchsorted(numbers, torch.arange(count + 1, dtype=torch.int32, device=numbers.device), out_int32=True)
    return order.div(corners, rounding_mode="floor").int(), shares.view(-1).index_select(0, order), starts


def _elevated(features: Tensor) -> Tensor:
    """Features (d, P) → coordinates (d+1, P) that add up to zero, scaled so that the blur's standard deviation is 1."""
    d = len(features)
    elevated = features.new_empty(d + 1, features.shape[1])
    behind = torch.zeros_like(features[0])
    for i in range(d, 0, -1):
        scaled = features[i - 1] * (math.sqrt(2 / 3) * (d + 1) / math.sqrt(i * (i + 1)))
        torch.sub(behind, scaled, alpha=i, out=elevated[i])
        behind += scaled
    elevated[0] = behind
    return elevated


def _ranks(values: Tensor) -> Tensor:
    """The place of each of n values (n, P) in descending order, int8; of equal ones the first comes first."""
    rank = torch.zeros_like(values, dtype=torch.int8)
    for i in range(len(values) - 1):
        behind = values[i] < values[i + 1:]
        rank[i] += behind.sum(0, dtype=torch.int8)
        rank[i + 1:] += ~behind
    return rank


def _coded(cells: Tensor, sets: int) -> tuple[Tensor, Tensor]:
    """Cells (d, P) int64 as one number (P) each, and the factor (d+1) of each coordinate in it, 0 for the last, which the others determine."""
    low, high = torch.aminmax(cells, dim=1)
    low -= 2  # the neighbours of vertices in the outermost cells need numbers too
    factors = [1]
    for width in (high - low + 2).tolist():
        factors.append(factors[-1] * width)
    if factors[-1] * sets >= 2**63:  # a standard deviation far below one grey level or pixel; two of 10⁶ vertices meet once in 10⁷ images
        factors = list(ODD[:len(factors)])
    factor = torch.tensor(factors, device=cells.device)
    codes = ((cells - low[:, None]) * factor[:-1, None]).sum(0)
    codes = (codes.view(sets, -1) + torch.arange(sets, device=cells.device)[:, None] * factor[-1]).view(-1)
    factor[-1] = 0
    return codes, factor


def _sorted(codes: Tensor) -> tuple[Tensor, Tensor]:
    """Codes (P) int64 in ascending order, and the places they stood at, ascending where codes are equal."""
    bits = len(codes).bit_length()
    if codes.device.type == "cpu" and int(codes.min()) >= 0 and int(codes.max()) < 2**(63 - bits):  # NumPy sorts numbers alone the fastest
        both = codes.bitwise_left_shift(bits).add_(torch.arange(len(codes)))
        both.numpy().sort()
        return both.bitwise_right_shift(bits), both.bitwise_and_(2**bits - 1)
    values, order = torch.sort(codes, stable=True)
    return values, order


def _neighbours(codes: list[Tensor], factors: Tensor) -> Tensor:
    """The vertex itself and its two neighbours, (d+1, M+1, 3) int32, from the sorted codes of each remainder's vertices."""
    starts = [0, *accumulate(map(len, codes))]
    total, axes = starts[-1], len(codes)
    own = torch.arange(total + 1, device=factors.device).expand(axes, -1)
    before = torch.full_like(own, total)
    for remainder, part in enumerate(codes):  # a step along an axis leads to the remainder below, from 0 to the last, one cell back
        others = codes[remainder - 1]
        wanted = part + (factors if remainder else factors - factors.sum())[:, None]
        at = torch.searchsorted(others, wanted).clamp_(max=len(others) - 1)
        found = others[at] == wanted
        before[:, starts[remainder]:starts[remainder + 1]] = torch.where(found, at + starts[remainder - 1 if remainder else axes - 1], total)
    behind = torch.full_like(own, total).scatter_(1, before, own)
    behind[:, total] = total
    return torch.stack([own, before, behind], 2).int()
