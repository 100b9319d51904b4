"""Pathfinder's geometry, pixels and labels, against slower ways to know them."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, stats
from scipy.sparse.csgraph import connected_components

from bench.core.errors import UserError
from bench.core.seeding import generator
from bench.core.settings import validate
from data_prep import pathfinder_scenes
from data_prep.pathfinder_scenes import (
    SceneConfig,
    apart,
    draw_image,
    ends,
    lay_out,
    paint,
    random_walks,
)

PUBLISHED = SceneConfig()
SMALL = SceneConfig(
    length=4,
    drawn_size=48,
    image_size=48,
    dash_length=3,
    thickness=1,
    gap=1,
    disc_radius=1.5,
    padding=1,
    start_distance=8,
    distractor_dashes=8,
)


def images_of(config, indices, *name):
    """Return images, of which those of even index are connected."""
    return np.stack([draw_image(config, i % 2 == 0, *name, i) for i in indices])


def tips(config, dashes):
    """Return both ends of each dash, shape (dashes, 2)."""
    return dashes[:, :1] + config.dash_length / 2 * dashes[:, 1:] * np.array([-1, 1])


def curves(config, dashes):
    """Follow the dashes from tip to tip; return the curve of each."""
    ends_of = tips(config, dashes)
    between = np.abs(ends_of[:, None, :, None] - ends_of[None, :, None, :]).min((2, 3))
    return connected_components(between <= 2 * config.gap + 1e-9)[1]


def disc_centers(config, image):
    """Find the discs from the pixels alone, in drawn units: nothing else is as bright and wide."""
    scale = config.image_size / config.drawn_size
    radius = config.disc_radius * scale
    light = ndimage.uniform_filter(image / 255, 3)
    marks, count = ndimage.label(light > 0.7 * min(1, math.pi * radius**2 / 9), np.ones((3, 3)))
    centers = ndimage.center_of_mass(light, marks, range(1, count + 1))
    return [complex(column + 0.5, row + 0.5) / scale for row, column in centers]


@pytest.mark.parametrize("config", [PUBLISHED, replace(PUBLISHED, length=3), SMALL])
def test_the_label_says_whether_the_discs_end_one_path(config, monkeypatch):
    scenes = []

    def recorded(config, paths, distractors, discs):
        scenes.append((paths, distractors))
        return paint(config, paths, distractors, discs)

    monkeypatch.setattr(pathfinder_scenes, "paint", recorded)
    for index in range(60):
        image = draw_image(config, index % 2 == 0, 0, index)
        paths, distractors = scenes[-1]
        dashes = np.concatenate([paths.reshape(-1, 2), distractors.reshape(-1, 2)])
        np.random.default_rng(index).shuffle(
            dashes
        )  # so that nothing but places tells curves apart
        curve = curves(config, dashes)
        sizes = sorted(np.bincount(curve))
        expected = [config.distractor_length] * config.distractors + [config.length] * 2
        assert sizes == expected
        discs = disc_centers(config, image)
        assert len(discs) == 2
        ends_of = tips(config, dashes)
        on = [np.unravel_index(np.abs(ends_of - disc).argmin(), ends_of.shape)[0] for disc in discs]
        assert (curve[on[0]] == curve[on[1]]) == (index % 2 == 0)
        assert [np.bincount(curve)[curve[dash]] for dash in on] == [config.length] * 2


def test_pixels_are_the_average_of_a_drawing_at_a_high_resolution():
    config, fine = replace(PUBLISHED, image_size=150), 16
    paths, distractors = lay_out(config, generator(0, "scene"))
    image = paint(config, paths, distractors, [(0, 0), (0, 1)])
    side = (np.arange(150 * fine) + 0.5) * config.drawn_size / (150 * fine)
    points = side + 1j * side[:, None]
    drawn = np.zeros(points.shape, bool)
    for disc in ends(config, paths)[0]:
        drawn |= np.abs(points - disc) <= config.disc_radius
    dashes = np.concatenate([paths.reshape(-1, 2), distractors.reshape(-1, 2)])
    for center, direction in dashes:
        local = (points - center) * direction.conjugate()
        along = np.abs(local.real) <= config.dash_length / 2
        drawn |= along & (np.abs(local.imag) <= config.thickness / 2)
    average = drawn.reshape(150, fine, 150, fine).mean((1, 3))
    difference = np.abs(image / 255 - average)[(image > 0) | (average > 0)]
    assert difference.mean() < 0.05
    assert difference.max() < 0.25


@pytest.mark.parametrize("dash_length", [1.0, 12.0])
def test_dashes_are_apart_where_all_their_points_are(dash_length):
    config = replace(PUBLISHED, dash_length=dash_length, gap=1)
    rng = np.random.default_rng(0)

    def dashes():
        x, y, angle = rng.random((3, 500)) * [[16], [16], [2 * math.pi]]
        return np.stack([x + 1j * y, np.exp(1j * angle)], -1)

    first, second = dashes(), dashes()
    along = np.linspace(-dash_length / 2, dash_length / 2, 101)
    a, b = (d[:, :1] + along * d[:, 1:] for d in (first, second))
    nearest = np.abs(a[:, :, None] - b[:, None, :]).min((1, 2))
    clearance = 2 * config.gap + config.thickness
    sure = np.abs(nearest - clearance) > dash_length / 100
    assert sure.mean() > 0.9
    assert ((nearest >= clearance) == apart(config, first, second))[sure].all()


def test_turns_have_the_density_that_continuity_says():
    uniform = np.random.default_rng(0).random((4000, 2))
    directions = random_walks(PUBLISHED, np.zeros(4000, complex), uniform)[..., 1]
    turns = np.angle(directions[:, 1] / directions[:, 0]) * PUBLISHED.continuity
    assert np.abs(turns).max() <= math.pi / 2 + 1e-9
    cdf = 0.5 + (np.sort(turns) + np.sin(2 * np.sort(turns)) / 2) / math.pi
    assert stats.kstest(cdf, "uniform").pvalue > 1e-3


def test_nothing_but_a_disc_depends_on_the_label():
    for index in range(20):
        one, other = (draw_image(SMALL, connected, 0, index) for connected in (True, False))
        marks, count = ndimage.label(one != other, np.ones((3, 3)))
        assert count == 2  # a disc here, a disc there
        side = 2 * SMALL.disc_radius + 2
        assert all(max(np.ptp(p) for p in np.nonzero(marks == k + 1)) <= side for k in range(2))


@pytest.mark.parametrize("size", [32, 300])
def test_images_have_the_size_and_the_margin_asked_for(size):
    config = replace(PUBLISHED, length=3, image_size=size, gap=10, disc_radius=10)
    for image in images_of(config, range(4), 0, "test"):
        assert image.shape == (size, size)
        margin = math.floor(config.padding * size / config.drawn_size)
        border = np.ones_like(image, bool)
        border[margin:-margin, margin:-margin] = False
        assert image.max() == 255
        assert not image[border].any()


def test_an_image_depends_on_seed_part_and_index_alone():
    images = images_of(SMALL, range(10), 0, "train")
    assert np.array_equal(images[7:], images_of(SMALL, range(7, 10), 0, "train"))
    for other in (
        images_of(SMALL, range(10), 1, "train"),
        images_of(SMALL, range(10), 0, "test"),
    ):
        assert not any(np.array_equal(*pair) for pair in zip(images, other, strict=True))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"length": 60}, "lower data.scene.length"),
        ({"distractor_dashes": 900}, "lower data.scene.distractor_dashes"),
        ({"gap": 0.5, "length": 3}, "raise data.scene.gap"),
    ],
)
def test_a_scene_without_room_says_what_to_change(values, named):
    config = replace(PUBLISHED, max_tries=10, **values)
    with pytest.raises(UserError, match=named):
        draw_image(config, True, 0, 0)


@pytest.mark.parametrize(
    "values",
    [
        {"length": 1},
        {"image_size": 31},
        {"image_size": 301},
        {"thickness": 0.0},
        {"gap": math.inf},
        {"continuity": 0.5},
        {"padding": -1.0},
        {"distractor_dashes": -1},
        {"max_tries": 0},
        {"drawn_size": 50},
        {"disc_radius": 1.9},
        {"start_border": 150.0},
    ],
)
def test_bad_scenes_are_refused(values):
    ((name, _),) = values.items()
    with pytest.raises(UserError, match=rf"data\.scene\.{name}="):
        validate(SceneConfig, values, "data.scene")


def test_published_scenes_are_blurred_and_start_far_from_the_border():
    config = replace(PUBLISHED, start_border=54, reduced=True)
    scenes = [lay_out(config, generator(seed, "scene")) for seed in range(60)]
    starts = np.array([ends(config, paths)[0, 0] for paths, _ in scenes])
    border = np.minimum(
        *np.minimum([starts.real, starts.imag], [300 - starts.real, 300 - starts.imag])
    )
    assert 54 <= border.min() < 70
    near = [ends(config, lay_out(PUBLISHED, generator(s, "scene"))[0])[0, 0] for s in range(60)]
    assert min(min(start.real, start.imag) for start in near) < 54
    images, sharp = (images_of(c, range(40), 0, "blur") / 255 for c in (config, PUBLISHED))
    assert images.mean() == pytest.approx(sharp.mean(), rel=0.02)
    # The published images' brightest pixel is at .83, and this share of the pixels is above .5.
    assert (images > 0.5 / 0.83).mean() == pytest.approx(0.0026, abs=0.0006)
    assert (sharp > 0.5 / 0.83).mean() > 0.0035
