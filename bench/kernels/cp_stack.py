"""Training many CP predictors on the same discrete inputs: one exact path for every processor.

Components are kept in *tiles* of `LANES`, the last axis, so that a table's row for a tile is one
cache line. A tile is evaluated, differentiated and updated by Adam while it is in a processor's
cache. Within a lane everything happens in IEEE arithmetic and in an order that the inputs alone
determine (`bench.kernels.lanes`). So a predictor's bits depend neither on the predictors beside it,
nor on the number of threads, nor on the processor.

The value of a component is a product of table rows (`bench.kernels.patterns`): that of all blanks,
times the ratio of pattern and blank for each pattern that a sample holds. Signs need no care, and
no logarithm loses digits. Range does: see `_choose_scales`. Products that might leave float32's are
float64, which most components need late in training; rows that leave it, too, which is rare.

A factor near 0 is divided by, so it is taken as at least 2**-60: that changes values by less than
float32 can see beside the others, and leaves the factor's own gradient exact. Training does drive
the factors of levels that hardly any sample takes to 0.

Sums over samples are taken in float64: the blank's is the difference of two of them, and it is
divided by a factor that may be small.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from bench.kernels.lanes import (
    LANES,
    absolute,
    away_from_zero,
    chosen,
    fill,
    larger,
    load,
    narrow,
    square_root,
    store,
    transpose,
    widen,
)
from bench.kernels.patterns import BatchLists, Dictionary, Patterns

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
NORMAL = np.float64(2.0**-126)  # the smallest normal float32
LEAST_FACTOR = 2.0**-60  # a smaller one has no effect that float32 sees; training can reach 0
TOP_EXPONENT = 126  # float32 holds values below 2**128
RATIO = 2.0**127
# Float64 holds what is between 2**-1022 and 2**1024.
LEAST_WIDE, MOST_WIDE, RATIO_WIDE = 2.0**-960, 2.0**960, 2.0**900
NARROW, MIXED, WIDE, SINGLY = range(4)
FAINT = 2.0**-20  # below it a difference of float64 sums loses what it is divided by


class Tiling(NamedTuple):
    """Which lanes belong to which predictor.

    A *group* is a run of tiles, the lanes of whose predictors follow each other.

    Attributes
    ----------
    tile_starts : ndarray
        Shape (groups + 1,), int64: the first tile of each group.
    predictor_starts : ndarray
        Shape (groups + 1,), int64: where each group's predictors begin in `predictors`.
    predictors : ndarray
        Shape (predictors,), int64: the predictors, in the order of their lanes.
    lanes : ndarray
        Shape (predictors,), int64: the first lane of each predictor, counted over all tiles.
    ranks : ndarray
        Shape (predictors,), int64: how many lanes each predictor has.
    """

    tile_starts: NDArray[np.int64]
    predictor_starts: NDArray[np.int64]
    predictors: NDArray[np.int64]
    lanes: NDArray[np.int64]
    ranks: NDArray[np.int64]


def tile(ranks: NDArray[np.int64]) -> Tiling:
    """Pack predictors of `ranks` components into groups of tiles, the largest ones first."""
    places = np.argsort(-ranks, kind="stable")
    groups: list[list[int]] = []
    room: list[int] = []
    for place in places.tolist():
        rank = int(ranks[place])
        group = next((i for i, free in enumerate(room) if free >= rank), None)
        if group is None:
            groups.append([])
            room.append(math.ceil(rank / LANES) * LANES)
            group = len(groups) - 1
        groups[group].append(place)
        room[group] -= rank
    lanes = np.zeros(len(ranks), dtype=np.int64)
    tiles = [0]
    for group, free in zip(groups, room, strict=True):
        lane = tiles[-1] * LANES
        for place in group:
            lanes[place] = lane
            lane += int(ranks[place])
        tiles.append((lane + free) // LANES)
    predictors = np.array([place for group in groups for place in group], dtype=np.int64)
    starts = np.cumsum([0, *map(len, groups)]).astype(np.int64)
    tile_starts = np.array(tiles, dtype=np.int64)
    return Tiling(tile_starts, starts, predictors, lanes[predictors], ranks[predictors])


class Inputs(NamedTuple):
    """A batch as the kernels read it.

    Attributes
    ----------
    patterns : Patterns
        The dictionary.
    lists : BatchLists
        The batch in its terms.
    images : ndarray
        Shape (samples, pixels), uint8: the data set, for components that need every factor.
    indices : ndarray
        Shape (batch,), int64: the batch's samples.
    """

    patterns: Patterns
    lists: BatchLists
    images: NDArray[np.uint8]
    indices: NDArray[np.int64]


class WideTile(NamedTuple):
    """What `Workspace` holds for a tile in float32, in float64; touched where it is needed only.

    Attributes
    ----------
    factors : ndarray
        Shape (pixels * levels, LANES).
    table : ndarray
        Shape (rows of a stripe, LANES).
    values : ndarray
        Shape (batch, LANES).
    scales : ndarray
        Shape (3, LANES).
    """

    factors: NDArray[np.float64]
    table: NDArray[np.float64]
    values: NDArray[np.float64]
    scales: NDArray[np.float64]


class Workspace(NamedTuple):
    """Room for one thread's intermediate values.

    Attributes
    ----------
    values : ndarray
        Shape (tiles of a group * batch, LANES), float32, the batch filled up to a multiple of
        LANES for each tile; see `_stride`.
    turned : ndarray
        Shape (tiles of a group * LANES, LANES), float32: values at a few samples, a row a lane.
    table : ndarray
        Shape (rows of a stripe, LANES), float32.
    sums : ndarray
        Shape (rows of a stripe, LANES), float64.
    gradient : ndarray
        Shape (pixels * levels, LANES), float32.
    residuals : ndarray
        Shape (predictors of a group, batch, up to a multiple of LANES), float32.
    bounds : ndarray
        Shape (3, LANES), float64: of each lane the product of all blanks, and by magnitude that of
        each pixel's largest factor, and the smallest blank, negated.
    scales : ndarray
        Shape (4, LANES), float32: what a product starts from and ends with, its largest value, and
        1 for lanes that are MIXED.
    extremes : ndarray
        Shape (2, LANES), float32: of tiles with such a lane, the largest magnitude in the table,
        and the smallest one, negated.
    ways : ndarray
        Shape (tiles of a group, LANES), uint8: how each lane is evaluated: in float32 (NARROW), as
        float64 products of float32 rows (MIXED), in float64 (WIDE), or factor by factor (SINGLY).
    faint : ndarray
        Shape (tiles of a group, LANES), bool: which lanes have a blank below FAINT in magnitude.
    wide : WideTile
        Room for a tile in float64.
    """

    values: NDArray[np.float32]
    turned: NDArray[np.float32]
    table: NDArray[np.float32]
    sums: NDArray[np.float64]
    gradient: NDArray[np.float32]
    residuals: NDArray[np.float32]
    bounds: NDArray[np.float64]
    scales: NDArray[np.float32]
    extremes: NDArray[np.float32]
    ways: NDArray[np.uint8]
    faint: NDArray[np.bool_]
    wide: WideTile


def workspace(dictionary: Dictionary, tiling: Tiling, batch: int) -> Workspace:
    """Return room for the largest group and a batch of `batch` samples."""
    tiles = int(np.diff(tiling.tile_starts).max())
    predictors = int(np.diff(tiling.predictor_starts).max())
    rows, entries = dictionary.most_rows, dictionary.order * dictionary.levels
    padded = math.ceil(batch / LANES) * LANES

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> NDArray:
        return torch.empty(shape, dtype=dtype).numpy()  # begins at a cache line

    return Workspace(
        empty(tiles * padded, LANES),
        empty(tiles * LANES, LANES),
        empty(rows, LANES),
        empty(rows, LANES, dtype=torch.float64),
        empty(entries, LANES),
        empty(predictors, padded),
        empty(3, LANES, dtype=torch.float64),
        empty(4, LANES),
        empty(2, LANES),
        empty(tiles, LANES, dtype=torch.uint8),
        empty(tiles, LANES, dtype=torch.bool),
        WideTile(*(empty(n, LANES, dtype=torch.float64) for n in (entries, rows, batch, 3))),
    )


class Adam(NamedTuple):
    """The constants of one of Adam's steps.

    Attributes
    ----------
    keep_first, add_first, keep_second, add_second : float
        How much of the moments is kept, and how much of the gradient and its square is added.
    size : float
        The step size over the first moment's bias.
    root_scale : float
        One over the root of the second moment's bias.
    epsilon : float
        What is added to the root of the second moment.
    """

    keep_first: np.float32
    add_first: np.float32
    keep_second: np.float32
    add_second: np.float32
    size: np.float32
    root_scale: np.float32
    epsilon: np.float32

    @classmethod
    def at(cls, step: int, rate: float) -> "Adam":
        """Return the constants of step `step`, counted from 1."""
        first, second = ADAM_BETAS
        numbers = (
            first,
            1 - first,
            second,
            1 - second,
            rate / (1 - first**step),
            1 / math.sqrt(1 - second**step),
            ADAM_EPSILON,
        )
        return cls(*map(np.float32, numbers))


# ---- values -------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _factor(factors, row):
    """Return a row of factors, none of them below LEAST_FACTOR in magnitude."""
    return away_from_zero(load(factors, row), LEAST_FACTOR)


@njit(cache=True, nogil=True)
def _find_bounds(patterns, factors, first, bounds):
    """Find the bounds of a tile whose factors begin at row `first`; see `Workspace`."""
    levels = patterns.levels
    blanks, largest, negated = fill(1.0), fill(1.0), fill(-np.inf)
    for pixel in range(len(patterns.blank)):
        row = first + pixel * levels
        blank = widen(_factor(factors, row + patterns.blank[pixel]))
        blanks = blanks * blank
        negated = larger(negated, fill(0.0) - absolute(blank))
        high = absolute(_factor(factors, row))
        for level in range(1, levels):
            high = larger(absolute(_factor(factors, row + level)), high)
        largest = largest * widen(high)
    store(bounds, 0, blanks)
    store(bounds, 1, largest)
    store(bounds, 2, negated)


@njit(cache=True, nogil=True)
def _choose_scales(bounds, scales, ways):
    """Choose powers of two that keep a tile's products in float32's range, and a way for each lane.

    No partial product exceeds the product M of each pixel's largest factor. So products start from
    the blanks' product times the power of two that brings M just below the largest float32, and
    are divided by it in the end. The ratios' largest product is M over the blanks'; while it is in
    range, so is every row of the table.
    """
    for lane in range(LANES):
        blanks, largest = abs(bounds[0, lane]), bounds[1, lane]
        scales[0, lane] = scales[1, lane] = 1.0
        # As comparisons of what is not a number are false, that comes here too.
        if not (blanks >= LEAST_WIDE and largest <= MOST_WIDE and largest <= RATIO_WIDE * blanks):
            ways[lane] = SINGLY
            continue
        exponent = min(TOP_EXPONENT - math.frexp(largest)[1], TOP_EXPONENT)
        start = math.ldexp(bounds[0, lane], exponent)
        in_range = abs(start) >= NORMAL and largest < RATIO * blanks and exponent >= -TOP_EXPONENT
        sound = largest / blanks * largest <= 2.0**216 and largest <= 2.0**80  # see _widen_inexact
        ways[lane] = NARROW if (in_range and sound) or largest < NORMAL else MIXED
        if ways[lane] == NARROW:
            scales[0, lane] = start
            scales[1, lane] = math.ldexp(1.0, -exponent)


@njit(cache=True, nogil=True)
def _widen_inexact(bounds, scales, extremes, ways):
    """Let float64 evaluate anew the lanes that may have lost digits.

    A float32 product that has been below the normal numbers on its way errs by less than 2**-149
    an operation, times the ratios that follow; a row that has been there, times a product with
    which it does not exceed M. Neither must matter beside the lane's largest value, or if that is
    0, at all. Where the products are float64 already, the rows must be in float32's range.
    """
    for lane in range(LANES):
        blanks, largest, value = abs(bounds[0, lane]), bounds[1, lane], scales[2, lane]
        if ways[lane] == NARROW and largest >= NORMAL:
            on_the_way = largest / blanks * largest <= max(value * 2.0**236, 2.0**100)
            in_a_row = largest <= max(value * 2.0**100, 2.0**-10)
            if not (on_the_way and in_a_row):
                ways[lane] = WIDE
        elif ways[lane] == MIXED:
            high, low = extremes[0, lane], -extremes[1, lane]
            if not (low >= NORMAL and high <= RATIO):
                ways[lane] = WIDE


@njit(cache=True, nogil=True)
def _fill_table(patterns, factors, first, stripe, table):
    """Fill in the rows of a stripe: ratios of levels and blanks, then products of two rows."""
    levels, row = patterns.levels, 0
    for i in range(patterns.pixel_starts[stripe], patterns.pixel_starts[stripe + 1]):
        pixel = patterns.pixels[i]
        blank = patterns.blank[pixel]
        source = first + pixel * levels
        divisor = _factor(factors, source + blank)
        for level in range(levels):
            if level != blank:
                store(table, row, _factor(factors, source + level) / divisor)
                row += 1
    for i in range(patterns.merge_starts[stripe], patterns.merge_starts[stripe + 1]):
        parts = patterns.parts
        store(table, row, load(table, parts[i, 0]) * load(table, parts[i, 1]))
        row += 1


@njit(cache=True, nogil=True)
def _multiply(inputs, stripe, table, scales, values, place):
    """Multiply the values of a tile, from row `place` on, by a stripe's rows."""
    lists = inputs.lists
    stripes, batch = len(lists.row_starts), lists.row_starts.shape[1] - 1
    start, unit = load(scales, 0), load(scales, 1)
    largest = absolute(start - start)  # zeros
    last = stripe == stripes - 1
    for sample in range(batch):
        value = start if stripe == 0 else load(values, place + sample)
        for i in range(lists.row_starts[stripe, sample], lists.row_starts[stripe, sample + 1]):
            value = value * load(table, lists.rows[i])
        if last:
            value = value * unit
            largest = larger(absolute(value), largest)
        store(values, place + sample, value)
    store(scales, 2, largest)


