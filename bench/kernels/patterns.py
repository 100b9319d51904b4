"""Images as short lists of frequent patterns, so that a product over pixels becomes a short one.

Each pixel's most frequent level is its *blank* and needs no mention. Neighbouring pixels are merged
into blocks, and blocks into larger ones, where enough training images hold the same pattern; what
is not frequent keeps its parts. A pattern is a *row* of a table that holds one number for each
component: the row of a single pixel's level comes from the factors, the row of a merged pattern is
the product of the rows of its two parts. A sample's value is the product of a few rows in place of
one factor a pixel. Seen as matrices this is a product with a matrix that a grammar compresses
(Ferragina et al., VLDB 2022): the more regular the images, the cheaper.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

SHAPES = ((1, 1), (1, 2), (2, 2), (1, 7), (2, 4), (4, 4))  # of blocks, to choose from by cost
READ = 10_000  # so many training images tell how frequent patterns are
FREQUENT = 16  # a merged pattern pays when a batch holds it so often
ROW_COST = 8.0  # building and differentiating a row, in units of one look-up
STRIPE_COST = 1.0  # reading and writing a sample's product once more, in the same unit
STRIPE_ROWS = 3200  # whose tables stay in a processor's cache beside a batch's values
MOST_PAIRS = 2**16  # pairs of patterns that a block distinguishes while it is merged
MOST_ROWS = MOST_SAMPLES = 2**16 - 1  # lists hold 16-bit numbers
LEAF, MERGE, END = 0, 1, 2
NOTHING = np.empty(0, dtype=np.int32)


class Patterns(NamedTuple):
    """What the kernels read of a dictionary; see `Dictionary` for the meaning of stripes and rows.

    Attributes
    ----------
    levels : int
        How many values a pixel takes.
    blank : ndarray
        Shape (pixels,), uint8: each pixel's most frequent level.
    pixels : ndarray
        Shape (pixels,), int32: the pixels of one stripe after another, ascending in each.
    pixel_starts, merge_starts, row_starts : ndarray
        Shape (stripes + 1,), int32: where the pixels, merged rows and rows of each stripe begin.
    parts : ndarray
        Shape (merged rows, 2), uint16: the two rows, within its stripe, that each is made of.
    """

    levels: int
    blank: NDArray[np.uint8]
    pixels: NDArray[np.int32]
    pixel_starts: NDArray[np.int32]
    merge_starts: NDArray[np.int32]
    row_starts: NDArray[np.int32]
    parts: NDArray[np.uint16]


class Program(NamedTuple):
    """How an image is read: instructions of a machine that keeps a stack of blocks.

    Attributes
    ----------
    kinds : ndarray
        Shape (instructions,), uint8: push a pixel, merge the two blocks on top, or end a block.
    arguments : ndarray
        Shape (instructions,), int32: the pixel, the place of the merge's tables, or nothing.
    widths : ndarray
        Shape (instructions,), int32: of a merge, how many codes its second block has.
    codes, rows : ndarray
        Flat tables, int32: a merge's code for a pair of codes, and the row it adds, if any, or -1.
        Code 0 is blank, the last code of a block says that its parts have been listed already.
    last : ndarray
        Shape (instructions,), int32: the last code of the block that an instruction leaves.
    first_rows : ndarray
        Shape (pixels,), int32: the row of a pixel's first level that is not blank.
    stripes : ndarray
        Shape (instructions,), int32: the stripe of the block that the instruction is of.
    """

    kinds: NDArray[np.uint8]
    arguments: NDArray[np.int32]
    widths: NDArray[np.int32]
    codes: NDArray[np.int32]
    rows: NDArray[np.int32]
    last: NDArray[np.int32]
    first_rows: NDArray[np.int32]
    stripes: NDArray[np.int32]


class TokenLists(NamedTuple):
    """The rows that each image selects.

    Attributes
    ----------
    rows : ndarray
        Uint16, numbered within a stripe: the rows of one (sample, stripe) pair after another.
    starts : ndarray
        Shape (samples * stripes + 1,), int64: where those of each pair begin.
    """

    rows: NDArray[np.uint16]
    starts: NDArray[np.int64]


class BatchLists(NamedTuple):
    """The rows that each sample of a batch selects, and the samples that select each row.

    Attributes
    ----------
    rows : ndarray
        Uint16: as in `TokenLists`, but of one (stripe, sample) pair after another.
    row_starts : ndarray
        Shape (stripes, batch + 1), int32: where those of each pair begin.
    samples : ndarray
        Uint16: the samples of one row after another.
    sample_starts : ndarray
        Shape (rows + 1,), int32: where those of each row begin, rows of all stripes in order.
    blanks : ndarray
        Shape (pixels,), int32: how many of the samples are blank at each pixel.
    """

    rows: NDArray[np.uint16]
    row_starts: NDArray[np.int32]
    samples: NDArray[np.uint16]
    sample_starts: NDArray[np.int32]
    blanks: NDArray[np.int32]


@dataclass
class Block:
    """A rectangle of pixels, and the patterns of its two halves that are merged.

    Parameters
    ----------
    pixels : list of int
        Its pixels.
    halves : tuple of Block
        Two, or none for a single pixel.
    codes : ndarray
        Shape (samples,), int32: each image's code; see `Program`. Dropped once it is merged.
    count : int
        How many codes stand for patterns; the next one says "listed already".
    pairs : ndarray or None
        Shape (merged patterns, 2), int64: the codes in the halves of each.
    look_ups : int
        How many rows the images have listed up to here.
    """

    pixels: list[int]
    halves: tuple["Block", ...]
    codes: NDArray[np.int32]
    count: int
    pairs: NDArray[np.int64]
    look_ups: int

    def merged(self) -> int:
        """Return how many merged patterns there are in it and in its parts."""
        return len(self.pairs) + sum(half.merged() for half in self.halves)

    def table(self) -> NDArray[np.int32]:
        """Return the code of each pair of the halves' codes."""
        first, second = self.halves
        table = np.full((first.count + 2, second.count + 2), self.count + 1, dtype=np.int32)
        table[: first.count + 1, 0] = np.arange(first.count + 1)
        table[0, 1 : second.count + 1] = np.arange(second.count) + first.count + 1
        table[self.pairs[:, 0], self.pairs[:, 1]] = (
            np.arange(len(self.pairs)) + first.count + second.count + 1
        )
        return table


