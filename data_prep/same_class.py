"""Is-same-class: two images, `distance` pixels apart, and whether they are of one class."""

from functools import lru_cache
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.core.errors import require
from bench.core.seeding import generator
from bench.core.settings import Count, Natural, settings
from data_prep.cifar10 import CIFAR10, CIFAR10JPEG
from data_prep.digits import Digits
from data_prep.images import Files, ImageData
from data_prep.labeled_images import LabeledImages, LabeledPart, Samples
from data_prep.patches import Patch
from data_prep.torchvision_images import MNIST, FashionMNIST

SOURCES: dict[str, type[ImageData]] = {
    source.name: source for source in (CIFAR10, CIFAR10JPEG, FashionMNIST, MNIST, Digits)
}
RGB = (0.491, 0.482, 0.446), (0.247, 0.243, 0.261)
# Mean and standard deviation of the training images' channels, as the published code rounds them.
STATISTICS = {"fashion_mnist": ((0.286,), (0.353,)), "mnist": ((0.1307,), (0.3081,))}
STATISTICS |= {"cifar10": RGB, "cifar10_jpeg": RGB}


@settings
class IsSameClass(LabeledImages):
    """Settings of `configs/data/is_same_class.yaml` [HTF, section 6].

    Parameters
    ----------
    images : str
        Where the images come from: ``cifar10``, ``cifar10_jpeg``, ``fashion_mnist``, ``mnist`` or
        ``digits``.
    image_size : int
        Height and width to which they are scaled.
    canvas : tuple of int
        Height and width of the canvas in whose center they stand side by side. It is black or, if
        images are standardized, of their mean color.
    distance : int
        Pixels between the two.
    color : bool
        Whether CIFAR-10 is read in RGB, as published, and not in gray.
    self_pairs : bool
        Whether the second image is drawn without regard to the first's identity, as published, so
        that an image may stand beside itself.
    """

    name: ClassVar[str] = "is_same_class"
    later: ClassVar[frozenset[str]] = LabeledImages.later | {"color", "self_pairs"}

    train: Samples = 5_000
    images: Literal["cifar10", "cifar10_jpeg", "fashion_mnist", "mnist", "digits"] = "cifar10"
    image_size: Count = 32
    canvas: tuple[int, int] = (224, 224)
    distance: Natural = 0
    color: bool = False
    self_pairs: bool = False

    def __post_init__(self) -> None:
        (height, width), needed = self.canvas, 2 * self.image_size + self.distance
        given = f"data.canvas={list(self.canvas)} with data.image_size={self.image_size}"
        given += f" and data.distance={self.distance}"
        expected = f"a height of at least {self.image_size} and a width of at least {needed}"
        hint = "raise the canvas, or lower the distance or the image size"
        require(height >= self.image_size and width >= needed, given, expected, hint)
        is_cifar, given = self.images.startswith("cifar10"), f"with data.images={self.images}"
        require(is_cifar or not self.color, f"data.color=true {given}", "images in color")
        known = self.images in STATISTICS and is_cifar == self.color
        given = f"data.standardize=true {given} and data.color={str(self.color).lower()}"
        hint = "cifar10 with data.color=true, or fashion_mnist or mnist"
        require(known or not self.standardize, given, hint)

    @property
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the canvas."""
        return self.canvas

    @property
    def channels(self) -> int:  # pyright: ignore
        """3 in color, else 1."""
        return 3 if self.color else 1

    @property
    def patches(self) -> tuple[Patch, Patch]:
        """Where the two images are on the canvas."""
        size = self.image_size
        top = (self.canvas[0] - size) // 2
        left = (self.canvas[1] - 2 * size - self.distance) // 2
        second = left + size + self.distance
        return Patch(top, left, size, size), Patch(top, second, size, size)

    @property
    def extent(self) -> Patch:
        """The rectangle that holds the two images."""
        first, _ = self.patches
        return Patch(first.top, first.left, first.height, 2 * self.image_size + self.distance)

    def files(
        self, root: str | None, *, download: bool = True, workers: int | None = None
    ) -> Files:
        """Return the images' files with their SHA-256."""
        return _verified(self.images, root, download)

    def part(self, root: str | None, name: str, seed: int) -> "Pairs":
        """Sample a part's pairs, from the images of that part alone."""
        source: Any = SOURCES[self.images]()
        raw = source.read_color(root, name) if self.color else source.read(root, name)
        rng = generator(seed, "is_same_class", name)
        count, options = getattr(self, name), (self.drawn_labels, self.self_pairs)
        pairs, labels = sample_pairs(raw.labels, count, rng, *options)
        chosen, indices = pairs.unique(return_inverse=True)
        images = scaled(raw.images[chosen], self.image_size)
        return Pairs(images, indices, labels, self)