@njit(cache=True, nogil=True)
def _multiply_both(inputs, stripe, space, place):
    """Do what `_multiply` does, and beside it in float64 for the lanes that are MIXED."""
    lists, wide = inputs.lists, space.wide
    stripes, batch = len(lists.row_starts), lists.row_starts.shape[1] - 1
    start, unit, mask = load(space.scales, 0), load(space.scales, 1), load(space.scales, 3)
    wide_start = load(wide.scales, 0)
    largest = fill(np.float32(0.0))
    last = stripe == stripes - 1
    for sample in range(batch):
        value = start if stripe == 0 else load(space.values, place + sample)
        wide_value = wide_start if stripe == 0 else load(wide.values, sample)
        for i in range(lists.row_starts[stripe, sample], lists.row_starts[stripe, sample + 1]):
            row = load(space.table, lists.rows[i])
            value = value * row
            wide_value = wide_value * widen(row)
        if last:
            value = chosen(mask, narrow(wide_value), value * unit)
            largest = larger(absolute(value), largest)
        else:
            store(wide.values, sample, wide_value)
        store(space.values, place + sample, value)
    store(space.scales, 2, largest)


@njit(cache=True, nogil=True)
def _extend(table, rows, extremes):
    """Take a stripe's rows into account in the extremes of a table; see `Workspace`."""
    high, negated = load(extremes, 0), load(extremes, 1)
    zero = high - high
    for row in range(rows):
        magnitude = absolute(load(table, row))
        high = larger(high, magnitude)
        negated = larger(negated, zero - magnitude)
    store(extremes, 0, high)
    store(extremes, 1, negated)


