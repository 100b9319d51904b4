"""Labeled images as discrete inputs: what the data sets have in common."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from bench.core.errors import require
from bench.core.settings import AtLeastTwo, Count, Natural, Settings, Share, settings
from data_prep.controls import control

CHUNK = 256  # images
Files = list[tuple[Path, str]]  # with the SHA-256 of each, or of what is in a folder
DESCRIPTION = ("name", "image_shape", "counts")


@dataclass(frozen=True)
class Split:
    """The training or the test part of a data set.

    Parameters
    ----------
    name : str
        ``"train"`` or ``"test"``.
    inputs : Tensor
        Shape (samples, pixels), uint8, values from 0 to levels - 1.
    labels : Tensor
        Shape (samples,), int64.
    levels : int
        How many values each pixel takes.
    """

    name: str
    inputs: Tensor
    labels: Tensor
    levels: int


class RawImages(NamedTuple):
    """Images as they are stored.

    Parameters
    ----------
    images : Tensor
        Shape (samples, height, width), integers from 0 to `ImageData.brightest`.
    labels : Tensor
        Shape (samples,), integers from 0 to `ImageData.classes` - 1.
    """

    images: Tensor
    labels: Tensor


@settings
class ImageData(Settings, ABC):
    """Settings of the image data sets in `configs/data/`.

    Parameters
    ----------
    levels : int
        How many values a pixel is quantized to.
    fraction : float
        The share of labels or pixels that a randomized control replaces.
    target_class : int
        The class that a one-versus-all problem tells from the others.
    batch_size : int
        Training samples of a step.
    order_seed : int
        Seed of the batch order, shared by runs of different `seed` so that they can train together.

    Attributes
    ----------
    image_shape : tuple of int
        Height and width, or whatever shape samples have. Like the following, a class attribute or a
        property of each data set.
    counts : mapping
        How many images the parts ``"train"`` and ``"test"`` have.
    classes : int
        How many classes there are, 256 at most.
    brightest : int
        The value of a white pixel.
    """

    levels: AtLeastTwo = 2
    fraction: Share = 1.0
    target_class: Natural = 0
    batch_size: Count = 5000
    order_seed: Natural = 0

    image_shape: ClassVar[tuple[int, ...]]
    counts: ClassVar[Mapping[str, int]]
    classes: ClassVar[int] = 10
    brightest: ClassVar[int] = 255

    def __post_init__(self) -> None:
        missing = [name for name in DESCRIPTION if not hasattr(self, name)]
        given = f"the data set {type(self).__name__} without {', '.join(missing)}"
        require(not missing, given, "class attributes or properties of these names")
        given = f"{self.name} with {self.classes} classes"
        require(2 <= self.classes <= 256, given, "from 2 to 256 classes")
        for key, least, most, what in (
            ("levels", 2, min(self.brightest + 1, 256), "gray values"),
            ("target_class", 0, self.classes - 1, "classes"),
            ("batch_size", 1, self.counts["train"], "training samples"),
        ):
            value = getattr(self, key)
            expected = f"an integer from {least} to {most}, the {what} of {self.name}"
            require(least <= value <= most, f"data.{key}={value}", expected)

    @property
    def pixels(self) -> int:
        """Number of pixels of an image."""
        return prod(self.image_shape)

    @abstractmethod
    def read(self, root: str | None, split: str) -> RawImages:
        """Read the part ``"train"`` or ``"test"``, from verified files."""

    def files(self, root: str | None, *, download: bool = True) -> Files:
        """Return the files in use with their SHA-256, verified; none for data in a dependency."""
        return []

    def split(self, root: str | None, name: str) -> Split:
        """Return the original data, quantized and flattened.

        Raises
        ------
        UserError
            If what was read is not what the data set says of itself.
        """
        images, labels = self.read(root, name)
        shape = (self.counts[name], *self.image_shape)
        _require_integers(f"the {name} images of {self.name}", images, shape, self.brightest)
        _require_integers(f"the {name} labels of {self.name}", labels, shape[:1], self.classes - 1)
        inputs = quantize(images, self.brightest, self.levels)
        return Split(name, inputs, labels.long(), self.levels)

    def randomized(self, original: Split, variant: str, seed: int) -> Split:
        """Return the variant of `original` under `seed`; see `data_prep.controls`."""
        inputs, labels = control(variant).randomize(original, self.fraction, seed)
        given = f"variant={variant} of {self.name}"
        _require_integers(f"the images of {given}", inputs, original.inputs.shape, self.levels - 1)
        shape = original.labels.shape
        _require_integers(f"the labels of {given}", labels, shape, self.classes - 1)
        return replace(original, inputs=inputs, labels=labels)


def _require_integers(given: str, values: Tensor, shape: tuple[int, ...], most: int) -> None:
    """Raise `UserError` unless a tensor has a shape and holds integers from 0 to `most`."""
    found = f"{given} of shape {tuple(values.shape)} and {values.dtype}"
    fits = tuple(values.shape) == tuple(shape) and not values.is_floating_point()
    require(fits, found, f"integers of shape {tuple(shape)}")
    low, high = (int(value) for value in values.aminmax())
    require(low >= 0 and high <= most, f"{given} from {low} to {high}", f"from 0 to {most}")


def data_root(root: str | None) -> Path:
    """Return the data folder: `root`, else ``RANKBENCH_DATA``, else ``./data``."""
    return Path(root or os.environ.get("RANKBENCH_DATA") or "data").expanduser()


def quantize(images: Tensor, brightest: int, levels: int) -> Tensor:
    """Quantize gray values x / brightest in [0, 1] by round(x * (levels - 1)) [TF, section 5].

    Parameters
    ----------
    images : Tensor
        Shape (samples, ...), integers from 0 to `brightest`.
    brightest : int
        The value of a white pixel.
    levels : int
        How many values there are afterwards.

    Returns
    -------
    Tensor
        Shape (samples, pixels), uint8, values from 0 to levels - 1; halves go to the even level.
    """
    # In this order every half is met exactly in floating point.
    scaled = torch.arange(brightest + 1, dtype=torch.float64) * (levels - 1) / brightest
    table = scaled.round().to(torch.uint8)
    found = torch.empty(images.shape, dtype=torch.uint8)
    for some, room in zip(images.split(CHUNK), found.split(CHUNK), strict=True):
        room.copy_(table[some.long()])  # indices take eight bytes per pixel
    return found.flatten(1)
