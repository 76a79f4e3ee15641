"""Balanced 2-means over all clusters of a level at once: how `model.index_tree` splits.

Shape legend: N items, S clusters of m items each, d dimensions.

- The vectors lie in the order of the tree so far, so that a cluster is a slice; those of one size are one (S, m, d) array, and
  a level is a few matrix products. Sizes of a level differ by at most one, so there are two such groups.
- A level is worked through in chunks that fit a cache, each by one thread: same bytes on any number of cores.
- No sorting: a half is what lies above the median projection, found by selection. Ties go by place, and places are a seeded
  draw from the start: numbers of items often follow the logs (the order in which users first met them), and a tree that put
  items of like content together by number would know of the future.
- A cluster beyond `SAMPLE` items finds its direction on that many of them, and takes `FULL_ROUNDS` rounds with all.
- A split can be had in two pieces, for a catalogue that no process holds (`model.tree_shards`): `direction_of` a cluster, and
  `halve` by what lies along it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from model.cores import cpu_threads

__all__ = ["Halver", "direction_of", "drawn_order", "halve", "halved_starts"]

CHUNK = 1 << 15
"""Rows of a chunk: 8 MB at 64 dimensions."""
SAMPLE, FULL_ROUNDS = 1 << 14, 3
NARROW = 24
"""Clusters up to this size go through einsum, whose loops beat a call of BLAS for each of them."""

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def drawn_order(n_items: int, seed: int) -> Ints:
    """(N,) items in the order to begin with, a draw."""
    return np.random.default_rng([seed, 1]).permutation(n_items)


class Halver:
    """Splits every cluster of a level in two; called level after level, from the root."""

    def __init__(
        self,
        vectors: Floats,
        *,
        power_steps: int,
        max_rounds: int,
        seed: int,
        first: Ints | None = None,
        above: int = 0,
    ) -> None:
        """vectors: (N, d) unit length.

        first: (N,) items in the order to begin with; `drawn_order` where None. above: splits that are made already; the next
        begins from the direction that it would have after them.
        """
        self.power_steps, self.max_rounds = power_steps, max_rounds
        self.rng = np.random.default_rng(seed)
        for _ in range(above):
            self._draw(vectors.shape[1])
        self.first: Ints = drawn_order(len(vectors), seed) if first is None else first
        """(N,) items in the order to begin with."""
        self.x: Floats = vectors[self.first]
        """(N, d) the vectors in the order of the tree so far."""

    def _draw(self, d: int) -> Floats:
        return np.asarray(self.rng.standard_normal(d, dtype=np.float32))

    def __call__(self, order: Ints, starts: Ints) -> tuple[Ints, Ints]:
        """The new order and starts; cluster c is order[starts[c]:starts[c + 1]], never empty. One item stays whole."""
        from threadpoolctl import threadpool_limits

        counts = np.diff(starts)
        direction = self._draw(self.x.shape[1])
        new_order, new_x = np.empty_like(order), np.empty_like(self.x)

        def work(chunk: tuple[int, int]) -> None:
            begin, end = int(starts[chunk[0]]), int(starts[chunk[1]])
            side = np.zeros(end - begin, dtype=bool)
            sizes = counts[chunk[0] : chunk[1]]
            for size in np.unique(sizes):
                if size > 1:
                    rows = (starts[chunk[0] : chunk[1]][sizes == size] - begin)[:, None] + np.arange(size)
                    whole = len(rows) == chunk[1] - chunk[0]  # then they lie one after another
                    part = self.x[begin:end]
                    rows_ND: Floats = part if whole else part[rows.ravel()]
                    side[rows] = self._sides(rows_ND.reshape(len(rows), int(size), self.x.shape[1]), direction)
            places = _places(side, sizes)
            new_order[begin + places] = order[begin:end]
            new_x[begin + places] = self.x[begin:end]

        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(cpu_threads()) as pool:
            list(pool.map(work, _chunks(starts)))
        self.x = new_x
        return new_order, halved_starts(starts)

    def _sides(self, x_SMD: Floats, direction: Floats) -> Bools:
        """(S, m) False for the left half of each cluster, which has one item more where m is odd."""
        m = x_SMD.shape[1]
        if m == 2:  # the centroids are the two items, whatever the rounds
            first, second = (x_SMD @ direction).T
            return np.stack([first < second, first >= second], axis=1)
        return _parted(x_SMD, direction, self.power_steps, self.max_rounds)[0]


def halved_starts(starts: Ints) -> Ints:
    """Where clusters begin, and the last ends, after each has been cut in two; of an odd number the left half has one more.

    What would be empty is not there.
    """
    counts = np.diff(starts)
    halves = np.stack([(counts + 1) // 2, counts // 2], axis=1).ravel()
    return np.concatenate([[0], np.cumsum(halves[halves > 0])])


def direction_of(x: Floats, begin: Floats, *, power_steps: int, max_rounds: int) -> Floats:
    """(d,) the direction along which balanced 2-means parts one cluster x (m, d), from a direction (d,) to begin with.

    What lies far along it is the left half.
    """
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return np.asarray(_parted(x[None], begin, power_steps, max_rounds)[1][0])


def halve(order: Ints, starts: Ints, along: Floats) -> tuple[Ints, Ints]:
    """The new order and starts, from how far along its cluster's direction lies what stands at each place: along (N,).

    Of equal ones, those that stand first go left; within a half they stand as they did.
    """
    new_order = np.empty_like(order)
    for begin, end in itertools.pairwise(starts.tolist()):
        side = _below_median(along[None, begin:end], (end - begin + 1) // 2)[0]
        new_order[begin + _places(side, np.array([end - begin]))] = order[begin:end]
    return new_order, halved_starts(starts)


def _chunks(starts: Ints) -> Iterator[tuple[int, int]]:
    """(first cluster, end) of each chunk: at least one cluster, at most `CHUNK` rows where one fits."""
    begin = 0
    while begin < len(starts) - 1:
        end = max(int(np.searchsorted(starts, starts[begin] + CHUNK, side="right")) - 1, begin + 1)
        yield begin, end
        begin = end


def _places(side: Bools, counts: Ints) -> Ints:
    """(n,) where each row of a chunk goes: the left half of its cluster first, in the order they had."""
    ends = np.cumsum(counts)
    begins, left = np.repeat(ends - counts, counts), np.repeat((counts + 1) // 2, counts)
    rights: Ints = np.cumsum(side, dtype=np.int64) - side
    rights -= np.repeat(rights[ends - counts], counts)  # to the right before it, in its cluster
    return np.where(side, begins + left + rights, np.arange(len(side)) - rights)


def _parted(x_SMD: Floats, direction: Floats, power_steps: int, max_rounds: int) -> tuple[Bools, Floats]:
    """As `_two_means`; a large cluster's direction is looked for on a part of it."""
    if x_SMD.shape[1] > SAMPLE:
        _, direction_SD = _two_means(x_SMD[:, :SAMPLE], direction, power_steps, max_rounds)
        return _two_means(x_SMD, direction_SD, 0, FULL_ROUNDS)
    return _two_means(x_SMD, direction, power_steps, max_rounds)