@njit(cache=True, nogil=True)
def _stride(batch):
    """Return how many rows of values a tile takes, so that `transpose` stays within them."""
    return (batch + LANES - 1) // LANES * LANES


@njit(cache=True, nogil=True)
def _evaluate_lane(inputs, factors, first, lane, values, place):
    """Evaluate one component factor by factor, in float64; return how many values underflow."""
    levels, order = inputs.patterns.levels, len(inputs.patterns.blank)
    own = np.empty(order * levels)
    for row in range(order * levels):
        own[row] = factors[first + row, lane]
    underflows = 0
    for sample in range(len(inputs.indices)):
        image = inputs.images[inputs.indices[sample]]
        value, zero = 1.0, False
        for pixel in range(order):
            factor = own[pixel * levels + image[pixel]]
            zero = zero or factor == 0
            value *= factor
        values[place + sample, lane] = value
        underflows += not zero and abs(value) < NORMAL
    return underflows


@njit(cache=True, nogil=True)
def _start_mixed(space, ways):
    """Set what `_multiply_both` starts from, and nothing yet as the table's extremes."""
    for lane in range(LANES):
        space.scales[3, lane] = ways[lane] == MIXED
        space.wide.scales[0, lane] = space.bounds[0, lane] if ways[lane] == MIXED else 1.0
        space.extremes[0, lane] = 0.0
        space.extremes[1, lane] = -np.inf