class Dictionary:
    """Frequent patterns of training images.

    Rows are numbered within *stripes* of neighbouring blocks, whose tables fit into a cache: first
    the levels of single pixels that are not blank, then the merged patterns, each after its parts.
    Depends on the images and the batch size alone.

    Parameters
    ----------
    images : ndarray
        Shape (samples, pixels), uint8: training images, values from 0 to levels - 1.
    levels : int
        How many values a pixel takes.
    batch_size : int
        For how many samples the rows of a table are used together.
    shapes : sequence of (int, int)
        Heights and widths of blocks, from which the cheapest is chosen.
    stripe_rows : int
        How many rows a stripe has about.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        levels: int,
        batch_size: int,
        shapes: Sequence[tuple[int, int]] = SHAPES,
        stripe_rows: int = STRIPE_ROWS,
    ) -> None:
        self.levels = levels
        self.order = images.shape[1]
        self.blank = most_frequent(images, levels)
        some = images[:: math.ceil(len(images) / READ)]
        codes = without_blank(some, self.blank)
        least = max(2, math.ceil(FREQUENT * len(some) / batch_size))
        candidates = [_blocks(codes, levels, shape, least) for shape in shapes]

        def cost(blocks: Sequence[Block]) -> float:
            look_ups = sum(block.look_ups for block in blocks) / len(some)
            rows = self.order * (levels - 1) + sum(block.merged() for block in blocks)
            stripes = math.ceil(rows / stripe_rows)
            return batch_size * (look_ups + STRIPE_COST * stripes) + ROW_COST * rows

        blocks = min((found for found in candidates if found), key=cost)
        self.look_ups = sum(block.look_ups for block in blocks) / len(some)
        self._number(_stripes(blocks, levels, stripe_rows))

    def _number(self, stripes: Sequence[Sequence[Block]]) -> None:
        """Give the rows their numbers, and write the program that finds them."""
        writer = _Writer(self.order, self.levels)
        for stripe in stripes:
            writer.stripe(stripe)
        self.patterns = Patterns(self.levels, self.blank, *writer.patterns())
        self.program = writer.program()

    @property
    def rows(self) -> int:
        """How many rows there are in all stripes."""
        return int(self.patterns.row_starts[-1])

    @cached_property
    def most_rows(self) -> int:
        """How many rows the largest stripe has."""
        return int(np.diff(self.patterns.row_starts).max())

    def encode(self, images: NDArray[np.uint8]) -> TokenLists:
        """Return the rows that images of shape (samples, pixels), uint8, select."""
        stripes = len(self.patterns.row_starts) - 1
        starts = np.zeros(len(images) * stripes + 1, dtype=np.int64)
        nothing = np.empty(0, dtype=np.uint16)
        _read(self.program, self.blank, images, stripes, starts, nothing)
        np.cumsum(starts, out=starts)
        rows = np.empty(starts[-1], dtype=np.uint16)
        _read(self.program, self.blank, images, stripes, starts, rows)
        return TokenLists(rows, starts)

    def lists(self, tokens: TokenLists, indices: NDArray[np.int64]) -> BatchLists:
        """Return the lists of a batch, for the samples at `indices`, int64."""
        patterns = self.patterns
        stripes, batch = len(patterns.row_starts) - 1, len(indices)
        row_starts = np.zeros((stripes, batch + 1), dtype=np.int32)
        total = _gather_starts(tokens.starts, indices, row_starts)
        rows = np.empty(total, dtype=np.uint16)
        samples = np.empty(total, dtype=np.uint16)
        sample_starts = np.zeros(self.rows + 1, dtype=np.int32)
        blanks = np.empty(self.order, dtype=np.int32)
        _gather(tokens.rows, tokens.starts, indices, row_starts, rows)
        _transpose(patterns, rows, row_starts, samples, sample_starts, blanks)
        return BatchLists(rows, row_starts, samples, sample_starts, blanks)


def most_frequent(images: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    """Return each pixel's most frequent level, the lowest of several, uint8."""
    counts = np.stack([(images == level).sum(0) for level in range(levels)])
    return counts.argmax(0).astype(np.uint8)


