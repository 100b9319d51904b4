"""Labelled images as discrete inputs: what the data sets have in common."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from bench.bounds import Bound, check_bounds
from bench.errors import require
from data_prep.controls import control

Share = Annotated[float, Bound("a share from 0 to 1", lambda value: 0 <= value <= 1)]
CHUNK = 256  # images


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
    """Images of integer pixels from 0 to `ImageData.BRIGHTEST`, shape (samples, height, width)."""

    images: Tensor
    labels: Tensor


@dataclass
class ImageData:
    """Schema of the image data sets in `configs/data/`.

    Parameters
    ----------
    name : str
        The data set's name in tables and records.
    levels : int
        How many values a pixel is quantized to.
    fraction : float
        The share of labels or pixels that a randomized control replaces.
    target_class : int
        The class that a one-versus-all problem tells from the others.
    batch_size : int
        Training samples a step.
    order_seed : int
        Seed of the batch order, shared by runs of different `seed` so that they can train together.
    root : str or None
        The folder that holds the files; see `data_root`.
    """

    name: str
    levels: int = 2
    fraction: Share = 1.0
    target_class: int = 0
    batch_size: int = 5000
    order_seed: int = 0
    root: str | None = None

    NAME: ClassVar[str] = ""
    CLASSES: ClassVar[int] = 10
    BRIGHTEST: ClassVar[int] = 255
    SIDE: ClassVar[int] = 28
    COUNTS: ClassVar[dict[str, int]] = {"train": 60_000, "test": 10_000}

    def __post_init__(self) -> None:
        require(self.name == self.NAME, f"data.name={self.name}", self.NAME, "choose data=...")
        check_bounds("data", self)
        for key, least, most, what in (
            ("levels", 2, self.BRIGHTEST + 1, "gray values"),
            ("target_class", 0, self.CLASSES - 1, "classes"),
            ("batch_size", 1, self.COUNTS["train"], "training samples"),
        ):
            value = getattr(self, key)
            allowed = f"from {least} to {most}, the {what} of {self.name}"
            require(least <= value <= most, f"data.{key}={value}", allowed)

    def read(self, root: str | None, split: str) -> RawImages:
        """Read one part of the data set from verified files."""
        raise TypeError(f"{type(self).__name__} must define read")

    def files(self, root: str | None, *, download: bool = True) -> list[tuple[Path, str]]:
        """Return the files in use with their SHA-256, verified; none for data in a dependency."""
        return []

    def split(self, root: str | None, name: str) -> Split:
        """Return the original data, quantized and flattened."""
        raw = self.read(root, name)
        return Split(
            name, quantize(raw.images, self.BRIGHTEST, self.levels), raw.labels, self.levels
        )

    def randomized(self, original: Split, variant: str, seed: int) -> Split:
        """Return the variant of `original` under `seed`; see `data_prep.controls`."""
        inputs, labels = control(variant).randomize(original, self.fraction, seed)
        return replace(original, inputs=inputs, labels=labels)


def quantize(images: Tensor, brightest: int, levels: int) -> Tensor:
    """Quantize gray values x / brightest in [0, 1] by round(x * (levels - 1)) [TF, section 5].

    Parameters
    ----------
    images : Tensor
        Shape (samples, ...), integers from 0 to `brightest`.

    Returns
    -------
    Tensor
        Shape (samples, pixels), uint8, values from 0 to levels - 1; halves go to the even level.
    """
    # In this order every half is met exactly in floating point.
    scaled = torch.arange(brightest + 1, dtype=torch.float64) * (levels - 1) / brightest
    table = scaled.round().to(torch.uint8)
    found = torch.empty(images.shape, dtype=torch.uint8)
    for some, place in zip(images.split(CHUNK), found.split(CHUNK), strict=True):
        place.copy_(table[some.long()])  # indices take eight bytes a pixel
    return found.flatten(1)