@njit(cache=True, nogil=True)
def _evaluate_wide(inputs, factors, first, space, place, ways):
    """Evaluate a tile in float64, and keep the values of the lanes that ask for it."""
    batch, wide = len(inputs.indices), space.wide
    for row in range(len(wide.factors)):
        store(wide.factors, row, widen(load(factors, first + row)))
    for lane in range(LANES):
        wide.scales[0, lane] = space.bounds[0, lane] if ways[lane] == WIDE else 1.0
        wide.scales[1, lane] = 1.0
    for stripe in range(len(inputs.lists.row_starts)):
        _fill_table(inputs.patterns, wide.factors, 0, stripe, wide.table)
        _multiply(inputs, stripe, wide.table, wide.scales, wide.values, 0)
    for sample in range(batch):
        for lane in range(LANES):
            if ways[lane] == WIDE:
                space.values[place + sample, lane] = wide.values[sample, lane]


@njit(cache=True, nogil=True)
def _evaluate_tile(inputs, factors, tile, space, place, ways, faint):
    """Fill in a tile's values, from row `place` of the workspace on."""
    first = tile * len(inputs.patterns.blank) * inputs.patterns.levels
    _find_bounds(inputs.patterns, factors, first, space.bounds)
    _choose_scales(space.bounds, space.scales, ways)
    for lane in range(LANES):
        faint[lane] = space.bounds[2, lane] > -FAINT
    mixed = (ways == MIXED).any()
    if mixed:
        _start_mixed(space, ways)
    for stripe in range(len(inputs.lists.row_starts)):
        _fill_table(inputs.patterns, factors, first, stripe, space.table)
        if mixed:
            starts = inputs.patterns.row_starts
            _extend(space.table, starts[stripe + 1] - starts[stripe], space.extremes)
            _multiply_both(inputs, stripe, space, place)
        else:
            _multiply(inputs, stripe, space.table, space.scales, space.values, place)
    _widen_inexact(space.bounds, space.scales, space.extremes, ways)
    if (ways == WIDE).any():
        _evaluate_wide(inputs, factors, first, space, place, ways)
    for lane in range(LANES):
        if ways[lane] == SINGLY:
            _evaluate_lane(inputs, factors, first, lane, space.values, place)


