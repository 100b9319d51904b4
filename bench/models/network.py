"""What the settings of networks and of predictors have in common."""

from abc import ABC, abstractmethod
from inspect import signature
from typing import Protocol, runtime_checkable

from torch import nn

Shape = tuple[int, ...]  # of images, or of samples of any kind


class NetworkConfig(ABC):
    """Settings with a method ``build(image_shape, levels, outputs, seed)``.

    A class need not inherit from this one: whatever has such a method is an instance.
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        """Say whether a class has such a method."""
        build = getattr(other, "build", None)
        known = signature(build).parameters if callable(build) else ()
        return {"image_shape", "levels", "outputs", "seed"} <= {*known}

    @abstractmethod
    def build(self, image_shape: Shape, levels: int, outputs: int, seed: int) -> nn.Module:
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


@runtime_checkable
class PredictorConfig(Protocol):
    """Settings of a predictor of discrete inputs, which `learner=one_versus_all` can train.

    A class attribute ``stackable = True`` says that the operations of the predictor carry leading
    dimensions of its parameters through to its scores, see `bench.models.replicates`: then many
    predictors are computed at once.
    """

    def predictor(self, image_shape: Shape, levels: int, seed: int) -> nn.Module:
        """Return a freshly started predictor.

        Parameters
        ----------
        image_shape : tuple of int
            The shape of a sample.
        levels : int
            How many values an input takes.
        seed : int
            Seed of the start.

        Returns
        -------
        nn.Module
            It maps inputs of shape (batch, pixels), uint8, values from 0 to ``levels - 1``, to
            scores of shape (batch,).
        """
        ...
