"""What the schemas of networks that read images have in common."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn


@dataclass
class NetworkConfig(ABC):
    """Schema of a network on images."""

    @abstractmethod
    def build(
        self, image_shape: tuple[int, int], levels: int, outputs: int, seed: int
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
