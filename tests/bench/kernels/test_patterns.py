"""Dictionaries of patterns say what the images hold, and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.kernels.patterns import SHAPES, Dictionary, most_frequent


def images_of(samples, order, levels, share=0.3, seed=0):
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, levels, (samples, order), dtype=np.uint8)
    return np.where(draw.random((samples, order)) < share, pixels, 0).astype(np.uint8)


def spelled(dictionary, lists, sample):
    """Return an image from its list of rows."""
    patterns = dictionary.patterns
    image = patterns.blank.copy()
    for stripe in range(len(patterns.row_starts) - 1):
        first, last = patterns.pixel_starts[stripe : stripe + 2]
        pixels = patterns.pixels[first:last]
        singles = len(pixels) * (patterns.levels - 1)

        def write(row, pixels=pixels, singles=singles, stripe=stripe):
            if row >= singles:
                for part in patterns.parts[patterns.merge_starts[stripe] + row - singles]:
                    write(int(part))
                return
            pixel, code = pixels[row // (patterns.levels - 1)], row % (patterns.levels - 1)
            assert image[pixel] == patterns.blank[pixel]  # nothing is said twice
            image[pixel] = code + (code >= patterns.blank[pixel])

        for row in lists.rows[slice(*lists.row_starts[stripe, sample : sample + 2])]:
            write(int(row))
    return image


@given(
    order=st.sampled_from([1, 5, 16, 36, 64]),
    levels=st.sampled_from([2, 3, 7, 256]),
    stripe_rows=st.sampled_from([3, 50, 5000]),
    shape=st.sampled_from([None, *SHAPES]),
    seed=st.integers(0, 1000),
)
def test_lists_spell_the_images(order, levels, stripe_rows, shape, seed):
    images = images_of(60, order, levels, seed=seed)
    shapes = ((1, 1), shape) if shape else SHAPES
    dictionary = Dictionary(images, levels, 20, shapes[-1:] if levels < 8 else shapes, stripe_rows)
    others = images_of(30, order, levels, share=1.0, seed=seed + 1)  # patterns never seen
    for some in (images, others):
        tokens = dictionary.encode(some)
        indices = np.random.default_rng(seed).integers(0, len(some), 9)
        lists = dictionary.lists(tokens, indices)
        for sample, index in enumerate(indices):
            assert (spelled(dictionary, lists, sample) == some[index]).all()
        assert (lists.blanks == (some[indices] == dictionary.blank).sum(0)).all()


def test_samples_of_a_row_are_those_that_list_it():
    images = images_of(500, 64, 3)
    dictionary = Dictionary(images, 3, 100, stripe_rows=200)
    lists = dictionary.lists(dictionary.encode(images), np.arange(100, 200))
    patterns = dictionary.patterns
    for stripe, first in enumerate(patterns.row_starts[:-1]):
        for row in range(patterns.row_starts[stripe + 1] - first):
            found = lists.samples[slice(*lists.sample_starts[first + row : first + row + 2])]
            expected = [
                sample
                for sample in range(100)
                if row in lists.rows[slice(*lists.row_starts[stripe, sample : sample + 2])]
            ]
            assert found.tolist() == expected


def test_frequent_patterns_shorten_the_lists():
    draw = np.random.default_rng(0)
    prototypes = images_of(3, 64, 2, share=1.0)
    images = prototypes[draw.integers(0, 3, 2000)]
    singles, merged = (Dictionary(images, 2, 1000, shapes=(one,)) for one in ((1, 1), (4, 4)))
    few, many = (len(dictionary.encode(images).rows) for dictionary in (merged, singles))
    assert few <= 4 * len(images)  # as many as there are blocks
    assert few < many / 3


def test_a_dictionary_depends_on_the_images_alone():
    images = images_of(400, 64, 2)
    one, other = (Dictionary(images.copy(), 2, 96).patterns for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_the_blank_is_the_most_frequent_level_and_the_lowest_of_equals():
    images = np.array([[0, 2, 1], [1, 2, 1], [1, 0, 0], [0, 1, 2]], dtype=np.uint8)
    assert most_frequent(images, 3).tolist() == [0, 2, 1]


def test_a_stripe_that_lists_cannot_number_is_refused(monkeypatch):
    monkeypatch.setattr("bench.kernels.patterns.MOST_ROWS", 10)
    with pytest.raises(ValueError, match="a stripe of"):
        Dictionary(images_of(50, 64, 2), 2, 50)