def without_blank(images: NDArray[np.uint8], blank: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return each pixel's levels numbered anew, uint8: the blank as 0, the others in order."""
    return np.where(images == blank, 0, images + (images < blank)).astype(np.uint8)


def _grid(order: int) -> tuple[int, int]:
    """Return the height and width of images: square if they can be, else in one line."""
    side = math.isqrt(order)
    return (side, side) if side**2 == order else (1, order)


def _blocks(
    codes: NDArray[np.uint8], levels: int, shape: tuple[int, int], least: int
) -> list[Block] | None:
    """Return the blocks of a grid, or None if some would have too many patterns.

    Parameters
    ----------
    codes : ndarray
        Shape (samples, pixels), uint8: images as `without_blank` numbers them.
    shape : (int, int)
        Height and width of a block; those at the borders may be smaller.
    least : int
        How often a pattern must occur to be merged.
    """
    height, width = _grid(codes.shape[1])
    columns = np.ascontiguousarray(codes.T).astype(np.int32)

    def block(top: int, left: int, bottom: int, right: int) -> Block | None:
        if (bottom - top) * (right - left) == 1:
            pixel = top * width + left
            look_ups = np.count_nonzero(columns[pixel])
            none = np.empty((0, 2), dtype=np.int64)
            return Block([pixel], (), columns[pixel], levels - 1, none, look_ups)
        if bottom - top >= right - left:
            middle = (top + bottom + 1) // 2
            halves = block(top, left, middle, right), block(middle, left, bottom, right)
        else:
            middle = (left + right + 1) // 2
            halves = block(top, left, bottom, middle), block(top, middle, bottom, right)
        return _merge(*halves, least) if halves[0] and halves[1] else None

    found = []
    for top in range(0, height, shape[0]):
        for left in range(0, width, shape[1]):
            corner = min(top + shape[0], height), min(left + shape[1], width)
            found.append(block(top, left, *corner))
            if found[-1] is None:
                return None
    return found


def _merge(first: Block, second: Block, least: int) -> Block | None:
    """Return two blocks as one; None if they have too many pairs of patterns."""
    width = second.count + 2
    size = (first.count + 2) * width
    if size > MOST_PAIRS:
        return None
    keys = first.codes * width + second.codes
    counts = np.bincount(keys, minlength=size).reshape(-1, width)
    pairs = np.argwhere(counts[1:-1, 1:-1] >= least) + 1
    count = first.count + second.count + len(pairs)
    saved = int(counts[pairs[:, 0], pairs[:, 1]].sum())
    look_ups = first.look_ups + second.look_ups - saved
    merged = Block(first.pixels + second.pixels, (first, second), keys, count, pairs, look_ups)
    merged.codes = merged.table().ravel()[keys]
    first.codes = second.codes = NOTHING
    return merged


def _stripes(blocks: Sequence[Block], levels: int, stripe_rows: int) -> list[list[Block]]:
    """Divide blocks into runs of about equally many rows."""
    sizes = [len(block.pixels) * (levels - 1) + block.merged() for block in blocks]
    count = math.ceil(sum(sizes) / stripe_rows)
    ends = np.cumsum(sizes)
    places = np.minimum((ends - 1) * count // ends[-1], count - 1)
    stripes = [
        [b for b, place in zip(blocks, places, strict=True) if place == i] for i in range(count)
    ]
    return [stripe for stripe in stripes if stripe]


class _Writer:
    """Collects what `Patterns` and `Program` hold, stripe by stripe."""

    def __init__(self, order: int, levels: int) -> None:
        self.levels = levels
        self.first_rows = np.zeros(order, dtype=np.int32)
        self.pixels: list[int] = []
        self.parts: list[tuple[int, int]] = []
        self.starts: list[tuple[int, int, int]] = [(0, 0, 0)]
        self.instructions: list[tuple[int, int, int, int, int]] = []
        self.codes: list[NDArray[np.int32]] = []
        self.rows: list[NDArray[np.int32]] = []
        self.size = 0

    def stripe(self, blocks: Sequence[Block]) -> None:
        """Add a stripe."""
        pixels = sorted(pixel for block in blocks for pixel in block.pixels)
        self.first_rows[pixels] = np.arange(len(pixels)) * (self.levels - 1)
        self.pixels += pixels
        self.next_row = len(pixels) * (self.levels - 1)
        for block in blocks:
            self._block(block)
            self._instruct(END, 0, 0, block.count + 1)
        if self.next_row > MOST_ROWS:
            raise ValueError(f"a stripe of {self.next_row} rows; a list holds {MOST_ROWS}")
        rows = self.starts[-1][2] + self.next_row
        self.starts.append((len(self.pixels), len(self.parts), rows))

    def _instruct(self, kind: int, argument: int, width: int, last: int) -> None:
        self.instructions.append((kind, argument, width, last, len(self.starts) - 1))

    def _block(self, block: Block) -> list[int]:
        """Add a block's instructions; return the row of each of its codes, from 1 on."""
        if not block.halves:
            (pixel,) = block.pixels
            self._instruct(LEAF, pixel, 0, block.count + 1)
            return [int(self.first_rows[pixel]) + code for code in range(self.levels - 1)]
        first, second = (self._block(half) for half in block.halves)
        table = block.table()
        rows = np.full_like(table, -1)
        new = list(range(self.next_row, self.next_row + len(block.pairs)))
        rows[block.pairs[:, 0], block.pairs[:, 1]] = new
        self.parts += [(first[a - 1], second[b - 1]) for a, b in block.pairs.tolist()]
        self.next_row += len(new)
        self._instruct(MERGE, self.size, table.shape[1], block.count + 1)
        self.codes.append(table.ravel())
        self.rows.append(rows.ravel())
        self.size += table.size
        return first + second + new

    def patterns(self) -> Iterator[NDArray]:
        """Yield the arrays of `Patterns` after `blank`."""
        yield np.array(self.pixels, dtype=np.int32)
        yield from np.ascontiguousarray(np.array(self.starts, dtype=np.int32).T)
        yield np.array(self.parts, dtype=np.uint16).reshape(-1, 2)

    def program(self) -> Program:
        """Return the program."""
        kinds, arguments, widths, last, stripes = np.array(self.instructions, dtype=np.int32).T
        codes, rows = (
            np.concatenate(tables) if tables else np.empty(0, dtype=np.int32)
            for tables in (self.codes, self.rows)
        )
        columns = [np.ascontiguousarray(one) for one in (arguments, widths, last, stripes)]
        arguments, widths, last, stripes = columns
        return Program(
            kinds.astype(np.uint8), arguments, widths, codes, rows, last, self.first_rows, stripes
        )


@njit(cache=True, nogil=True)
def _read(program, blank, images, stripes, starts, rows):
    """Count the rows of each (sample, stripe) pair, or list them once there is room for them.

    Counts go to the entry after the pair's own, so that their running sum gives the starts.
    """
    counting = rows.size == 0
    codes = np.empty(64, dtype=np.int32)
    tops = np.empty(64, dtype=np.int32)  # the row of the pattern that a block on the stack is
    lasts = np.empty(64, dtype=np.int32)
    fill = np.zeros(stripes, dtype=np.int64)
    for sample in range(len(images)):
        for stripe in range(stripes):
            fill[stripe] = 0 if counting else starts[sample * stripes + stripe]
        depth = 0
        for i in range(len(program.kinds)):
            stripe = program.stripes[i]  # of the block
            kind, argument = program.kinds[i], program.arguments[i]
            if kind == LEAF:
                level = np.int32(images[sample, argument])
                no = np.int32(blank[argument])
                code = 0 if level == no else (level + 1 if level < no else level)
                codes[depth], lasts[depth] = code, program.last[i]
                tops[depth] = program.first_rows[argument] + code - 1
                depth += 1
            elif kind == MERGE:
                a, b = depth - 2, depth - 1
                place = argument + codes[a] * program.widths[i] + codes[b]
                code = program.codes[place]
                if code == program.last[i]:
                    for one in (a, b):
                        if 0 < codes[one] < lasts[one]:
                            if not counting:
                                rows[fill[stripe]] = tops[one]
                            fill[stripe] += 1
                elif program.rows[place] >= 0:
                    tops[a] = program.rows[place]
                elif codes[a] == 0:
                    tops[a] = tops[b]
                codes[a], lasts[a] = code, program.last[i]
                depth -= 1
            else:
                depth -= 1
                if 0 < codes[depth] < lasts[depth]:
                    if not counting:
                        rows[fill[stripe]] = tops[depth]
                    fill[stripe] += 1
        if counting:
            starts[sample * stripes + 1 : (sample + 1) * stripes + 1] = fill


@njit(cache=True, nogil=True)
def _gather_starts(starts, indices, row_starts):
    """Fill in where the rows of each (stripe, sample) pair begin; return how many there are."""
    stripes, place = len(row_starts), 0
    for stripe in range(stripes):
        row_starts[stripe, 0] = place
        for i in range(len(indices)):
            pair = indices[i] * stripes + stripe
            place += starts[pair + 1] - starts[pair]
            row_starts[stripe, i + 1] = place
    return place


@njit(cache=True, nogil=True)
def _gather(rows, starts, indices, row_starts, found):
    """Copy the rows of the samples of a batch."""
    stripes = len(row_starts)
    for stripe in range(stripes):
        for i in range(len(indices)):
            source, place = starts[indices[i] * stripes + stripe], row_starts[stripe, i]
            for j in range(row_starts[stripe, i + 1] - place):
                found[place + j] = rows[source + j]


@njit(cache=True, nogil=True)
def _transpose(patterns, rows, row_starts, samples, sample_starts, blanks):
    """Sort (sample, row) pairs by row, and count the samples that are blank at each pixel."""
    stripes, batch = len(row_starts), row_starts.shape[1] - 1
    upper = patterns.levels - 1
    for stripe in range(stripes):
        first = patterns.row_starts[stripe]
        count = patterns.row_starts[stripe + 1] - first
        counts = np.zeros(count, dtype=np.int32)
        for i in range(row_starts[stripe, 0], row_starts[stripe, batch]):
            counts[rows[i]] += 1
        places = np.empty(count, dtype=np.int32)
        place = row_starts[stripe, 0]
        for row in range(count):
            places[row] = place
            sample_starts[first + row] = place
            place += counts[row]
        for sample in range(batch):
            for i in range(row_starts[stripe, sample], row_starts[stripe, sample + 1]):
                samples[places[rows[i]]] = sample
                places[rows[i]] += 1
        pixel, last_pixel = patterns.pixel_starts[stripe], patterns.pixel_starts[stripe + 1]
        singles = (last_pixel - pixel) * upper
        merge = patterns.merge_starts[stripe]
        for row in range(count - 1, singles - 1, -1):
            for part in patterns.parts[merge + row - singles]:
                counts[part] += counts[row]
        for i in range(last_pixel - pixel):
            taken = counts[i * upper : (i + 1) * upper].sum()
            blanks[patterns.pixels[pixel + i]] = batch - taken
    sample_starts[-1] = len(samples)
