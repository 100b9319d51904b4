"""The non-locality regularizer, for any differentiable network on images."""

from bench.regularizers.double_backward import InputGradients
from bench.regularizers.input_gradient_change import InputGradientChange
from bench.regularizers.patches import Patch, PatchChoice, PatchSampler, RandomPatch

__all__ = [
    "InputGradientChange",
    "InputGradients",
    "Patch",
    "PatchChoice",
    "PatchSampler",
    "RandomPatch",
]