def _two_means(x_SMD: Floats, direction: Floats, power_steps: int, max_rounds: int) -> tuple[Bools, Floats]:
    """Sides (S, m) and the directions (S, d) that made them, from a direction (d,) or (S, d) to begin with."""
    s, m, d = x_SMD.shape
    left = (m + 1) // 2
    sum_SD = x_SMD.sum(axis=1)
    direction_SD = np.ascontiguousarray(np.broadcast_to(direction, (s, d)))
    for _ in range(power_steps):
        weight_SM = _project(x_SMD, direction_SD)
        weight_SM -= weight_SM.mean(axis=1, keepdims=True)
        direction_SD = _weighted(x_SMD, weight_SM)
        direction_SD /= np.maximum(np.linalg.norm(direction_SD, axis=1, keepdims=True), 1e-12)
    side = np.zeros((s, m), dtype=bool)
    for round_ in range(max_rounds):
        new_side = _below_median(_project(x_SMD, direction_SD), left)
        if round_ and np.array_equal(new_side, side):
            break
        side = new_side
        left_SD = _weighted(x_SMD, (~side).astype(np.float32))
        direction_SD = left_SD / np.float32(left) - (sum_SD - left_SD) / np.float32(max(m - left, 1))
    return side, direction_SD


def _project(x_SMD: Floats, direction_SD: Floats) -> Floats:
    """(S, m) x . direction."""
    if x_SMD.shape[1] <= NARROW:
        return np.asarray(np.einsum("smd,sd->sm", x_SMD, direction_SD), dtype=np.float32)
    return np.asarray(np.matmul(x_SMD, direction_SD[:, :, None])[:, :, 0], dtype=np.float32)


def _weighted(x_SMD: Floats, weight_SM: Floats) -> Floats:
    """(S, d) sums of x by weight."""
    if x_SMD.shape[1] <= NARROW:
        return np.asarray(np.einsum("smd,sm->sd", x_SMD, weight_SM), dtype=np.float32)
    return np.asarray(np.matmul(weight_SM[:, None, :], x_SMD)[:, 0], dtype=np.float32)


def _below_median(projection_SM: Floats, left: int) -> Bools:
    """(S, m) True for all but the `left` largest of a row; of equal ones those that stand first are among the largest."""
    m = projection_SM.shape[1]
    edge = np.partition(projection_SM, m - left, axis=1)[:, m - left, None]
    above = projection_SM > edge
    level = projection_SM == edge
    room = left - above.sum(axis=1)
    tied = level.sum(axis=1) > room
    if tied.any():
        level[tied] &= np.cumsum(level[tied], axis=1) <= room[tied, None]
    return np.asarray(~(above | level))
