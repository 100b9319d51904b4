"""Training many CP predictors on the same discrete inputs: one exact path for every processor.

Components are kept in *tiles* of `LANES`, the last axis, so that a table's row for a tile is one
cache line. A tile is evaluated, differentiated and updated by Adam while it is in a processor's
cache. Within a lane everything happens in IEEE arithmetic and in an order that the inputs alone
determine (`bench.kernels.lanes`). So a predictor's bits depend neither on the predictors beside it,
nor on the number of threads, nor on the processor.

The value of a component is a product of table rows (`bench.kernels.patterns`): that of all blanks,
times the ratio of pattern and blank for each pattern that a sample holds. Signs need no care, and
no logarithm loses digits. Range does: see `_choose_way`. Products that might leave float32's are
float64, which most components need late in training; rows that leave it, too, which is rare.

A factor near 0 is divided by, so it is taken as at least 2**-60: that changes values by less than
float32 can see beside the others, and leaves the factor's own gradient exact. Training does drive
the factors of levels that hardly any sample takes to 0.

Sums over samples are taken in float64: the blank's is the difference of two of them, and it is
divided by a factor that may be small.
"""

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray

from bench.kernels.lanes import (
    LANES,
    absolute,
    chosen,
    fill,
    larger,
    load,
    narrow,
    signed,
    square_root,
    store,
    transpose,
    widen,
)
from bench.kernels.patterns import BatchLists, Dictionary, Patterns

ADAM_BETAS = (0.9, 0.999)
ADAM_EPSILON = 1e-8
NORMAL = np.float64(2.0**-126)  # the smallest normal float32
LEAST_FACTOR = np.float32(2.0**-60)  # a smaller one has no effect that float32 sees
TOP_EXPONENT = 126  # float32 holds values below 2**128
RATIO = 2.0**127
# Float64 holds what is between 2**-1022 and 2**1024.
LEAST_WIDE, MOST_WIDE, RATIO_WIDE = 2.0**-960, 2.0**960, 2.0**900
FAINT = 2.0**-20  # below it a difference of float64 sums loses what it is divided by
# How a lane is evaluated: in float32, as float64 products of float32 rows, in float64, or factor by
# factor.
NARROW, MIXED, WIDE, SINGLY = range(4)
# The rows of `Workspace.notes`: the product of all blanks, and by magnitude that of each pixel's
# largest factor, and the smallest blank, negated; what a product starts from and ends with; 1 for
# MIXED lanes, and what their products start from; the largest value; the largest magnitude in the
# table, and the smallest one, negated.
BLANKS, LARGEST, FAINTEST, START, UNIT, MASK, WIDE_START, VALUE, HIGHEST, LOWEST = range(10)


class Tiling(NamedTuple):
    """Which lanes belong to which predictor.

    A *group* is a run of tiles; a predictor's lanes follow each other within one.

    Attributes
    ----------
    tile_starts : ndarray
        Shape (groups + 1,), int64: the first tile of each group.
    owners : ndarray
        Shape (tiles * LANES + 1,), int64: each lane's predictor; -1 for a lane that is free, and
        after the last lane.
    """

    tile_starts: NDArray[np.int64]
    owners: NDArray[np.int64]

    @property
    def lanes(self) -> NDArray[np.int64]:
        """The lanes of the first predictor's components, of the second's, and so on."""
        return np.argsort(self.owners, kind="stable")[np.count_nonzero(self.owners < 0) :]


