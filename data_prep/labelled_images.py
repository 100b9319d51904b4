"""Images in two classes, composed in batches on the device: what a classifying network reads."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from torch import Tensor, nn

from bench.bounds import Bound, check_bounds
from bench.regularizers.patches import Patch, PatchSampler

HALVES = "an even number of at least 2, half of each class"
Samples = Annotated[int, Bound(HALVES, lambda count: count >= 2 and count % 2 == 0)]


class LabelledPart(nn.Module):
    """The training or the test images of a task.

    A module without parameters, so that it moves to a device as one: whatever images are made of is
    a buffer, as compact as it can be (indices, uint8), and an image exists only in its batch.

    Attributes
    ----------
    labels : Tensor
        Shape (samples,), int64: 0 or 1.
    """

    labels: Tensor

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.register_buffer("labels", labels)

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def forward(self, indices: Tensor) -> Tensor:
        """Return images, shape (batch, 1, height, width), float32 in [0, 1].

        Parameters
        ----------
        indices : Tensor
            Shape (batch,), int64, on the part's device.
        """


@dataclass
class LabelledImages(ABC):
    """What the schemas of tasks with two classes of gray images have in common.

    Parameters
    ----------
    name : str
        The task's name in tables and records.
    train, test : int
        How many images the training and the test part have, half of each class.
    root : str or None
        The folder that holds the files; see `data_prep.torchvision_images.data_root`.
    """

    name: str
    train: Samples = 10_000
    test: Samples = 10_000
    root: str | None = None

    def __post_init__(self) -> None:
        check_bounds("data", self)

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images."""

    @property
    @abstractmethod
    def patches(self) -> tuple[PatchSampler, PatchSampler]:
        """The regularizer's patches A and B, as `InputGradientChange` takes them."""

    @property
    def extent(self) -> Patch:
        """Where everything lies that a network has to relate: by default the whole image."""
        return Patch(0, 0, *self.image_shape)

    @abstractmethod
    def files(self, root: str | None, *, download: bool = True) -> list[tuple[Path, str]]:
        """Return the files in use with their SHA-256, verified; download or make missing ones.

        Raises
        ------
        UserError
            If a file is missing or damaged.
        """

    @abstractmethod
    def part(self, root: str | None, name: str, seed: int) -> LabelledPart:
        """Return the images of the part ``"train"`` or ``"test"``.

        Parameters
        ----------
        root : str or None
            As for `files`.
        name : str
            The part.
        seed : int
            The run's seed; images that are kept in a file do not depend on it.
        """
