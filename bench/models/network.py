"""What the settings of networks that read images have in common."""

from abc import ABC, abstractmethod
from inspect import signature

from torch import nn


class NetworkConfig(ABC):
    """Settings with a method ``build(image_shape, levels, outputs, seed)``.

    A class need not inherit from this one: whatever has such a method is an instance.
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        """Say whether a class has such a method."""
        build = getattr(other, "build", None)
        return callable(build) and {"image_shape", "levels", "outputs", "seed"} <= set(
            signature(build).parameters
        )

    @abstractmethod
    def build(
        self, image_shape: tuple[int, ...], levels: int, outputs: int, seed: int
    ) -> nn.Module:
        """Return a freshly started network.

        Parameters
        ----------
        image_shape : (int, int)
            Height and width.
        levels : int
            The number of gray values, for networks whose inputs are one-hot.
        outputs : int
            Number of outputs; a network may return one as shape (batch,) or (batch, 1).
        seed : int
            Seed of the start.
        """