@njit(cache=True, nogil=True)
def _evaluate_group(inputs, factors, tiling, group, space):
    """Fill in the values of a group's tiles."""
    batch = len(inputs.indices)
    begin = tiling.tile_starts[group]
    for tile in range(begin, tiling.tile_starts[group + 1]):
        place = (tile - begin) * _stride(batch)
        ways, faint = space.ways[tile - begin], space.faint[tile - begin]
        _evaluate_tile(inputs, factors, tile, space, place, ways, faint)


@njit(cache=True, nogil=True)
def _turn(tiling, group, batch, sample, values, turned):
    """Copy a group's values at `LANES` samples, from `sample` on, a row a lane."""
    for place in range(tiling.tile_starts[group + 1] - tiling.tile_starts[group]):
        transpose(values, place * _stride(batch) + sample, turned, place * LANES)


@njit(cache=True, nogil=True)
def _turn_back(tiling, group, batch, sample, turned, values):
    """Undo `_turn`."""
    for place in range(tiling.tile_starts[group + 1] - tiling.tile_starts[group]):
        transpose(turned, place * LANES, values, place * _stride(batch) + sample)


@njit(cache=True, nogil=True)
def _first_lane(tiling, group, i):
    """Return the first lane of the `i`-th predictor, counted over the group's tiles."""
    return tiling.lanes[i] - tiling.tile_starts[group] * LANES