def tile(ranks: NDArray[np.int64]) -> Tiling:
    """Pack predictors of `ranks` components into groups of tiles, the largest ones first."""
    groups: list[list[int]] = []
    for predictor in np.argsort(-ranks, kind="stable").tolist():
        lanes = [predictor] * int(ranks[predictor])
        roomy = [group for group in groups if -len(group) % LANES >= len(lanes)]
        if roomy:
            roomy[0].extend(lanes)
        else:
            groups.append(lanes)
    for group in groups:
        group += [-1] * (-len(group) % LANES)
    owners = np.array([owner for group in groups for owner in group] + [-1], dtype=np.int64)
    sizes = [len(group) // LANES for group in groups]
    return Tiling(np.cumsum([0, *sizes], dtype=np.int64), owners)


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


class Workspace(NamedTuple):
    """Room for one thread's intermediate values, beginning at cache lines.

    Attributes
    ----------
    values : ndarray
        Shape (tiles of a group * batch, LANES), float32, the batch filled up to a multiple of
        LANES for each tile; see `filled_up`.
    turned : ndarray
        Shape (2 * LANES, LANES), float32: values at a few samples, a row a lane, or slopes.
    table, wide_table : ndarray
        Shape (rows of a stripe, LANES), float32 and float64; the latter for sums over samples, too.
    gradient : ndarray
        Shape (pixels * levels, LANES), float32.
    ways : ndarray
        Shape (tiles of a group, LANES), uint8: how each lane is evaluated.
    notes : ndarray
        Shape (tiles of a group, 10, LANES), float64: what is known of each lane.
    wide_factors, wide_values : ndarray
        Shapes (pixels * levels, LANES) and (batch, LANES), float64: touched only where needed.
    """

    values: NDArray[np.float32]
    turned: NDArray[np.float32]
    table: NDArray[np.float32]
    wide_table: NDArray[np.float64]
    gradient: NDArray[np.float32]
    ways: NDArray[np.uint8]
    notes: NDArray[np.float64]
    wide_factors: NDArray[np.float64]
    wide_values: NDArray[np.float64]


def workspace(dictionary: Dictionary, tiles: int, batch: int) -> Workspace:
    """Return room for groups of up to `tiles` tiles and batches of up to `batch` samples."""
    rows = int(np.diff(dictionary.patterns.row_starts).max())
    entries = dictionary.order * dictionary.levels

    def empty(*shape: int, dtype: torch.dtype = torch.float64) -> NDArray:
        return torch.empty(*shape, LANES, dtype=dtype).numpy()

    return Workspace(
        values=empty(tiles * filled_up(batch), dtype=torch.float32),
        turned=empty(2 * LANES, dtype=torch.float32),
        table=empty(rows, dtype=torch.float32),
        wide_table=empty(rows),
        gradient=empty(entries, dtype=torch.float32),
        ways=empty(tiles, dtype=torch.uint8),
        notes=empty(tiles, LOWEST + 1),
        wide_factors=empty(entries),
        wide_values=empty(batch),
    )


def adam_constants(step: int, rate: float) -> tuple[np.float32, ...]:
    """Return the constants of Adam's step `step`, counted from 1.

    How much of the two moments is kept, and how much of the gradient and its square is added; the
    step size over the first moment's bias; one over the root of the second moment's; and what is
    added to the root of the second moment.
    """
    (first, second), (first_bias, second_bias) = ADAM_BETAS, (1 - beta**step for beta in ADAM_BETAS)
    size, root_scale = rate / first_bias, 1 / math.sqrt(second_bias)
    numbers = first, 1 - first, second, 1 - second, size, root_scale, ADAM_EPSILON
    return tuple(map(np.float32, numbers))


# ---- values -------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def filled_up(batch):
    """Return the multiple of LANES that has room for a batch."""
    return (batch + LANES - 1) // LANES * LANES


@njit(cache=True, nogil=True)
def _factor(factors, row):
    """Return a row of factors, none of them below LEAST_FACTOR in magnitude."""
    factor = load(factors, row)
    least = fill(factors.dtype.type(LEAST_FACTOR))
    return signed(larger(absolute(factor), least), factor)


@njit(cache=True, nogil=True)
def _note_bounds(patterns, factors, notes):
    """Note what a tile's factors are bounded by."""
    levels = patterns.levels
    blanks, largest, negated = fill(1.0), fill(1.0), fill(-np.inf)
    for pixel in range(len(patterns.blank)):
        row = pixel * levels
        blank = widen(_factor(factors, row + patterns.blank[pixel]))
        blanks = blanks * blank
        negated = larger(negated, fill(0.0) - absolute(blank))
        high = absolute(_factor(factors, row))
        for level in range(1, levels):
            high = larger(absolute(_factor(factors, row + level)), high)
        largest = largest * widen(high)
    store(notes, BLANKS, blanks)
    store(notes, LARGEST, largest)
    store(notes, FAINTEST, negated)


@njit(cache=True, nogil=True)
def _choose_way(blanks, largest):
    """Choose how to evaluate a lane, and powers of two that keep its products in float32's range.

    No partial product exceeds the product M of each pixel's largest factor. So products start from
    the blanks' product times the power of two that brings M just below the largest float32, and
    are divided by it in the end. The ratios' largest product is M over the blanks'; while it is in
    range, so is every row of the table.

    Returns the way, what products start from, and what they are multiplied by in the end.
    """
    least = abs(blanks)
    # As comparisons of what is not a number are false, that goes factor by factor, too.
    if not (least >= LEAST_WIDE and largest <= MOST_WIDE and largest <= RATIO_WIDE * least):
        return SINGLY, 1.0, 1.0
    exponent = min(TOP_EXPONENT - math.frexp(largest)[1], TOP_EXPONENT)
    start = math.ldexp(blanks, exponent)
    in_range = abs(start) >= NORMAL and largest < RATIO * least and exponent >= -TOP_EXPONENT
    sound = largest / least * largest <= 2.0**216 and largest <= 2.0**80  # see _is_inexact
    if (in_range and sound) or largest < NORMAL:
        return NARROW, start, math.ldexp(1.0, -exponent)
    return MIXED, 1.0, 1.0


@njit(cache=True, nogil=True)
def _is_inexact(way, notes, lane):
    """Return whether a lane may have lost digits, so that float64 must evaluate it anew.

    A float32 product that has been below the normal numbers on its way errs by less than 2**-149
    an operation, times the ratios that follow; a row that has been there, times a product with
    which it does not exceed M. Neither must matter beside the lane's largest value, or if that is
    0, at all. Where the products are float64 already, the rows must be in float32's range.
    """
    blanks, largest, value = abs(notes[BLANKS, lane]), notes[LARGEST, lane], notes[VALUE, lane]
    if way == NARROW and largest >= NORMAL:
        on_the_way = largest / blanks * largest <= max(value * 2.0**236, 2.0**100)
        in_a_row = largest <= max(value * 2.0**100, 2.0**-10)
        return not (on_the_way and in_a_row)
    if way == MIXED:
        return not (-notes[LOWEST, lane] >= NORMAL and notes[HIGHEST, lane] <= RATIO)
    return False


@njit(cache=True, nogil=True)
def _fill_table(patterns, factors, stripe, table):
    """Fill in the rows of a stripe: ratios of levels and blanks, then products of two rows."""
    levels, row = patterns.levels, 0
    for i in range(patterns.pixel_starts[stripe], patterns.pixel_starts[stripe + 1]):
        pixel = patterns.pixels[i]
        blank = patterns.blank[pixel]
        source = pixel * levels
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
def _multiply(lists, stripe, table, start, unit, values, beside):
    """Multiply the values of a tile by a stripe's rows, and the last stripe's by `unit`.

    `beside` is None, or a mask, the start and the values of the same products in float64, which
    replace the others in the end in the lanes that the mask marks. Returns the largest magnitudes
    after the last stripe.
    """
    last = stripe == len(lists.row_starts) - 1
    largest = absolute(start - start)  # zeros
    for sample in range(lists.row_starts.shape[1] - 1):
        value = start if stripe == 0 else load(values, sample)
        if beside is not None:
            wide_value = beside[1] if stripe == 0 else load(beside[2], sample)
        for i in range(lists.row_starts[stripe, sample], lists.row_starts[stripe, sample + 1]):
            row = load(table, lists.rows[i])
            value = value * row
            if beside is not None:
                wide_value = wide_value * widen(row)
        if last:
            value = value * unit
            if beside is not None:
                value = chosen(beside[0], narrow(wide_value), value)
            largest = larger(absolute(value), largest)
        elif beside is not None:
            store(beside[2], sample, wide_value)
        store(values, sample, value)
    return largest


@njit(cache=True, nogil=True)
def _note_extremes(table, rows, notes):
    """Note the largest and smallest magnitudes of a stripe's rows beside those before."""
    high, negated = narrow(load(notes, HIGHEST)), narrow(load(notes, LOWEST))
    zero = fill(np.float32(0.0))
    for row in range(rows):
        magnitude = absolute(load(table, row))
        high = larger(high, magnitude)
        negated = larger(negated, zero - magnitude)
    store(notes, HIGHEST, widen(high))
    store(notes, LOWEST, widen(negated))


@njit(cache=True, nogil=True)
def _evaluate_narrow(inputs, factors, space, values, ways, notes):
    """Evaluate a tile from float32 tables, with float64 products beside if a lane is MIXED."""
    patterns, lists, table = inputs.patterns, inputs.lists, space.table
    start, unit = narrow(load(notes, START)), narrow(load(notes, UNIT))
    beside = narrow(load(notes, MASK)), load(notes, WIDE_START), space.wide_values
    mixed, largest = (ways == MIXED).any(), start
    for stripe in range(len(lists.row_starts)):
        _fill_table(patterns, factors, stripe, table)
        if mixed:
            rows = patterns.row_starts[stripe + 1] - patterns.row_starts[stripe]
            _note_extremes(table, rows, notes)
            largest = _multiply(lists, stripe, table, start, unit, values, beside)
        else:
            largest = _multiply(lists, stripe, table, start, unit, values, None)
    store(notes, VALUE, widen(largest))


@njit(cache=True, nogil=True)
def _evaluate_wide(inputs, factors, space, values, ways, notes):
    """Evaluate a tile in float64, and keep the values of the lanes that ask for it."""
    for row in range(len(factors)):
        store(space.wide_factors, row, widen(load(factors, row)))
    for lane in range(LANES):
        notes[WIDE_START, lane] = notes[BLANKS, lane] if ways[lane] == WIDE else 1.0
    start, table, found = load(notes, WIDE_START), space.wide_table, space.wide_values
    for stripe in range(len(inputs.lists.row_starts)):
        _fill_table(inputs.patterns, space.wide_factors, stripe, table)
        _multiply(inputs.lists, stripe, table, start, fill(1.0), found, None)
    for sample in range(len(inputs.indices)):
        for lane in range(LANES):
            if ways[lane] == WIDE:
                values[sample, lane] = found[sample, lane]


@njit(cache=True, nogil=True)
def _evaluate_lane(inputs, factors, values):
    """Evaluate one component factor by factor, in float64; return how many values underflow."""
    levels, underflows = inputs.patterns.levels, 0
    factors = factors.astype(np.float64)
    for sample in range(len(inputs.indices)):
        image = inputs.images[inputs.indices[sample]]
        value, zero = 1.0, False
        for pixel in range(len(image)):
            factor = factors[pixel * levels + image[pixel]]
            zero = zero or factor == 0
            value *= factor
        values[sample] = value
        underflows += not zero and abs(value) < NORMAL
    return underflows


@njit(cache=True, nogil=True)
def _evaluate_tile(inputs, factors, space, values, ways, notes):
    """Fill in a tile's values, and how each lane was evaluated."""
    _note_bounds(inputs.patterns, factors, notes)
    for lane in range(LANES):
        way, start, unit = _choose_way(notes[BLANKS, lane], notes[LARGEST, lane])
        ways[lane], notes[START, lane], notes[UNIT, lane] = way, start, unit
        notes[MASK, lane] = way == MIXED
        notes[WIDE_START, lane] = notes[BLANKS, lane] if way == MIXED else 1.0
        notes[HIGHEST, lane], notes[LOWEST, lane] = 0.0, -np.inf
    _evaluate_narrow(inputs, factors, space, values, ways, notes)
    for lane in range(LANES):
        if _is_inexact(ways[lane], notes, lane):
            ways[lane] = WIDE
    if (ways == WIDE).any():
        _evaluate_wide(inputs, factors, space, values, ways, notes)
    for lane in range(LANES):
        if ways[lane] == SINGLY:
            _evaluate_lane(inputs, factors[:, lane], values[:, lane])


@njit(cache=True, nogil=True)
def _of_tile(array, i, rows):
    """Return the rows of the `i`-th tile; `rows` of them per tile."""
    return array[i * rows : (i + 1) * rows]


@njit(cache=True, nogil=True)
def _evaluate_group(inputs, factors, tiling, group, space, outputs):
    """Fill in the values of a group's tiles, and their predictors' sums of components."""
    tiles = tiling.tile_starts[group], tiling.tile_starts[group + 1]
    batch = len(inputs.indices)
    stride = filled_up(batch)
    for i in range(tiles[1] - tiles[0]):
        own = _of_tile(factors, tiles[0] + i, len(space.gradient))
        values = _of_tile(space.values, i, stride)
        _evaluate_tile(inputs, own, space, values, space.ways[i], space.notes[i])
    nothing = fill(np.float32(0.0))
    for sample in range(0, batch, LANES):
        total = nothing
        for i in range(tiles[1] - tiles[0]):
            transpose(space.values, i * stride + sample, space.turned, 0)
            for row in range(LANES):
                lane = (tiles[0] + i) * LANES + row
                owner = tiling.owners[lane]
                total = total + load(space.turned, row)
                if owner != tiling.owners[lane + 1]:
                    if owner >= 0:
                        store(outputs, (owner * stride + sample) // LANES, total)
                    total = nothing


@njit(cache=True, nogil=True)
def predict(inputs, factors, tiling, groups, space, outputs, underflows):
    """Evaluate the predictors of the groups from the first up to the second of `groups`.

    Parameters
    ----------
    inputs, tiling, space
        See `Inputs`, `Tiling` and `Workspace`.
    factors : ndarray
        Shape (tiles * pixels * levels, LANES), float32.
    groups : tuple of int
        The first group and the one after the last.
    outputs : ndarray
        Shape (predictors, filled_up(batch)), float32: the predictions, filled in.
    underflows : ndarray
        Shape (predictors,), int64: how many values of components are not 0 but below the smallest
        normal number, so that their gradients lose digits or vanish. They are added.
    """
    batch = len(inputs.indices)
    for group in range(groups[0], groups[1]):
        _evaluate_group(inputs, factors, tiling, group, space, outputs)
        begin = tiling.tile_starts[group]
        for lane in range(begin * LANES, tiling.tile_starts[group + 1] * LANES):
            owner, tile, column = tiling.owners[lane], lane // LANES, lane % LANES
            values = _of_tile(space.values, tile - begin, filled_up(batch))[:, column]
            if owner >= 0 and space.ways[tile - begin, column] == SINGLY:
                own = _of_tile(factors, tile, len(space.gradient))[:, column]
                underflows[owner] += _evaluate_lane(inputs, own, values)
            elif owner >= 0:
                for sample in range(batch):
                    underflows[owner] += abs(values[sample]) < NORMAL


# ---- gradients and steps ------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _find_slopes(tiling, group, targets, outputs, losses):
    """Find a group's losses, and turn its predictors' outputs into the losses' derivatives."""
    batch = targets.shape[1]
    scale = np.float32(2.0 / batch)
    for lane in range(tiling.tile_starts[group] * LANES, tiling.tile_starts[group + 1] * LANES):
        owner = tiling.owners[lane]
        if owner < 0 or owner == tiling.owners[lane + 1]:
            continue
        loss = 0.0
        for sample in range(batch):
            residual = outputs[owner, sample] - targets[owner, sample]
            loss += np.float64(residual) * np.float64(residual)
            outputs[owner, sample] = residual * scale
        losses[owner] = loss / batch


@njit(cache=True, nogil=True)
def _weigh(tiling, tile, batch, space, values, outputs):
    """Multiply a tile's values by the slopes of their predictors; return the sums."""
    everything, stride = fill(0.0), filled_up(batch)
    for sample in range(0, batch, LANES):
        for row in range(LANES):
            owner = tiling.owners[tile * LANES + row]
            slope = fill(np.float32(0.0))
            if owner >= 0:
                slope = load(outputs, (owner * stride + sample) // LANES)
            store(space.turned, row, slope)
        transpose(space.turned, 0, space.turned, LANES)
        for i in range(min(LANES, batch - sample)):
            value = load(values, sample + i) * load(space.turned, LANES + i)
            store(values, sample + i, value)
            everything = everything + widen(value)
    return everything


@njit(cache=True, nogil=True)
def _differentiate_tile(inputs, factors, space, values, everything):
    """Fill in a tile's gradient, given its weighed values and their sums."""
    patterns, lists, sums = inputs.patterns, inputs.lists, space.wide_table
    levels = patterns.levels
    for stripe in range(len(lists.row_starts)):
        begin = patterns.row_starts[stripe]
        for row in range(patterns.row_starts[stripe + 1] - begin):
            total = fill(0.0)
            for i in range(lists.sample_starts[begin + row], lists.sample_starts[begin + row + 1]):
                total = total + widen(load(values, lists.samples[i]))
            store(sums, row, total)
        merge = patterns.merge_starts[stripe]
        pixels = patterns.pixel_starts[stripe], patterns.pixel_starts[stripe + 1]
        singles = (pixels[1] - pixels[0]) * (levels - 1)
        for i in range(patterns.merge_starts[stripe + 1] - 1, merge - 1, -1):
            total = load(sums, singles + i - merge)
            for part in patterns.parts[i]:
                store(sums, part, load(sums, part) + total)
        row = 0
        for i in range(pixels[0], pixels[1]):
            pixel = patterns.pixels[i]
            blank = patterns.blank[pixel]
            rest, target = everything, pixel * levels
            for level in range(levels):
                if level != blank:
                    total = load(sums, row)
                    rest = rest - total
                    quotient = narrow(total) / _factor(factors, target + level)
                    store(space.gradient, target + level, quotient)
                    row += 1
            if lists.blanks[pixel] == 0:
                rest = fill(0.0)
            quotient = narrow(rest) / _factor(factors, target + blank)
            store(space.gradient, target + blank, quotient)


@njit(cache=True, nogil=True)
def _mend_faint_blanks(inputs, factors, values, gradient):
    """Sum anew, over the samples that are blank, for the blanks that are near 0."""
    patterns, indices = inputs.patterns, inputs.indices
    for pixel in range(len(patterns.blank)):
        blank = patterns.blank[pixel]
        target = pixel * patterns.levels + blank
        for lane in range(LANES):
            factor = np.float64(factors[target, lane])
            if abs(factor) < FAINT:
                total = 0.0
                for sample in range(len(indices)):
                    if inputs.images[indices[sample], pixel] == blank:
                        total += values[sample, lane]
                factor = math.copysign(max(abs(factor), np.float64(LEAST_FACTOR)), factor)
                gradient[target, lane] = total / factor


@njit(cache=True, nogil=True)
def _differentiate_lane(inputs, factors, slopes, gradient):
    """Fill in one component's gradient factor by factor, in float64."""
    levels, factors = inputs.patterns.levels, factors.astype(np.float64)
    sums = np.zeros(len(factors))
    for sample in range(len(inputs.indices)):
        image = inputs.images[inputs.indices[sample]]
        value, zeros, which = np.float64(slopes[sample]), 0, 0
        for pixel in range(len(image)):
            factor = factors[pixel * levels + image[pixel]]
            if factor == 0:
                zeros += 1
                which = pixel
            else:
                value *= factor
        for pixel in range(len(image)):
            if zeros == 0 or (zeros == 1 and pixel == which):  # else no factor has an effect
                sums[pixel * levels + image[pixel]] += value
    for row in range(len(factors)):
        gradient[row] = sums[row] if factors[row] == 0 else sums[row] / factors[row]


@njit(cache=True, nogil=True)
def _take_step(state, begin, gradient, adam):
    """Update a tile whose factors begin at row `begin`, as torch.optim.Adam does."""
    factors, first_moments, second_moments = state
    keep_first, add_first = fill(adam[0]), fill(adam[1])
    keep_second, add_second = fill(adam[2]), fill(adam[3])
    size, root_scale, epsilon = fill(adam[4]), fill(adam[5]), fill(adam[6])
    for row in range(len(gradient)):
        slope, place = load(gradient, row), begin + row
        first = keep_first * load(first_moments, place) + add_first * slope
        second = keep_second * load(second_moments, place) + add_second * slope * slope
        store(first_moments, place, first)
        store(second_moments, place, second)
        step = size * first / (square_root(second) * root_scale + epsilon)
        store(factors, place, load(factors, place) - step)


@njit(cache=True, nogil=True)
def descend(inputs, state, tiling, groups, space, outputs, targets, adam, losses):
    """Take one of Adam's steps on the predictors' mean squared losses.

    Parameters
    ----------
    inputs, tiling, groups, space
        As in `predict`.
    state : tuple of ndarray
        The factors and Adam's two moments, shaped as the factors are in `predict`.
    outputs : ndarray
        As in `predict`; holds the losses' derivatives by the predictions in the end.
    targets : ndarray
        Shape (predictors, batch), float32.
    adam : tuple of float
        See `adam_constants`.
    losses : ndarray
        Shape (predictors,), float64: the losses before the step, filled in.
    """
    batch, factors = len(inputs.indices), state[0]
    for group in range(groups[0], groups[1]):
        _evaluate_group(inputs, factors, tiling, group, space, outputs)
        _find_slopes(tiling, group, targets, outputs, losses)
        begin, entries = tiling.tile_starts[group], len(space.gradient)
        for tile in range(begin, tiling.tile_starts[group + 1]):
            own = _of_tile(factors, tile, entries)
            values = _of_tile(space.values, tile - begin, filled_up(batch))
            everything = _weigh(tiling, tile, batch, space, values, outputs)
            _differentiate_tile(inputs, own, space, values, everything)
            if (space.notes[tile - begin, FAINTEST] > -FAINT).any():
                _mend_faint_blanks(inputs, own, values, space.gradient)
            for lane in range(LANES):
                owner = tiling.owners[tile * LANES + lane]
                if owner >= 0 and space.ways[tile - begin, lane] == SINGLY:
                    gradient = space.gradient[:, lane]
                    _differentiate_lane(inputs, own[:, lane], outputs[owner], gradient)
            _take_step(state, tile * entries, space.gradient, adam)


@njit(cache=True, nogil=True)
def total_errors(predictions, targets, unit, most, totals):
    """Add each predictor's squared errors over `unit`, each at most `most`, to its total."""
    for predictor in range(len(targets)):
        total = totals[predictor]
        for sample in range(targets.shape[1]):
            residual = np.float64(predictions[predictor, sample]) - targets[predictor, sample]
            error = residual * residual / unit
            total += most if error > most else error
        totals[predictor] = total


def shares(tiling: Tiling, threads: int) -> list[tuple[int, int]]:
    """Divide the groups into one run for each thread; nothing computed depends on it."""
    groups = len(tiling.tile_starts) - 1
    threads = max(1, min(threads, groups))
    return list(pairwise(groups * i // threads for i in range(threads + 1)))
