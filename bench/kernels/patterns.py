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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby, product
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

SHAPES = ((1, 1), (1, 2), (2, 2), (1, 7), (2, 4), (4, 4))  # of blocks, to choose from by cost
READ = 10_000  # training images that tell how frequent patterns are
FREQUENT = 16  # a merged pattern pays when a batch holds it so often
ROW_COST = 8.0  # building and differentiating a row, in units of one look-up
STRIPE_COST = 1.0  # reading and writing a sample's product once more, in the same unit
STRIPE_ROWS = 3200  # whose tables stay in a processor's cache beside a batch's values
MOST_PAIRS = 2**16  # pairs of patterns that a block distinguishes while it is merged
MOST_ROWS = MOST_SAMPLES = 2**16 - 1  # lists hold 16-bit numbers
NOTHING = MOST_ROWS  # in place of a row
CHUNK = 4096  # images that are read together


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

    A *code* says what an image holds there: 0 that all is blank, the next `count` codes which
    pattern it is (those of the first half, of the second half, then the merged ones), and the last
    one that its halves are listed on their own.

    Parameters
    ----------
    pixels : list of int
        Its pixels.
    count : int
        How many codes stand for patterns.
    look_ups : int
        How many rows the images list up to here.
    halves : tuple of Block
        Two, or none for a single pixel.
    pairs : ndarray
        Shape (merged patterns, 2), int64: the codes in the halves of each.
    table : ndarray
        Flat, int32: the code of each pair of the halves' codes, those of the second varying faster.

    Attributes
    ----------
    rows : ndarray
        Shape (count + 2,), uint16: each code's row, or NOTHING. Known once `number` was called.
    """

    pixels: list[int]
    count: int
    look_ups: int
    halves: tuple["Block", ...] = ()
    pairs: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 2), dtype=np.int64))
    table: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    rows: NDArray[np.uint16] = field(init=False)

    def merged(self) -> int:
        """Return how many merged patterns there are in it and in its parts."""
        return len(self.pairs) + sum(half.merged() for half in self.halves)

    def number(self, first_rows: Mapping[int, int], singles: int, parts: list[list[int]]) -> None:
        """Give the patterns their rows.

        Parameters
        ----------
        first_rows : mapping of int to int
            The row of each pixel's first level that is not blank.
        singles : int
            How many rows of single pixels there are in the stripe.
        parts : list of list of int
            The two rows of each merged row of the stripe; those of the block are added.
        """
        for half in self.halves:
            half.number(first_rows, singles, parts)
        if self.halves:
            first, second = (half.rows for half in self.halves)
            merged = singles + len(parts) + np.arange(len(self.pairs))
            own = [first[1:-1], second[1:-1], merged]
            parts += np.stack([first[self.pairs[:, 0]], second[self.pairs[:, 1]]], 1).tolist()
        else:
            own = [first_rows[self.pixels[0]] + np.arange(self.count)]
        self.rows = np.concatenate([[NOTHING], *own, [NOTHING]]).astype(np.uint16)

    def read(self, columns: NDArray[np.uint8], listed: list[NDArray]) -> NDArray:
        """Return the codes of images, and add what its halves list, image by image, to `listed`.

        Parameters
        ----------
        columns : ndarray
            Shape (pixels, samples), uint8: images as `without_blank` numbers them.
        listed : list of ndarray
            Shapes (samples,), uint16: rows, or NOTHING.
        """
        if not self.halves:
            return columns[self.pixels[0]]
        first, second = self.halves
        codes = first.read(columns, listed), second.read(columns, listed)
        code = self.table[codes[0] * np.int32(second.count + 2) + codes[1]]
        apart = code == self.count + 1
        listed += [half.rows[own * apart] for half, own in zip(self.halves, codes, strict=True)]
        return code


CodedBlock = tuple[Block, NDArray[np.int32]]  # with the code of each image


class Dictionary:
    """Frequent patterns of training images.

    Rows are numbered within *stripes* of neighboring blocks, whose tables fit into a cache: first
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
        self.stripes = _stripes(blocks, levels, stripe_rows)
        self.patterns = self._number()

    def _number(self) -> Patterns:
        """Give the rows their numbers."""
        pixels, parts, starts = [], [], [(0, 0, 0)]
        for stripe in self.stripes:
            own = sorted(pixel for block in stripe for pixel in block.pixels)
            first_rows = {pixel: i * (self.levels - 1) for i, pixel in enumerate(own)}
            singles, merged = len(own) * (self.levels - 1), []
            for block in stripe:
                block.number(first_rows, singles, merged)
            rows = singles + len(merged)
            if rows > MOST_ROWS:
                raise ValueError(f"a stripe of {rows} rows; a list holds {MOST_ROWS}")
            pixels += own
            parts += merged
            starts.append((len(pixels), len(parts), starts[-1][2] + rows))
        return Patterns(
            self.levels,
            self.blank,
            np.array(pixels, dtype=np.int32),
            *np.ascontiguousarray(np.array(starts, dtype=np.int32).T),
            np.array(parts, dtype=np.uint16).reshape(-1, 2),
        )

    def encode(self, images: NDArray[np.uint8]) -> TokenLists:
        """Return the rows that images of shape (samples, pixels), uint8, select."""
        rows, counts = [], [np.zeros(1, dtype=np.int64)]
        for begin in range(0, len(images), CHUNK):
            codes = without_blank(images[begin : begin + CHUNK], self.blank)
            columns, listed, starts = np.ascontiguousarray(codes.T), [], []
            for stripe in self.stripes:
                starts.append(len(listed))
                for block in stripe:
                    code = block.read(columns, listed)
                    listed.append(block.rows[code])
            found = np.stack(listed, 1)
            some = found != NOTHING
            rows.append(found[some])
            counts.append(np.add.reduceat(some, starts, axis=1, dtype=np.int64).ravel())
        return TokenLists(np.concatenate(rows), np.cumsum(np.concatenate(counts)))

    def lists(self, tokens: TokenLists, indices: NDArray[np.int64]) -> BatchLists:
        """Return the lists of a batch, for the samples at `indices`, int64."""
        return BatchLists(*_gather(*tokens, indices, self.patterns))


