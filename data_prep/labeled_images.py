"""Images in two classes, composed batch by batch: what a classifying network reads."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from bench.core.settings import Settings, settings
from data_prep.images import Files
from data_prep.patches import Patch, PatchSampler

# Half of the images are of each class.
Samples = Annotated[int, Field(ge=2, multiple_of=2)]


class LabeledPart(nn.Module, ABC):
    """The training or the test images of a task; indexed by a tensor, it gives a whole batch.

    A module without parameters, so that it moves to a device as one: whatever images are made of is
    a buffer, as compact as it can be (indices, uint8), and an image exists only in its batch.

    Parameters
    ----------
    labels : Tensor
        Shape (samples,), int64: 0 or 1.
    """

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self.labels: Tensor = nn.Buffer(labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images at `indices`, shape (batch,), and their labels."""
        indices = indices.to(self.labels.device)
        return self(indices), self.labels[indices]

    @abstractmethod
    def forward(self, indices: Tensor) -> Tensor:
        """Return images, shape (batch, channels, height, width), float32.

        Parameters
        ----------
        indices : Tensor
            Shape (batch,), int64, on the part's device.
        """


@settings
class LabeledImages(Settings, ABC):
    """What the settings of tasks with two classes of images have in common.

    Parameters
    ----------
    train, test : int
        How many images the training and the test part have.
    standardize : bool
        Whether the mean of the training images is subtracted from pixels in [0, 1], and the
        difference divided by their standard deviation, as published.
    drawn_labels : bool
        Whether each label is the toss of a coin, as published, and not half of them 1.
    """

    train: Samples = 10_000
    test: Samples = 10_000
    standardize: bool = False
    drawn_labels: bool = False

    later: ClassVar[frozenset[str]] = frozenset({"standardize", "drawn_labels"})
    channels: ClassVar[int] = 1

    @property
    @abstractmethod
    def image_shape(self) -> tuple[int, int]:
        """Height and width of the images."""

    @property
    @abstractmethod
    def patches(self) -> tuple[PatchSampler, PatchSampler]:
        """The two patches between which dependencies are to be learned, or ways to sample them."""

    @property
    def extent(self) -> Patch:
        """Where everything lies that a network has to relate: by default the whole image."""
        return Patch(0, 0, *self.image_shape)

    def of_run(self, seed: int) -> "LabeledImages":
        """Return the settings of the images that a run of this seed reads."""
        return self

    @abstractmethod
    def files(
        self, root: str | None, *, download: bool = True, workers: int | None = None
    ) -> Files:
        """Return the files in use with their SHA-256, verified; download or make missing ones.

        Parameters
        ----------
        root : str or None
            The data folder; see `data_prep.images.data_root`.
        download : bool
            Whether missing files may be downloaded or made.
        workers : int, optional
            Processes that make them; by default as many as pay off.

        Raises
        ------
        UserError
            If a file is missing or damaged.
        """

    @abstractmethod
    def part(self, root: str | None, name: str, seed: int) -> LabeledPart:
        """Return the images of the part ``"train"`` or ``"test"``.

        Parameters
        ----------
        root : str or None
            As for `files`.
        name : str
            The part.
        seed : int
            The run's seed.
        """
