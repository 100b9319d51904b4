"""Is-same-class: two images, `distance` pixels apart, and whether they are of one class."""

from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.core.errors import require
from bench.core.seeding import generator
from bench.core.settings import Count, Natural, settings
from data_prep.cifar10 import CIFAR10
from data_prep.digits import Digits
from data_prep.images import ImageData
from data_prep.labeled_images import LabeledImages, LabeledPart, Rectangle, Samples
from data_prep.torchvision_images import MNIST, FashionMNIST

SOURCES: dict[str, type[ImageData]] = {
    source.name: source for source in (CIFAR10, FashionMNIST, MNIST, Digits)
}


@settings
class IsSameClass(LabeledImages):
    """Settings of `configs/data/is_same_class.yaml` [HTF, section 6].

    Parameters
    ----------
    images : str
        Where the images come from: ``cifar10``, in gray, ``fashion_mnist``, ``mnist`` or
        ``digits``.
    image_size : int
        Height and width to which they are scaled.
    canvas : tuple of int
        Height and width of the black canvas in whose center they stand side by side.
    distance : int
        Pixels between the two.
    """

    name: ClassVar[str] = "is_same_class"

    train: Samples = 5_000
    images: Literal["cifar10", "fashion_mnist", "mnist", "digits"] = "cifar10"
    image_size: Count = 32
    canvas: tuple[int, int] = (224, 224)
    distance: Natural = 0

    def __post_init__(self) -> None:
        (height, width), needed = self.canvas, 2 * self.image_size + self.distance
        require(
            height >= self.image_size and width >= needed,
            f"data.canvas={list(self.canvas)} with data.image_size={self.image_size} and "
            f"data.distance={self.distance}",
            f"a height of at least {self.image_size} and a width of at least {needed}",
            "raise the canvas, or lower the distance or the image size",
        )

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return self.canvas

    @property
    def patches(self) -> tuple[Rectangle, Rectangle]:
        """Where the two images are on the canvas."""
        size = self.image_size
        top = (self.canvas[0] - size) // 2
        left = (self.canvas[1] - 2 * size - self.distance) // 2
        second = left + size + self.distance
        return Rectangle(top, left, size, size), Rectangle(top, second, size, size)

    @property
    def extent(self) -> Rectangle:
        """The rectangle that holds the two images."""
        first, second = self.patches
        return Rectangle(first.top, first.left, first.height, second.right - first.left)

    def files(
        self, root: str | None, *, download: bool = True, workers: int | None = None
    ) -> list[tuple[Path, str]]:
        """Return the images' files with their SHA-256."""
        return _verified(self.images, root, download)

    def part(self, root: str | None, name: str, seed: int) -> "Pairs":
        """Sample a part's pairs, from the images of that part alone."""
        raw = SOURCES[self.images]().read(root, name)
        rng = generator(seed, "is_same_class", name)
        pairs, labels = sample_pairs(raw.labels, getattr(self, name), rng)
        chosen, indices = pairs.unique(return_inverse=True)
        images = scaled(raw.images[chosen], self.image_size)
        return Pairs(images, indices, labels, self)


@lru_cache(maxsize=8)  # a grid asks once for each distance
def _verified(images: str, root: str | None, download: bool) -> list[tuple[Path, str]]:
    return SOURCES[images]().files(root, download=download)


class Pairs(LabeledPart):
    """Pairs of images by index.

    Parameters
    ----------
    images : Tensor
        Shape (images, size, size), uint8.
    pairs : Tensor
        Shape (samples, 2), int64: the left and the right image.
    labels : Tensor
        Shape (samples,), int64: whether they are of one class.
    layout : IsSameClass
        Where they stand.
    """

    raw: Tensor
    pairs: Tensor

    def __init__(self, images: Tensor, pairs: Tensor, labels: Tensor, layout: IsSameClass) -> None:
        super().__init__(labels)
        self.layout = layout
        self.register_buffer("raw", images)
        self.register_buffer("pairs", pairs)

    def forward(self, indices: Tensor) -> Tensor:
        """Compose a batch, shape (batch, height, width), uint8."""
        canvas = self.raw.new_zeros(len(indices), *self.layout.image_shape)
        for patch, images in zip(self.layout.patches, self.pairs[indices].T, strict=True):
            patch.of(canvas)[:] = self.raw[images]
        return canvas


def sample_pairs(labels: Tensor, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sample pairs of different images, the first half of one class, the others of two.

    Parameters
    ----------
    labels : Tensor
        Shape (images,), int64: the images' classes.
    count : int
        Number of pairs, even.
    rng : torch.Generator
        The source of randomness.

    Returns
    -------
    pairs : Tensor
        Shape (count, 2), int64. The first image is any image, each as likely; the second any other
        one of the same class, or any one of the other classes.
    same : Tensor
        Shape (count,), int64: 1 for one class.
    """
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    require(
        bool((sizes >= 2).all()) and len(sizes) >= 2,
        f"{len(sizes)} classes with {int(sizes.min())} images or more",
        "at least two classes of at least two images",
    )
    # By class, the images make a ring of arcs; the second image is `chosen` steps further on.
    order, starts = classes.argsort(stable=True), sizes.cumsum(0) - sizes
    first = torch.randint(len(labels), (count,), generator=rng)
    kind = classes[order[first]]
    size, start = sizes[kind], starts[kind]
    same = (torch.arange(count) < count // 2).long()
    choices = torch.where(same == 1, size - 1, len(labels) - size)
    chosen = (torch.rand(count, generator=rng, dtype=torch.float64) * choices).long()
    in_class = start + (first - start + 1 + chosen) % size
    second = torch.where(same == 1, in_class, (start + size + chosen) % len(labels))
    return torch.stack([order[first], order[second]], 1), same


def scaled(images: Tensor, size: int) -> Tensor:
    """Scale uint8 images of shape (count, height, width) to a size, by the mean over each area."""
    if images.shape[1:] == (size, size):
        return images
    resized = functional.adaptive_avg_pool2d(images.float(), size)
    return resized.round().to(torch.uint8)