@lru_cache(maxsize=8)  # a grid asks once for each distance
def _verified(images: str, root: str | None, download: bool) -> Files:
    return SOURCES[images]().files(root, download=download)


class Pairs(LabeledPart):
    """Pairs of images by index.

    Parameters
    ----------
    images : Tensor
        Shape (images, size, size) or (images, size, size, channels), uint8.
    pairs : Tensor
        Shape (samples, 2), int64: the left and the right image.
    labels : Tensor
        Shape (samples,), int64: whether they are of one class.
    layout : IsSameClass
        Where they stand.
    """

    def __init__(self, images: Tensor, pairs: Tensor, labels: Tensor, layout: IsSameClass) -> None:
        super().__init__(labels)
        self.layout = layout
        self.raw: Tensor = nn.Buffer(images.view(*images.shape[:3], -1))
        self.pairs: Tensor = nn.Buffer(pairs)
        mean, deviation = STATISTICS[layout.images] if layout.standardize else ((0.0,), (1.0,))
        self.mean: Tensor = nn.Buffer(torch.tensor(mean))
        self.deviation: Tensor = nn.Buffer(torch.tensor(deviation))

    def forward(self, indices: Tensor) -> Tensor:
        """Compose a batch, shape (batch, channels, height, width), float32."""
        shape = len(indices), *self.layout.image_shape, self.raw.shape[-1]
        canvas = self.mean.new_zeros(shape).permute(0, 3, 1, 2)  # channels last in memory
        for patch, images in zip(self.layout.patches, self.pairs[indices].T, strict=True):
            pixels = (self.raw[images] / 255 - self.mean) / self.deviation
            patch.of(canvas).copy_(pixels.permute(0, 3, 1, 2))
        return canvas


def sample_pairs(
    labels: Tensor,
    count: int,
    rng: torch.Generator,
    drawn_labels: bool = False,
    self_pairs: bool = False,
) -> tuple[Tensor, Tensor]:
    """Sample pairs of images, the first half of one class, the others of two.

    Parameters
    ----------
    labels : Tensor
        Shape (images,), int64: the images' classes.
    count : int
        Number of pairs, even.
    rng : torch.Generator
        The source of randomness.
    drawn_labels, self_pairs : bool
        See `LabeledImages` and `IsSameClass`.

    Returns
    -------
    pairs : Tensor
        Shape (count, 2), int64. The first image is any image, each as likely; the second any other
        one of the same class, or any one of the other classes.
    same : Tensor
        Shape (count,), int64: 1 for one class.
    """
    _, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    given = f"{len(sizes)} classes with {int(sizes.min())} images or more"
    enough = len(sizes) >= 2 and int(sizes.min()) >= 2
    require(enough, given, "at least two classes of at least two images")
    # By class, the images make a ring of arcs; the second image is `chosen` steps further on.
    order, starts = classes.argsort(stable=True), sizes.cumsum(0) - sizes
    first = torch.randint(len(labels), (count,), generator=rng)
    kind = classes[order[first]]
    size, start = sizes[kind], starts[kind]
    same = (torch.arange(count) < count // 2).long()
    if drawn_labels:
        same = torch.randint(2, (count,), generator=rng)
    skipped = 0 if self_pairs else 1  # the first image itself
    choices = torch.where(same == 1, size - skipped, len(labels) - size)
    chosen = (torch.rand(count, generator=rng, dtype=torch.float64) * choices).long()
    in_class = start + (first - start + skipped + chosen) % size
    second = torch.where(same == 1, in_class, (start + size + chosen) % len(labels))
    return torch.stack([order[first], order[second]], 1), same


def scaled(images: Tensor, size: int) -> Tensor:
    """Scale uint8 images, shape (count, height, width, ...), to a size, by means over areas."""
    if images.shape[1:3] == (size, size):
        return images
    planes = images.float().view(*images.shape[:3], -1).permute(0, 3, 1, 2)
    resized = functional.adaptive_avg_pool2d(planes, size).round().to(torch.uint8)
    return resized.permute(0, 2, 3, 1).reshape(len(images), size, size, *images.shape[3:])
