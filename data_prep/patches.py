"""Rectangular patches of images, and ways to sample them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from bench.core.errors import require


@dataclass(frozen=True)
class Patch:
    """The pixels from row `top` and column `left` on, `height` by `width` of them."""

    top: int
    left: int
    height: int
    width: int

    @property
    def bottom(self) -> int:
        """The first row below."""
        return self.top + self.height

    @property
    def right(self) -> int:
        """The first column to the right."""
        return self.left + self.width

    @property
    def rows(self) -> slice:
        """The rows as an index."""
        return slice(self.top, self.bottom)

    @property
    def columns(self) -> slice:
        """The columns as an index."""
        return slice(self.left, self.right)

    def of(self, images: Tensor) -> Tensor:
        """Return a view of the rectangle in images of shape (..., height, width)."""
        return images[..., self.rows, self.columns]

    def overlaps(self, other: "Patch") -> bool:
        """Say whether the two patches share a pixel."""
        apart_vertically = self.bottom <= other.top or other.bottom <= self.top
        apart_horizontally = self.right <= other.left or other.right <= self.left
        return not (apart_vertically or apart_horizontally)

    def sample(self, height: int, width: int, other: "Patch | None", rng: torch.Generator) -> Self:
        """Return the patch itself: a fixed one is a sampler, too."""
        return self


class PatchSampler(Protocol):
    """Samples a patch of a height x width image, given the other patch if that is known already."""

    def sample(self, height: int, width: int, other: Patch | None, rng: torch.Generator) -> Patch:
        """Return the patch; `rng` is the source of randomness."""
        ...


@dataclass(frozen=True)
class PatchChoice:
    """One of several patches, each as likely, never the other patch.

    Given two patches as the first and as the second patch, it swaps their roles at random.
    """

    patches: Sequence[Patch]

    def sample(self, height: int, width: int, other: Patch | None, rng: torch.Generator) -> Patch:
        """Return one of the patches."""
        left = [patch for patch in self.patches if patch != other]
        require(len(left) > 0, f"a choice among {list(self.patches)}", f"a patch besides {other}")
        return left[int(torch.randint(len(left), (), generator=rng))]


@dataclass(frozen=True)
class HalfOf:
    """The left or the right half of one of several patches; as the second patch, the other half.

    Parameters
    ----------
    patches : sequence of Patch
        Patches at least two pixels wide, one of which is halved, each as likely.
    """

    patches: Sequence[Patch]

    def sample(self, height: int, width: int, other: Patch | None, rng: torch.Generator) -> Patch:
        """Return a half at random, or the one beside `other`."""
        left = [replace(whole, width=whole.width // 2) for whole in self.patches]
        halves = [half for one in left for half in (one, replace(one, left=one.right))]
        if other is not None:
            return halves[halves.index(other) ^ 1]
        return halves[int(torch.randint(len(halves), (), generator=rng))]


@dataclass(frozen=True)
class RandomPatch:
    """A square patch anywhere in the image, each position as likely.

    Parameters
    ----------
    size : int
        Height and width.
    distance : int
        Pixels that lie at least between this and the other patch, along one axis.
    adjacent : bool
        Whether no more than `distance` pixels may lie between them, along either axis.
    """

    size: int
    distance: int = 0
    adjacent: bool = False

    def sample(self, height: int, width: int, other: Patch | None, rng: torch.Generator) -> Patch:
        """Return the patch."""
        tops = torch.arange(max(0, height - self.size + 1))
        lefts = torch.arange(max(0, width - self.size + 1))
        corners = torch.cartesian_prod(tops, lefts)
        if other is not None:
            corners = corners[self._allowed(tops, lefts, other).flatten()]
        given = f"a patch of size {self.size} at distance {self.distance} from {other}"
        room = "a size and a distance for which the image has room"
        require(len(corners) > 0, f"{given} in an image of {height} x {width}", room)
        top, left = corners[torch.randint(len(corners), (), generator=rng)].tolist()
        return Patch(top, left, self.size, self.size)

    def _allowed(self, tops: Tensor, lefts: Tensor, other: Patch) -> Tensor:
        vertical = torch.maximum(other.top - (tops + self.size), tops - other.bottom)
        horizontal = torch.maximum(other.left - (lefts + self.size), lefts - other.right)
        gap = torch.maximum(vertical.unsqueeze(1), horizontal)
        return gap == self.distance if self.adjacent else gap >= self.distance
