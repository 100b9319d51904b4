"""The non-locality regularizer, for any differentiable network on images."""

from bench.regularizers.input_gradient_change import InputGradientChange
from data_prep.patches import Patch, PatchChoice, PatchSampler, RandomPatch

__all__ = ["InputGradientChange", "Patch", "PatchChoice", "PatchSampler", "RandomPatch"]
