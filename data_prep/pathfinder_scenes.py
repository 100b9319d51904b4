"""The images of Pathfinder: dashed paths that do not touch, and discs on the ends of two of them.

A scene is laid out in drawn units and painted straight at the image's resolution. Points are
complex numbers, x + iy with y downwards: one product turns a point into a dash's frame.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from bench.core.errors import UserError, require
from bench.core.seeding import generator
from bench.core.settings import AtLeastTwo, Count, Natural, NonNegative, Positive, settings

ImageSize = Annotated[int, Field(ge=32, le=300)]
# Below 0.5 paths turn back.
Continuity = Annotated[float, Field(gt=0.5, allow_inf_nan=False)]
LEAST_PROPOSED = 16  # paths that are proposed at once
ROUNDS = 4  # such proposals before the scene is begun anew
TURNS = np.linspace(-math.pi / 2, math.pi / 2, 1025)
TURN_CDF = 0.5 + (TURNS + np.sin(TURNS) * np.cos(TURNS)) / math.pi  # of the density cos(t)^2

Points = NDArray[np.complex128]
Numbers = NDArray[np.float64]
Pixels = NDArray[np.uint8]
# Of equal length: an array of shape (..., 2), a center and a unit direction each.
Dashes = Points
Starts = Callable[[int], Points]


class NoRoomError(Exception):
    """A scene that could not be laid out; the message says what to change."""


@settings
class SceneConfig:
    """What a Pathfinder scene looks like; lengths are in drawn units.

    Parameters
    ----------
    length : int
        Dashes of each of the two paths; the distractors have a third of it.
    drawn_size, image_size : int
        Side of the square that a scene is laid out in, and of the image in pixels.
    dash_length, thickness : float
        Size of a dash.
    gap : float
        Distance between a dash and the point at which its path turns, half the distance to the next
        dash. Dashes that do not follow one another keep twice this distance, edge to edge.
    continuity : float
        How straight paths are: a turn t has the density cos(continuity t)^2 and is thus at most
        pi / (2 continuity).
    disc_radius : float
        Of the discs on two ends.
    padding : float
        Free margin of the scene.
    start_distance : float
        Between the starts of the two paths.
    distractor_dashes : int
        Dashes of all distractors together; what their length leaves over makes one more distractor.
    start_border : float
        Least distance of the first path's start from the border, where that is more than any dash
        has to keep.
    reduced : bool
        Whether the scene is painted with a pixel per drawn unit and reduced to the image's size
        with a triangular filter, which blurs it, as published.
    max_tries : int
        Scenes that are begun before the parameters count as impossible.
    """

    later: ClassVar[frozenset[str]] = frozenset({"start_border", "reduced"})

    length: AtLeastTwo = 9
    drawn_size: Count = 300
    image_size: ImageSize = 150
    dash_length: Positive = 5.0
    thickness: Positive = 2.0
    gap: Positive = 3.0
    continuity: Continuity = 1.8
    disc_radius: Positive = 3.0
    padding: NonNegative = 22.0
    start_distance: Positive = 27.0
    distractor_dashes: Natural = 30
    start_border: NonNegative = 0.0
    reduced: bool = False
    max_tries: Count = 100

    def __post_init__(self) -> None:
        needed = 2 * self.inset + self.dash_length
        given = f"data.scene.drawn_size={self.drawn_size} with data.scene.padding={self.padding}"
        expected = f"more than {needed:g}, what padding, gap and a single dash need"
        require(self.drawn_size > needed, given, expected)
        size, least = self.image_size, self.drawn_size / self.image_size
        given = f"data.scene.disc_radius={self.disc_radius} in images of {size} x {size}"
        require(self.disc_radius >= least, given, f"at least {least:g}, the width of a pixel")
        middle = self.drawn_size / 2
        given = f"data.scene.start_border={self.start_border} in scenes of {self.drawn_size}"
        require(self.start_border < middle, given, f"less than {middle:g}")
        given = f"data.scene.drawn_size={self.drawn_size} with data.scene.reduced=true"
        fits = max(32, size) <= self.drawn_size <= 300
        require(fits or not self.reduced, given, f"from {max(32, size)} to 300")

    @property
    def inset(self) -> float:
        """Least distance of a dash's ends from the border."""
        return self.padding + self.gap + self.thickness / 2

    @property
    def distractor_length(self) -> int:
        """Dashes of a distractor."""
        return max(1, self.length // 3)

    @property
    def distractors(self) -> int:
        """Number of distractors."""
        return math.ceil(3 * self.distractor_dashes / self.length)


def draw_image(config: SceneConfig, connected: bool, seed: int, *name: object) -> Pixels:
    """Draw the image called `name`.

    The discs are the ends of one path if `connected`, else one end of each. All else, what is
    redrawn included, does not depend on `connected`.

    Returns
    -------
    ndarray
        Shape (image_size, image_size), uint8. A dash is white where it covers a pixel and gray
        where it covers a part: as much as it would cover of a unit square at the pixel's center
        turned into the dash's direction. This is the drawing at a high resolution averaged to the
        image's, but for that turn; no pixel is shared by two dashes.

    Raises
    ------
    UserError
        If there is no room in `config.max_tries` scenes.
    """
    rng = generator(seed, "pathfinder", *name)
    origin = int(torch.randint(2, (), generator=rng))
    discs = [(origin, 0), (origin if connected else 1 - origin, 1)]
    causes = []
    for _ in range(config.max_tries):
        try:
            return _painted(config, *lay_out(config, rng), discs)
        except NoRoomError as cause:
            causes.append(str(cause))
    given = f"data.scene.length={config.length} with data.scene.drawn_size={config.drawn_size}"
    expected = f"a scene with room for everything, and {config.max_tries} tries found none"
    raise UserError(given, expected, max(set(causes), key=causes.count))


def lay_out(config: SceneConfig, rng: torch.Generator) -> tuple[Dashes, Dashes]:
    """Lay out a scene by proposing random walks until enough keep their distance.

    Returns
    -------
    paths, distractors : ndarray
        Dashes, shapes (2, length, 2) and (distractors, distractor_length, 2).

    Raises
    ------
    NoRoomError
        If `ROUNDS` proposals leave a path or a distractor without room.
    """

    def uniform(*shape: int) -> Numbers:
        return torch.rand(shape, generator=rng, dtype=torch.float64).numpy()

    def anywhere(count: int, border: float = config.inset) -> Points:
        x, y = uniform(2, count)
        return border * (1 + 1j) + (config.drawn_size - 2 * border) * (x + 1j * y)

    def start_of_first(count: int) -> Points:
        return anywhere(count, max(config.inset, config.start_border))

    def around_start(count: int) -> Points:
        start, _ = ends(config, first)[0]
        return start + config.start_distance * np.exp(2j * math.pi * uniform(count))

    def add(placed: Dashes, starts: Starts, count: int, length: int, culprit: str) -> Dashes:
        chosen: list[Dashes] = []
        for _ in range(ROUNDS):
            proposed = max(LEAST_PROPOSED, 2 * count)
            walks = random_walks(config, starts(proposed), uniform(proposed, length))
            before = np.concatenate([placed, *chosen])
            chosen += fitting(config, walks, before)
            if len(chosen) >= count:
                return np.stack(chosen[:count])
        raise NoRoomError(f"raise data.scene.drawn_size, or lower data.scene.{culprit}")

    first = add(np.empty((0, 2), complex), start_of_first, 1, config.length, "length")
    second = add(first[0], around_start, 1, config.length, "length")
    paths = np.concatenate([first, second])
    count, length = config.distractors, config.distractor_length
    distractors = np.empty((0, length, 2), complex)
    if count:
        distractors = add(paths.reshape(-1, 2), anywhere, count, length, "distractor_dashes")
    return paths, distractors


def random_walks(config: SceneConfig, starts: Points, uniform: Numbers) -> Dashes:
    """Return a path from each start: dashes, shape (walks, dashes, 2).

    Parameters
    ----------
    config : SceneConfig
        Sizes and continuity.
    starts : ndarray
        Shape (walks,), complex.
    uniform : ndarray
        Shape (walks, dashes), numbers in [0, 1): the first direction and the turns.
    """
    turns = np.interp(uniform, TURN_CDF, TURNS) / config.continuity
    turns[:, 0] = 2 * math.pi * uniform[:, 0]
    directions = np.exp(1j * turns.cumsum(1))
    half = config.dash_length / 2
    centers = np.empty_like(directions)
    centers[:, 0] = starts + half * directions[:, 0]
    centers[:, 1:] = (half + config.gap) * (directions[:, 1:] + directions[:, :-1])
    return np.stack([centers.cumsum(1), directions], -1)


def fitting(config: SceneConfig, walks: Dashes, placed: Dashes) -> list[Dashes]:
    """Return the walks that fit inside, beside `placed`, beside themselves and those before."""
    walks = walks[inside(config, walks).all(1)]
    walks = walks[apart(config, walks[:, :, None], placed).all((1, 2))]
    i, j = np.triu_indices(walks.shape[1], 2)  # dashes that do not follow one another
    walks = walks[apart(config, walks[:, i], walks[:, j]).all(1)]
    together = np.all(apart(config, walks[:, None, :, None], walks[None, :, None]), axis=(2, 3))
    chosen: list[int] = []
    for walk in range(len(walks)):
        if together[walk, chosen].all():
            chosen.append(walk)
    return list(walks[chosen])


def inside(config: SceneConfig, dashes: Dashes) -> NDArray[np.bool_]:
    """Say which dashes keep out of the padding."""
    middle = config.drawn_size / 2
    center, end = dashes[..., 0] - middle * (1 + 1j), config.dash_length / 2 * dashes[..., 1]
    x, y = np.abs(center.real) + np.abs(end.real), np.abs(center.imag) + np.abs(end.imag)
    return np.maximum(x, y) <= middle - config.inset


def apart(config: SceneConfig, first: Dashes, second: Dashes) -> NDArray[np.bool_]:
    """Say which dashes keep their distance from one another; the two shapes are broadcast."""
    half = config.dash_length / 2
    nearest: Numbers = np.array(np.inf)
    crossing: NDArray[np.bool_] = np.array(True)
    for one, other in ((first, second), (second, first)):
        turned = one[..., 1].conj()
        center, end = (other[..., 0] - one[..., 0]) * turned, half * other[..., 1] * turned
        tips = center - end, center + end  # of the other, in the frame of the one
        for tip in tips:
            beyond = np.maximum(np.abs(tip.real) - half, 0)
            nearest = np.minimum(nearest, beyond**2 + tip.imag**2)
        crossing = crossing & (tips[0].imag * tips[1].imag < 0)
    return (nearest >= (2 * config.gap + config.thickness) ** 2) & ~crossing


def ends(config: SceneConfig, paths: Dashes) -> Points:
    """Return where paths of shape (paths, dashes, 2) start and end, shape (paths, 2)."""
    outer = paths[:, [0, -1]]
    return outer[..., 0] + config.dash_length / 2 * outer[..., 1] * [-1, 1]


def _painted(config: SceneConfig, *scene: Any) -> Pixels:
    """Return the image of a scene, reduced if that is asked for."""
    if not config.reduced:
        return paint(config, *scene)
    large = Image.fromarray(paint(replace(config, image_size=config.drawn_size), *scene))
    size = config.image_size, config.image_size
    return np.asarray(large.resize(size, Image.Resampling.BILINEAR))


def paint(
    config: SceneConfig, paths: Dashes, distractors: Dashes, discs: list[tuple[int, int]]
) -> Pixels:
    """Return the image of a scene with discs on the ends (path, 0 or 1); see `draw_image`.

    Raises
    ------
    NoRoomError
        If two dashes, or a dash and a disc that may be on another, touch the same pixel.
    """
    scale, size = config.image_size / config.drawn_size, config.image_size
    length, width = config.dash_length * scale, config.thickness * scale
    radius = config.disc_radius * scale
    dashes = np.concatenate([paths.reshape(-1, 2), distractors.reshape(-1, 2)])
    pixels, local = footprints(dashes[:, 0] * scale, math.hypot(length + 1, width + 1) / 2, size)
    local = local * dashes[:, 1:].conj()
    shown = overlap(local.real, length) * overlap(local.imag, width)
    on_tips, local = footprints(ends(config, paths).ravel() * scale, radius + 0.5, size)
    discs_shown = np.clip(radius + 0.5 - np.abs(local), 0, 1)
    first_and_last = np.array([0, config.length - 1, config.length, 2 * config.length - 1])
    image, owner = np.zeros(size**2), np.zeros(size**2, int)
    touched = np.concatenate([pixels[shown > 0], on_tips[discs_shown > 0]])
    wanted = np.concatenate([np.nonzero(shown)[0], first_and_last[np.nonzero(discs_shown)[0]]])
    owner[touched] = wanted  # of several owners of a pixel the last remains
    if (owner[touched] != wanted).any():
        hint = "raise data.scene.gap or data.scene.image_size, or lower data.scene.disc_radius"
        raise NoRoomError(hint)
    image[pixels[shown > 0]] = shown[shown > 0]
    for path, end in discs:
        at = on_tips[2 * path + end]
        image[at] = np.maximum(image[at], discs_shown[2 * path + end])
    return np.rint(255 * image).astype(np.uint8).reshape(size, size)


def footprints(centers: Points, reach: float, size: int) -> tuple[NDArray[np.int64], Points]:
    """Return the pixels around each center, and where they are as seen from it.

    Parameters
    ----------
    centers : ndarray
        Shape (shapes,), complex, in pixels.
    reach : float
        How far from a shape's center a pixel's center may lie that it touches.
    size : int
        Side of the image; pixels beyond its border are put on the border.

    Returns
    -------
    pixels : ndarray
        Shape (shapes, pixels), indices into the image's rows, one after the other.
    local : ndarray
        The same shape, complex: the pixels' centers less the shapes' centers.
    """
    steps = np.arange(math.ceil(2 * reach) + 1)
    corners = centers - (reach + 0.5) * (1 + 1j)
    columns = np.floor(corners.real)[:, None, None] + steps
    rows = np.floor(corners.imag)[:, None, None] + steps[:, None]
    columns, rows = columns.clip(0, size - 1), rows.clip(0, size - 1)
    pixels = (rows * size + columns).astype(np.int64)
    local = columns + 1j * rows + 0.5 * (1 + 1j) - centers[:, None, None]
    return pixels.reshape(len(centers), -1), local.reshape(len(centers), -1)


def overlap(distance: Numbers, extent: float) -> Numbers:
    """Return how much of unit intervals, `distance` from the middle of another, it covers."""
    return np.clip((extent + 1) / 2 - np.abs(distance), 0, min(1, extent))