@njit(cache=True, nogil=True)
def _predict(tiling, group, space, batch, predictions):
    """Sum the values of each predictor's components, one after another."""
    for sample in range(0, batch, LANES):
        _turn(tiling, group, batch, sample, space.values, space.turned)
        for i in range(tiling.predictor_starts[group], tiling.predictor_starts[group + 1]):
            begin, predictor = _first_lane(tiling, group, i), tiling.predictors[i]
            total = fill(np.float32(0.0))
            for lane in range(begin, begin + tiling.ranks[i]):
                total = total + load(space.turned, lane)
            store(space.residuals, 0, total)
            for j in range(min(LANES, batch - sample)):
                predictions[predictor, sample + j] = space.residuals[0, j]


@njit(cache=True, nogil=True)
def predict(inputs, factors, tiling, groups, space, predictions, underflows):
    """Evaluate the predictors of the groups from the first up to the second of `groups`.

    Parameters
    ----------
    inputs, tiling, space
        See `Inputs`, `Tiling` and `Workspace`.
    factors : ndarray
        Shape (tiles * pixels * levels, LANES), float32.
    groups : tuple of int
        The first group and the one after the last.
    predictions : ndarray
        Shape (predictors, batch), float32: filled in.
    underflows : ndarray
        Shape (predictors,), int64: how many values of components are not 0 but below the smallest
        normal number, so that their gradients lose digits or vanish. Filled in.
    """
    batch = len(inputs.indices)
    entries = len(inputs.patterns.blank) * inputs.patterns.levels
    for group in range(groups[0], groups[1]):
        _evaluate_group(inputs, factors, tiling, group, space)
        _predict(tiling, group, space, batch, predictions)
        begin = tiling.tile_starts[group]
        for i in range(tiling.predictor_starts[group], tiling.predictor_starts[group + 1]):
            count = 0
            for lane in range(tiling.lanes[i], tiling.lanes[i] + tiling.ranks[i]):
                tile, column = lane // LANES, lane % LANES
                place = (tile - begin) * _stride(batch)
                if space.ways[tile - begin, column] == SINGLY:
                    first = tile * entries
                    count += _evaluate_lane(inputs, factors, first, column, space.values, place)
                else:
                    for sample in range(batch):
                        count += abs(space.values[place + sample, column]) < NORMAL
            underflows[tiling.predictors[i]] = count


# ---- gradients and steps ------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _weigh(tiling, group, space, batch, wanted, losses):
    """Find a group's losses, and multiply its values by the loss's derivative.

    The derivative stays in the workspace's residuals.
    """
    first, last = tiling.predictor_starts[group], tiling.predictor_starts[group + 1]
    scale = np.float32(2.0 / batch)
    for i in range(first, last):
        losses[tiling.predictors[i]] = 0.0
    for sample in range(0, batch, LANES):
        _turn(tiling, group, batch, sample, space.values, space.turned)
        for i in range(first, last):
            begin, predictor = _first_lane(tiling, group, i), tiling.predictors[i]
            total = fill(np.float32(0.0))
            for lane in range(begin, begin + tiling.ranks[i]):
                total = total + load(space.turned, lane)
            place = (i - first) * space.residuals.shape[1] // LANES + sample // LANES
            store(space.residuals, place, total)
            residuals = space.residuals[i - first]
            loss = losses[predictor]
            for j in range(sample, min(sample + LANES, batch)):
                residual = residuals[j] - wanted[predictor, j]
                loss += np.float64(residual) * np.float64(residual)
                residuals[j] = residual * scale
            losses[predictor] = loss
            slope = load(space.residuals, place)
            for lane in range(begin, begin + tiling.ranks[i]):
                store(space.turned, lane, load(space.turned, lane) * slope)
        _turn_back(tiling, group, batch, sample, space.turned, space.values)
    for i in range(first, last):
        losses[tiling.predictors[i]] /= batch


