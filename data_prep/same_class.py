"""Is-same-class: two images, `distance` pixels apart, and whether they are of one class."""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import torch
from torch import Tensor
from torch.nn import functional

from bench.bounds import Count, at_least, one_of
from bench.errors import require
from bench.regularizers.patches import Patch
from bench.seeding import generator
from data_prep.cifar10 import CIFAR10
from data_prep.digits import Digits
from data_prep.images import ImageData
from data_prep.labelled_images import LabelledImages, LabelledPart, Samples
from data_prep.torchvision_images import MNIST, FashionMNIST

SOURCES: dict[str, type[ImageData]] = {
    source.NAME: source for source in (CIFAR10, FashionMNIST, MNIST, Digits)
}


@dataclass
class IsSameClass(LabelledImages):
    """Schema of `configs/data/is_same_class.yaml` [HTF, section 6].

    Parameters
    ----------
    images : str
        Where the images come from: ``cifar10``, in gray, ``fashion_mnist``, ``mnist`` or
        ``digits``.
    image_size : int
        Height and width to which they are scaled.
    canvas : list of int
        Height and width of the black canvas in whose centre they stand side by side.
    distance : int
        Pixels between the two.
    """

    name: str = "is_same_class"
    train: Samples = 5_000
    images: Annotated[str, one_of(SOURCES)] = "cifar10"
    image_size: Count = 32
    canvas: list[int] = field(default_factory=lambda: [224, 224])
    distance: Annotated[int, at_least(0)] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        canvas, needed = self.canvas, 2 * self.image_size + self.distance
        require(
            len(canvas) == 2 and canvas[0] >= self.image_size and canvas[1] >= needed,
            f"data.canvas={canvas} with data.image_size={self.image_size} and "
            f"data.distance={self.distance}",
            f"a height of at least {self.image_size} and a width of at least {needed}",
            "raise the canvas, or lower the distance or the image size",
        )

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        height, width = self.canvas
        return height, width

    @property
    def patches(self) -> tuple[Patch, Patch]:
        """The two images' places on the canvas."""
        size = self.image_size
        top = (self.canvas[0] - size) // 2
        left = (self.canvas[1] - 2 * size - self.distance) // 2
        return Patch(top, left, size, size), Patch(top, left + size + self.distance, size, size)

    @property
    def extent(self) -> Patch:
        """The rectangle that holds the two images."""
        first, second = self.patches
        return Patch(first.top, first.left, first.height, second.right - first.left)

    def files(self, root: str | None, *, download: bool = True) -> list[tuple[Path, str]]:
        """Return the images' files with their SHA-256."""
        return _verified(self.images, root, download)

    def part(self, root: str | None, name: str, seed: int) -> "Pairs":
        """Draw a part's pairs, from the images of that part alone."""
        raw = SOURCES[self.images](self.images).read(root, name)
        draw = generator(seed, "is_same_class", name)
        pairs, labels = draw_pairs(raw.labels, getattr(self, name), draw)
        chosen, places = pairs.unique(return_inverse=True)
        images = scaled(raw.images[chosen], self.image_size)
        return Pairs(images, places, labels, self)


@lru_cache(maxsize=8)  # a grid asks once for each distance
def _verified(images: str, root: str | None, download: bool) -> list[tuple[Path, str]]:
    return SOURCES[images](images).files(root, download=download)


class Pairs(LabelledPart):
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
        """Compose a batch, shape (batch, 1, height, width), float32 in [0, 1]."""
        canvas = torch.zeros(len(indices), 1, *self.layout.image_shape, device=self.raw.device)
        for patch, images in zip(self.layout.patches, self.pairs[indices].T, strict=True):
            patch.of(canvas)[:, 0] = self.raw[images] / 255
        return canvas


def draw_pairs(labels: Tensor, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw pairs of different images, the first half of one class, the others of two.

    Parameters
    ----------
    labels : Tensor
        Shape (images,), int64: the images' classes.
    count : int
        Number of pairs, even.
    draw : torch.Generator
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
    # By class, the images make a ring of arcs; the second image is so many places further on.
    order, starts = classes.argsort(stable=True), sizes.cumsum(0) - sizes
    first = torch.randint(len(labels), (count,), generator=draw)
    kind = classes[order[first]]
    size, start = sizes[kind], starts[kind]
    same = (torch.arange(count) < count // 2).long()
    choices = torch.where(same == 1, size - 1, len(labels) - size)
    chosen = (torch.rand(count, generator=draw, dtype=torch.float64) * choices).long()
    in_class = start + (first - start + 1 + chosen) % size
    second = torch.where(same == 1, in_class, (start + size + chosen) % len(labels))
    return torch.stack([order[first], order[second]], 1), same


def scaled(images: Tensor, size: int) -> Tensor:
    """Scale uint8 images of shape (count, height, width) to a size, by the mean over each area."""
    if images.shape[1:] == (size, size):
        return images
    resized = functional.adaptive_avg_pool2d(images.float(), size)
    return resized.round().to(torch.uint8)
