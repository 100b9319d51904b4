"""Images of uniformly random pixels with the original labels, so the class counts are kept."""

import torch
from torch import Tensor

from bench.core.seeding import generator
from data_prep.images import Split

CHANGES_IMAGES = True


def randomize(split: Split, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Replace each pixel, with probability `fraction`, by one uniform over the levels."""
    rng = generator(seed, "pixels", split.name)
    shape = split.inputs.shape
    pixels = torch.randint(split.levels, shape, generator=rng, dtype=torch.uint8)
    if fraction < 1:
        rng = generator(seed, "replaced pixels", split.name)
        replaced = torch.rand(shape, generator=rng) < fraction
        pixels = torch.where(replaced, pixels, split.inputs)
    return pixels, split.labels