@njit(cache=True, nogil=True)
def _differentiate_tile(inputs, factors, tile, space, place):
    """Fill in a tile's gradient, given the weighed values from row `place` on."""
    patterns, lists, sums = inputs.patterns, inputs.lists, space.sums
    levels, order = patterns.levels, len(patterns.blank)
    everything = fill(0.0)
    for sample in range(len(inputs.indices)):
        everything = everything + widen(load(space.values, place + sample))
    for stripe in range(len(lists.row_starts)):
        begin = patterns.row_starts[stripe]
        for row in range(patterns.row_starts[stripe + 1] - begin):
            total = fill(0.0)
            for i in range(lists.sample_starts[begin + row], lists.sample_starts[begin + row + 1]):
                total = total + widen(load(space.values, place + lists.samples[i]))
            store(sums, row, total)
        merge = patterns.merge_starts[stripe]
        pixels = patterns.pixel_starts[stripe], patterns.pixel_starts[stripe + 1]
        singles = (pixels[1] - pixels[0]) * (levels - 1)
        for i in range(patterns.merge_starts[stripe + 1] - 1, merge - 1, -1):
            total = load(sums, singles + i - merge)
            a, b = patterns.parts[i, 0], patterns.parts[i, 1]
            store(sums, a, load(sums, a) + total)
            store(sums, b, load(sums, b) + total)
        row = 0
        for i in range(pixels[0], pixels[1]):
            pixel = patterns.pixels[i]
            blank = patterns.blank[pixel]
            rest, target = everything, pixel * levels
            source = tile * order * levels + target
            for level in range(levels):
                if level != blank:
                    total = load(sums, row)
                    rest = rest - total
                    quotient = narrow(total) / _factor(factors, source + level)
                    store(space.gradient, target + level, quotient)
                    row += 1
            if lists.blanks[pixel] == 0:
                rest = fill(0.0)
            quotient = narrow(rest) / _factor(factors, source + blank)
            store(space.gradient, target + blank, quotient)


@njit(cache=True, nogil=True)
def _mend_faint_blanks(inputs, factors, tile, space, place, faint):
    """Sum anew, over the samples that are blank, for the blanks that are near 0."""
    patterns, indices = inputs.patterns, inputs.indices
    levels, order = patterns.levels, len(patterns.blank)
    for pixel in range(order):
        blank = patterns.blank[pixel]
        target = pixel * levels + blank
        source = tile * order * levels + target
        for lane in range(LANES):
            factor = np.float64(factors[source, lane])
            if not (faint[lane] and abs(factor) < FAINT):
                continue
            total = 0.0
            for sample in range(len(indices)):
                if inputs.images[indices[sample], pixel] == blank:
                    total += space.values[place + sample, lane]
            factor = math.copysign(max(abs(factor), LEAST_FACTOR), factor)
            space.gradient[target, lane] = total / factor


@njit(cache=True, nogil=True)
def _differentiate_lane(inputs, factors, first, lane, residuals, gradient):
    """Fill in one component's gradient factor by factor, in float64."""
    levels, order = inputs.patterns.levels, len(inputs.patterns.blank)
    own, sums = np.empty(order * levels), np.zeros(order * levels)
    for row in range(order * levels):
        own[row] = factors[first + row, lane]
    for sample in range(len(inputs.indices)):
        image = inputs.images[inputs.indices[sample]]
        value, zeros, which = np.float64(residuals[sample]), 0, 0
        for pixel in range(order):
            factor = own[pixel * levels + image[pixel]]
            if factor == 0:
                zeros += 1
                which = pixel
            else:
                value *= factor
        if zeros == 0:
            for pixel in range(order):
                sums[pixel * levels + image[pixel]] += value
        elif zeros == 1:  # only the factor that is 0 has an effect
            sums[which * levels + image[which]] += value
    for row in range(order * levels):
        gradient[row, lane] = sums[row] if own[row] == 0 else sums[row] / own[row]


@njit(cache=True, nogil=True)
def _differentiate_singly(inputs, factors, tiling, group, tile, space):
    """Fill in the gradients of a tile's lanes that are evaluated factor by factor."""
    begin = tiling.tile_starts[group]
    first = tile * len(inputs.patterns.blank) * inputs.patterns.levels
    predictors = tiling.predictor_starts[group], tiling.predictor_starts[group + 1]
    for column in range(LANES):
        if space.ways[tile - begin, column] != SINGLY:
            continue
        lane = tile * LANES + column
        for i in range(predictors[0], predictors[1]):
            if tiling.lanes[i] <= lane < tiling.lanes[i] + tiling.ranks[i]:
                residuals = space.residuals[i - predictors[0]]
                _differentiate_lane(inputs, factors, first, column, residuals, space.gradient)