def most_frequent(images: NDArray[np.uint8], levels: int) -> NDArray[np.uint8]:
    """Return each pixel's most frequent level, the lowest of several, uint8."""
    return np.array([np.bincount(pixel).argmax() for pixel in images.T], dtype=np.uint8)


def without_blank(images: NDArray[np.uint8], blank: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return each pixel's levels numbered anew, uint8: the blank as 0, the others in order."""
    return np.where(images == blank, 0, images + (images < blank)).astype(np.uint8)


def _blocks(
    codes: NDArray[np.uint8], levels: int, shape: tuple[int, int], least: int
) -> list[Block] | None:
    """Return the blocks of images, or None if some would have too many patterns.

    The images are square if they can be, else in one line.

    Parameters
    ----------
    codes : ndarray
        Shape (samples, pixels), uint8: images as `without_blank` numbers them.
    shape : (int, int)
        Height and width of a block; those at the borders may be smaller.
    least : int
        How often a pattern must occur to be merged.
    """
    side, order = math.isqrt(codes.shape[1]), codes.shape[1]
    height, width = (side, side) if side**2 == order else (1, order)
    columns = np.ascontiguousarray(codes.T).astype(np.int32)
    grid = np.arange(order).reshape(height, width)

    def block(pixels: NDArray[np.int64]) -> CodedBlock | None:
        """Return a block and the images' codes."""
        if pixels.size == 1:
            own = columns[pixels.item()]
            return Block([pixels.item()], levels - 1, int(np.count_nonzero(own))), own
        axis = int(pixels.shape[1] > pixels.shape[0])
        middle = (pixels.shape[axis] + 1) // 2
        first, second = map(block, np.split(pixels, [middle], axis))
        return _merge(first, second, least) if first and second else None

    corners = product(range(0, height, shape[0]), range(0, width, shape[1]))
    found = [block(grid[y : y + shape[0], x : x + shape[1]]) for y, x in corners]
    return [one[0] for one in found if one] if all(found) else None


def _merge(one: CodedBlock, other: CodedBlock, least: int) -> CodedBlock | None:
    """Return two blocks as one with the images' codes; None for too many pairs of codes."""
    (first, first_codes), (second, second_codes) = one, other
    shape = first.count + 2, second.count + 2
    if math.prod(shape) > MOST_PAIRS:
        return None
    keys = first_codes * shape[1] + second_codes
    counts = np.bincount(keys, minlength=math.prod(shape)).reshape(shape)
    pairs = np.argwhere(counts[1:-1, 1:-1] >= least) + 1
    count = first.count + second.count + len(pairs)
    table = np.full(shape, count + 1, dtype=np.int32)
    table[:-1, 0] = np.arange(first.count + 1)
    table[0, 1:-1] = np.arange(second.count) + first.count + 1
    places = tuple(pairs.T)
    table[places] = np.arange(len(pairs)) + first.count + second.count + 1
    look_ups = first.look_ups + second.look_ups - int(counts[places].sum())
    pixels, table = first.pixels + second.pixels, table.ravel()
    return Block(pixels, count, look_ups, (first, second), pairs, table), table[keys]


def _stripes(blocks: Sequence[Block], levels: int, stripe_rows: int) -> list[list[Block]]:
    """Divide blocks into runs of about equally many rows."""
    sizes = [len(block.pixels) * (levels - 1) + block.merged() for block in blocks]
    count = math.ceil(sum(sizes) / stripe_rows)
    ends = np.cumsum(sizes)
    places = np.minimum((ends - 1) * count // ends[-1], count - 1)
    stripes = groupby(zip(places, blocks, strict=True), lambda pair: pair[0])
    return [[block for _, block in stripe] for _, stripe in stripes]


@njit(cache=True, nogil=True)
def _gather(rows, starts, indices, patterns):
    """Return the arrays of `BatchLists`, given those of `TokenLists`."""
    stripes, batch = len(patterns.row_starts) - 1, len(indices)
    row_starts = np.empty((stripes, batch + 1), dtype=np.int32)
    end = 0
    for stripe in range(stripes):
        row_starts[stripe, 0] = end
        for i in range(batch):
            pair = indices[i] * stripes + stripe
            end += starts[pair + 1] - starts[pair]
            row_starts[stripe, i + 1] = end
    found, samples = np.empty(end, dtype=np.uint16), np.empty(end, dtype=np.uint16)
    sample_starts = np.full(patterns.row_starts[-1] + 1, end, dtype=np.int32)
    blanks = np.empty(len(patterns.blank), dtype=np.int32)
    for stripe in range(stripes):
        first, last = patterns.row_starts[stripe], patterns.row_starts[stripe + 1]
        counts = np.zeros(last - first, dtype=np.int32)
        for i in range(batch):
            source, place = starts[indices[i] * stripes + stripe], row_starts[stripe, i]
            for j in range(row_starts[stripe, i + 1] - place):
                row = rows[source + j]
                found[place + j] = row
                counts[row] += 1
        places = row_starts[stripe, 0] + np.cumsum(counts) - counts
        sample_starts[first:last] = places
        for i in range(batch):
            for j in range(row_starts[stripe, i], row_starts[stripe, i + 1]):
                samples[places[found[j]]] = i
                places[found[j]] += 1
        # A merged row's samples hold its parts, too.
        pixels = patterns.pixels[patterns.pixel_starts[stripe] : patterns.pixel_starts[stripe + 1]]
        singles = len(pixels) * (patterns.levels - 1)
        for row in range(len(counts) - 1, singles - 1, -1):
            for part in patterns.parts[patterns.merge_starts[stripe] + row - singles]:
                counts[part] += counts[row]
        blanks[pixels] = batch - counts[:singles].reshape(len(pixels), -1).sum(1)
    return found, row_starts, samples, sample_starts, blanks