@njit(cache=True, nogil=True)
def _take_step(state, begin, gradient, adam):
    """Update a tile whose factors begin at row `begin`, as torch.optim.Adam does."""
    factors, first_moments, second_moments = state
    keep_first, add_first = fill(adam.keep_first), fill(adam.add_first)
    keep_second, add_second = fill(adam.keep_second), fill(adam.add_second)
    size, root_scale, epsilon = fill(adam.size), fill(adam.root_scale), fill(adam.epsilon)
    for row in range(len(gradient)):
        slope, place = load(gradient, row), begin + row
        first = keep_first * load(first_moments, place) + add_first * slope
        second = keep_second * load(second_moments, place) + add_second * slope * slope
        store(first_moments, place, first)
        store(second_moments, place, second)
        step = size * first / (square_root(second) * root_scale + epsilon)
        store(factors, place, load(factors, place) - step)


@njit(cache=True, nogil=True)
def descend(inputs, state, tiling, groups, space, wanted, adam, losses):
    """Take one of Adam's steps on the predictors' mean squared losses.

    Parameters
    ----------
    inputs, tiling, groups, space
        As in `predict`.
    state : tuple of ndarray
        The factors and Adam's two moments, shaped as the factors are in `predict`.
    wanted : ndarray
        Shape (predictors, batch), float32: the targets.
    adam : Adam
        The step's constants.
    losses : ndarray
        Shape (predictors,), float64: the losses before the step, filled in.
    """
    batch, factors = len(inputs.indices), state[0]
    entries = len(inputs.patterns.blank) * inputs.patterns.levels
    for group in range(groups[0], groups[1]):
        _evaluate_group(inputs, factors, tiling, group, space)
        _weigh(tiling, group, space, batch, wanted, losses)
        begin = tiling.tile_starts[group]
        for tile in range(begin, tiling.tile_starts[group + 1]):
            place, faint = (tile - begin) * _stride(batch), space.faint[tile - begin]
            _differentiate_tile(inputs, factors, tile, space, place)
            if faint.any():
                _mend_faint_blanks(inputs, factors, tile, space, place, faint)
            _differentiate_singly(inputs, factors, tiling, group, tile, space)
            _take_step(state, tile * entries, space.gradient, adam)


@njit(cache=True, nogil=True)
def differentiate(inputs, factors, tiling, groups, space, wanted, losses, gradients):
    """Find the gradients of the predictors' mean squared losses, for tests and measurements.

    Parameters are those of `descend`, and `gradients`, shaped as `factors`, is filled in.
    """
    batch = len(inputs.indices)
    entries = len(inputs.patterns.blank) * inputs.patterns.levels
    for group in range(groups[0], groups[1]):
        _evaluate_group(inputs, factors, tiling, group, space)
        _weigh(tiling, group, space, batch, wanted, losses)
        begin = tiling.tile_starts[group]
        for tile in range(begin, tiling.tile_starts[group + 1]):
            place, faint = (tile - begin) * _stride(batch), space.faint[tile - begin]
            _differentiate_tile(inputs, factors, tile, space, place)
            if faint.any():
                _mend_faint_blanks(inputs, factors, tile, space, place, faint)
            _differentiate_singly(inputs, factors, tiling, group, tile, space)
            gradients[tile * entries : (tile + 1) * entries] = space.gradient


@njit(cache=True, nogil=True)
def total_errors(predictions, wanted, unit, most, totals):
    """Add each predictor's squared errors over `unit`, each at most `most`, to its total."""
    for predictor in range(len(predictions)):
        total = totals[predictor]
        for sample in range(predictions.shape[1]):
            residual = np.float64(predictions[predictor, sample]) - wanted[predictor, sample]
            error = residual * residual / unit
            total += most if error > most else error
        totals[predictor] = total


def shares(tiling: Tiling, threads: int) -> Iterator[tuple[int, int]]:
    """Divide the groups into one run for each thread; nothing computed depends on it."""
    groups = len(tiling.tile_starts) - 1
    threads = max(1, min(threads, groups))
    for i in range(threads):
        yield groups * i // threads, groups * (i + 1) // threads


def in_threads(
    work: Callable[[int, tuple[int, int]], object], parts: list[tuple[int, int]]
) -> None:
    """Call `work` with the place and value of each part, each in a thread of its own."""
    if len(parts) == 1:
        work(0, parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(work, range(len(parts)), parts))
